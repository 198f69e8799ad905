"""Exercises of lesson 04: the policy gradient theorem and REINFORCE."""

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 04.1 reward-to-go
def _episodes(generator):
    mask = draw_mask(generator, batch=3, time=4)
    return draw_tensor(generator, 3, 4), mask, draw_number(generator, 0.5, 0.9)


def _reward_to_go(rewards, mask, gamma):
    from rlhf_lib.estimators import reward_to_go

    return reward_to_go(rewards, mask, gamma)


def _forward_sum(rewards, mask, gamma):
    total, out = torch.zeros(len(rewards)), []
    for t in range(rewards.shape[1]):
        total = gamma * total + torch.where(mask[:, t], rewards[:, t], 0.0)
        out.append(total)
    return torch.where(mask, torch.stack(out, 1), 0.0)


def _whole_return(rewards, mask, gamma):
    powers = gamma ** torch.arange(rewards.shape[1])
    total = (torch.where(mask, rewards, 0.0) * powers).sum(1, keepdim=True)
    return torch.where(mask, total, 0.0)


def _from_the_start(rewards, mask, gamma):
    powers = gamma ** torch.arange(rewards.shape[1])
    return _reward_to_go(rewards * powers, mask, 1.0)


def _pads_counted(rewards, mask, gamma):
    return torch.where(mask, _reward_to_go(rewards, torch.ones_like(mask), gamma), 0.0)


# 04.3 find the bug: the loss
def _batch(generator):
    mask = draw_mask(generator, batch=3, time=4)
    return draw_tensor(generator, 3, 4, low=-3.0, high=-0.1), draw_tensor(generator, 3, 4), mask


def _loss(logprobs, weights, mask):
    from rlhf_lib.losses import policy_gradient_loss

    return policy_gradient_loss(logprobs, weights, mask)


def _token_mean(logprobs, weights, mask):
    return -(weights * logprobs)[mask].mean()


def _length_mean(logprobs, weights, mask):
    return -((weights * logprobs * mask).sum(1) / mask.sum(1)).mean()


# 04.4 experiment: a learning rate for REINFORCE with one action
SCORES = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])  # the five words' rewards
BAR = 0.93  # what the whole interval of the mean final J must exceed; the best word alone has J = 1


def final_objectives(learning_rate: float, seeds=range(4), steps: int = 100, batch: int = 2) -> list[float]:
    """J = Σ_a π(a) r(a) after `steps` REINFORCE updates from the uniform policy, one number a seed."""
    finals = []
    for seed in seeds:
        generator, logits = torch.Generator().manual_seed(seed), torch.zeros(len(SCORES))
        for _ in range(steps):
            probs = logits.softmax(0)
            words = torch.multinomial(probs, batch, replacement=True, generator=generator)
            scores = torch.nn.functional.one_hot(words, len(SCORES)) - probs  # ∇ log π(word)
            logits = logits + learning_rate * (SCORES[words, None] * scores).mean(0)
        finals.append((logits.softmax(0) @ SCORES).item())
    return finals


def _reaches_the_bar(learning_rate) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    mean, low, high = mean_interval(final_objectives(float(learning_rate), seeds=range(100, 116)))
    return low > BAR, f"On 16 new seeds J is {mean:.2f}, 95 % interval {low:.2f} to {high:.2f}; the bar is {BAR}."


# 04.6 derive: score per word
def _two_endings(generator):
    theta, short = draw_number(generator, -1.5, 1.5), draw_number(generator, 0.5, 2.0)
    long = short + draw_number(generator, 0.5, 3.0)
    few = torch.randint(1, 4, (), generator=generator).item()
    return theta, long, few + torch.randint(1, 5, (), generator=generator).item(), short, few


def _rate_slope(theta, r_long, t_long, r_short, t_short):
    """d/dθ of E[R] / E[T], the long ending having probability σ(θ), by automatic differentiation."""
    theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    p = theta.sigmoid()
    rate = (p * r_long + (1 - p) * r_short) / (p * t_long + (1 - p) * t_short)
    (slope,) = torch.autograd.grad(rate, theta)
    return slope.item()


def _parts(theta, t_long, t_short):
    """σ(θ)(1 − σ(θ)) and E[T]."""
    p = torch.tensor(theta, dtype=torch.float64).sigmoid().item()
    return p * (1 - p), p * t_long + (1 - p) * t_short


def _mean_of_ratios(theta, r_long, t_long, r_short, t_short):
    return _parts(theta, t_long, t_short)[0] * (r_long / t_long - r_short / t_short)


def _lengths_left_out(theta, r_long, t_long, r_short, t_short):
    return _parts(theta, t_long, t_short)[0] * (r_long - r_short)


def _length_held_fixed(theta, r_long, t_long, r_short, t_short):
    slope, length = _parts(theta, t_long, t_short)
    return slope * (r_long - r_short) / length


def _length_not_squared(theta, r_long, t_long, r_short, t_short):
    slope, length = _parts(theta, t_long, t_short)
    return slope * (r_long * t_short - r_short * t_long) / length


def _slope_in_p(theta, r_long, t_long, r_short, t_short):
    return (r_long * t_short - r_short * t_long) / _parts(theta, t_long, t_short)[1] ** 2


EXERCISES = [
    Exercise(
        id="04.1",
        title="Reward-to-go",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_reward_to_go,
        inputs=_episodes,
        mistakes={
            "forward sum": Mistake(
                "It looks like a sum that runs forward: word t gets the rewards up to t. A word cannot change "
                "what came before it; which end should the loop start from?",
                _forward_sum,
            ),
            "one power too many": Mistake(
                "Every value is γ times what it should be: the reward that comes with word t itself is discounted too. "
                "What power of γ goes with k = t?",
                lambda rewards, mask, gamma: gamma * _reward_to_go(rewards, mask, gamma),
            ),
            "no discount": Mistake(
                "It looks like γ is left out: later rewards count in full. Check an episode by hand with γ = 0.5.",
                lambda rewards, mask, gamma: _reward_to_go(rewards, mask, 1.0),
            ),
            "past rewards": Mistake(
                "Every word of an episode gets the same number, the return of the whole episode. Its past rewards are "
                "in there: they add noise and no information about the word.",
                _whole_return,
            ),
            "discounted from the start": Mistake(
                "The discounting starts at the first word instead of at word t itself: the last reward should count "
                "in full for the last word.",
                _from_the_start,
            ),
            "pads counted": Mistake(
                "What stands after the end of an episode counts. Positions where the mask is False may hold anything; "
                "keep them out of the sum.",
                _pads_counted,
            ),
            "pads not zero": Mistake(
                "The values at actions are right. Where the mask is False the result should be 0.",
                lambda rewards, mask, gamma: torch.where(mask, _reward_to_go(rewards, mask, gamma), rewards),
            ),
        },
        hint="Work one episode out by hand, from its last word to its first.",
    ),
    Exercise(
        id="04.2",
        title="Who gets the credit?",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=5,
        reference=(0.25, 0.5, 1.0),
        mistakes={
            "no discount": Mistake("Those are the weights at γ = 1; here γ = 0.5.", (1.0, 1.0, 1.0)),
            "backwards": Mistake(
                "Turned round: the reward comes with the third word, so how many steps after the first word is that?",
                (1.0, 0.5, 0.25),
            ),
            "one power too many": Mistake(
                "The reward comes with the third word itself, so that word's weight needs no discount.",
                (0.125, 0.25, 0.5),
            ),
            "exact": Mistake(
                "Those are the exact gradient's weights, with the factor γ^t. The slide's REINFORCE leaves it out.",
                (0.25, 0.25, 0.25),
            ),
        },
        hint="Give three numbers, one a word: (first, second, third).",
        remark="Without the factor γ^t the last words get most of the push.",
    ),
    Exercise(
        id="04.3",
        title="Long reviews lose their say",
        kind="find the bug",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=_loss,
        inputs=_batch,
        mistakes={
            "as given": Mistake(
                "Each text's sum is still divided by its own length, so a word of a long text counts less. J is a mean "
                "over episodes; what is the gradient of one episode's log-probability?",
                _length_mean,
            ),
            "token mean": Mistake(
                "It divides by the number of words in the batch: the step's size then hangs on how long the batch's "
                "texts happen to be. J is a mean over what?",
                _token_mean,
            ),
            "sign": Mistake(
                "The sign: optimisers go downhill, and J should go up.",
                lambda logprobs, weights, mask: -_loss(logprobs, weights, mask),
            ),
            "pads counted": Mistake(
                "Positions after the end of an episode are in the sum.",
                lambda logprobs, weights, mask: -(weights * logprobs).sum(1).mean(),
            ),
            "sum": Mistake(
                "Summed over episodes: twice the batch would be twice the step.",
                lambda logprobs, weights, mask: len(mask) * _loss(logprobs, weights, mask),
            ),
        },
    ),
    Exercise(
        id="04.4",
        title="A step that is neither timid nor rash",
        kind="experiment",
        difficulty=2,
        importance=3,
        minutes=10,
        reference=0.5,
        accept=_reaches_the_bar,
        mistakes={
            "too small": Mistake("Steps of 0.01 leave the policy almost where it began after 100 of them.", 0.01)
        },
        hint="Look at the seeds one by one: are all still climbing, or did some stop early on a poorer word?",
    ),
    Exercise(
        id="04.5",
        title="Paid by the word",
        kind="predict",
        difficulty=2,
        importance=3,
        minutes=4,
        reference="it ends at once",
        choices=("it ends at once", "one good word, then the end", "the longest text"),
        mistakes={
            "one word": Mistake(
                'Adding "great" lifts the score from 2 to 2.5. Over how many words is each of the two spread?',
                "one good word, then the end",
            ),
            "longest": Mistake(
                "The longest text has the highest score, 4. Divide it by its four words, and compare with the rest.",
                "the longest text",
            ),
        },
        remark="2 for one action, the full stop: no longer text earns as much a word.",
    ),
    Exercise(
        id="04.6",
        title="What a word costs",
        kind="derive",
        difficulty=3,
        importance=3,
        minutes=10,
        reference=_rate_slope,
        inputs=_two_endings,
        mistakes={
            "mean of the ratios": Mistake(
                "That is the slope of E[R/T], where every text counts alike. In a stream of words a long text fills "
                "more of the stream: it is the ratio of the means, E[R]/E[T], whose slope is wanted.",
                _mean_of_ratios,
            ),
            "lengths left out": Mistake(
                "That is the slope of J = E[R]. Where have the lengths gone?", _lengths_left_out
            ),
            "length held fixed": Mistake(
                "E[T] divides, but it depends on θ too: apply the quotient rule to both.", _length_held_fixed
            ),
            "not squared": Mistake("Almost: look at the quotient rule's denominator once more.", _length_not_squared),
            "slope in p": Mistake("That is the slope in p. What is dp/dθ for p = σ(θ)?", _slope_in_p),
            "sign": Mistake(
                "The sign: a larger θ makes the long ending likelier.",
                lambda theta, r_long, t_long, r_short, t_short: -_rate_slope(theta, r_long, t_long, r_short, t_short),
            ),
        },
        hint="Write J_avR as a quotient of two functions of p, and p as σ(θ).",
        remark="Its sign is that of r_long/t_long − r_short/t_short: the better score per word wins.",
    ),
]
