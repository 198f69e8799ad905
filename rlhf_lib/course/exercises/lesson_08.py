"""Exercises of lesson 08: synthetic data and human preferences."""

import functools
import itertools
import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake


# 08.1 the pairs of a ranking
def _one_ranking(generator):
    """Ranks of five answers, with a tie, the best not first, two places missing in some draws."""
    ranks = [[2, 0, 1, 1, 3], [3, 0, 0, 2, 2], [1, 3, 0, 3, 2], [4, 1, 1, 0, 2]]
    return (_shuffled(ranks[int(torch.randint(4, (), generator=generator))], generator),)


def _shuffled(items, generator):
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def _pairs(ranks):
    """(better, worse) positions of every pair that the ranks decide."""
    return [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]


def _ties_won_by_the_first(ranks):
    return sorted(_pairs(ranks) + [(i, j) for i, j in _unordered(ranks) if ranks[i] == ranks[j]])


def _ties_both_ways(ranks):
    everyone = range(len(ranks))
    return [(i, j) for i in everyone for j in everyone if i != j and ranks[i] <= ranks[j]]


def _neighbours(ranks):
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    return sorted((i, j) for i, j in itertools.pairwise(order) if ranks[i] < ranks[j])


def _unordered(ranks):
    return list(itertools.combinations(range(len(ranks)), 2))


# 08.2 how many pairs
def _tie_groups(generator):
    """Sizes of the groups of equals, best first: 2 to 4 groups, one of them of at least 2."""
    sizes = torch.randint(1, 4, (int(torch.randint(2, 5, (), generator=generator)),), generator=generator).tolist()
    sizes[int(torch.randint(len(sizes), (), generator=generator))] = 3
    return (sizes,)


def _decided(sizes):
    return math.comb(sum(sizes), 2) - sum(math.comb(size, 2) for size in sizes)


# 08.3 two prompts at once
def _two_prompts(generator):
    """Ranks of the answers to two or three prompts."""
    kinds = [[1, 0, 2], [0, 1], [2, 0, 1, 1], [1, 0, 0]]
    return ([_shuffled(ranks, generator) for ranks in _shuffled(kinds, generator)[:3]],)


def _by_prompt(rankings):
    found, start = [], 0
    for ranks in rankings:
        found += [(start + i, start + j) for i, j in _pairs(ranks)]
        start += len(ranks)
    return found


def pairs_as_given(rankings):
    """(better, worse) places in the list of all answers, from the ranks of each prompt's answers; with a bug."""
    ranks = [rank for ranking in rankings for rank in ranking]
    return [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]


def _without_offset(rankings):
    return [pair for ranks in rankings for pair in _pairs(ranks)]


# 08.4 Krippendorff's alpha
def _panel(generator):
    """A table [5, 4] of small whole numbers with gaps; one text has a single rating, every text has one."""
    truth = torch.tensor([-3.0, 2.0, 0.0, 3.0, -1.0])[torch.randperm(5, generator=generator)]
    table = truth[:, None] + torch.randint(-1, 2, (5, 4), generator=generator)
    table[torch.arange(3), torch.randperm(4, generator=generator)[:3]] = math.nan
    table[4, 1:] = math.nan
    return (table,)


def _alpha(table):
    from rlhf_lib.preferences import krippendorff_alpha

    return krippendorff_alpha(table)


def _squares(values):
    """Mean squared difference over all ordered pairs of two different entries."""
    n = len(values)
    return ((values[:, None] - values[None]) ** 2).sum().item() / (n * (n - 1))


def _alpha_from(table, within, single=False, distance=_squares, fill=None):
    """1 - D_o/D_e. within(text's ratings) -> its observed difference and its weight."""
    table = table.double() if fill is None else table.double().nan_to_num(fill)
    texts = [row[~row.isnan()] for row in table]
    usable = [text for text in texts if len(text) > 1]
    parts = [within(text, distance) for text in usable]
    observed = sum(value * weight for value, weight in parts) / sum(weight for _, weight in parts)
    return 1 - observed / distance(torch.cat(texts if single else usable))


def _weighted(text, distance):
    return distance(text), len(text)


def _unweighted(text, distance):
    return distance(text), 1


def _self_pairs(text, distance):
    return distance(text) * (len(text) - 1) / len(text), len(text)


def _unequal(values):
    n = len(values)
    return (values[:, None] != values[None]).double().sum().item() / (n * (n - 1))


def _absolute(values):
    n = len(values)
    return (values[:, None] - values[None]).abs().sum().item() / (n * (n - 1))


# 08.6 how coarse may the scale be?
BAR, COARSEST = 0.66, 5  # share of the rest's preferences recovered; the fewest steps that stay above it


@functools.cache
def _ratings():
    from rlhf_lib import preferences, reviews

    return preferences.rating_matrix(reviews.load().ratings[: 353 * reviews.BLOCK])  # whole blocks only


def recovered(steps: int, seed: int = 0, pairs: int = 20_000) -> float:
    """How much of the others' preference one person's ratings recover, if the scale had only `steps` steps.

    Two random sentences of one block and one person who rated both, on a scale from -4 to 4 cut into `steps` equal
    steps. 1 if the person's order is that of the mean of the others (on the full scale), 1/2 for a tie, else 0.
    """
    from rlhf_lib.runs import generator

    table, noise = _ratings(), generator(seed)
    block = torch.randint(353, (pairs,), generator=noise)
    first = torch.randint(30, (pairs,), generator=noise)
    second = (first + torch.randint(1, 30, (pairs,), generator=noise)) % 30
    one, other = table[30 * block + first], table[30 * block + second]
    people = (~one.isnan()).sum(1)
    person = (torch.rand(pairs, generator=noise, dtype=torch.float64) * people).long()[:, None]
    mine = [side.gather(1, person).squeeze(1) for side in (one, other)]
    rest = one.nansum(1) - mine[0] - (other.nansum(1) - mine[1])
    edges = torch.linspace(-4.5, 4.5, steps + 1, dtype=torch.float64)[1:-1]
    said = (torch.bucketize(mine[0], edges) - torch.bucketize(mine[1], edges)).sign()
    return (0.5 + 0.5 * said * rest.sign()).mean().item()


def _coarse_enough(steps) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if steps not in range(2, 10):
        return False, "A whole number of steps, from 2 to 9."
    mean, low, high = mean_interval([recovered(steps, seed) for seed in range(100, 108)])
    told = f"On 8 new draws {steps} steps recover {mean:.3f}, 95 % interval {low:.3f} to {high:.3f} (bar: {BAR})."
    if low > BAR and steps > COARSEST:
        return False, told + " Safely above it; but a coarser scale is quicker to answer. Is there one that is enough?"
    return low > BAR, told


# 08.7 the price of one run
EPISODES, TURN = 256_000, 20


EXERCISES = [
    Exercise(
        id="08.1",
        title="From a ranking to pairs",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=8,
        reference=_pairs,
        inputs=_one_ranking,
        mistakes={
            "ranks reversed": Mistake(
                "The worse answer comes first in your pairs. Rank 0 is the best: who is better has the *smaller* rank.",
                lambda ranks: sorted((j, i) for i, j in _pairs(ranks)),
            ),
            "tie counted as a win": Mistake(
                "Of two tied answers the one that stands first wins here. Nobody said that it is better.",
                _ties_won_by_the_first,
            ),
            "tie counted both ways": Mistake(
                "A tie gives two pairs here, each answer better than the other. It should give none.", _ties_both_ways
            ),
            "neighbours only": Mistake(
                "Only neighbours in the order are paired. Whoever ranks B > C > A has also said that B is better "
                "than A.",
                _neighbours,
            ),
            "the best against the rest": Mistake(
                "Only the best answer wins anything. (That is all one learns from “which of these is best?”; a "
                "ranking says more.)",
                lambda ranks: [(i, j) for i, j in _pairs(ranks) if ranks[i] == 0],
            ),
            "ranks not used": Mistake(
                "Each answer beats all that come after it in the list: the ranks are not used.", _unordered
            ),
        },
        hint="For each two positions i and j: is ranks[i] < ranks[j]? The pairs are sorted by i, then by j.",
        remark="preferences.ordered_pairs does it for a whole table of rankings, preferences.text_pairs for texts.",
    ),
    Exercise(
        id="08.2",
        title="What one ranking is worth",
        kind="derive",
        difficulty=2,
        importance=3,
        minutes=6,
        reference=_decided,
        inputs=_tie_groups,
        mistakes={
            "ties not taken off": Mistake(
                "These are all pairs, K(K − 1)/2. A pair of equals decides nothing.",
                lambda sizes: math.comb(sum(sizes), 2),
            ),
            "each pair twice": Mistake(
                "Twice too many: i against j and j against i are the same comparison.",
                lambda sizes: 2 * _decided(sizes),
            ),
            "one off for each tied answer": Mistake(
                "You took off one pair for each answer that is tied with the one before it. A group of three equals "
                "holds three undecided pairs, not two.",
                lambda sizes: math.comb(sum(sizes), 2) - sum(size - 1 for size in sizes),
            ),
            "groups as if single": Mistake(
                "This counts pairs of groups. An answer in one group beats *every* answer in a lower group.",
                lambda sizes: math.comb(len(sizes), 2),
            ),
            "neighbouring groups only": Mistake(
                "Only neighbouring groups are compared here. The best group also beats the one after next.",
                lambda sizes: sum(a * b for a, b in itertools.pairwise(sizes)),
            ),
        },
        hint="All pairs of K answers, minus the pairs inside each group of equals.",
    ),
    Exercise(
        id="08.3",
        title="Too many labels",
        kind="find the bug",
        difficulty=2,
        importance=5,
        minutes=8,
        reference=_by_prompt,
        inputs=_two_prompts,
        mistakes={
            "as given": Mistake(
                "As given: an answer to one prompt still beats an answer to another. Nobody compared them; rank 0 is "
                "the best *of its own list*.",
                pairs_as_given,
            ),
            "offset forgotten": Mistake(
                "The pairs stay within their prompts now, but every prompt's places count from 0 again, so they all "
                "point at the first prompt's answers.",
                _without_offset,
            ),
            "ranks reversed": Mistake(
                "Within the prompts, but the worse answer comes first: rank 0 is the best.",
                lambda rankings: sorted((j, i) for i, j in _by_prompt(rankings)),
            ),
            "the first prompt only": Mistake(
                "Only the first prompt's pairs are there.", lambda rankings: _pairs(rankings[0])
            ),
        },
        hint="How many pairs do two prompts with two answers each have? And how many does the given version find?",
    ),
    Exercise(
        id="08.4",
        title="Krippendorff's α",
        kind="implement",
        difficulty=4,
        importance=4,
        minutes=18,
        reference=_alpha,
        inputs=_panel,
        mistakes={
            "a rating against itself": Mistake(
                "Among the pairs within a text each rating also meets itself, with difference 0: divide by n(n − 1), "
                "not by n².",
                lambda table: _alpha_from(table, _self_pairs),
            ),
            "missing read as 0": Mistake(
                "Missing ratings count as 0 here, which is an opinion. Leave them out.",
                lambda table: _alpha_from(table, _weighted, fill=0.0),
            ),
            "lonely ratings": Mistake(
                "A text with a single rating has nobody to agree with; it must not enter D_e either.",
                lambda table: _alpha_from(table, _weighted, single=True),
            ),
            "texts weighted alike": Mistake(
                "In D_o every text counts the same. Weight it by its number of ratings: it is a mean over *ratings*.",
                lambda table: _alpha_from(table, _unweighted),
            ),
            "not squared": Mistake(
                "The distance is the absolute difference here. The interval metric squares it.",
                lambda table: _alpha_from(table, _weighted, distance=_absolute),
            ),
            "equal or not": Mistake(
                "The distance only asks whether two ratings differ: that is the *nominal* α. On an interval scale 3 "
                "and 4 disagree less than 3 and −4.",
                lambda table: _alpha_from(table, _weighted, distance=_unequal),
            ),
            "the ratio itself": Mistake(
                "This is D_o/D_e, the disagreement. α is what is missing to 1.", lambda table: 1 - _alpha(table)
            ),
        },
        rtol=1e-3,
        hint="Write the mean squared difference of one list of numbers first, and use it for D_o (weighted) and D_e.",
        remark="preferences.krippendorff_alpha computes the same from sums of squares, without the loops.",
    ),
    Exercise(
        id="08.5",
        title="The same people, half the film reviews",
        kind="predict",
        difficulty=3,
        importance=4,
        minutes=4,
        reference="it falls",
        choices=("it rises", "it stays", "it falls"),
        mistakes={
            "it rises": Mistake(
                "The raters are no more of one mind than before. What happens to D_e, the denominator, when all "
                "sentences are positive?",
                "it rises",
            ),
            "it stays": Mistake(
                "D_o indeed hardly changes: the raters differ by as much as before. But α also has a denominator.",
                "it stays",
            ),
        },
        remark="α measures the raters and what they were given to rate: never compare two α from different material.",
    ),
    Exercise(
        id="08.6",
        title="How coarse may the scale be?",
        kind="experiment",
        difficulty=2,
        importance=3,
        minutes=8,
        reference=COARSEST,
        accept=_coarse_enough,
        mistakes={
            "like or dislike": Mistake("Two steps: a person could only say “like” or “dislike”.", 2),
            "one too few": Mistake("Four steps come close. Is the whole interval above the bar?", 4),
            "all nine": Mistake("Nine steps are the raters' own scale.", 9),
        },
        hint="Try every number of steps, with several seeds each, and look at the lower end of the interval.",
        remark="Fewer steps, more ties. And it matters where the steps are cut: seven recover less than six.",
    ),
    Exercise(
        id="08.7",
        title="The price of one run",
        kind="predict",
        difficulty=1,
        importance=5,
        minutes=3,
        reference=float(EPISODES * TURN),
        mistakes={
            "a demonstration's price": Mistake(
                "$200 is the price of a demonstration, where somebody has to *write*. A judgement costs $20.",
                float(EPISODES * 200),
            ),
            "labels for the reward model": Mistake(
                "That is the price of the reward model's 100,000 labels. Here every episode of the run is judged by a "
                "person.",
                2e6,
            ),
            "thousands": Mistake("A factor of 1,000 too small. Write the product out.", float(EPISODES * TURN / 1000)),
        },
        rtol=0.05,
        remark="For a single run: one seed, one set of hyperparameters, and nobody who checks the labels.",
    ),
]
