"""Exercises of lesson 13: group and direct methods."""

import functools
import math

import torch
from torch.nn.functional import logsigmoid

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor

# 13.1 experiment: few large groups, or many small ones
BUDGET, SIZES, BAR = 32, (2, 4, 8, 16, 32), 1.2
OPENINGS = ("great", "good", "dull", "bad", "awful")


@functools.cache
def world():
    """Lesson 13's: probabilities p [91] of all texts, their ∇log π [91, 100], and which succeed, [5 openings, 91]."""
    from rlhf_lib import mdp, models, reviews

    task = reviews.micro_mdp(horizon=2)
    words, mask = mdp.enumerate_episodes(task)
    scores = torch.stack([reviews.micro_score(words, mask, (o,)).double() for o in OPENINGS])
    policy = models.TablePolicy(task).double()
    for _ in range(10):
        chances = mdp.action_logprobs(task, policy, words, mask).sum(1).exp()
        policy.logits.data += torch.autograd.grad((scores @ chances).mean(), policy.logits)[0]
    logprobs = mdp.action_logprobs(task, policy, words, mask).sum(1)
    g = torch.stack([torch.autograd.grad(x, policy.logits, retain_graph=True)[0].flatten() for x in logprobs])
    return logprobs.detach().exp(), g, (scores >= 1).double()


def group_variance(size: int, seed: int, batches: int = 4000) -> float:
    """Sampled variance of RLOO's gradient from BUDGET texts: groups of `size`, each for an opening drawn at random."""
    from rlhf_lib.estimators import leave_one_out

    p, g, success = world()
    generator = torch.Generator().manual_seed(seed)
    opening = torch.randint(len(OPENINGS), (batches, BUDGET // size), generator=generator)
    drawn = torch.multinomial(p, batches * BUDGET, replacement=True, generator=generator).view(batches, -1, size)
    advantages = leave_one_out(success[opening[..., None], drawn].flatten(), size).view(batches, -1)
    weights = torch.zeros(batches, len(p), dtype=torch.float64).scatter_add(1, drawn.flatten(1), advantages / BUDGET)
    return (weights @ g).var(0).sum().item()


def _little_noise(size) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if size not in SIZES:
        return False, f"Answer with a group size that divides {BUDGET}: one of {', '.join(map(str, SIZES))}."
    best = [group_variance(8, seed) for seed in range(200, 204)]
    ratios = [group_variance(int(size), seed) / b for seed, b in zip(range(100, 104), best, strict=True)]
    mean, low, high = mean_interval(ratios)
    return high < BAR, (
        f"On 4 new seeds the variance is {mean:.2f} times the lowest, 95 % interval {low:.2f} to {high:.2f}; "
        f"all of it must be below {BAR}."
    )


# 13.2 implement: GRPO's advantage
def _groups(generator):
    size, groups = (int(torch.randint(low, low + 2, (), generator=generator)) for low in (3, 3))
    scores = draw_tensor(generator, groups, size)
    scores[1] = scores[1, 0]  # one group of equal scores
    return scores.flatten(), size


def _normalized(scores, group_size):
    from rlhf_lib.estimators import group_normalize

    return group_normalize(scores, group_size, "std")


def _centred(scores, group_size):
    groups = scores.view(-1, group_size)
    return groups - groups.mean(1, keepdim=True)


def _scaled(scores, group_size, correction=1, eps=1e-4, power=1):
    groups = scores.view(-1, group_size)
    deviation = groups.std(1, keepdim=True, correction=correction) ** power
    return (_centred(scores, group_size) / (deviation + eps)).flatten()


def _interleaved(scores, group_size):
    columns = scores.view(group_size, -1).T.flatten()
    return _normalized(columns, group_size).view(-1, group_size).T.flatten()


def _leave_one_out(scores, group_size):
    from rlhf_lib.estimators import leave_one_out

    return leave_one_out(scores, group_size)


# 13.4 derive: how hard GRPO pulls on a prompt of success rate p
def _prompt(generator):
    return draw_number(generator, 0.05, 0.95), int(torch.randint(3, 9, (), generator=generator))


def pull(p, size, each=lambda k, size: math.sqrt(k * (size - k) * (size - 1) / size**3)):
    """E over the number k of successes of `each`, over p (1 − p)."""
    chances = [math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)]
    return sum(c * each(k, size) for k, c in enumerate(chances)) / (p * (1 - p))


# 13.5 find the bug: short answers
def _answers(generator):
    mask = draw_mask(generator, batch=4, time=5)
    mask[1] = torch.arange(5) < 2  # lengths differ
    return draw_tensor(generator, 4, 5, low=-3.0, high=-0.1), draw_tensor(generator, 4), mask


def _gradient(loss, logprobs, scores, mask):
    """What is compared: the gradient of the loss by the log-probs."""
    free = logprobs.clone().requires_grad_()
    value = loss(free, scores, mask)
    return value if value is None or value is ... else torch.autograd.grad(value, free)[0]


def _of_texts(logprobs, scores, mask):
    """The advantages and the summed log-probs, [B] each."""
    return _leave_one_out(scores, len(scores)), torch.where(mask, logprobs, 0.0).sum(1)


def _loss(logprobs, scores, mask):
    advantages, text = _of_texts(logprobs, scores, mask)
    return -(advantages * text).mean()


def _each_its_own_mean(logprobs, scores, mask):
    advantages, text = _of_texts(logprobs, scores, mask)
    return -(advantages * text / mask.sum(1)).mean()


def _batch_tokens(logprobs, scores, mask):
    advantages, text = _of_texts(logprobs, scores, mask)
    return -(advantages * text).sum() / mask.sum()


def _pads_too(logprobs, scores, mask):
    advantages, _ = _of_texts(logprobs, scores, mask)
    return -(advantages * logprobs.sum(1)).mean()


# 13.6 implement: DPO's loss
def _pairs(generator):
    masks = draw_mask(generator, 3, 4), draw_mask(generator, 3, 5, shortest=2)
    masks[1][0] = torch.arange(5) < 3
    tensors = [draw_tensor(generator, *mask.shape, low=-4.0, high=-0.2) for mask in masks for _ in range(2)]
    return *tensors, *masks, draw_number(generator, 0.2, 0.8)


def _ratios(chosen, ref_chosen, rejected, ref_rejected, chosen_mask, rejected_mask):
    """Log-ratio of the chosen and of the rejected text to the reference, [N] each."""
    return tuple(
        torch.where(mask, own - ref, 0.0).sum(1)
        for own, ref, mask in ((chosen, ref_chosen, chosen_mask), (rejected, ref_rejected, rejected_mask))
    )


def _dpo(*inputs):
    chosen, rejected = _ratios(*inputs[:-1])
    return -logsigmoid(inputs[-1] * (chosen - rejected)).mean()


def _dpo_of_means(*inputs):
    chosen, rejected = _ratios(*inputs[:-1])
    masks = inputs[4:6]
    return -logsigmoid(inputs[-1] * (chosen / masks[0].sum(1) - rejected / masks[1].sum(1))).mean()


def _dpo_wrong(form):
    """−form(β, chosen log-ratio, rejected log-ratio), averaged."""
    return lambda *inputs: -form(inputs[-1], *_ratios(*inputs[:-1])).mean()


def _dpo_pads(chosen, ref_chosen, rejected, ref_rejected, chosen_mask, rejected_mask, beta):
    return -logsigmoid(beta * ((chosen - ref_chosen).sum(1) - (rejected - ref_rejected).sum(1))).mean()


def _dpo_no_reference(chosen, ref_chosen, rejected, ref_rejected, chosen_mask, rejected_mask, beta):
    none = torch.zeros_like(chosen), torch.zeros_like(rejected)
    return _dpo(chosen, none[0], rejected, none[1], chosen_mask, rejected_mask, beta)


# 13.8 implement: the best of n
def _few_texts(generator):
    weights = draw_tensor(generator, 6, low=0.2, high=2.0)
    scores = torch.randint(-2, 3, (6,), generator=generator).float()
    scores[:2], scores[2] = 2.0, -3.0  # a tie at the top
    order = torch.randperm(6, generator=generator)
    return weights / weights.sum(), scores[order], int(torch.randint(2, 6, (), generator=generator))


def best_of(p, scores, n, tied=True):
    """Probability of each text to be the best of n; of equal ones the first drawn."""
    at_most = (scores[None, :] <= scores[:, None]).to(p.dtype) @ p
    below = (scores[None, :] < scores[:, None]).to(p.dtype) @ p
    level = (at_most**n - below**n).to(p.dtype)
    return level * p / (at_most - below) if tied else level


def _upside_down(p, scores, n):
    return best_of(p, -scores, n)


def _power_alone(p, scores, n):
    at_most = (scores[None, :] <= scores[:, None]).to(p.dtype) @ p
    return at_most**n * p / (at_most**n @ p)


def _density(p, scores, n):
    at_most = (scores[None, :] <= scores[:, None]).to(p.dtype) @ p
    return n * p * at_most ** (n - 1)


EXERCISES = [
    Exercise(
        id="13.1",
        title="Few large groups, or many small ones?",
        kind="experiment",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=8,
        accept=_little_noise,
        mistakes={
            "pairs": Mistake(
                "Pairs see sixteen openings, but one other text is a noisy guess of what was to be expected.", 2
            ),
            "all on one": Mistake(
                "One group of 32 knows exactly what was to be expected, of one opening. The other four are not heard.",
                32,
            ),
        },
        hint="Call sampled_variance with each of the five sizes and several seeds.",
        remark="Between 4 and 16 it hardly matters: most of the noise is REINFORCE's own, whatever the group.",
    ),
    Exercise(
        id="13.2",
        title="GRPO's advantage",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_normalized,
        inputs=_groups,
        mistakes={
            "not divided": Mistake(
                "It looks like the scores minus the group's mean, not divided: that is Dr. GRPO's advantage.",
                lambda scores, group_size: _centred(scores, group_size).flatten(),
            ),
            "leave one out": Mistake(
                "That is RLOO's advantage. GRPO subtracts the whole group's mean, own score included, and divides.",
                _leave_one_out,
            ),
            "population": Mistake(
                "The deviation is the population's, G in the denominator. The sample's was asked for, G − 1.",
                functools.partial(_scaled, correction=0),
            ),
            "whole batch": Mistake(
                "The mean and the deviation are the whole batch's: openings are compared with each other.",
                lambda scores, group_size: _normalized(scores, len(scores)),
            ),
            "no eps": Mistake(
                "A group of equal scores gives 0/0, NaN, and one NaN makes every gradient NaN. What is added below?",
                functools.partial(_scaled, eps=0.0),
            ),
            "variance": Mistake(
                "Divided by the variance: the root is missing.",
                functools.partial(_scaled, power=2),
            ),
            "interleaved": Mistake(
                "The groups are interleaved: look at the order in which the scores are reshaped. A prompt's texts "
                "stand next to each other.",
                _interleaved,
            ),
            "not centred": Mistake(
                "Divided by the deviation, but the mean is still in.",
                lambda scores, group_size: (
                    scores.view(-1, group_size) / (scores.view(-1, group_size).std(1, keepdim=True) + 1e-4)
                ).flatten(),
            ),
        },
        hint="One row a prompt; mean and std of each row with keepdim=True; flatten at the end.",
        remark="Whatever the scores' size, every group with a difference in it comes out with deviation 1.",
    ),
    Exercise(
        id="13.3",
        title="Where do pairs pull?",
        kind="predict",
        difficulty=3,
        importance=4,
        minutes=4,
        choices=(
            "the same pull on all, up to one factor for all",
            "harder on the hard opening and on the easy one",
            "hardest on the opening near one half",
        ),
        reference="the same pull on all, up to one factor for all",
        mistakes={
            "hard and easy": Mistake(
                "So it will be with larger groups. In a group of two that is not flat, which deviations are possible?",
                "harder on the hard opening and on the easy one",
            ),
            "middle": Mistake(
                "Mixed pairs are most frequent there, true. But ∇p is longest there for the same reason: compare the "
                "pull with ∇p, not with 0.",
                "hardest on the opening near one half",
            ),
        },
        remark="A pair is flat, or has a success and a failure: whenever there is something to divide, it is divided "
        "by the same number.",
    ),
    Exercise(
        id="13.4",
        title="How hard a group pulls",
        kind="derive",
        difficulty=4,
        importance=4,
        minutes=15,
        reference=pull,
        inputs=_prompt,
        mistakes={
            "limit": Mistake(
                "That is the limit of large groups. With G texts the deviation is random: average over the number of "
                "successes.",
                lambda p, size: 1 / math.sqrt(p * (1 - p)),
            ),
            "population": Mistake(
                "It looks like the population's deviation, √(k(G − k))/G. Here it is the sample's: G − 1 below.",
                lambda p, size: pull(p, size, lambda k, size: math.sqrt(k * (size - k)) / size),
            ),
            "not over p (1 − p)": Mistake(
                "That is the factor of the gap between the two mean gradients. How long is that gap, in units of ∇p?",
                lambda p, size: pull(p, size) * p * (1 - p),
            ),
            "no division": Mistake(
                "That is (G − 1)/G, the factor of the group's own mean. The division by the deviation is missing.",
                lambda p, size: (size - 1) / size,
            ),
            "winners only": Mistake(
                "The winners' part alone. Pushing failures down pulls in the direction of ∇p as well.",
                lambda p, size: pull(p, size) * (1 - p),
            ),
            "flat groups left out": Mistake(
                "It is an average over the groups that are not flat. Flat groups add nothing, but they are drawn.",
                lambda p, size: pull(p, size) / (1 - p**size - (1 - p) ** size),
            ),
        },
        hint="With k successes the advantages are (1 − k/G)/s and −(k/G)/s; add the k winners and the G − k losers, "
        "divide by G, and average over k with binomial probabilities.",
        remark="At p → 0 it tends to (G − 1)/√G, √G times the pull without the division.",
    ),
    Exercise(
        id="13.5",
        title="A mean that changes the lengths",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_loss,
        inputs=_answers,
        call=_gradient,
        mistakes={
            "as given": Mistake(
                "Each text's sum is still divided by its own length. What does that do to the reward of a long wrong "
                "answer?",
                _each_its_own_mean,
            ),
            "the batch's tokens": Mistake(
                "Divided by the batch's number of tokens: no text is favoured any more, but a batch of long texts "
                "takes a shorter step. ∇J has no lengths in it.",
                _batch_tokens,
            ),
            "the longest": Mistake(
                "Divided by the longest length: right in direction, too short in size. −∇J was asked for.",
                lambda logprobs, scores, mask: _loss(logprobs, scores, mask) / mask.shape[1],
            ),
            "summed": Mistake(
                "The texts are summed: twice the batch would be twice the step.",
                lambda logprobs, scores, mask: len(scores) * _loss(logprobs, scores, mask),
            ),
            "pads": Mistake("The pads' log-probs are in the sum: the mask is gone.", _pads_too),
            "sign": Mistake("The sign of the loss: optimisers go downhill.", lambda *inputs: -_loss(*inputs)),
            "own mean": Mistake(
                "The baseline is the whole group's mean, own score included: too short by (G − 1)/G.",
                lambda logprobs, scores, mask: _loss(logprobs, scores, mask) * (1 - 1 / len(scores)),
            ),
        },
        hint="log π of a text is a sum over its tokens. Where does the given loss make a mean of it?",
        remark="log π(text) is a sum. A mean in its place is another reward: score over length.",
    ),
    Exercise(
        id="13.6",
        title="DPO's loss",
        kind="implement",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_dpo,
        inputs=_pairs,
        mistakes={
            "means": Mistake(
                "The log-probs are averaged over the tokens. The implicit reward is a text's: log π(text) is a sum.",
                _dpo_of_means,
            ),
            "sign": Mistake(
                "The rejected text is preferred: the two are swapped.",
                _dpo_wrong(lambda beta, c, r: logsigmoid(beta * (r - c))),
            ),
            "no reference": Mistake(
                "The reference is missing: that would push the pair apart however far apart the reference has them.",
                _dpo_no_reference,
            ),
            "β left out": Mistake(
                "β is missing: the price of a nat would be 1.", _dpo_wrong(lambda beta, c, r: logsigmoid(c - r))
            ),
            "β outside": Mistake(
                "β multiplies the whole loss. It belongs to the implicit reward, inside the sigmoid.",
                _dpo_wrong(lambda beta, c, r: beta * logsigmoid(c - r)),
            ),
            "no log": Mistake(
                "The probability itself, without its log: a pair that is quite wrong then teaches next to nothing.",
                _dpo_wrong(lambda beta, c, r: (beta * (c - r)).sigmoid()),
            ),
            "no sigmoid": Mistake(
                "The margin itself: it can be made as large as you like, for ever.",
                _dpo_wrong(lambda beta, c, r: beta * (c - r)),
            ),
            "pads": Mistake("The pads are in the sums: both masks are needed.", _dpo_pads),
            "β upside down": Mistake(
                "Divided by β. The reward of the Gibbs policy is β log(π/π_ref).",
                _dpo_wrong(lambda beta, c, r: logsigmoid((c - r) / beta)),
            ),
            "sum of pairs": Mistake(
                "Summed over the pairs; a mean is wanted.",
                lambda *inputs: len(inputs[0]) * _dpo(*inputs),
            ),
        },
        hint="Four sums over time, two log-ratios, one difference; torch.nn.functional.logsigmoid; a mean over pairs.",
        remark="It is Bradley–Terry's loss from lesson 09, with β log(π/π_ref) as the reward model.",
    ),
    Exercise(
        id="13.7",
        title="What becomes of the texts in the pairs?",
        kind="predict",
        difficulty=3,
        importance=5,
        minutes=4,
        choices=("chosen rises, rejected falls", "both rise", "both fall"),
        reference="both fall",
        mistakes={
            "as one would think": Mistake(
                "So one would think. But the loss sees their *difference* only, and words that the two share are "
                "in both.",
                "chosen rises, rejected falls",
            ),
            "both rise": Mistake("The rejected ones are pushed down. What would pull them up?", "both rise"),
        },
        remark="The difference grows either way, and that is all the loss asks for.",
    ),
    Exercise(
        id="13.8",
        title="The distribution of the best of n",
        kind="implement",
        difficulty=3,
        importance=4,
        minutes=12,
        reference=best_of,
        inputs=_few_texts,
        mistakes={
            "ties counted twice": Mistake(
                "Tied texts each get the probability of their whole score, so that it adds up to more than 1. They "
                "share it, in proportion to p.",
                functools.partial(best_of, tied=False),
            ),
            "the worst": Mistake("That is the worst of n.", _upside_down),
            "power alone": Mistake(
                "F(s)ⁿ is the probability that the best is *at most* s. What is to be subtracted?", _power_alone
            ),
            "density": Mistake(
                "n p F^(n−1) is right where every text is improbable. Here a score has a probability of its own.",
                _density,
            ),
            "drawn once": Mistake(
                "It looks like 1 − (1 − p)ⁿ: the probability to be among the n at all.",
                lambda p, scores, n: 1 - (1 - p) ** n,
            ),
            "not raised": Mistake("That is p itself, the best of one.", lambda p, scores, n: p.clone()),
        },
        hint="P(best ≤ s) = F(s)ⁿ, so P(best = s) = F(s)ⁿ − F(s−)ⁿ with F(s−) the probability of a lower score; among "
        "the texts of score s it is shared as p shares it.",
        remark="With ties at the top more samples stop helping: once the best score is drawn, nothing beats it.",
    ),
]
