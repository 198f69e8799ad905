"""Exercises of lesson 11: PPO."""

import functools
import math

import torch

from rlhf_lib.course import details
from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 11.1 derive: where a gradient is left
def _words(generator):
    ratio = (draw_tensor(generator, 8, low=0.4, high=1.6) * 10).round() / 10 + 0.03  # never on an edge of the interval
    advantage = draw_tensor(generator, 8) + 0.05
    advantage[:4], advantage[4:] = advantage[:4].abs(), -advantage[4:].abs()
    ratio[0], ratio[1], ratio[4], ratio[5] = 1.43, 0.53, 0.53, 1.43  # each of the four cases once
    return ratio, advantage, draw_number(generator, 0.1, 0.3, 1)


def _slope(ratio, advantage, clip):
    flat = ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))
    return torch.where(flat, 0.0, ratio * advantage)


def _slope_of_clip_alone(ratio, advantage, clip):
    return torch.where((ratio - 1).abs() > clip, 0.0, ratio * advantage)


def _flat_on_the_other_side(ratio, advantage, clip):
    flat = ((advantage < 0) & (ratio > 1 + clip)) | ((advantage > 0) & (ratio < 1 - clip))
    return torch.where(flat, 0.0, ratio * advantage)


def _one_side(ratio, advantage, clip):
    return torch.where(ratio > 1 + clip, 0.0, ratio * advantage)


# 11.2 PPO's loss
def _batch(generator):
    mask = draw_mask(generator, batch=3, time=4)
    old = draw_tensor(generator, 3, 4, low=-2.0, high=-0.5)
    return old + draw_tensor(generator, 3, 4, low=-0.6, high=0.6), old, draw_tensor(generator, 3, 4) + 0.05, mask


def loss_and_gradients(loss, logprobs, old_logprobs, advantages, mask):
    """The loss, and its gradients by all three tensors: a thing that should be constant has the gradient 0."""
    inputs = [x.clone().requires_grad_() for x in (logprobs, old_logprobs, advantages)]
    value = loss(*inputs, mask)
    if value is None or value is ...:
        return None
    gradients = torch.autograd.grad(value, inputs, allow_unused=True) if value.requires_grad else [None] * 3
    names = ("by logprobs", "by old_logprobs", "by advantages")
    found = {n: torch.zeros_like(x) if g is None else g for n, x, g in zip(names, inputs, gradients, strict=True)}
    return {"loss": value.detach()} | found


def _ppo_loss(logprobs, old_logprobs, advantages, mask, clip=0.2):
    from rlhf_lib.losses import ppo_loss

    return ppo_loss(logprobs, old_logprobs, advantages, mask, clip)


def _wrong(loss):
    """One of `details.LOSSES`, with what should be constant held constant."""

    def wrong(logprobs, old_logprobs, advantages, mask, clip=0.2):
        return loss(logprobs, old_logprobs.detach(), advantages.detach(), mask, clip)

    return wrong


def _tied(logprobs, old_logprobs, advantages, mask, clip=0.2, constant=()):
    """PPO's loss through which gradient flows into everything that is not named constant."""
    old = old_logprobs.detach() if "old" in constant else old_logprobs
    weights = advantages.detach() if "advantages" in constant else advantages
    return details.mean(details.clipped((logprobs - old).exp(), weights, clip), mask)


# 11.3 find the bug: the clip that never clips
def _one_state(generator):
    logits = draw_tensor(generator, 5, low=-1.0, high=1.0)
    drawn = torch.randint(5, (6,), generator=generator)
    advantages = draw_tensor(generator, 6)
    advantages[0], advantages[1] = advantages[0].abs() + 1, -advantages[1].abs() - 1
    return logits, drawn, advantages


def _passes(logits, drawn, advantages, clip=0.2, passes=10, rate=1.0, refresh=False):
    mask = torch.ones(1, len(drawn), dtype=torch.bool)
    old = logits.log_softmax(-1)[drawn][None].detach()
    for _ in range(passes):
        logits = logits.detach().requires_grad_()
        new = logits.log_softmax(-1)[drawn][None]
        value = _ppo_loss(new, new.detach() if refresh else old, advantages[None], mask, clip)
        logits = logits - rate * torch.autograd.grad(value, logits)[0]
    return logits.detach()


# 11.5 a brake
LIMIT, GAIN = 0.1, 0.1  # nats of exact KL a text, rise of J: by the worse ends of the intervals


@functools.cache
def _world():
    """Lesson 11's world and its half-trained policy: features, rows, masks, tokens, scores, weights."""
    from rlhf_lib import mdp, models, reviews

    task = reviews.micro_mdp(horizon=3)
    words, mask = mdp.enumerate_episodes(task)
    table = models.TablePolicy(task)
    states = mdp.exact_values(task, table).states
    number = {state: i for i, state in enumerate(states)}
    row = torch.tensor([[number.get(tuple(text[:t]), 0) for t in range(3)] for text in words.tolist()])
    phi = torch.zeros(len(states), 24, dtype=torch.float64)
    for i, state in enumerate(states):
        phi[i, [0, 1 + len(state), *(4 + word + 10 * back for back, word in enumerate(reversed(state)))]] = 1
    scores = mdp.episode_returns(task, words, mask, torch.float64)
    weights = torch.zeros(24, 10, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.05, maximize=True)
    while (j := _texts(phi, row, words, mask, weights).exp() @ scores) < 1:
        adam.zero_grad()
        j.backward()
        adam.step()
    return phi, row, words, mask, scores, weights.detach()


def _texts(phi, row, words, mask, weights):
    """log π of every text, [..., 820]."""
    return ((phi @ weights).log_softmax(-1)[..., row, words] * mask).sum(-1)


def braked_passes(max_kl: float, generator, seeds: int = 16, size: int = 32, passes: int = 256):
    """Exact KL and gain of J, a list over seeds, of unclipped passes that end once k3 a word is beyond max_kl."""
    phi, row, words, mask, scores, start = _world()
    before = _texts(phi, row, words, mask, start)
    p, old = before.exp(), (phi @ start).log_softmax(-1)
    drawn = torch.multinomial(p.expand(seeds, -1), size, replacement=True, generator=generator)
    taken, advantages = mask[drawn], scores[drawn] - scores[drawn].mean(1, keepdim=True)
    advantages = (advantages / advantages.std(1, keepdim=True))[..., None]
    weights = start.repeat(seeds, 1, 1).requires_grad_()
    adam, column = torch.optim.Adam([weights], lr=0.03, eps=1e-5), torch.arange(seeds)[:, None, None]
    ended, kl, gain = torch.zeros(seeds, dtype=torch.bool), torch.zeros(seeds).double(), torch.zeros(seeds).double()
    for k in range(passes):
        new = (phi @ weights).log_softmax(-1)[column, row[drawn], words[drawn]]
        log_ratio = new - old[row[drawn], words[drawn]]
        k3 = ((log_ratio.expm1() - log_ratio) * taken).sum((1, 2)) / taken.sum((1, 2))
        now = ~ended & ((k3 > max_kl) | (k == passes - 1))
        if now.any():
            text = _texts(phi, row, words, mask, weights.detach())
            kl = torch.where(now, (before - text) @ p, kl)
            gain = torch.where(now, text.exp() @ scores - p @ scores, gain)
            ended = ended | now
            if ended.all():
                break
        adam.zero_grad()
        (-(log_ratio.exp() * advantages * taken).sum((1, 2)) / taken.sum((1, 2))).sum().backward()
        adam.step()
    return kl.tolist(), gain.tolist()


def _brakes(max_kl) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if not float(max_kl) > 0:
        return False, "A limit of 0 or less stops before the first step: give a positive number of nats."
    kl, gain = braked_passes(float(max_kl), torch.Generator().manual_seed(100))
    (kl, _, most), (gain, least, _) = mean_interval(kl), mean_interval(gain)
    said = f"On 16 new batches: exact KL {kl:.3f} (95 % up to {most:.3f}; allowed {LIMIT}), J up by {gain:.3f} "
    return most < LIMIT and least > GAIN, said + f"(from {least:.3f}; wanted {GAIN})."


# 11.6 whitening
def _masked_batch(generator):
    return draw_tensor(generator, 3, 4) + draw_number(generator, 0.3, 2.0, 1), draw_mask(generator, batch=3, time=4)


def _whiten(x, mask):
    from rlhf_lib.estimators import whiten

    return whiten(x, mask)


def _scaled(x, mask, power=-0.5, correction=0.0, centre=True, pads=False):
    """Whitening gone wrong: centred entries times variance to a power."""
    here = x if pads else x[mask]
    here = here.flatten()
    variance = (here - here.mean()).square().sum() / (len(here) - correction)
    return torch.where(mask, (x - (here.mean() if centre else 0.0)) * variance**power, 0.0)


def _row_by_row(x, mask):
    count = mask.sum(1, keepdim=True)
    centred = torch.where(mask, x - torch.where(mask, x, 0.0).sum(1, keepdim=True) / count, 0.0)
    std = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return torch.where(mask, centred / torch.where(std > 1e-6, std, 1.0), 0.0)


# 11.8 the price of KL adapts
def _priced(generator):
    target = draw_number(generator, 2.0, 6.0, 1)
    times = (
        draw_number(generator, 2.0, 4.0, 1),
        draw_number(generator, 1.05, 1.15),
        draw_number(generator, 0.85, 0.95),
    )
    return draw_number(generator, 0.05, 0.5), [round(target * x, 2) for x in times], target


def _at_each(adapted, beta, kls, target):
    """The new price after each of three KLs: far too high, a little too high, a little too low."""
    prices = tuple(adapted(beta, kl, target) for kl in kls)
    return None if prices[0] in (None, ...) else prices


def _adapted(beta, kl, target, gain=0.1, hold=0.2, error=lambda kl, target: kl / target - 1):
    return beta * (1 + gain * min(max(error(kl, target), -hold), hold))


EXERCISES = [
    Exercise(
        id="11.1",
        title="Where a gradient is left",
        kind="derive",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_slope,
        inputs=_words,
        mistakes={
            "clip alone": Mistake(
                "It is 0 everywhere outside the interval: that is the clip without the minimum. A good word that has "
                "become rarer: which of the two terms is the smaller one?",
                _slope_of_clip_alone,
            ),
            "ratio left out": Mistake(
                "That is the derivative by ρ. You want the one by log π: what is dρ / d log π?",
                lambda ratio, advantage, clip: _slope(ratio, advantage, clip) / ratio,
            ),
            "the other side": Mistake(
                "The flat piece is on the wrong side: this stops a word on its way *back*. That is what the maximum "
                "in place of the minimum does.",
                _flat_on_the_other_side,
            ),
            "no clip": Mistake(
                "There is a gradient everywhere: the flat piece is missing.", lambda ratio, a, clip: ratio * a
            ),
            "above only": Mistake(
                "It stops above 1 + ε whatever the sign of A. For a bad word the objective is flat somewhere else.",
                _one_side,
            ),
        },
        hint="Four cases: a good or a bad word, a ratio above or below the interval. Which two are flat?",
        remark="A word stops earning once it has moved far enough the way its advantage asks for; the way back always "
        "counts.",
    ),
    Exercise(
        id="11.2",
        title="PPO's loss",
        kind="implement",
        difficulty=3,
        importance=5,
        minutes=15,
        reference=_ppo_loss,
        inputs=_batch,
        call=loss_and_gradients,
        mistakes={
            "max for min": Mistake(
                "The maximum of the two terms: the clip now stops words on their way back and pays the others for "
                "running on. Which of the two is the pessimistic one?",
                _wrong(details.max_for_min),
            ),
            "clip alone": Mistake(
                "Only the clipped term is left. A word that went the wrong way, out of the interval, gets no gradient "
                "to come back.",
                _wrong(details.clip_alone),
            ),
            "sign": Mistake(
                "The sign: an optimiser goes downhill, and this makes good words rarer.",
                lambda *inputs: -_ppo_loss(*inputs),
            ),
            "ratio upside down": Mistake(
                "The ratio is π_old/π. Its gradient makes good words rarer. Which policy stands on top?",
                _wrong(details.ratio_upside_down),
            ),
            "log-ratio clipped": Mistake(
                "The log-ratio is multiplied and clipped, not the ratio. At π = π_old it is 0, not 1, which is "
                "outside 1 ± ε.",
                _wrong(details.log_ratio_clipped),
            ),
            "log-ratio clipped about 0": Mistake(
                "The log-ratio is clipped to ± ε and exponentiated: that interval is e^−ε … e^ε, not 1 ± ε.",
                lambda logprobs, old, advantages, mask, clip=0.2: details.mean(
                    torch.minimum(
                        (logprobs - old.detach()).exp() * advantages.detach(),
                        (logprobs - old.detach()).clamp(-clip, clip).exp() * advantages.detach(),
                    ),
                    mask,
                ),
            ),
            "old refreshed": Mistake(
                "The ratio is always 1: the present log-probs stand in for the old ones, and the clip never acts.",
                _wrong(details.old_refreshed),
            ),
            "old not detached": Mistake(
                "Gradient flows into the old log-probs. If they come from the same weights it cancels the new ones': "
                "take them as constants.",
                functools.partial(_tied, constant=("advantages",)),
            ),
            "advantages not detached": Mistake(
                "Gradient flows into the advantages: the critic would be trained to make the actor's loss small.",
                functools.partial(_tied, constant=("old",)),
            ),
            "nothing detached": Mistake(
                "Gradient flows into the old log-probs and the advantages. Both are constants here.", _tied
            ),
            "pads in the mean": Mistake(
                "It is divided by all positions, pads included: a batch with one long text would learn less from "
                "every word.",
                _wrong(details.pads_in_the_mean),
            ),
            "each text its own mean": Mistake(
                "Each text is averaged first, then the texts: words of short texts weigh more. One mean over all "
                "actions is wanted.",
                _wrong(details.each_text_its_own_mean),
            ),
        },
        hint="Work out one word by hand: ρ, the two terms, the smaller one; then the mean over the actions, negated.",
    ),
    Exercise(
        id="11.3",
        title="The clip that never clips",
        kind="find the bug",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=_passes,
        inputs=_one_state,
        mistakes={
            "as given": Mistake(
                "Still every pass compares the policy with itself: the ratio is 1 at the start of each, so nothing is "
                "ever clipped. Which policy drew the batch?",
                functools.partial(_passes, refresh=True),
            ),
            "no clip": Mistake(
                "The old log-probs are right now, and the clip is gone. It was not the culprit.",
                lambda logits, drawn, advantages: _passes(logits, drawn, advantages, clip=math.inf),
            ),
            "uphill": Mistake(
                "The sign: this climbs the loss.",
                lambda logits, drawn, advantages: _passes(logits, drawn, advantages, rate=-1.0),
            ),
            "one pass": Mistake(
                "Only one pass is left. True, then no ratio is ever off; but the batch was to be used ten times.",
                lambda logits, drawn, advantages: _passes(logits, drawn, advantages, passes=1),
            ),
        },
        hint="Print the ratio in every pass. When should it be 1, and when not?",
        remark="The metrics gave it away: a clip fraction of exactly 0 while the policy moves.",
    ),
    Exercise(
        id="11.4",
        title="What will the KL do?",
        kind="predict",
        difficulty=2,
        importance=5,
        minutes=3,
        choices=(
            "at most what the ratios promise",
            "several times that, and still growing",
            "as large as without any clip",
        ),
        reference="several times that, and still growing",
        mistakes={
            "a bound": Mistake(
                "So it would be if the clip held the ratios. It only takes away the reward for moving them. What else "
                "moves them?",
                "at most what the ratios promise",
            ),
            "no effect": Mistake(
                "The clip does stop most of the push, so it slows the KL a lot. But does it stop it?",
                "as large as without any clip",
            ),
        },
        remark="Run the next cells: the clip is a brake that slips.",
    ),
    Exercise(
        id="11.5",
        title="A brake",
        kind="experiment",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=0.02,
        accept=_brakes,
        mistakes={
            "too early": Mistake("At 0.003 nats it stops after a step or two: safe, and J hardly moves.", 0.003),
            "too late": Mistake("At 1 nat a word the policy has long left its trust region.", 1.0),
        },
        hint="Both the KL and the gain rise with the limit: look for the range between 0.003 and 0.1.",
        remark="A text has up to three words, and the batch's own words are not all that changed: a limit on a batch's "
        "KL a word says only roughly what the exact KL a text will be.",
    ),
    Exercise(
        id="11.6",
        title="Whitening, pads and all",
        kind="implement",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=_whiten,
        inputs=_masked_batch,
        mistakes={
            "pads counted": Mistake(
                "The mean and the std are taken over all positions: what stands at the pads shifts every advantage.",
                functools.partial(_scaled, pads=True),
            ),
            "pads counted as zeros": Mistake(
                "The pads went in as zeros: the mean is pulled towards 0 and the std with it.",
                lambda x, mask: _scaled(torch.where(mask, x, 0.0), mask, pads=True),
            ),
            "upside down": Mistake(
                "It multiplies by the std instead of dividing: noisy batches then take the largest steps.",
                functools.partial(_scaled, power=0.5),
            ),
            "row by row": Mistake(
                "Each text is whitened by itself: which text is better than the others is lost.", _row_by_row
            ),
            "by the variance": Mistake(
                "Divided by the variance: the root is missing.", functools.partial(_scaled, power=-1.0)
            ),
            "not centred": Mistake("The mean was not subtracted.", functools.partial(_scaled, centre=False)),
            "pads not zero": Mistake(
                "Right on the actions, but the pads hold numbers: whoever sums over time will add them.",
                lambda x, mask: (x - x[mask].mean()) / x[mask].std(correction=0),
            ),
            "sample std": Mistake(
                "The sample's standard deviation, N − 1 in the denominator. The population's is wanted, so that the "
                "mean square of the result is exactly 1.",
                functools.partial(_scaled, correction=1.0),
            ),
        },
        hint="x[mask] holds the entries that count: their mean, their std; then zeros everywhere else.",
    ),
    Exercise(
        id="11.7",
        title="A clipped critic",
        kind="predict",
        difficulty=3,
        importance=3,
        minutes=6,
        reference=(-2.9, 0.0, -4.0),
        mistakes={
            "not clipped": Mistake("Those are the gradients of ½(V − 3)² without any clip.", (-2.9, -2.0, -4.0)),
            "clip alone": Mistake(
                "The last one: V went the wrong way, so its own error is the larger one, and the larger one counts.",
                (-2.9, 0.0, 0.0),
            ),
            "smaller error": Mistake(
                "You took the smaller of the two errors. Pessimism about an error is the larger one.", (-2.9, -2.0, 0.0)
            ),
            "sign": Mistake("The sign: the derivative of ½(V − 3)² by V is V − 3.", (2.9, 0.0, 4.0)),
        },
        hint="For each V: the two squared errors, which is larger, and does that one depend on V?",
        remark="At V = 1 the critic is two short of its target, and learns nothing more from this roll-out.",
    ),
    Exercise(
        id="11.8",
        title="A price that adapts",
        kind="implement",
        difficulty=1,
        importance=3,
        minutes=6,
        reference=_adapted,
        inputs=_priced,
        call=_at_each,
        mistakes={
            "falls when it should rise": Mistake(
                "The price falls when the KL is too high: that pays the policy for running away.",
                lambda beta, kl, target: _adapted(beta, kl, target, gain=-0.1),
            ),
            "not held": Mistake(
                "The error is not held within ± 0.2: one wild batch would change the price at a stroke.",
                lambda beta, kl, target: _adapted(beta, kl, target, hold=math.inf),
            ),
            "target over kl": Mistake(
                "The quotient is upside down: kl over target says how many times too large the KL is.",
                lambda beta, kl, target: _adapted(beta, kl, target, error=lambda kl, target: 1 - target / kl),
            ),
            "added": Mistake(
                "The error is added to β. A price of 0.001 and one of 10 should both change by the same *share*.",
                lambda beta, kl, target: beta + _adapted(1.0, kl, target) - 1,
            ),
            "gain forgotten": Mistake(
                "The gain is missing: each step changes the price by up to 20 %.",
                lambda beta, kl, target: _adapted(beta, kl, target, gain=1.0),
            ),
            "difference": Mistake(
                "The error is kl − target: it should be relative, so that it means the same for any target.",
                lambda beta, kl, target: _adapted(beta, kl, target, error=lambda kl, target: kl - target),
            ),
        },
        hint="Twice the target is an error of +1, held at 0.2: the price rises by 2 %.",
    ),
]
