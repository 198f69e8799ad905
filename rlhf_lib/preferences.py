"""Preferences between texts: rankings, the pairs in them, and how far people and models agree on pairs.

A person who ranks K texts says which is better for every pair that is not tied. Human ratings give rankings too: who
rates one text 3 and another -1 prefers the first. Two kinds of pair must be kept apart, because they differ in
difficulty: *within* a block one person compared two texts; *across* blocks each text has a rating by some person of its
own panel, and the texts are usually further apart. All randomness comes from the `generator` passed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

NAN = float("nan")


@dataclass(frozen=True)
class Ranking:
    """Texts ordered by preference. A labelled pair is a Ranking of two.

    Attributes:
        texts: at least two texts, usually one prompt with different completions.
        ranks: of each text; 0 is best, a larger number is worse, equal numbers are a tie.
    Raises:
        ValueError: if the ranks do not fit the texts, are not whole numbers from 0, or none of them is 0.
    """

    texts: tuple[str, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or not all(isinstance(text, str) for text in self.texts):
            raise ValueError("texts must be a sequence of strings")
        if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in self.ranks):
            raise ValueError(f"ranks must be whole numbers, not {self.ranks}")
        object.__setattr__(self, "texts", tuple(self.texts))
        object.__setattr__(self, "ranks", tuple(self.ranks))
        if len(self.texts) < 2:
            raise ValueError(f"a ranking needs at least two texts, not {len(self.texts)}")
        if len(self.ranks) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts need as many ranks, not {len(self.ranks)}")
        if min(self.ranks) != 0:
            raise ValueError(f"the best text has rank 0, but the ranks are {self.ranks}")


def ordered_pairs(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair that the rankings decide, as positions in the flattened [N, K] table. Ties give no pair.

    With scores [N, K] of the same texts, `scores.flatten()[chosen]` and `scores.flatten()[rejected]` are what
    `bradley_terry_loss` takes. No pair joins two rankings.

    Args:
        ranks: [N, K], smaller is better.
    Returns:
        (chosen, rejected), long [M] each, by ranking, then by position of the better and of the worse text.
    """
    if ranks.dim() != 2:
        raise ValueError(f"ranks must be [N, K], not {list(ranks.shape)}")
    row, better, worse = (ranks[:, :, None] < ranks[:, None, :]).nonzero(as_tuple=True)
    return row * ranks.shape[1] + better, row * ranks.shape[1] + worse


def text_pairs(rankings: Sequence[Ranking]) -> list[tuple[str, str]]:
    """The pairs (better text, worse text) that rankings of any sizes decide; ties give none."""
    pairs = []
    for ranking in rankings:
        chosen, rejected = ordered_pairs(torch.tensor([ranking.ranks]))
        pairs += [(ranking.texts[i], ranking.texts[j]) for i, j in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    return pairs


def rating_matrix(ratings: Sequence[Sequence[float]]) -> Tensor:
    """Lists of ratings of different lengths as one float64 table [N, P], filled up with NaN."""
    if not ratings or not all(ratings):
        raise ValueError("every text needs at least one rating")
    longest = max(len(panel) for panel in ratings)
    return torch.tensor([[*panel, *[NAN] * (longest - len(panel))] for panel in ratings], dtype=torch.float64)


def rankings_from_ratings(
    texts: Sequence[str],
    ratings: Sequence[Sequence[float]],
    group_size: int,
    generator: torch.Generator,
    rater: Literal["random", "mean"] = "random",
    block: Sequence[int] | None = None,
    repeats: int = 1,
) -> list[Ranking]:
    """Rankings of `group_size` texts each, by what people rated them. A text is in one group at most.

    Args:
        texts, ratings: [N] texts and the ratings of each one's panel.
        rater: "random" takes one rating of each text, by a random member of its panel; "mean" the panel's mean.
        block: [N], if given, the texts of a ranking come from one block, and with rater="random" the ratings from one
            person (the same position in each panel), as if that person had ranked them.
        repeats: rankings of each group, one after another, each with raters drawn anew.
    Returns:
        N // group_size · repeats rankings (fewer with `block`), groups in random order.
    """
    _check_aligned(texts=texts, ratings=ratings, **({} if block is None else {"block": block}))
    if group_size < 2:
        raise ValueError(f"a ranking needs at least two texts, not {group_size}")
    table = rating_matrix(ratings)
    order = torch.randperm(len(texts), generator=generator)
    if block is not None:
        blocks = torch.as_tensor(block)
        order = order[blocks[order].argsort(stable=True)]
        _, sizes = blocks.unique(return_counts=True)
        place = torch.arange(len(order)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        order = order[place < torch.repeat_interleave(sizes - sizes % group_size, sizes)]  # whole groups of each block
    groups = order[: len(order) // group_size * group_size].view(-1, group_size)
    if block is not None:
        groups = groups[torch.randperm(len(groups), generator=generator)]
    groups = groups.repeat_interleave(repeats, 0)
    if rater == "mean":
        values = table.nanmean(1)[groups]
    elif rater == "random":
        people = (~table.isnan()).sum(1)[groups]
        if block is not None:
            people = people.amin(1, keepdim=True)
        values = table[groups, _one_of(people, generator)]
    else:
        raise ValueError(f'rater must be "random" or "mean", not {rater!r}')
    above = (values[:, None, :] > values[:, :, None]).sum(-1)  # how many texts of the group are better
    return [
        Ranking(tuple(texts[i] for i in group), tuple(ranks))
        for group, ranks in zip(groups.tolist(), above.tolist(), strict=True)
    ]


# --- pairs for evaluation --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts that one rater each decided, for measuring accuracy. Long tensors [M].

    Attributes:
        better, worse: indices of the texts.
        better_block, worse_block: the blocks that they belong to, for the bootstrap.
        ties: number of further pairs that were drawn and tied; they are no part of an accuracy.
    """

    better: Tensor
    worse: Tensor
    better_block: Tensor
    worse_block: Tensor
    ties: int

    def __len__(self) -> int:
        return len(self.better)

    @property
    def tie_share(self) -> float:
        """Share of ties among the pairs drawn."""
        return self.ties / max(1, self.ties + len(self))


def within_block_pairs(
    ratings: Sequence[Sequence[float]], block: Sequence[int], n: int, generator: torch.Generator
) -> Pairs:
    """`n` random pairs of texts of one block, each decided by one random person who rated both.

    Position j of the panels of a block is one person. Block, pair and person are drawn uniformly, with replacement.
    """
    return _decided(_draw_within(ratings, block, n, generator))


def cross_block_pairs(
    ratings: Sequence[Sequence[float]], block: Sequence[int], n: int, generator: torch.Generator
) -> Pairs:
    """`n` random pairs of texts of different blocks, each decided by one random rating of each text."""
    return _decided(_draw_across(ratings, block, n, generator))


class _Drawn(NamedTuple):
    """Pairs drawn: the two texts, the person (position in the panel) who rates each, and the tables these index."""

    first: Tensor
    second: Tensor
    first_person: Tensor
    second_person: Tensor
    table: Tensor  # [N, P] ratings
    block: Tensor  # [N]


def _draw_within(ratings: Sequence[Sequence[float]], block: Sequence[int], n: int, generator: torch.Generator):
    table, people, blocks = _panels(ratings, block)
    order = blocks.argsort(stable=True)
    _, sizes = blocks.unique(return_counts=True)
    start = sizes.cumsum(0) - sizes
    usable = (sizes >= 2).nonzero().squeeze(1)
    if len(usable) == 0:
        raise ValueError("no block has two texts to compare")
    drawn = usable[torch.randint(len(usable), (n,), generator=generator)]
    i = _one_of(sizes[drawn], generator)
    j = _another(i, sizes[drawn], generator)
    first, second = order[start[drawn] + i], order[start[drawn] + j]
    person = _one_of(torch.minimum(people[first], people[second]), generator)
    return _Drawn(first, second, person, person, table, blocks)


def _draw_across(ratings: Sequence[Sequence[float]], block: Sequence[int], n: int, generator: torch.Generator):
    table, people, blocks = _panels(ratings, block)
    order = blocks.argsort(stable=True)
    _, inverse, sizes = blocks.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("pairs across blocks need at least two blocks")
    start = sizes.cumsum(0) - sizes
    first = torch.multinomial((len(blocks) - sizes[inverse]).double(), n, replacement=True, generator=generator)
    own = inverse[first]
    place = _one_of(len(blocks) - sizes[own], generator)  # among the texts outside the first one's block
    second = order[torch.where(place < start[own], place, place + sizes[own])]
    return _Drawn(first, second, _one_of(people[first], generator), _one_of(people[second], generator), table, blocks)


def _decided(drawn: _Drawn) -> Pairs:
    difference = drawn.table[drawn.first, drawn.first_person] - drawn.table[drawn.second, drawn.second_person]
    clear = difference != 0
    better = torch.where(difference > 0, drawn.first, drawn.second)[clear]
    worse = torch.where(difference > 0, drawn.second, drawn.first)[clear]
    return Pairs(better, worse, drawn.block[better], drawn.block[worse], int((~clear).sum()))


def _panels(ratings: Sequence[Sequence[float]], block: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    _check_aligned(ratings=ratings, block=block)
    table = rating_matrix(ratings)
    return table, (~table.isnan()).sum(1), torch.as_tensor(block)


def _one_of(sizes: Tensor, generator: torch.Generator) -> Tensor:
    """For each size s a uniform draw from 0 ... s - 1."""
    draw = torch.rand(sizes.shape, generator=generator, dtype=torch.float64) * sizes
    return torch.minimum(draw.long(), sizes - 1)


def _another(taken: Tensor, sizes: Tensor, generator: torch.Generator) -> Tensor:
    """The same, but never `taken`."""
    draw = _one_of(sizes - 1, generator)
    return draw + (draw >= taken)


def _check_aligned(**columns: Sequence) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"these must have one entry a text: {lengths}")


# --- agreement -------------------------------------------------------------------------------------------------------


class Accuracy(NamedTuple):
    """A share between 0 and 1 with a bootstrap interval."""

    value: float
    low: float
    high: float


def pairwise_accuracy(
    scores: Tensor | Sequence[float],
    pairs: Pairs,
    generator: torch.Generator | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> Accuracy:
    """Share of pairs whose better text has the higher score; equal scores count one half.

    The percentile interval is bootstrapped by block: sentences of a block share their raters, so pairs are not
    independent but blocks nearly are. In each resample a block counts as often as it was drawn (w), a pair within a
    block w times and a pair across two blocks w1 x w2 times (Owen 2007, arXiv 0712.1111), which errs on the wide side.

    Args:
        scores: [N], of the texts that the pairs index.
        generator: of the resampling; without one it is seeded with 0, so that the same input gives the same interval.
    """
    if len(pairs) == 0:
        raise ValueError("there are no decided pairs to measure accuracy on")
    scores = torch.as_tensor(scores, dtype=torch.float64).detach().cpu()
    gap = scores[pairs.better] - scores[pairs.worse]
    if gap.isnan().any():
        raise ValueError("some scores are NaN")
    right = (gap > 0).double() + 0.5 * (gap == 0)
    generator = generator or torch.Generator().manual_seed(0)
    low, high = _block_bootstrap(right, pairs.better_block, pairs.worse_block, generator, confidence, resamples)
    return Accuracy(float(right.mean()), low, high)


def _block_bootstrap(
    right: Tensor, one: Tensor, other: Tensor, generator: torch.Generator, confidence: float, resamples: int
) -> tuple[float, float]:
    """Percentile interval of the mean of `right` [M], resampling the blocks that the pairs belong to."""
    names, index = torch.cat([one, other]).unique(return_inverse=True)
    one, other = index.view(2, -1)
    size = len(names)
    tables = []  # numerator and denominator of the mean, summed by pair of blocks
    for values in (right, torch.ones_like(right)):
        tables.append(torch.zeros(size, size, dtype=torch.float64).index_put((one, other), values, accumulate=True))
    drawn = torch.randint(size, (resamples, size), generator=generator)
    weight = torch.zeros(resamples, size, dtype=torch.float64).scatter_add(1, drawn, torch.ones_like(drawn).double())
    top, bottom = (
        ((weight @ (table - table.diag().diag())) * weight).sum(1) + weight @ table.diag() for table in tables
    )
    means = (top / bottom)[bottom > 0]
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


class Ceiling(NamedTuple):
    """How well people predict each other's decisions: what a reward model can hope for."""

    two_people: Accuracy  # one person's decision agrees with another's (ties of either left out)
    person_and_rest: Accuracy  # one person's decision agrees with the mean rating of the others
    tie_share: float  # share of pairs that a person does not decide


def human_ceiling(
    ratings: Sequence[Sequence[float]],
    block: Sequence[int],
    kind: Literal["within", "across"],
    generator: torch.Generator,
    n: int = 100_000,
) -> Ceiling:
    """Agreement of people on `n` random pairs drawn as by `within_block_pairs` or `cross_block_pairs`.

    Across blocks the "two people" are two different ratings of each text. Where the others' means are equal they count
    one half, as equal scores of a model do. Texts need at least two ratings.
    """
    if kind not in ("within", "across"):
        raise ValueError(f'kind must be "within" or "across", not {kind!r}')
    drawn = (_draw_within if kind == "within" else _draw_across)(ratings, block, n, generator)
    table = drawn.table
    people = (~table.isnan()).sum(1)
    if (people < 2).any():
        raise ValueError("agreement needs at least two ratings a text")
    if kind == "within":
        shared = torch.minimum(people[drawn.first], people[drawn.second])
        second_rater = [_another(drawn.first_person, shared, generator)] * 2
    else:
        second_rater = [
            _another(drawn.first_person, people[drawn.first], generator),
            _another(drawn.second_person, people[drawn.second], generator),
        ]
    given = [table[drawn.first, drawn.first_person], table[drawn.second, drawn.second_person]]
    rest = [
        (table.nansum(1)[text] - rating) / (people[text] - 1)
        for text, rating in zip((drawn.first, drawn.second), given, strict=True)
    ]
    decision = (given[0] - given[1]).sign()
    other = (table[drawn.first, second_rater[0]] - table[drawn.second, second_rater[1]]).sign()
    others = (rest[0] - rest[1]).sign()

    def agreement(with_whom: Tensor, counted: Tensor) -> Accuracy:
        right = (0.5 + 0.5 * decision * with_whom)[counted]
        blocks = drawn.block[drawn.first][counted], drawn.block[drawn.second][counted]
        return Accuracy(float(right.mean()), *_block_bootstrap(right, *blocks, generator, 0.95, 1000))

    decided = decision != 0
    return Ceiling(
        agreement(other, decided & (other != 0)), agreement(others, decided), float((~decided).double().mean())
    )


def krippendorff_alpha(ratings: Tensor | Sequence[Sequence[float]]) -> float:
    """Krippendorff's α with the interval metric: 1 is perfect agreement, 0 what chance gives, below 0 disagreement.

    1 - D_o/D_e, the mean squared difference of two ratings of one text over that of any two ratings. Texts with fewer
    than two ratings are left out. Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".

    Args:
        ratings: [N, P], NaN where a rating is missing, or lists of ratings of any lengths.
    Returns:
        α; NaN if nothing can be compared or all ratings are equal.
    """
    table = ratings.double() if isinstance(ratings, Tensor) else rating_matrix(ratings)
    count = (~table.isnan()).sum(1)
    table, count = table[count > 1], count[count > 1]
    total = int(count.sum())
    if total == 0:
        return NAN
    values = (table - table.nanmean()).nan_to_num()  # centred first: the sums of squares below keep their precision
    within = (2 * (count * values.square().sum(1) - values.sum(1).square()) / (count - 1)).sum() / total
    overall = 2 * (total * values.square().sum() - values.sum().square()) / (total * (total - 1))
    return float(1 - within / overall) if overall > 1e-12 else NAN


def expected_calibration_error(
    probability: Tensor | Sequence[float], outcome: Tensor | Sequence[float], bins: int = 10
) -> float:
    """Mean gap between how sure a model is and how often it is right: Σ_b (n_b/N)·|mean p − mean outcome|.

    The bins are of equal width over [0, 1]. For pairs give `probability` of "the first is better" with the first text
    chosen without looking at the label: if the better text always came first, every outcome would be 1. Guo et al.
    2017, arXiv 1706.04599.

    Args:
        probability: [N], in [0, 1]. outcome: [N], 1 if it happened, else 0.
    """
    probability = torch.as_tensor(probability, dtype=torch.float64).detach().cpu()
    outcome = torch.as_tensor(outcome, dtype=torch.float64).detach().cpu()
    if probability.dim() != 1 or probability.shape != outcome.shape or len(probability) == 0:
        raise ValueError(f"need two lists of one length, not {list(probability.shape)} and {list(outcome.shape)}")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1")
    which = (probability * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, which, probability - outcome)
    return float(gap.abs().sum() / len(probability))
