"""Things to touch: a stepper through sentences, figures with sliders (`labeler` has those for labelling).

Each keeps its state in plain attributes that can be used without a browser; the view over it is thin, and one `refresh`
writes the state into it. Callbacks are short and take a lock, because they can arrive on two threads. Where a widget
cannot be drawn (an exported page), the same state is shown as plain HTML.
"""

import threading
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as w
from matplotlib.figure import Figure

from rlhf_lib.show.display import figure_html


class Touchable:
    """A view with a fallback: `self.view` is the widget, `self.html()` what a static page shows."""

    def _repr_mimebundle_(self, **options):
        return {**self.view._repr_mimebundle_(**options), "text/html": self.html(), "text/plain": repr(self)}


class Stepper(Touchable):
    """Step through a language MDP: the state is the sentence so far, an action the next word.

    Args:
        next_words: text -> the policy's likeliest next words as (word, probability), likeliest first. Words are
            appended as they are, so a word that follows a space carries it: " good".
        score: text -> the return of the finished text.
        start: the text to begin with (the prompt).
        horizon: the most words an episode takes; None for no limit.
        end: a word that ends the episode, such as "." or "<end>".
        shown: how many of the policy's words get a button.

    `step(word)`, `undo()` and `restart()` do what the buttons do; `words`, `text`, `done` and `value` are the state.
    """

    def __init__(
        self,
        next_words: Callable[[str], Sequence[tuple[str, float]]],
        score: Callable[[str], float],
        start: str = "",
        horizon: int | None = None,
        end: str | None = None,
        shown: int = 8,
    ):
        self.next_words, self.score, self.start = next_words, score, start
        self.horizon, self.end = horizon, end
        self.words: list[str] = []
        self._lock = threading.RLock()
        self._sentence = w.HTML()
        self._buttons = [w.Button(layout=w.Layout(width="auto")) for _ in range(shown)]
        for button in self._buttons:
            button.on_click(lambda pressed: self.step(pressed.word))
        self._own = w.Text(description="Another word:", style={"description_width": "initial"})
        self._add = w.Button(description="Add my word", tooltip="Take the typed word as the action")
        self._add.on_click(lambda _: self._add_own())
        self._undo = w.Button(description="Undo", tooltip="Take back the last word")
        self._undo.on_click(lambda _: self.undo())
        self._restart = w.Button(description="Start again", tooltip="Back to the prompt")
        self._restart.on_click(lambda _: self.restart())
        choice = w.Box(self._buttons, layout=w.Layout(flex_flow="row wrap"))
        self.view = w.VBox([self._sentence, choice, w.HBox([self._own, self._add, self._undo, self._restart])])
        self.refresh()

    @property
    def text(self) -> str:
        """The state: everything so far."""
        return self.start + "".join(self.words)

    @property
    def done(self) -> bool:
        """Has the episode ended?"""
        return bool(self.words) and (self.words[-1] == self.end or len(self.words) == self.horizon)

    @property
    def value(self) -> float | None:
        """The return, once the episode has ended."""
        return float(self.score(self.text)) if self.done else None

    def step(self, word: str) -> None:
        """Take `word` as the next action; nothing happens once the episode has ended."""
        with self._lock:
            if not self.done:
                self.words.append(word)
            self.refresh()

    def undo(self) -> None:
        """Take back the last word."""
        with self._lock:
            del self.words[-1:]
            self.refresh()

    def restart(self) -> None:
        """Back to the prompt."""
        with self._lock:
            self.words.clear()
            self.refresh()

    def refresh(self) -> None:
        """Write the state into the view."""
        options = [] if self.done else list(self.next_words(self.text))[: len(self._buttons)]
        for i, button in enumerate(self._buttons):
            button.layout.display = "" if i < len(options) else "none"
            if i < len(options):
                button.word, probability = options[i]
                button.description = f"{button.word.strip() or repr(button.word)} {probability:.0%}"
                button.tooltip = f"{button.word!r}, probability {probability:.3f}"
        for control in (self._own, self._add):
            control.disabled = self.done
        self._undo.disabled = self._restart.disabled = not self.words
        self._sentence.value = self._state_html()

    def html(self) -> str:
        """The state and the policy's words, without buttons."""
        options = [] if self.done else list(self.next_words(self.text))[: len(self._buttons)]
        items = "".join(f"<li><code>{escape(word)}</code> {chance:.1%}</li>" for word, chance in options)
        return f"{self._state_html()}<p>The policy's likeliest next words:</p><ul>{items}</ul>"

    def _state_html(self) -> str:
        steps = f"step {len(self.words)}" + (f" of at most {self.horizon}" if self.horizon else "")
        ending = f" The episode has ended: return <b>{self.value:+.2f}</b>." if self.done else ""
        text = f"{escape(self.start)}<b>{escape(''.join(self.words))}</b>"
        return f'<div role="status" aria-live="polite">State ({steps}): “{text}”.{ending}</div>'

    def _add_own(self) -> None:
        word = self._own.value.strip()
        if word:
            self._own.value = ""
            self.step(word if not self.text or word == self.end else " " + word)

    def __repr__(self) -> str:
        return f"Stepper at {self.text!r}"


class GamePlayer(Touchable):
    """Play a recorded text game by hand: a button for each command that it admits, and what was said so far.

    Args:
        game: a `games.Game`. horizon: the most turns an episode takes.

    `play(command)`, `undo()` and `restart()` do what the buttons do; `commands`, `state`, `score` and `done` tell where
    the game stands.
    """

    def __init__(self, game, horizon: int):
        self.game, self.horizon, self.commands = game, horizon, []
        self._lock = threading.RLock()
        self._page = w.HTML()
        most = max(len(game.admissible(state)) for state in range(len(game)))
        self._buttons = [w.Button(layout=w.Layout(width="auto")) for _ in range(most)]
        for button in self._buttons:
            button.on_click(lambda pressed: self.play(pressed.description))
        self._undo = w.Button(description="Undo", tooltip="Take back the last command")
        self._undo.on_click(lambda _: self.undo())
        self._restart = w.Button(description="Start again", tooltip="Back to the first turn")
        self._restart.on_click(lambda _: self.restart())
        choice = w.Box(self._buttons, layout=w.Layout(flex_flow="row wrap"))
        self.view = w.VBox([self._page, choice, w.HBox([self._undo, self._restart])])
        self.refresh()

    @property
    def turns(self) -> list:
        """(command, what it did) of each turn so far."""
        state, steps = 0, []
        for command in self.commands:
            steps.append((command, self.game.step(state, command)))
            state = steps[-1][1].state
        return steps

    @property
    def state(self) -> int:
        return self.turns[-1][1].state if self.commands else 0

    @property
    def score(self) -> float:
        return sum(step.reward for _, step in self.turns)

    @property
    def done(self) -> bool:
        """Is the game over, or the last turn taken?"""
        return len(self.commands) == self.horizon or not self.game.admissible(self.state)

    def play(self, command: str) -> None:
        """Give a command; nothing happens once the episode has ended. ValueError for one that is not admissible."""
        with self._lock:
            if not self.done:
                self.game.step(self.state, command)
                self.commands.append(command)
            self.refresh()

    def undo(self) -> None:
        """Take back the last command."""
        with self._lock:
            del self.commands[-1:]
            self.refresh()

    def restart(self) -> None:
        """Back to the first turn."""
        with self._lock:
            self.commands.clear()
            self.refresh()

    def refresh(self) -> None:
        """Write the state into the view."""
        options = () if self.done else self.game.admissible(self.state)
        for i, button in enumerate(self._buttons):
            button.layout.display = "" if i < len(options) else "none"
            button.description = button.tooltip = options[i] if i < len(options) else ""
        self._undo.disabled = self._restart.disabled = not self.commands
        self._page.value = self._state_html()

    def html(self) -> str:
        """What was said so far and the commands that may follow, without buttons."""
        options = () if self.done else self.game.admissible(self.state)
        items = "".join(f"<li><code>{escape(command)}</code></li>" for command in options)
        return f"{self._state_html()}<p>Admissible commands:</p><ul>{items}</ul>"

    def _state_html(self) -> str:
        lines = [escape(line) for line in self.game.intro.splitlines()]
        for command, step in self.turns:
            lines += [f"<b>&gt; {escape(command)}</b>", escape(step.text)]
        ending = " The episode has ended." if self.done else ""
        where = f"Turn {len(self.commands)} of at most {self.horizon}, score {self.score:g}.{ending}"
        return f'<div role="status" aria-live="polite">{"<br>".join(lines)}<p>{where}</p></div>'

    def __repr__(self) -> str:
        return f"GamePlayer of {self.game.name!r} after {self.commands}"


class _SliderFigure(Touchable):
    """A figure that follows its sliders; see `slider_figure`."""

    def __init__(self, draw, alt, sliders, labels):
        self.draw, self.alt, self._lock = draw, alt, threading.RLock()
        self.sliders = {name: _slider(name, values, labels.get(name, name)) for name, values in sliders.items()}
        self._page = w.HTML()
        self.view = w.VBox([*self.sliders.values(), self._page])
        self.refresh()
        for slider in self.sliders.values():
            slider.observe(lambda _: self.refresh(), names="value")

    @property
    def values(self) -> dict[str, object]:
        """What the sliders say."""
        return {name: slider.value for name, slider in self.sliders.items()}

    def html(self) -> str:
        """The figure (or whatever `draw` gave) at the sliders' values."""
        drawn = self.draw(**self.values)
        alt = self.alt(**self.values) if callable(self.alt) else self.alt
        return figure_html(drawn, alt) if isinstance(drawn, Figure) else str(drawn)

    def refresh(self) -> None:
        """Draw again."""
        with self._lock:
            self._page.value = self.html()

    def __repr__(self) -> str:
        return f"figure with sliders at {self.values}"


def slider_figure(draw: Callable, alt: str | Callable = "", labels: dict[str, str] | None = None, **sliders):
    """A figure that is drawn again whenever a slider moves.

    Args:
        draw: draw(**values) -> a Figure, or HTML text.
        alt: alternative text, or a function of the same values that gives it.
        labels: what to write beside a slider, by its name, where the name itself will not do.
        sliders: name -> (low, high, step, start) for a slider of numbers, or a list of values to step through, which
            starts at its first.
    """
    return _SliderFigure(draw, alt, sliders, labels or {})


def _slider(name: str, values, label: str) -> w.Widget:
    options = {"description": label, "style": {"description_width": "initial"}, "layout": w.Layout(width="28em")}
    if isinstance(values, tuple):
        low, high, step, start = values
        kind = w.IntSlider if all(isinstance(value, int) for value in values) else w.FloatSlider
        return kind(value=start, min=low, max=high, step=step, continuous_update=False, **options)
    return w.SelectionSlider(options=[(f"{v:g}" if isinstance(v, float) else str(v), v) for v in values], **options)
