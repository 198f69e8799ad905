"""Text games as multi-turn decision problems: recorded TextWorld games, played by anyone, and solved exactly.

A recorded game is the whole of a small TextWorld game (Côté et al. 2018, arXiv 1806.11532): every state that can be
reached, the commands that it admits, and what the game answers. Playing one needs torch only; recording one needs
TextWorld (`record`). As the states are finite, the value of any player that looks at the state is a sum, not a sample.

A language model plays by writing. An episode is one sequence: the introduction, then in turns a command of its own and
the game's answer. `play` samples such episodes, `all_episodes` lists them; both give a `Played`, whose roll-out has
gaps in its mask: actions are the tokens of the commands, never those of the answers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_lib.models import Policy, check_length, encode_prompt
from rlhf_lib.paths import data_dir
from rlhf_lib.rollout import Rollout, draw, pack_bits, pad_left

END_OF_COMMAND = "\n"  # written after each command, so that none is the beginning of another
Player = Callable[["Game", int], Sequence[float]]  # player(game, state) -> a probability for each admissible command


class Step(NamedTuple):
    """What a command does: the game's answer, the points it brings, the next state, and whether the game is over."""

    text: str
    reward: float
    state: int
    done: bool


@dataclass(frozen=True)
class Game:
    """A finite text game. State 0 is the start; commands of a state are in alphabetical order.

    Attributes:
        name, intro (what is read before the first command), objective, max_score.
        verbs, entities, templates: the game's vocabulary; a template has slots such as "{c}" for a container.
        moves: for each state command -> (next state, answer). scores, done, won: of each state; a state that is done
            has no commands.
        made: the TextWorld version and the command that recorded it.
    """

    name: str
    intro: str
    objective: str
    max_score: float
    verbs: tuple[str, ...]
    entities: tuple[str, ...]
    templates: tuple[str, ...]
    moves: tuple[dict[str, tuple[int, str]], ...]
    scores: tuple[float, ...]
    done: tuple[bool, ...]
    won: tuple[bool, ...]
    made: dict

    def __len__(self) -> int:
        """Number of states."""
        return len(self.moves)

    def admissible(self, state: int = 0) -> tuple[str, ...]:
        """The commands that the game understands and can carry out in a state; none once it is over."""
        return tuple(self.moves[state])

    def step(self, state: int, command: str) -> Step:
        """Carry out an admissible command. ValueError, listing those there are, for any other."""
        if command not in self.moves[state]:
            there = ", ".join(self.moves[state]) or "none: the game is over"
            raise ValueError(f"{command!r} is not admissible here; admissible: {there}")
        after, text = self.moves[state][command]
        return Step(text, self.scores[after] - self.scores[state], after, self.done[after])

    def without(self, *verbs: str) -> "Game":
        """The same game with fewer buttons: commands that begin with one of `verbs` are not offered."""
        moves = tuple({c: to for c, to in here.items() if c.split()[0] not in verbs} for here in self.moves)
        return replace(self, moves=moves)


def names() -> list[str]:
    """The recorded games that travel with the course."""
    return sorted(file.stem for file in (data_dir() / "games").glob("*.json"))


def load(name: str | Path) -> Game:
    """A recorded game by name, or from a file. ValueError, listing those there are, for an unknown name."""
    file = name if isinstance(name, Path) else data_dir() / "games" / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"there is no recorded game {name!r}; there are {', '.join(names()) or 'none'}")
    stored = json.loads(file.read_text(encoding="utf-8"))
    states = stored.pop("states")
    texts = stored.pop("texts")
    return Game(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()},
        moves=tuple({c: (to, texts[text]) for c, (to, text) in state["moves"].items()} for state in states),
        scores=tuple(state["score"] for state in states),
        done=tuple(state["done"] for state in states),
        won=tuple(state["won"] for state in states),
    )


def dump(game: Game) -> str:
    """The text of the file that `load` reads: JSON, one state a line."""
    texts = sorted({text for here in game.moves for _, text in here.values()})
    number = {text: i for i, text in enumerate(texts)}
    states = [
        {"score": s, "done": d, "won": w, "moves": {c: [to, number[text]] for c, (to, text) in here.items()}}
        for here, s, d, w in zip(game.moves, game.scores, game.done, game.won, strict=True)
    ]
    head = ("name", "made", "intro", "objective", "max_score", "verbs", "entities", "templates")
    lines = [f"{json.dumps(key)}: {json.dumps(getattr(game, key), ensure_ascii=False)}" for key in head]
    for key, rows in (("texts", texts), ("states", states)):
        lines.append(f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


# Recording


def textworld():
    """The TextWorld package. ImportError, naming the extra, where it is not installed."""
    try:
        import textworld
    except ImportError as error:
        raise ImportError(
            'recording a game needs TextWorld: pip install "rlhf-lib[games]" (Linux or macOS, with a C compiler). '
            "Playing the recorded ones does not."
        ) from error
    return textworld


def start(file: str | Path):
    """A compiled TextWorld game, ready to be played: (environment, its first state)."""
    wanted = "admissible_commands command_templates description entities facts feedback lost max_score objective"
    infos = dict.fromkeys([*wanted.split(), "policy_commands", "score", "verbs", "won"], True)
    environment = textworld().start(str(file), textworld().EnvInfos(**infos))
    return environment, environment.reset()


def record(file: str | Path, name: str, made: dict, most: int = 2000) -> Game:
    """Play every admissible command in every state of a compiled TextWorld game, breadth first, and write it down.

    A state is what is true in the world, the score, and which quests are still open. In which order several loose
    things of one place are listed depends on the past: choose games with one loose thing, or the recorded answers may
    differ from the real ones there. RuntimeError beyond `most` states.
    """
    environment, first = start(file)
    number, moves = {_key(first): 0}, [None]
    seen, waiting = [first], [(environment, first)]
    for here, state in waiting:  # grows while it is read
        answers = {}
        for command in sorted(set(state.admissible_commands)):
            there = here.copy()
            after, _, over = there.step(command)
            key = _key(after)
            if key not in number:
                number[key] = len(number)
                seen.append(after)
                moves.append({} if over else None)
                if not over:
                    waiting.append((there, after))
                if len(number) > most:
                    raise RuntimeError(f"more than {most} states: record a smaller game")
            answers[command] = (number[key], clean(after.feedback))
        moves[number[_key(state)]] = answers
    return Game(
        name=name,
        intro=f"{clean(first.objective)}\n{clean(first.description)}",
        objective=clean(first.objective),
        max_score=first.max_score,
        verbs=tuple(sorted(first.verbs)),
        entities=tuple(sorted(first.entities)),
        templates=tuple(sorted(first.command_templates)),
        moves=tuple(moves),
        scores=tuple(state.score for state in seen),
        done=tuple(bool(state.won or state.lost) for state in seen),
        won=tuple(bool(state.won) for state in seen),
        made={"textworld": textworld().__version__, **made},
    )


def clean(text: str) -> str:
    """A game's answer in one line, without the status bar and the count of turns, which depends on the past."""
    text = text.split("\n>")[0].split("You scored ")[0]
    return " ".join(text.split())


def _key(state) -> tuple:
    facts = frozenset(str(fact) for fact in state.facts)
    return facts, state.score, tuple(state.policy_commands or ()), state.won, state.lost


# Players that look at the state, and their exact values


def at_random(game: Game, state: int) -> list[float]:
    """Every admissible command alike."""
    commands = game.admissible(state)
    return [1 / len(commands)] * len(commands)


def greedy(game: Game, state: int) -> list[float]:
    """The command that scores most at once; ties, such as where nothing scores, at random."""
    rewards = [game.step(state, command).reward for command in game.admissible(state)]
    best = [reward == max(rewards) for reward in rewards]
    return [flag / sum(best) for flag in best]


class Outcome(NamedTuple):
    """Expected score, probability to have won, and expected number of turns of an episode."""

    score: float
    won: float
    turns: float


def exact_outcome(game: Game, player: Player, horizon: int) -> Outcome:
    """What a player can expect of at most `horizon` turns: a sum over all states, no sampling."""
    chance, turns = {0: 1.0}, 0.0
    for _ in range(horizon):
        after: dict[int, float] = {}
        for state, p in chance.items():
            if not game.moves[state]:
                after[state] = after.get(state, 0.0) + p
                continue
            turns += p
            for command, share in zip(game.admissible(state), player(game, state), strict=True):
                to = game.moves[state][command][0]
                after[to] = after.get(to, 0.0) + p * share
        chance = after
    score = sum(p * (game.scores[state] - game.scores[0]) for state, p in chance.items())
    return Outcome(score, sum(p for state, p in chance.items() if game.won[state]), turns)


def best_scores(game: Game, horizon: int) -> list[list[float]]:
    """values[k][state]: the most points that can still be earned from a state with k turns left."""
    values = [[0.0] * len(game)]
    for _ in range(horizon):
        before = values[-1]
        values.append(
            [
                max((game.scores[to] - game.scores[s] + before[to] for to, _ in here.values()), default=0.0)
                for s, here in enumerate(game.moves)
            ]
        )
    return values


# Players that write


@dataclass(frozen=True)
class Played:
    """Episodes of a language model: B of them, at most K turns each, T tokens the longest.

    rollout: its mask is True on the commands' tokens only; `observed` on those of the answers. turn [B, T]: the turn
    that a token belongs to, a command and its answer alike (−1 at pads). rewards [B, K]: the points of each turn.
    taken bool [B, K]: the turns that were played. won bool [B]. commands: those of each episode. samples of a game are
    next to each other.
    """

    rollout: Rollout
    turn: Tensor
    rewards: Tensor
    taken: Tensor
    won: Tensor
    commands: list[list[str]]

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def scores(self) -> Tensor:
        """Points of each episode [B]."""
        return self.rewards.sum(1)

    def per_token(self, by_turn: Tensor) -> Tensor:
        """A number a turn [B, K] as a number a token [B, T]: each token gets its turn's, pads 0."""
        return by_turn.gather(1, self.turn.clamp(min=0)).where(self.turn >= 0, 0.0)


class Writer:
    """What a tokenizer makes of games: token ids, and the tree of the commands that a state admits."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        (self.end,) = tokenizer(END_OF_COMMAND, add_special_tokens=False)["input_ids"][-1:]
        self._trees: dict[tuple[str, ...], dict] = {}
        self._ids: dict[str, list[int]] = {}

    def prompt(self, game: Game) -> list[int]:
        """The introduction, up to the game's first ">"."""
        return encode_prompt(self.tokenizer, f"{game.intro}\n>")

    def command(self, text: str) -> list[int]:
        """A command's tokens, its end included."""
        return [*self._encode(f" {text}"), self.end]

    def answer(self, text: str, last: bool = False) -> list[int]:
        """What is read after a command: the answer and, unless it is the last, the next ">"."""
        return self._encode(f"{text}\n" if last else f"{text}\n>")

    def tree(self, commands: tuple[str, ...]) -> dict:
        """The commands as a tree (trie): token -> what may follow; after a command's end, nothing."""
        if commands not in self._trees:
            root: dict = {}
            for text in commands:
                node = root
                for token in self.command(text):
                    node = node.setdefault(token, {})
            self._trees[commands] = root
        return self._trees[commands]

    def _encode(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._ids[text]


class _Episode:
    """One episode while it is written."""

    def __init__(self, game: Game):
        self.game, self.state = game, 0
        self.tokens: list[int] = []
        self.flags: list[tuple[bool, int]] = []  # (an action?, turn)
        self.options: list[tuple[int, ...] | None] = []  # the tokens allowed there
        self.logprobs: list[float] = []
        self.rewards: list[float] = []
        self.commands: list[str] = []

    def write(self, token: int, options: Sequence[int], logprob: float = 0.0) -> None:
        self.tokens.append(token)
        self.flags.append((True, len(self.rewards)))
        self.options.append(tuple(options))
        self.logprobs.append(logprob)

    def answer(self, command: str, writer: Writer, last: bool) -> list[int]:
        """Carry out a command; the tokens of the answer."""
        turn, step = len(self.rewards), self.game.step(self.state, command)
        self.state = step.state
        self.rewards.append(step.reward)
        self.commands.append(command)
        ids = writer.answer(step.text, last or not self.game.moves[step.state])
        self.tokens += ids
        self.flags += [(False, turn)] * len(ids)
        self.options += [None] * len(ids)
        self.logprobs += [0.0] * len(ids)
        return ids


@torch.no_grad()
def play(
    model: Policy,
    games: Sequence[Game],
    *,
    horizon: int,
    episodes: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Played:
    """Let a language model play each game `episodes` times, for at most `horizon` turns.

    Commands are drawn token by token among those that continue an admissible command, so that the policy is the model
    renormalised to what the game accepts; temperature 0 takes the likeliest token.
    """
    if not games or horizon < 1 or episodes < 1:
        raise ValueError("play needs at least one game, one turn and one episode")
    writer, device = Writer(model.tokenizer), model.device
    prompts, real = pad_left([writer.prompt(game) for game in games], model.tokenizer.pad_token_id)
    cache = DynamicCache()
    logits = model(prompts.to(device), real.to(device), last=1, cache=cache)[0][:, -1]
    if episodes > 1:
        cache.batch_repeat_interleave(episodes)
    logits, attention = (x.to(device).repeat_interleave(episodes, 0) for x in (logits, real))
    written = [_Episode(game) for game in games for _ in range(episodes)]
    rows = list(range(len(written)))  # those still playing

    def read(new: list[list[int]]) -> Tensor:
        """Feed each row its new tokens, none or more; the logits after the last column."""
        nonlocal attention
        width = max(map(len, new))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in new], device=device)
        flags = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in new], device=device)
        attention = torch.cat([attention, flags], 1)
        check_length(model, int(attention.sum(1).max()))
        return model(ids, attention, last=1, cache=cache)[0][:, -1]

    for turn in range(horizon):
        nodes = [writer.tree(written[row].game.admissible(written[row].state)) for row in rows]
        tokens: list[list[int]] = [[] for _ in rows]
        while going := [i for i, node in enumerate(nodes) if node]:
            uniform = torch.rand(len(written), generator=generator, dtype=torch.float64)
            here = torch.tensor(going, device=device)
            allowed = torch.zeros(len(going), logits.shape[1], dtype=torch.bool)
            for k, i in enumerate(going):
                allowed[k, list(nodes[i])] = True
            masked = (logits[here] / (temperature or 1.0)).masked_fill(~allowed.to(device), -torch.inf).log_softmax(-1)
            drawn = masked.argmax(-1) if temperature == 0 else draw(masked, uniform[[rows[i] for i in going]])
            chosen = masked.gather(1, drawn[:, None]).squeeze(1).tolist()
            for i, token, logprob in zip(going, drawn.tolist(), chosen, strict=True):
                written[rows[i]].write(token, nodes[i], logprob)
                tokens[i].append(token)
                nodes[i] = nodes[i][token]
            if any(nodes):  # an end is read together with the answer
                logits = read([[tokens[i][-1]] if node else [] for i, node in enumerate(nodes)])
        new = []
        for row, ids in zip(rows, tokens, strict=True):
            command = next(c for c in written[row].game.admissible(written[row].state) if writer.command(c) == ids)
            new.append([writer.end, *written[row].answer(command, writer, turn + 1 == horizon)])
        on = [i for i, row in enumerate(rows) if written[row].game.moves[written[row].state]]
        if not on or turn + 1 == horizon:
            break
        if len(on) < len(rows):
            keep = torch.tensor(on, device=device)
            cache.batch_select_indices(keep)
            rows, attention, new = [rows[i] for i in on], attention[keep], [new[i] for i in on]
        logits = read(new)
    return _collect(model, written, writer, horizon, temperature, episodes)


def all_episodes(model: Policy, game: Game, horizon: int, most: int = 5000) -> Played:
    """Every episode of a game, once. Scored by `rollout.score`, its commands' log-probs add up to the episode's.

    So Σ exp(log-probs) · score is J(θ), and its gradient the exact policy gradient. ValueError beyond `most` episodes.
    """
    writer, open_, over = Writer(model.tokenizer), [((), 0)], []
    for turn in range(horizon):
        longer = []
        for commands, state in open_:
            for command in game.admissible(state):
                step = game.step(state, command)
                last = step.done or turn + 1 == horizon
                (over if last else longer).append(((*commands, command), step.state))
        open_ = longer
        if len(open_) + len(over) > most:
            raise ValueError(f"more than {most} episodes: shorten the horizon, or take buttons away (without)")
    written = [_Episode(game) for _ in over]
    for episode, (commands, _) in zip(written, over, strict=True):
        for turn, command in enumerate(commands):
            node = writer.tree(game.admissible(episode.state))
            for token in writer.command(command):
                episode.write(token, tuple(node))
                node = node[token]
            episode.answer(command, writer, turn + 1 == horizon)
    return _collect(model, written, writer, horizon, 1.0, len(written))


def _collect(model, written: list[_Episode], writer: Writer, horizon: int, temperature: float, group: int) -> Played:
    """Episodes as tensors, padded on the right."""
    device, width = model.device, max(len(e.tokens) for e in written)

    def padded(rows: list[list], fill, dtype) -> Tensor:
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], dtype=dtype, device=device)

    mask = padded([[flag for flag, _ in e.flags] for e in written], False, torch.bool)
    turn = padded([[turn for _, turn in e.flags] for e in written], -1, torch.long)
    allowed = torch.full((*mask.shape, (model.vocabulary + 7) // 8), 255, dtype=torch.uint8, device=device)
    kinds = {options: k for k, options in enumerate({o for e in written for o in e.options if o is not None})}
    bits = torch.zeros(len(kinds), model.vocabulary, dtype=torch.bool)
    for options, k in kinds.items():
        bits[k, list(options)] = True
    which = padded([[kinds.get(o, -1) for o in e.options] for e in written], -1, torch.long)
    allowed[mask] = pack_bits(bits).to(device)[which[mask]]  # an answer's tokens may be anything
    prompt_ids, prompt_mask = pad_left([writer.prompt(e.game) for e in written], model.tokenizer.pad_token_id)
    rewards = torch.tensor([e.rewards + [0.0] * (horizon - len(e.rewards)) for e in written], dtype=torch.float32)
    lengths = torch.tensor([len(e.rewards) for e in written], device=device)
    rollout = Rollout(
        prompt_ids.to(device),
        prompt_mask.to(device),
        padded([e.tokens for e in written], model.tokenizer.pad_token_id, torch.long),
        mask,
        padded([e.logprobs for e in written], 0.0, torch.float32),
        torch.tensor([e.game.done[e.state] for e in written], device=device),
        temperature,
        group,
        allowed,
        model.tokenizer,
        (turn >= 0) & ~mask,
    )
    won = torch.tensor([e.game.won[e.state] for e in written], device=device)
    taken = torch.arange(horizon, device=device) < lengths[:, None]
    return Played(rollout, turn, rewards.to(device), taken, won, [e.commands for e in written])
