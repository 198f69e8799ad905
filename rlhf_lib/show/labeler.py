"""Labelling by hand: which of these texts is better? By mouse or by keyboard; every answer is on the disk at once.

The keyboard works through a text field, because JupyterLab takes single keys for commands of its own unless a field has
the focus: what is typed there *is* the sequence of answers, and deleting from its end takes answers back. The field is
never cleared and never disabled, so keys typed while the kernel is busy are neither lost nor counted twice.
"""

import itertools
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import ipywidgets as w

from rlhf_lib.labels import append_label, read_labels, undo_label
from rlhf_lib.preferences import Ranking
from rlhf_lib.show.display import FAINT
from rlhf_lib.show.widgets import Touchable

RANKS = {"left": (0, 1), "tie": (0, 0), "right": (1, 0), "skip": None}  # by answer, in the buttons' order
KEYS = {"left": "a", "tie": "=", "right": "b", "skip": "s"}
MOST = 8  # texts a ranking: more do not fit a screen, or a head


@dataclass(frozen=True)
class _Step:
    """A press that counted: for which group, what it made of it, and its number, by which typed keys find it."""

    index: int
    key: str
    number: int
    final: bool  # it answered the group, or skipped it
    ranking: Ranking | None = None


class _Labeler(Touchable):
    """What the labellers share: groups of texts, the file, the steps taken, keys and buttons that take them.

    A group is answered by one key or several; `_read(keys, size)` says what they mean.
    """

    def __init__(self, groups: Sequence[Sequence[str]], prompt: str, path, choices: dict[str, tuple[str, str]], hint):
        self.groups, self.prompt = [tuple(group) for group in groups], prompt
        self.path = Path(path) if path is not None else None
        self._session = uuid.uuid4().hex[:8]  # undo takes back this labeller's own answers only
        self._lock = threading.RLock()
        self._steps: list[_Step] = []
        self._numbers = itertools.count()
        self._typed: list[tuple[str, int | None]] = []  # each key in the field, and the step that it took
        stored, self.problems = read_labels(self.path) if self.path else ([], [])
        self._stored = {ranking.texts: ranking for ranking in stored if ranking.texts in self.groups}
        self._trouble = ""
        self._page, self._status = w.HTML(layout=w.Layout(margin="0")), w.HTML()
        self._buttons = {}
        for key, (name, tooltip) in {**choices, "s": ("Skip", "Say nothing about these texts")}.items():
            self._buttons[key] = w.Button(
                description=name, tooltip=f"{tooltip} (key: {key})", layout=w.Layout(width="auto")
            )
            self._buttons[key].on_click(lambda _, key=key: self._clicked(key))
        self._undo = w.Button(
            description="Undo", tooltip="Take back the last answer (key: u)", layout=w.Layout(width="auto")
        )
        self._undo.on_click(lambda _: self._clicked("u"))
        self._keys = w.Text(
            description="Keys:",
            placeholder="click here and type",
            tooltip=f"Answer by keyboard: {hint}, s skips, u or Backspace takes back",
            style={"description_width": "initial"},
            layout=w.Layout(width="16em"),
        )
        self._keys.observe(lambda change: self._type(change["new"]), names="value")
        help_text = w.HTML(f"{escape(hint)} · <kbd>s</kbd> skip · <kbd>u</kbd> or <kbd>Backspace</kbd> undo")
        row = w.Box([*self._buttons.values(), self._undo], layout=w.Layout(flex_flow="row wrap"))
        keyboard = w.Box([self._keys, help_text], layout=w.Layout(flex_flow="row wrap"))
        self.view = w.VBox([self._page, row, keyboard, self._status])
        self.refresh()

    @property
    def labels(self) -> list[Ranking]:
        """The preferences given so far, those found in the file first; skipped texts are left out."""
        return [*self._stored.values(), *(step.ranking for step in self._steps if step.ranking is not None)]

    @property
    def current(self) -> int | None:
        """The index of the texts on show; None once all are answered."""
        done = {step.index for step in self._steps if step.final}
        open_ones = (i for i, texts in enumerate(self.groups) if i not in done and texts not in self._stored)
        return next(open_ones, None)

    def press(self, key: str) -> int | None:
        """Do what a key does: one of the answers' letters, "s" to skip, "u" to undo.

        Returns the number of the step taken; None where the key does not fit here, and so does nothing. An answer is
        recorded only once it is on the disk; an OSError leaves everything as it was.
        """
        with self._lock:
            key, texts, self._trouble = key.lower(), self._on_show, ""
            if key == "u":
                self.undo()
                return None
            ranks = None if key == "s" else self._read(self._so_far + key, len(texts))
            if not texts or (key != "s" and ranks is None):
                return None
            ranking = Ranking(texts, ranks) if ranks else None
            if ranking is not None and self.path:
                append_label(self.path, ranking, session=self._session)
            step = _Step(self.current, key, next(self._numbers), key == "s" or bool(ranks), ranking)
            self._steps.append(step)
            self.refresh()
            return step.number

    def undo(self) -> None:
        """Take back the last step taken here: an answer, or the last key of an unfinished one."""
        with self._lock:
            if self._steps:
                if self._steps[-1].ranking is not None and self.path:
                    undo_label(self.path, self._session)
                self._steps.pop()
            self.refresh()

    def refresh(self) -> None:
        """Write the state into the view."""
        texts = self._on_show
        self._page.value = self._question(texts) if texts else "<b>All are answered. Thank you.</b>"
        for key, button in self._buttons.items():
            button.disabled = not texts or (key != "s" and self._read(self._so_far + key, len(texts)) is None)
        self._undo.disabled = not self._steps
        bar = f'<progress value="{self._answered}" max="{max(1, len(self.groups))}" aria-label="answered"></progress>'
        self._status.value = f'{bar} <span role="status" aria-live="polite">{self._state}</span>'

    def html(self) -> str:
        """How far the labelling is, and the texts on show, without buttons."""
        return f"<p>{self._state}</p>" + (self._question(self._on_show) if self._on_show else "")

    def _read(self, keys: str, size: int) -> tuple[int, ...] | None:
        """The ranks that `keys` give `size` texts; () if more keys are needed, None if they are no answer."""
        raise NotImplementedError

    @property
    def _so_far(self) -> str:
        """The keys of the unfinished answer."""
        steps = itertools.takewhile(lambda step: not step.final, reversed(self._steps))
        return "".join(step.key for step in steps)[::-1]

    def _clicked(self, key: str) -> None:
        self._try(self.press, key)
        self._keys.focus()  # whoever goes on by keyboard then types into the field, not JupyterLab commands

    def _type(self, value: str) -> None:
        """Bring the steps in line with what the field holds."""
        with self._lock:
            same = len(os.path.commonprefix([value, "".join(key for key, _ in self._typed)]))
            for _, number in reversed(self._typed[same:]):
                if number is not None and self._steps and self._steps[-1].number == number:  # not taken back already
                    self._try(self.undo)
            self._typed[same:] = []
            for key in value[same:]:
                self._typed.append((key, self._try(self.press, key)))

    def _try(self, action, *arguments):
        """Run a callback; what the disk refuses is shown to the learner."""
        try:
            return action(*arguments)
        except OSError as error:
            self._trouble = f"Nothing was recorded: {self.path} cannot be written ({error.strerror or error})."
            self.refresh()

    @property
    def _on_show(self) -> tuple[str, ...]:
        """The texts on show; none once all are answered."""
        return () if self.current is None else self.groups[self.current]

    def _question(self, texts: Sequence[str]) -> str:
        """The prompt, and the texts side by side; what they share at the beginning is lighter than what follows."""
        shared = os.path.commonprefix(list(texts)).rfind(" ") + 1  # whole words
        shared = shared if texts[0].count(" ", 0, shared) >= 3 else 0  # a prompt, not a chance "The"
        style = f"border: 1px solid {FAINT}; border-radius: 4px; padding: 0.5em 0.8em; line-height: 1.4"
        cards = "".join(
            f'<div role="group" aria-label="Text {name}" style="{style}"><b>{name}</b>{escape(self._note(i))}<br>'
            f'<span style="opacity: 0.75">{escape(text[:shared])}</span>{escape(text[shared:])}</div>'
            for i, (name, text) in enumerate(zip("ABCDEFGH", texts, strict=False))
        )
        grid = "display: grid; grid-template-columns: repeat(auto-fit, minmax(15em, 1fr)); gap: 0.6em; margin: 0.4em 0"
        return f'<b>{escape(self.prompt)}</b><div style="{grid}">{cards}</div>'

    def _note(self, i: int) -> str:
        """What stands beside the name of text `i`."""
        return ""

    @property
    def _answered(self) -> int:
        return sum(step.final for step in self._steps) + sum(texts in self._stored for texts in self.groups)

    @property
    def _state(self) -> str:
        told = [f"{self._answered} of {len(self.groups)} answered"]
        if self._stored:
            told[0] += f", {len(self._stored)} of them before (found in {self.path.name})"
        return " ".join([told[0] + ".", *map(escape, [*self.problems, self._trouble])]).strip()

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self._answered} of {len(self.groups)} answered"


class PairLabeler(_Labeler):
    """Show pairs of texts one after the other and record which one a person prefers.

    Args:
        pairs: (left, right) texts; they are called A and B on the page.
        prompt: the question asked above each pair.
        path: a JSONL file that each answer is added to as it is given (see `rlhf_lib.labels`), so that nothing is lost.
            Pairs that the file already answers are not asked again; skipped ones are.

    `answer(choice)` with "left", "right", "tie" or "skip" and `undo()` do what the buttons do; `labels` are the
    answers, `current` the index of the pair on show. By keyboard: a, b, = for a tie, s to skip, u to undo.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], prompt: str = "Which is the more positive?", path=None):
        choices = {
            "a": ("A is better", "Prefer text A"),
            "=": ("Tie", "Neither is better"),
            "b": ("B is better", "Prefer text B"),
        }
        super().__init__(pairs, prompt, path, choices, "a or b: the better · = tie")

    @property
    def pairs(self) -> list[tuple[str, ...]]:
        """The pairs, as given."""
        return self.groups

    def answer(self, choice: str) -> None:
        """Answer the pair on show. ValueError where `choice` is not left, right, tie or skip."""
        if choice not in RANKS:
            raise ValueError(f"answer left, right, tie or skip, not {choice!r}")
        self.press(KEYS[choice])

    def _read(self, keys: str, size: int) -> tuple[int, ...] | None:
        return {KEYS[choice]: ranks for choice, ranks in RANKS.items()}.get(keys)


class RankingLabeler(_Labeler):
    """Show several texts at a time and record their order, best first; ties are allowed.

    Args:
        groups: the texts of each ranking, 2 to 8; they are called A, B, C, ... on the page.
        prompt, path: as for `PairLabeler`.

    `answer("B > C = D > A")` or `answer("skip")` and `undo()` do what the buttons do. By keyboard: the letters, best
    first, with = between texts that are as good as each other: bc=da.
    """

    def __init__(self, groups: Sequence[Sequence[str]], prompt: str = "Put them in order, best first.", path=None):
        most = max((len(group) for group in groups), default=2)
        if most > MOST or any(len(group) < 2 for group in groups):
            raise ValueError(f"a ranking takes 2 to {MOST} texts")
        choices = {letter: (letter.upper(), f"Next best: text {letter.upper()}") for letter in "abcdefgh"[:most]}
        choices["="] = ("=", "The next text is as good as the last one named")
        super().__init__(groups, prompt, path, choices, "letters, best first, = between equals: c a = d b")

    def answer(self, order: str) -> None:
        """Rank the texts on show, as in "B > C = D > A"; or "skip". ValueError where that is no order of them all."""
        if order == "skip":
            self.press("s")
            return
        keys = order.lower().replace(">", "").replace(" ", "")
        if self._on_show and not self._read(keys, len(self._on_show)):
            raise ValueError(f'answer with an order of all the texts, such as "B > C = D > A", not {order!r}')
        with self._lock:
            while self._so_far:
                self.undo()
            for key in keys:
                self.press(key)

    def _read(self, keys: str, size: int) -> tuple[int, ...] | None:
        ranks: dict[int, int] = {}
        last, tied = -1, False
        for key in keys:
            text = "abcdefgh".find(key)
            if key == "=" and ranks and not tied:
                tied = True
            elif 0 <= text < size and text not in ranks:
                last += not tied
                ranks[text], tied = last, False
            else:
                return None
        return tuple(ranks[text] for text in range(size)) if len(ranks) == size else ()

    def _note(self, i: int) -> str:
        placed = self._so_far.replace("=", "")
        name = "abcdefgh"[i]
        if name not in placed:
            return ""
        before = self._so_far[: self._so_far.index(name)]
        return f" · place {1 + len(before.replace('=', '')) - before.count('=')}"

    @property
    def _state(self) -> str:
        order = " > ".join(self._so_far.upper()).replace(" > = > ", " = ").replace(" > =", " = …")
        return super()._state + (f" So far: {escape(order)}." if order else "")
