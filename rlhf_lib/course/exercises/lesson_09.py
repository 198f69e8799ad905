"""Exercises of lesson 09: reward models."""

import math

import torch
import torch.nn.functional as F

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 09.1 Bradley–Terry's loss of labelled pairs
def _labelled_pairs(generator):
    ranks = torch.tensor([[0, 1], [1, 0], [0, 0], [0, 1], [0, 0]])[torch.randperm(5, generator=generator)]
    return draw_tensor(generator, 5, 2), ranks, draw_number(generator, 0.2, 0.9)


def _pair_loss(scores, ranks, margin):
    from rlhf_lib.losses import bradley_terry_loss
    from rlhf_lib.preferences import ordered_pairs

    chosen, rejected = ordered_pairs(ranks)
    return bradley_terry_loss(scores.flatten()[chosen], scores.flatten()[rejected], margin)


def _gaps(scores, ranks):
    """How much higher the preferred text scores, for the decided pairs."""
    signs = (ranks[:, 1] - ranks[:, 0]).sign()
    return ((scores[:, 0] - scores[:, 1]) * signs)[signs != 0]


def _sum_over_pairs(scores, ranks, margin):
    return _pair_loss(scores, ranks, margin) * len(_gaps(scores, ranks))


def _tie_is_a_win(scores, ranks, margin):
    signs = torch.where(ranks[:, 0] <= ranks[:, 1], 1.0, -1.0)
    return -F.logsigmoid((scores[:, 0] - scores[:, 1]) * signs - margin).mean()


# 09.2 the probability of a ranking
def _three_scores(generator):
    return tuple(draw_number(generator, -1.5, 1.5) for _ in range(3))


def _ranking_probability(a, b, c):
    return math.exp(-_ranking_loss(torch.tensor([[a, b, c]], dtype=torch.float64), torch.tensor([[0, 1, 2]])).item())


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _nobody_leaves(a, b, c):
    total = math.exp(a) + math.exp(b) + math.exp(c)
    return math.exp(a + b + c) / total**3


# 09.3 the loss of a ranking
def _rankings(generator):
    orders = [torch.randperm(4, generator=generator) for _ in range(2)]
    return draw_tensor(generator, 2, 4), torch.stack([torch.tensor([0, 1, 1, 2])[orders[0]], orders[1]])


def _ranking_loss(scores, ranks):
    from rlhf_lib.losses import plackett_luce_loss

    return plackett_luce_loss(scores, ranks)


def _competing(scores, rivals):
    """Σ_i −log of item i's share among itself and the `rivals` [N, K, K], averaged over rankings."""
    rivals = rivals | torch.eye(scores.shape[1], dtype=torch.bool)
    among = scores[:, None, :].expand(rivals.shape).masked_fill(~rivals, float("-inf"))
    return (among.logsumexp(-1) - scores).sum(1).mean()


def _ties_compete(scores, ranks):
    return _competing(scores, ranks[:, :, None] <= ranks[:, None, :])


def _all_compete(scores, ranks):
    return _competing(scores, torch.ones_like(ranks[:, :, None] < ranks[:, None, :]))


def _in_the_order_given(scores, ranks):
    columns = torch.arange(scores.shape[1]).expand_as(ranks)
    return _competing(scores, columns[:, :, None] < columns[:, None, :])


def _across_prompts(scores, ranks):
    return _ranking_loss(scores.flatten()[None], ranks.flatten()[None]) / len(scores)


def _without_itself(scores, ranks):
    worse = ranks[:, :, None] < ranks[:, None, :]
    among = scores[:, None, :].expand(worse.shape).masked_fill(~worse, float("-inf")).logsumexp(-1)
    return torch.where(worse.any(-1), among - scores, 0.0).sum(1).mean()


# 09.4 an overconfident reward model
STRETCH, BAR = 2.5, 0.025  # how much too large its scores are; the calibration error to stay below on new seeds


def overconfident(seed: int, pairs: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of texts as an overtrained reward model sees them: score gaps [N], and outcomes [N], 1 if the first won.

    It ranks as well as it could, but its gaps are too large by a factor that you are to find.
    """
    generator = torch.Generator().manual_seed(seed)
    gap = 1.5 * torch.randn(pairs, generator=generator)
    return STRETCH * gap, (torch.rand(pairs, generator=generator) < gap.sigmoid()).float()


def calibration_error(temperature: float, seed: int) -> float:
    """The expected calibration error of σ(gap / temperature)."""
    from rlhf_lib.preferences import expected_calibration_error

    gap, outcome = overconfident(seed)
    return expected_calibration_error((gap / temperature).sigmoid(), outcome)


def _calibrated(temperature) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if not float(temperature) > 0:
        return False, "A temperature is positive."
    mean, low, high = mean_interval([calibration_error(float(temperature), seed) for seed in range(100, 108)])
    return (
        high < BAR,
        f"On 8 new seeds the error is {mean:.3f}, 95 % interval {low:.3f} to {high:.3f} (bar: {BAR}).",
    )


# 09.5 a reward model that reads half the sentence
def _hidden_states(generator):
    return draw_tensor(generator, 3, 5, 2), draw_mask(generator, batch=3, time=5, shortest=2), draw_tensor(generator, 2)


def _read_at(position):
    """Scores read at position(mask) [B]."""
    return lambda hidden, mask, head: hidden[torch.arange(len(mask)), position(mask)] @ head


_last_word = _read_at(lambda mask: mask.sum(1) - 1)


def _read_out(hidden, mask, head):
    return _last_word(hidden, mask, head)


def read_out_as_given(hidden, mask, head):
    """The scores [B] of texts from hidden states [B, T, H], mask [B, T] and the reward head [H]; with a bug."""
    last = mask.sum(1).min() - 1
    return hidden[:, last] @ head


def _mean_of_tokens(hidden, mask, head):
    return torch.where(mask, hidden @ head, 0.0).sum(1) / mask.sum(1)


EXERCISES = [
    Exercise(
        id="09.1",
        title="The loss of a labelled pair",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=12,
        reference=_pair_loss,
        inputs=_labelled_pairs,
        mistakes={
            "sign": Mistake(
                "The sign: this is the log-likelihood, and minimising it would make what people chose less likely.",
                lambda scores, ranks, margin: -_pair_loss(scores, ranks, margin),
            ),
            "chosen and rejected swapped": Mistake(
                "It looks as if the text with the larger rank were the better one. Which rank is best?",
                lambda scores, ranks, margin: _pair_loss(scores, -ranks, margin),
            ),
            "no log": Mistake(
                "There is no logarithm: a likelihood is a product over pairs, and its log is the sum that you want. "
                "What does σ alone say about a pair that is badly wrong?",
                lambda scores, ranks, margin: -(_gaps(scores, ranks) - margin).sigmoid().mean(),
            ),
            "margin's sign": Mistake(
                "The margin makes it easier here. It should ask for more: a lead below the margin is not enough.",
                lambda scores, ranks, margin: _pair_loss(scores, ranks, -margin),
            ),
            "no margin": Mistake(
                "The margin is left out.", lambda scores, ranks, margin: _pair_loss(scores, ranks, 0.0)
            ),
            "tie counted as a win": Mistake(
                "A tie counts as a win for one of the two texts here. What did the person say about which is better?",
                _tie_is_a_win,
            ),
            "ties in the count": Mistake(
                "The sum is right, and divided by all pairs, ties included. Average over those that were decided.",
                lambda scores, ranks, margin: _sum_over_pairs(scores, ranks, margin) / len(ranks),
            ),
            "sum": Mistake(
                "It is the sum over pairs: twice the labels would be twice the step. Take the mean.",
                _sum_over_pairs,
            ),
        },
        hint="For each decided pair: the preferred text's score, minus the other's, minus the margin.",
        remark="This is losses.bradley_terry_loss on preferences.ordered_pairs.",
    ),
    Exercise(
        id="09.2",
        title="The probability of a ranking",
        kind="derive",
        difficulty=3,
        importance=4,
        minutes=8,
        reference=_ranking_probability,
        inputs=_three_scores,
        mistakes={
            "product of all pairs": Mistake(
                "Three pairs, three Bradley–Terry probabilities, multiplied. But the three comparisons are not "
                "independent: A > B and B > C leave no choice about A and C. Summed over the six rankings this is "
                "less than 1.",
                lambda a, b, c: _sigmoid(a - b) * _sigmoid(b - c) * _sigmoid(a - c),
            ),
            "neighbours only": Mistake(
                "A beats B and B beats C: where does the first choice see C?",
                lambda a, b, c: _sigmoid(a - b) * _sigmoid(b - c),
            ),
            "nobody leaves": Mistake(
                "The second choice is still made among all three. Who was chosen first has left.", _nobody_leaves
            ),
            "from the bottom": Mistake(
                "Chosen from the bottom up: first the worst of three, then the worse of two. That is another model "
                "(and gives other numbers); this one picks the best first.",
                lambda a, b, c: _ranking_probability(-c, -b, -a),
            ),
        },
        hint="Two choices: first the best of three, then the best of the two that are left.",
    ),
    Exercise(
        id="09.3",
        title="The loss of a ranking",
        kind="implement",
        difficulty=3,
        importance=4,
        minutes=15,
        reference=_ranking_loss,
        inputs=_rankings,
        mistakes={
            "ranks reversed": Mistake(
                "The ranks are read the wrong way round: 0 is best, so who is worse has the *larger* rank.",
                lambda scores, ranks: _ranking_loss(scores, -ranks),
            ),
            "better items in the denominator": Mistake(
                "Each item competes with all of them. Those that are better have already left when it is chosen.",
                _all_compete,
            ),
            "ties compete": Mistake(
                "Tied items stand in each other's denominator: each is asked to beat the other. Compete with the "
                "strictly worse ones only.",
                _ties_compete,
            ),
            "itself left out": Mistake(
                "The item itself is missing from its denominator: a share must be at most 1.", _without_itself
            ),
            "in the order given": Mistake(
                "The items are taken in the order of the columns, and `ranks` is not used.", _in_the_order_given
            ),
            "pairs across prompts": Mistake(
                "Items of one row compete with items of the other: answers to different prompts were never compared.",
                _across_prompts,
            ),
            "mean over items": Mistake(
                "Sum over the items of a ranking, then take the mean over rankings; this divides by K as well.",
                lambda scores, ranks: _ranking_loss(scores, ranks) / scores.shape[1],
            ),
        },
        hint="Take one ranking without ties, and write the two-item case first: it is Bradley–Terry's.",
        remark="This is losses.plackett_luce_loss.",
    ),
    Exercise(
        id="09.4",
        title="A thermometer for confidence",
        kind="experiment",
        difficulty=2,
        importance=3,
        minutes=8,
        reference=STRETCH,
        accept=_calibrated,
        mistakes={
            "as it is": Mistake("At temperature 1 nothing changes, and it stays as sure as it was.", 1.0),
            "the wrong way": Mistake(
                "Divided by 0.4 the gaps become larger still. Is it too sure of itself, or not sure enough?", 0.4
            ),
        },
        hint="Look at several seeds: the smallest error of one seed may be luck.",
        remark="The order of the texts, and so the accuracy, is the same at every temperature.",
    ),
    Exercise(
        id="09.5",
        title="Half the sentence",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_read_out,
        inputs=_hidden_states,
        mistakes={
            "as given": Mistake(
                "This still reads every text where the shortest text of its batch ends.", read_out_as_given
            ),
            "the last column": Mistake(
                "It reads the last column, which for a shorter text is padding.",
                _read_at(lambda mask: 0 * mask.sum(1) - 1),
            ),
            "the first token": Mistake(
                "It reads the first token, which in a causal model has seen nothing of the text.",
                _read_at(lambda mask: 0 * mask.sum(1)),
            ),
            "one too early": Mistake(
                "One token too early: positions count from 0, and the last real token closes the text.",
                _read_at(lambda mask: mask.sum(1) - 2),
            ),
            "one too late": Mistake(
                "One token too late: positions count from 0, so a text of n tokens ends at n − 1.",
                _read_at(lambda mask: mask.sum(1).clamp(max=mask.shape[1] - 1)),
            ),
            "mean of the tokens": Mistake(
                "The mean over tokens reads everything, but it is another model: this head was trained to read one "
                "token that has seen all the others.",
                _mean_of_tokens,
            ),
        },
        hint="Which token has seen the whole of its own text, and nothing else?",
    ),
    Exercise(
        id="09.6",
        title="Ten more for everyone",
        kind="predict",
        difficulty=1,
        importance=4,
        minutes=3,
        reference="none of them",
        choices=("accuracy", "loss", "calibration", "none of them"),
        mistakes={
            "accuracy": Mistake("Accuracy asks which of two scores is higher. Does that change?", "accuracy"),
            "loss": Mistake("Write r(chosen) + 10 − (r(rejected) + 10) out.", "loss"),
            "calibration": Mistake("The probability is σ of a difference of scores. What is it now?", "calibration"),
        },
        remark="Nothing that was learnt or measured so far depends on where 0 lies.",
    ),
    Exercise(
        id="09.7",
        title="Who looks ahead?",
        kind="predict",
        difficulty=3,
        importance=5,
        minutes=5,
        reference="V",
        choices=("R", "V", "both", "neither"),
        mistakes={
            "R": Mistake(
                "R reads what is there. After “awful” comes, say, “but” or “great”: does R(“awful”) know about them?",
                "R",
            ),
            "both": Mistake(
                "One is an expectation over what comes next; the other judges the text as if it ended here.",
                "both",
            ),
            "neither": Mistake(
                "The expectation over all endings can be split by the next word: first over the word, then over the "
                "rest. Which of the two is such an expectation?",
                "neither",
            ),
        },
        remark="It is the Bellman equation, with no reward on the way and γ = 1.",
    ),
]
