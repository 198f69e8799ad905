"""Exercises of lesson 01: language is a token-level MDP."""

import functools
import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 01.1 the discounted return
def _episodes(generator):
    return draw_tensor(generator, 3, 4), draw_mask(generator, batch=3, time=4), draw_number(generator, 0.5, 0.9)


def _returns(rewards, mask, gamma=1.0):
    from rlhf_lib.estimators import reward_to_go

    return reward_to_go(rewards, mask, gamma)[:, 0]


def _powers(rewards, mask, gamma):
    """γ^t r_t, 0 at pads."""
    return torch.where(mask, gamma ** torch.arange(rewards.shape[1]) * rewards, 0.0)


def _forward_recursion(rewards, mask, gamma):
    total = torch.zeros(len(rewards))
    for t in range(rewards.shape[1]):
        total = torch.where(mask[:, t], gamma * total + rewards[:, t], total)
    return total


def _from_the_right_edge(rewards, mask, gamma):
    return _powers(rewards.flip(1), mask.flip(1), gamma).sum(1)


# 01.2 find the bug: where the score goes
def _scores(generator):
    return draw_tensor(generator, 4, low=0.5, high=3.0), draw_mask(generator, batch=4, time=5)


def _place(scores, mask):
    from rlhf_lib.estimators import holistic_rewards

    return holistic_rewards(scores, mask)


def _at(scores, mask, column):
    """The scores in the columns given [B]; a column beyond the last one is lost."""
    rewards = torch.zeros(len(mask), mask.shape[1] + 1)
    rewards[torch.arange(len(mask)), column] = scores
    return rewards[:, :-1]


# 01.3 experiment: how many episodes
HALF_WIDTH = 0.05  # what the 95 % interval's half-width may be at most
SEEDS = range(500, 520)


@functools.cache
def _spread() -> float:
    """The exact standard deviation of the return of the uniform policy on the micro task."""
    from rlhf_lib import mdp, models, reviews

    micro = reviews.micro_mdp(horizon=4)
    tokens, mask = mdp.enumerate_episodes(micro)
    chance = mdp.action_logprobs(micro, models.TablePolicy(micro), tokens, mask).sum(1).exp().detach()
    returns = mdp.episode_returns(micro, tokens, mask)
    return (chance @ returns**2 - (chance @ returns) ** 2).sqrt().item()


def _episodes_needed(z: float = 1.96) -> int:
    return math.ceil((z * _spread() / HALF_WIDTH) ** 2)


def _narrow_enough(episodes) -> tuple[bool, str]:
    from rlhf_lib import mdp, models, reviews

    if episodes < 2:
        return False, "An interval needs at least 2 episodes."
    if episodes > 2 * _episodes_needed():
        return False, "That would do, but fewer than half as many would do as well."
    micro = reviews.micro_mdp(horizon=4)
    policy = models.TablePolicy(micro)
    exact, halves, covered = mdp.exact_objective(micro, policy).item(), [], 0
    for seed in SEEDS:
        drawn = mdp.sample_episodes(micro, policy, int(episodes), torch.Generator().manual_seed(seed))
        returns = mdp.episode_returns(micro, *drawn)
        halves.append(1.96 * returns.std().item() / math.sqrt(len(returns)))
        covered += abs(returns.mean().item() - exact) <= halves[-1]
    narrow = sum(half <= HALF_WIDTH for half in halves)
    return narrow >= 19, (
        f"On {len(SEEDS)} new seeds the half-width is {min(halves):.3f} to {max(halves):.3f}, at most {HALF_WIDTH} on "
        f"{narrow} of them; the interval holds the exact J on {covered}."
    )


# 01.4 predict: discount and length
ORDERS = (
    "short good, long good, long bad, short bad",
    "short good, long good, short bad, long bad",
    "long good, short good, long bad, short bad",
    "the good ones tie, and so do the bad ones",
)


# 01.5 derive: the number of episodes
def _sizes(generator):
    actions, horizon = (torch.randint(3, 9, (1,), generator=generator).item() for _ in range(2))
    return actions, horizon


def _number_of_episodes(actions, horizon):
    return sum((actions - 1) ** t for t in range(horizon + 1))


# 01.6 implement: how many buttons
def _distributions(generator):
    logits = 2 * draw_tensor(generator, 3, 5)
    logits[1:][torch.rand(2, 5, generator=generator) < 0.4] = -torch.inf
    logits[1:, 0] = 1.0  # so that something is left to choose
    logits[2, 1] = -torch.inf
    return (logits.log_softmax(-1),)


def _buttons(logprobs):
    return torch.distributions.Categorical(logits=logprobs).entropy().exp()


def _entropy(logprobs):
    return _buttons(logprobs).log()


EXERCISES = [
    Exercise(
        id="01.1",
        title="The discounted return",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_returns,
        inputs=_episodes,
        mistakes={
            "one power too many": Mistake(
                "Every return is γ times what it should be: the very first reward is discounted too. At which t does "
                "the sum start?",
                lambda rewards, mask, gamma: gamma * _returns(rewards, mask, gamma),
            ),
            "no discount": Mistake(
                "It looks like γ is left out. Check an episode by hand with γ = 0.5.",
                lambda rewards, mask, gamma: _returns(rewards, mask, 1.0),
            ),
            "the exponent is missing": Mistake(
                "Every reward is multiplied by γ once, whenever it comes. A reward two steps away should count γ².",
                lambda rewards, mask, gamma: gamma * _returns(rewards, mask, 1.0),
            ),
            "forward recursion": Mistake(
                "It looks like G = γ·G + r, run from the first word on: the last reward counts in full and the first "
                "one least. From which end must this recursion start?",
                _forward_recursion,
            ),
            "discounted from the right edge": Mistake(
                "The powers of γ are counted from the right edge of the table: turned round, and in a short episode "
                "they depend on how long its neighbours are.",
                _from_the_right_edge,
            ),
            "length mean": Mistake(
                "Each return is divided by the episode's length: a mean a word, where the lecture has a sum.",
                lambda rewards, mask, gamma: _returns(rewards, mask, gamma) / mask.sum(1),
            ),
            "pads counted": Mistake(
                "What stands after the end of an episode counts. Positions where the mask is False may hold anything.",
                lambda rewards, mask, gamma: _returns(rewards, torch.ones_like(mask), gamma),
            ),
            "running sum": Mistake(
                "It is a number for each word, the sum of what was earned so far. A return is one number an episode: "
                "where in your table does it stand?",
                lambda rewards, mask, gamma: _powers(rewards, mask, gamma).cumsum(1),
            ),
        },
        hint="Work one episode out by hand: r₀ + γ r₁ + γ² r₂ …, as far as its mask is True.",
        remark="This is rlhf_lib.mdp.episode_returns, once the rewards are there.",
    ),
    Exercise(
        id="01.2",
        title="Short reviews earn nothing",
        kind="find the bug",
        difficulty=2,
        importance=5,
        minutes=8,
        reference=_place,
        inputs=_scores,
        mistakes={
            "as given": Mistake(
                "This is still the version as given: the score stands in the last column, which in a short episode is "
                "a pad. Which column is a row's last action?",
                lambda scores, mask: _at(scores, mask, torch.full_like(mask.sum(1), mask.shape[1] - 1)),
            ),
            "one after the last action": Mistake(
                "The score stands one column after the last action, and in the longest episode nowhere. The end token "
                "is itself an action; columns are counted from 0.",
                lambda scores, mask: _at(scores, mask, mask.sum(1)),
            ),
            "one before the last action": Mistake(
                "The score stands one column too early: the last action, often the end token, is an action too.",
                lambda scores, mask: _at(scores, mask, (mask.sum(1) - 2).clamp(min=0)),
            ),
            "everywhere": Mistake(
                "Every action earns the whole score, so at γ = 1 a review of 5 words has 5 times its score as return. "
                "The lecture gives it once, at t = T.",
                lambda scores, mask: torch.where(mask, scores[:, None], 0.0),
            ),
            "shared out": Mistake(
                "The score is shared out evenly over the words. At γ = 1 the return is the same, at γ < 1 it is not, "
                "and the lecture gives it once, at t = T.",
                lambda scores, mask: torch.where(mask, (scores / mask.sum(1))[:, None], 0.0),
            ),
            "first action": Mistake(
                "The score comes with the first word, before anything of the review is there to be judged.",
                lambda scores, mask: _at(scores, mask, torch.zeros_like(mask.sum(1))),
            ),
        },
        hint="Write down by hand where a 1 must stand for episodes of 1, 3 and 5 words in a table of 5 columns.",
        remark="This is rlhf_lib.estimators.holistic_rewards; the mask knows where a review ends.",
    ),
    Exercise(
        id="01.3",
        title="How many episodes?",
        kind="experiment",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=lambda: round(1.1 * _episodes_needed()),
        accept=_narrow_enough,
        rtol=0.02,
        mistakes={
            "one standard error": Mistake(
                "That makes one standard error 0.05. A 95 % interval reaches 1.96 of them to either side.",
                lambda: _episodes_needed(z=1.0),
            ),
            "the full width": Mistake(
                "That makes the whole interval 0.05 wide. The half-width is asked for: a factor of 2 in width is a "
                "factor of what in episodes?",
                lambda: _episodes_needed(z=2 * 1.96),
            ),
            "in proportion": Mistake(
                "That is what it would take if the error fell as 1/N. It falls as 1/√N: for a tenth of the error, how "
                "many times the episodes?",
                lambda: round(400 * 1.96 * _spread() / math.sqrt(400) / HALF_WIDTH),
            ),
        },
        hint="Take the half-width at some N, and ask how N must grow to shrink it to 0.05, a little to spare.",
        remark="Half the error costs four times the episodes; that price follows policy gradients everywhere.",
    ),
    Exercise(
        id="01.4",
        title="What a discount rewards",
        kind="predict",
        difficulty=2,
        importance=5,
        minutes=4,
        choices=ORDERS,
        reference=ORDERS[0],
        mistakes={
            ORDERS[1]: Mistake(
                "That is γ read as a fine on long reviews. Multiply it out: −2 times γ⁴, is that more or less than −2 "
                "times γ?",
                ORDERS[1],
            ),
            ORDERS[2]: Mistake(
                "Turned round for the good ones: +2 that comes later is multiplied by more factors below 1.", ORDERS[2]
            ),
            ORDERS[3]: Mistake(
                "They would tie at γ = 1. There is one reward only, but it comes at t = T − 1, so γ^(T−1) stands in "
                "front of it.",
                ORDERS[3],
            ),
        },
        remark="γ < 1 hurries to a good ending and puts a bad one off. RLHF on text mostly takes γ = 1.",
    ),
    Exercise(
        id="01.5",
        title="The number of episodes",
        kind="derive",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=_number_of_episodes,
        inputs=_sizes,
        mistakes={
            "without an end": Mistake(
                "That is A^K: every episode has K words. With an end token an episode can be over sooner, and then "
                "nothing follows.",
                lambda actions, horizon: actions**horizon,
            ),
            "cut off ones only": Mistake(
                "Those are the episodes that the horizon cuts off. Add the ones that end by themselves.",
                lambda actions, horizon: (actions - 1) ** horizon,
            ),
            "ended ones only": Mistake(
                "Those are the episodes that end by themselves. Add the ones that the horizon cuts off.",
                lambda actions, horizon: sum((actions - 1) ** t for t in range(horizon)),
            ),
            "the empty review": Mistake(
                "One is missing: the episode that consists of the end token alone.",
                lambda actions, horizon: _number_of_episodes(actions, horizon) - 1,
            ),
            "words after the end": Mistake(
                "It looks like Σ A^t: it counts episodes that go on after their end token.",
                lambda actions, horizon: sum(actions**t for t in range(1, horizon + 1)),
            ),
            "one word too many": Mistake(
                "Those are the episodes of a horizon of K + 1, which is what the lecture's Σ from 0 to K allows. Here "
                "an episode has at most K actions.",
                lambda actions, horizon: _number_of_episodes(actions, horizon + 1),
            ),
        },
        hint="List by hand the episodes of A = 3 (yes, no, end) and K = 1, then K = 2.",
        remark="It is a geometric sum: ((A − 1)^(K+1) − 1)/(A − 2).",
    ),
    Exercise(
        id="01.6",
        title="How many buttons are in play",
        kind="implement",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=_buttons,
        inputs=_distributions,
        mistakes={
            "NaN": Mistake(
                "Rows with a button of probability 0 come out as NaN: 0 · log 0 is 0 · (−∞) to a computer. A button "
                "that is never pressed adds nothing to the entropy.",
                lambda logprobs: (-(logprobs.exp() * logprobs).sum(-1)).exp(),
            ),
            "entropy": Mistake("That is the entropy itself, in nats. How many buttons is that?", _entropy),
            "bits": Mistake(
                "The logarithm is to base 2, and the exponential to base e. Take the same base for both.",
                lambda logprobs: (_entropy(logprobs) / math.log(2)).exp(),
            ),
            "sign": Mistake(
                "Fewer than one button? Logarithms of probabilities are negative; the entropy is not.",
                lambda logprobs: (-_entropy(logprobs)).exp(),
            ),
            "mean for sum": Mistake(
                "It is divided by the number of buttons before exp: the entropy is a sum over buttons, weighted by "
                "their probabilities already.",
                lambda logprobs: (_entropy(logprobs) / logprobs.shape[-1]).exp(),
            ),
            "all possible ones": Mistake(
                "That counts every button with a probability above 0, the one in a million like the favourite.",
                lambda logprobs: (logprobs > -torch.inf).sum(-1).float(),
            ),
            "the favourite only": Mistake(
                "That is 1 over the largest probability: it forgets how the rest is spread.",
                lambda logprobs: (-logprobs.amax(-1)).exp(),
            ),
            "sum of squares": Mistake(
                "That is 1/Σ p², another way to count (exp of Rényi's entropy of order 2). Here Shannon's is asked "
                "for: exp(−Σ p log p).",
                lambda logprobs: 1 / logprobs.exp().square().sum(-1),
            ),
        },
        hint="Four buttons of probability 1/4 are 4; a sure one is 1.",
        remark="exp(entropy) is also called the perplexity of a distribution.",
    ),
]
