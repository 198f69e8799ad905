"""Exercises of lesson 10: RL against the reward model."""

import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 10.1 the holistic reward with a KL price
def _scored_batch(generator):
    mask = draw_mask(generator, batch=3, time=4)
    return draw_tensor(generator, 3), mask, draw_tensor(generator, 3, 4), draw_number(generator, 0.1, 0.9)


def _holistic(scores, mask, kl, beta):
    from rlhf_lib.estimators import holistic_rewards

    return holistic_rewards(scores, mask, kl, beta)


def _score_everywhere(scores, mask, kl, beta):
    return torch.where(mask, scores[:, None] - beta * kl, 0.0)


def _score_in_last_column(scores, mask, kl, beta):
    rewards = torch.where(mask, -beta * kl, 0.0)
    rewards[:, -1] += scores
    return rewards


def _score_after_the_end(scores, mask, kl, beta):
    rewards = torch.nn.functional.pad(torch.where(mask, -beta * kl, 0.0), (0, 1))
    rewards[torch.arange(len(mask)), mask.sum(1)] += scores
    return rewards[:, :-1]


def _kl_at_the_end_only(scores, mask, kl, beta):
    last = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).bool()
    return torch.where(last, scores[:, None] - beta * kl, 0.0)


# 10.3 where RL arrives
def _two_answers(generator):
    return draw_number(generator, 0.1, 0.9), draw_number(generator, -1, 1), draw_number(generator, -1, 1), 0.5


def _optimum(p, first, second, beta):
    weight, other = p * math.exp(first / beta), (1 - p) * math.exp(second / beta)
    return weight / (weight + other)


# 10.4 a KL loss that pulls
def _two_tables(generator):
    return draw_tensor(generator, 7, 2).double(), draw_tensor(generator, 7, 2).double()


def expected_gradient(kl_loss, logits, reference_logits):
    """The exact expectation of ∇ kl_loss over all 8 sentences of 3 words (2 to choose from), as a gradient of logits.

    kl_loss(logprobs [N, 3], ref_logprobs [N, 3]) -> one loss a sentence [N]. Each state has a row of logits.
    """
    sentences = torch.cartesian_prod(*[torch.arange(2)] * 3)
    first, second = sentences[:, 0], sentences[:, 1]
    rows = torch.stack([0 * first, 1 + first, 3 + 2 * first + second], 1)
    logits = logits.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)[rows, sentences]
    ref_logprobs = reference_logits.log_softmax(-1)[rows, sentences]
    expected = logprobs.sum(1).exp().detach() @ kl_loss(logprobs, ref_logprobs)
    if not expected.requires_grad:
        return torch.zeros_like(logits)
    (gradient,) = torch.autograd.grad(expected, logits)
    return gradient


def _kl_loss(logprobs, ref_logprobs):
    return 0.5 * (logprobs - ref_logprobs).sum(1).square()


def _k3(logprobs, ref_logprobs):
    log_ratio = ref_logprobs - logprobs
    return (log_ratio.exp() - 1 - log_ratio).sum(1)


# 10.5 a price that fits
BUDGET, BAR = 1.5, 0.0  # nats of KL allowed, reward to reach: on fresh seeds, by the interval's worse end


def priced_run(beta: float, seed: int, steps: int = 60, batch: int = 64) -> tuple[float, float]:
    """Exact (reward, KL) in the micro language after REINFORCE with leave-one-out and β·KL in the reward."""
    from rlhf_lib import losses, mdp, models, reviews
    from rlhf_lib.estimators import holistic_rewards, reward_to_go

    world, generator = reviews.micro_mdp(horizon=3), torch.Generator().manual_seed(seed)
    policy, reference = models.TablePolicy(world), models.TablePolicy(world)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.15)
    for _ in range(steps):
        tokens, mask = mdp.sample_episodes(world, policy, batch, generator)
        logprobs = mdp.action_logprobs(world, policy, tokens, mask)
        with torch.no_grad():
            kl = losses.kl_estimate(logprobs, mdp.action_logprobs(world, reference, tokens, mask))
        returns = reward_to_go(holistic_rewards(world.reward(tokens, mask), mask, kl, beta), mask)
        others = (returns[:, 0].sum() - returns[:, 0]) / (batch - 1)
        optimizer.zero_grad()
        losses.policy_gradient_loss(logprobs, returns - others[:, None], mask).backward()
        optimizer.step()
    with torch.no_grad():
        return mdp.exact_objective(world, policy).item(), mdp.exact_kl(world, policy, reference).item()


def _fits(beta) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if not float(beta) > 0:
        return False, "β must be positive: it is a price."
    rewards, kls = zip(*(priced_run(float(beta), seed) for seed in range(100, 104)), strict=True)
    reward, low, _ = mean_interval(rewards)
    kl, _, high = mean_interval(kls)
    said = f"On 4 new seeds: reward {reward:.2f} (95 % interval from {low:.2f}; the bar is {BAR}), KL {kl:.2f} nats "
    return low > BAR and high < BUDGET, said + f"(up to {high:.2f}; the budget is {BUDGET})."


EXERCISES = [
    Exercise(
        id="10.1",
        title="One score, many words",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_holistic,
        inputs=_scored_batch,
        mistakes={
            "score everywhere": Mistake(
                "Every word gets the whole score, so a long completion is paid once a word. When is the score known?",
                _score_everywhere,
            ),
            "score in the last column": Mistake(
                "The score stands in the batch's last column, which is padding for the shorter rows. Where does each "
                "row's own completion end?",
                _score_in_last_column,
            ),
            "score after the end": Mistake(
                "The score stands one position after the last word, where the mask is False: short rows lose it at "
                "the next masked sum, and the longest row has lost it already.",
                _score_after_the_end,
            ),
            "KL rewarded": Mistake(
                "The sign of the KL: this pays the policy for leaving the reference.",
                lambda scores, mask, kl, beta: _holistic(scores, mask, -kl, beta),
            ),
            "β twice": Mistake(
                "The KL is charged β² a nat. Is it multiplied by β in two places?",
                lambda scores, mask, kl, beta: _holistic(scores, mask, kl, beta**2),
            ),
            "β forgotten": Mistake(
                "The KL is charged at a price of 1 whatever β is.",
                lambda scores, mask, kl, beta: _holistic(scores, mask, kl, 1.0),
            ),
            "KL of the last word only": Mistake(
                "Only the last word pays for its KL; the words before it leave the reference for free.",
                _kl_at_the_end_only,
            ),
            "pads charged": Mistake(
                "Positions where the mask is False pay KL too. Nothing was chosen there.",
                lambda scores, mask, kl, beta: _holistic(scores, mask, kl, 0.0) - beta * kl,
            ),
        },
        hint="Write down the rewards of one row by hand: all its words pay their KL, its last word gets the score too.",
    ),
    Exercise(
        id="10.2",
        title="Does water boil quicker?",
        kind="predict",
        difficulty=3,
        importance=4,
        minutes=5,
        choices=("up", "down", "it depends on the prompt's other answers"),
        reference="it depends on the prompt's other answers",
        mistakes={
            "up": Mistake(
                "Only if its siblings do worse. What happens where the other samples of the prompt score above −0.35?",
                "up",
            ),
            "down": Mistake(
                "A negative reward sounds like a punishment, but RL compares. What if every other answer scores −1?",
                "down",
            ),
        },
        remark="Only the advantage has a sign that means something; the zero of a reward model is a convention.",
    ),
    Exercise(
        id="10.3",
        title="Where RL arrives",
        kind="derive",
        difficulty=3,
        importance=5,
        minutes=10,
        reference=_optimum,
        inputs=_two_answers,
        mistakes={
            "reference left out": Mistake(
                "Those are the odds of the rewards alone. An answer that the reference never gives costs infinite KL: "
                "where does p come in?",
                lambda p, first, second, beta: _optimum(0.5, first, second, beta),
            ),
            "β multiplied": Mistake(
                "It moves the wrong way with β: a dearer KL should keep the policy nearer to p.",
                lambda p, first, second, beta: _optimum(p, first, second, 1 / beta),
            ),
            "not normalised": Mistake(
                "The two probabilities do not add up to 1.",
                lambda p, first, second, beta: p * math.exp(first / beta),
            ),
            "sign": Mistake(
                "The better answer has become rarer.", lambda p, first, second, beta: _optimum(p, second, first, beta)
            ),
        },
        hint="Write q for the probability; set the derivative of q·R₁ + (1 − q)·R₂ − β·KL by q to 0.",
    ),
    Exercise(
        id="10.4",
        title="A KL loss that does not pull",
        kind="find the bug",
        difficulty=4,
        importance=5,
        minutes=15,
        reference=_kl_loss,
        inputs=_two_tables,
        call=expected_gradient,
        atol=1e-6,
        mistakes={
            "as given": Mistake(
                "This is still the mean log-ratio. Its value is right and its expected gradient is 0: E[∇ log π] = 0.",
                lambda logprobs, ref_logprobs: (logprobs - ref_logprobs).sum(1),
            ),
            "k3": Mistake(
                "That is k3: its value is an unbiased estimate too, but differentiated as a loss it gives the gradient "
                "of the forward KL, from the reference to the policy.",
                _k3,
            ),
            "k2 a token": Mistake(
                "Close: half the squared log-ratio, word by word. It misses that an early word changes which later "
                "words are met. What should be squared?",
                lambda logprobs, ref_logprobs: 0.5 * (logprobs - ref_logprobs).square().sum(1),
            ),
            "half forgotten": Mistake(
                "The direction is right and the length twice what it should be: the derivative of x² is 2x.",
                lambda logprobs, ref_logprobs: (logprobs - ref_logprobs).sum(1).square(),
            ),
            "score not detached": Mistake(
                "The weight has a gradient of its own here. That adds E[∇ log π · 1] = 0 and E[log-ratio · ∇ log π] "
                "twice; which factor is only a weight?",
                lambda logprobs, ref_logprobs: (logprobs - ref_logprobs).sum(1) * logprobs.sum(1),
            ),
        },
        hint="You want a loss whose derivative by log π(sentence) is the sentence's own log-ratio.",
    ),
    Exercise(
        id="10.5",
        title="A price that fits the budget",
        kind="experiment",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=0.9,
        accept=_fits,
        mistakes={
            "too cheap": Mistake("At β = 0.05 the KL is as good as free, and the policy spends it.", 0.05),
            "too dear": Mistake("At β = 5 the policy stays where the reference is.", 5.0),
        },
        hint="The exact curves above say what the optimum earns and costs at each β; a run gets close to it.",
    ),
]
