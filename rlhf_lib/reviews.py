"""Movie-review sentences rated by real people, their splits, and a review language small enough to enumerate.

The data are the 10,605 sentences of Hutto & Gilbert (2014), fetched by `rlhf_lib.assets`; `data/README.md` is the data
card. Rows come in blocks of 30 that one panel of people rated, so a block is never divided between splits.
"""

import functools
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf_lib import assets
from rlhf_lib.mdp import TokenMDP

BLOCK = 30  # rows rated by the same panel
SPLITS = ("train", "validation", "test", "judge")
# How many of the 177 blocks of each half (first positive, second negative) go where; the rest is "train".
HELD_OUT = (("test", 21), ("validation", 14), ("judge", 36))

LECTURE_OPENING = "I loved the book but really hated the movie"
LECTURE_COMPLETIONS = {
    "bad": ("Awful, awful, awful. Here, I'll tell you why ...",),
    "good": (
        "At first anyway, but I warmed slowly as I watched. Here, I'll tell you why ...",
        "Eventually I started liking the movie and here's why...",
    ),
}


@dataclass(frozen=True)
class Reviews:
    """Sentences in file order, or some of them.

    Attributes:
        texts: the sentences, cleaned (see `clean`).
        ratings: for each sentence its panel's ratings, whole numbers from -4 (worst) to 4 (best). Within a block,
            position j is one person throughout; across blocks positions mean nothing.
        block: the block, 0 to 353, that each sentence belongs to.
    """

    texts: list[str]
    ratings: list[list[int]]
    block: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    def mean(self, row: int) -> float:
        """The panel's mean rating of a sentence."""
        return sum(self.ratings[row]) / len(self.ratings[row])

    def rows(self, split: str) -> list[int]:
        """Sorted indices of the sentences of a split (one of SPLITS)."""
        blocks = set(split_blocks()[_known(split)])
        return [row for row, block in enumerate(self.block) if block in blocks]

    def subset(self, split: str) -> "Reviews":
        """The sentences of a split, on their own."""
        rows = self.rows(split)
        return Reviews([self.texts[i] for i in rows], [self.ratings[i] for i in rows], [self.block[i] for i in rows])


@functools.cache
def load() -> Reviews:
    """All rated sentences, kept in memory after the first call.

    Raises AssetError if they are not in the cache and cannot be fetched, ValueError if sentences and ratings do not
    belong together.
    """
    files = assets.ratings_files()
    texts, ratings = [], []
    sentences, panels = _table(files["movie"], 3), _table(files["movie_ratings"], 4)
    for (key, mean, text), (same_key, same_mean, _, panel) in zip(sentences, panels, strict=True):
        given = json.loads(panel)
        computed = sum(given) / len(given)
        if key != same_key or max(abs(computed - float(mean)), abs(computed - float(same_mean))) > 1e-6:
            raise ValueError(f"sentence {key} and ratings {same_key} do not belong together (mean {computed}, {mean})")
        texts.append(clean(text))
        ratings.append(given)
    return Reviews(texts, ratings, [row // BLOCK for row in range(len(texts))])


def _table(path: Path, columns: int) -> list[list[str]]:
    """Rows of a tab-separated file. It is UTF-8, sometimes with a mark; reading it as Latin-1 garbles 133 sentences."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.split("\t", columns - 1) for line in lines]


def clean(text: str) -> str:
    """The sentence as the raters' browsers showed it: character references resolved, runs of spaces as one.

    Nothing else is changed: spelling, case, tokens such as '' for a quotation mark and missing dashes stay.
    """
    return " ".join(html.unescape(text).split())


@functools.cache
def split_blocks() -> dict[str, tuple[int, ...]]:
    """The blocks of each split: in each half of the file, blocks in the order of a hash, cut into four parts.

    The file's first half is positive and its second negative, so each split gets the same share of both.
    """
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    for half in (0, 1):
        blocks = range(177 * half, 177 * (half + 1))
        order = sorted(blocks, key=lambda block: hashlib.sha256(f"block {block}".encode()).digest())
        start = 0
        for split, count in HELD_OUT:
            parts[split] += order[start : start + count]
            start += count
        parts["train"] += order[start:]
    return {split: tuple(sorted(blocks)) for split, blocks in parts.items()}


def _known(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; choose from {', '.join(SPLITS)}")
    return split


def openings(split: str = "train", max_rating: float = -1.0, words: int = 5, limit: int | None = None) -> list[str]:
    """Prompts that start negatively: the first words of sentences with a mean rating of at most `max_rating`.

    Sentences of `words` words or fewer are left out, as there would be nothing to complete; so are repeated openings.
    `limit` takes that many, spread evenly over the file so that they come from all its panels.
    """
    reviews = load()
    found = dict.fromkeys(
        cut[0]
        for row in reviews.rows(split)
        if reviews.mean(row) <= max_rating and (cut := _cut(reviews.texts[row], words))
    )
    prompts = list(found)
    if limit is None or limit >= len(prompts):
        return prompts
    return [prompts[i * len(prompts) // limit] for i in range(limit)]


def demonstrations(split: str = "train", min_rating: float = 2.0, words: int = 5) -> list[tuple[str, str]]:
    """(prompt, completion) from sentences with a mean rating of at least `min_rating`, for supervised fine-tuning.

    The prompt is the first words, the completion the rest with its leading space: joined they are the sentence.
    """
    reviews = load()
    return [
        cut
        for row in reviews.rows(split)
        if reviews.mean(row) >= min_rating and (cut := _cut(reviews.texts[row], words))
    ]


def _cut(text: str, words: int) -> tuple[str, str] | None:
    """Split after `words` words; None if nothing would be left."""
    if words < 1:
        raise ValueError(f"an opening needs at least one word, not {words}")
    pieces = text.split(" ")
    if len(pieces) <= words:
        return None
    return " ".join(pieces[:words]), " " + " ".join(pieces[words:])


def other_texts() -> dict[str, list[str]]:
    """Sentences of the other corpora in the same archive, cleaned, for pre-training: "amazon", "nyt" and "tweets"."""
    files = assets.ratings_files()
    return {name: [clean(row[2]) for row in _table(files[name], 3)] for name in ("amazon", "nyt", "tweets")}


# --- the micro language ----------------------------------------------------------------------------------------------

MICRO_VALUES = {"great": 3.0, "good": 2.0, "dull": -1.0, "bad": -2.0, "awful": -3.0}
MICRO_MODIFIERS = {"very": 1.3, "not": -0.5}
MICRO_WORDS = ("great", "good", "dull", "bad", "awful", "very", "not", "and", "but", ".")
MICRO_AFTER_BUT = 0.75  # share of the clause after "but"; VADER weighs it 1.5 against 0.5 for what came before
MICRO_TOP = 4.0  # scores are cut off at ±4, the ends of the raters' scale


def micro_score(tokens: Tensor, mask: Tensor, opening: Sequence[str] = ()) -> Tensor:
    """How positive a text of the micro language is, from -4 to 4, as a person might rate it.

    ====================  =====================================================================================
    great good            +3 +2
    dull bad awful        -1 -2 -3
    very                  x 1.3  } what directly precedes a word of the two rows above multiplies its value,
    not                   x -0.5 } together: "not very good" is -0.5 x 1.3 x 2 = -1.3
    a clause              the mean of its words' values
    but                   1/4 of what came before + 3/4 of the clause after it (a clause without values: no effect)
    and .                 join and end; worth nothing
    ====================  =====================================================================================

    So "awful" is -3, "awful and great" 0, "awful but great" 1.5 and "awful but very great" 2.2: who has
    started negatively had better turn with "but".

    Args:
        tokens: long [N, K], indices into MICRO_WORDS. mask: bool [N, K], False after the end.
        opening: words that stand before the tokens.
    Returns:
        float [N].
    """
    worth = torch.tensor([MICRO_VALUES.get(word, 0.0) for word in MICRO_WORDS], device=tokens.device)
    factor = torch.tensor([MICRO_MODIFIERS.get(word, 1.0) for word in MICRO_WORDS], device=tokens.device)
    before = torch.tensor([micro_ids(opening)], dtype=torch.long, device=tokens.device).expand(len(tokens), -1)
    mask = torch.cat([torch.ones_like(before, dtype=torch.bool), mask], 1)
    tokens = torch.where(mask, torch.cat([before, tokens], 1), MICRO_WORDS.index("."))

    zero = torch.zeros(len(tokens), device=tokens.device)
    score, rated, total, count, modifier = zero, zero.bool(), zero, zero, zero + 1
    but = MICRO_WORDS.index("but")
    for word in [*tokens.unbind(1), zero.long() + but]:  # a last "but" closes the last clause
        has_value = worth[word] != 0
        total = total + modifier * worth[word]
        count = count + has_value
        modifier = torch.where(factor[word] != 1, modifier * factor[word], 1.0)
        closes = (word == but) & (count > 0)
        clause = total / count.clamp(min=1)
        turned = torch.where(rated, (1 - MICRO_AFTER_BUT) * score + MICRO_AFTER_BUT * clause, clause)
        score = torch.where(closes, turned, score)
        rated = rated | closes
        total, count = torch.where(word == but, 0.0, total), torch.where(word == but, 0.0, count)
    return score.clamp(-MICRO_TOP, MICRO_TOP)


def micro_ids(words: Sequence[str]) -> list[int]:
    """Indices of words into MICRO_WORDS; ValueError for a word that is not there."""
    unknown = [word for word in words if word not in MICRO_WORDS]
    if unknown:
        raise ValueError(f"not in the micro language: {unknown}; its words are {' '.join(MICRO_WORDS)}")
    return [MICRO_WORDS.index(word) for word in words]


def micro_mdp(horizon: int = 4, gamma: float = 1.0, opening: Sequence[str] = ("awful",)) -> TokenMDP:
    """The review language of ten words as an MDP: complete `opening` as positively as possible.

    The reward is `micro_score` of the whole text, opening included, at the last action; "." ends the episode. With the
    default opening and horizon the best text is "awful but very very great", at 3.1; without "but" 1.8 is the most.
    """
    micro_ids(opening)  # a wrong word is reported here rather than at the first reward

    def reward(tokens: Tensor, mask: Tensor) -> Tensor:
        return micro_score(tokens, mask, opening)

    return TokenMDP(MICRO_WORDS, horizon, reward, gamma, eos=MICRO_WORDS.index("."))
