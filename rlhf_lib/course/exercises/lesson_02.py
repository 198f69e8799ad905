"""Exercises of lesson 02: values, policies, actor-critics."""

import functools
import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor

# 02.1 predict: the advantage of a habit
SIGNS = ("large and positive", "near 0", "negative")


# 02.2 implement: Q from V along sentences
def _sentences(generator):
    mask = draw_mask(generator, batch=3, time=4)
    rewards, values = draw_tensor(generator, 3, 4), draw_tensor(generator, 3, 4, low=0.5, high=3.0)
    return rewards, values, mask, draw_number(generator, 0.5, 0.9)


def _q_along(rewards, values, mask, gamma):
    return _with_next(rewards, torch.where(mask, values, 0.0)[:, 1:], mask, gamma)


def _with_next(rewards, later, mask, gamma):
    """r + γ·(value one column on), the column after the last being 0, and 0 where there is no word."""
    later = torch.nn.functional.pad(later, (0, rewards.shape[1] - later.shape[1]))
    return torch.where(mask, rewards + gamma * later, 0.0)


# 02.3 find the bug: what Q-learning learns towards
def _steps(generator):
    over = torch.tensor([False, True, False, True])[torch.randperm(4, generator=generator)]
    return draw_tensor(generator, 4), draw_tensor(generator, 4, 3), over, draw_number(generator, 0.5, 0.9)


def _target(rewards, q_next, over, gamma):
    return rewards + gamma * torch.where(over, 0.0, q_next.amax(-1))


# 02.4 derive: one habit for two words
def _scores(generator):
    """A case whose best habit is mixed, one in which J is lowest at its stationary point, and one without such."""
    one = [draw_number(generator, 0.1, 1.0, 1) for _ in range(2)]
    two = [draw_number(generator, 1.0, 3.0, 1) for _ in range(2)]
    three = draw_number(generator, 1.0, 2.0, 1)
    mixed = (one[0], round(sum(one) + 2 * max(one) + 0.3, 1), one[1])
    ends = (two[0], 0.3, round(two[1] + 0.15, 2))
    slope = (three, round(2 * three - 1.0, 1), round(three - 1.5, 1))
    return ([mixed, ends, slope],)


def _stationary(a, b, c):
    """Where dJ/dp = 0, J = a p² + b p (1 − p) + c (1 − p)²; infinite where nowhere."""
    curvature = a - b + c
    return (2 * c - b) / (2 * curvature) if curvature else math.inf


def _habit(p, a, b, c):
    return a * p**2 + b * p * (1 - p) + c * (1 - p) ** 2


def _best_habit(a, b, c):
    places = [0.0, 1.0, *(p for p in [_stationary(a, b, c)] if 0 < p < 1)]
    return max(places, key=lambda p: _habit(p, a, b, c))


def _ends_only(a, b, c):
    return 1.0 if a > c else 0.0


def _clamped(a, b, c):
    return min(1.0, max(0.0, _stationary(a, b, c)))


# 02.6 experiment: roll-outs to find the best word
BAR, TRIALS = 0.95, 4000


@functools.cache
def _endings() -> tuple[torch.Tensor, torch.Tensor]:
    """For each first word after "awful": the final scores of all endings [10, 91], and how likely a blind writer
    makes each [10, 91]."""
    from rlhf_lib import mdp, reviews

    task = reviews.micro_mdp(horizon=3)
    tokens, mask = mdp.enumerate_episodes(task)
    scores, chance = task.reward(tokens, mask), 0.1 ** mask.sum(1).float()
    words = len(task.actions)
    most = max(int((tokens[:, 0] == word).sum()) for word in range(words))
    table = torch.zeros(2, words, most)
    for word in range(words):
        rows = (tokens[:, 0] == word).nonzero().flatten()
        table[0, word, : len(rows)], table[1, word, : len(rows)] = scores[rows], chance[rows]
    return table[0], table[1] / table[1].sum(1, keepdim=True)


def found_share(roll_outs: int, trials: int, generator: torch.Generator) -> float:
    """How often the word with the best mean of `roll_outs` roll-outs is the word with the highest Q."""
    scores, chance = _endings()
    wins, best = 0, (scores * chance).sum(1).argmax()
    size = max(1, 400_000 // (10 * roll_outs))
    for start in range(0, trials, size):
        n = min(size, trials - start)
        drawn = torch.multinomial(chance, n * roll_outs, replacement=True, generator=generator)
        means = scores.gather(1, drawn).view(10, n, roll_outs).mean(2)
        wins += int((means.argmax(0) == best).sum())
    return wins / trials


def _gap() -> tuple[float, float]:
    """Difference of the two best words' Q, and the standard deviation of the difference of one roll-out each."""
    scores, chance = _endings()
    q = (scores * chance).sum(1)
    variance = (scores**2 * chance).sum(1) - q**2
    first, second = q.argsort(descending=True)[:2]
    return (q[first] - q[second]).item(), (variance[first] + variance[second]).sqrt().item()


def _needed(z: float = 1.645) -> int:
    gap, spread = _gap()
    return math.ceil((z * spread / gap) ** 2)


def _finds_it(roll_outs) -> tuple[bool, str]:
    n = int(roll_outs)
    if n < 1:
        return False, "Each word needs at least one roll-out."
    if n > 3 * _needed():
        return False, "That would do, but a third of it would do as well."
    share = found_share(n, TRIALS, torch.Generator().manual_seed(2026))
    half = 1.96 * math.sqrt(max(share * (1 - share), 1e-4) / TRIALS)
    return share - half > BAR, (
        f"In {TRIALS:,} new trials the best word came out first in {share:.1%} (95 % interval ± {half:.1%}); the lower "
        f"end must exceed {BAR:.0%}. With {n} roll-outs a word that is {10 * n:,} sentences for one decision."
    )


EXERCISES = [
    Exercise(
        id="02.1",
        title="The advantage of a habit",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=4,
        choices=SIGNS,
        reference=SIGNS[1],
        mistakes={
            SIGNS[0]: Mistake(
                "Its Q is the highest of the ten, true. But A compares with V, the mean over what the policy does. "
                "What does it do 99 times in 100?",
                SIGNS[0],
            ),
            SIGNS[2]: Mistake(
                "A negative advantage means worse than this policy's average. The average is pulled down, not up, by "
                "the rare other words.",
                SIGNS[2],
            ),
        },
        remark="V is nearly this word's own Q. An advantage praises what is better than usual, and this is the usual.",
    ),
    Exercise(
        id="02.2",
        title="One word on",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_q_along,
        inputs=_sentences,
        mistakes={
            "not shifted": Mistake(
                "It looks like r_t + γ V(s_t): the value of the sentence before the word. Which sentence is there once "
                "the word has been written?",
                lambda rewards, values, mask, gamma: _with_next(rewards, values, mask, gamma),
            ),
            "shifted the wrong way": Mistake(
                "The values are moved to the right: word t gets the value of the sentence before the one it was added "
                "to. It should look ahead.",
                lambda rewards, values, mask, gamma: _with_next(
                    rewards, torch.nn.functional.pad(values[:, :-1], (1, 0)), mask, gamma
                ),
            ),
            "past the end": Mistake(
                "The last word of a short sentence gets γ times what stands in the pad behind it. After the last word "
                "nothing is earned any more.",
                lambda rewards, values, mask, gamma: _with_next(rewards, values[:, 1:], mask, gamma),
            ),
            "wraps round": Mistake(
                "It looks like torch.roll: the last column gets the value of the first, the sentence's own beginning.",
                lambda rewards, values, mask, gamma: _with_next(rewards, values.roll(-1, 1), mask, gamma),
            ),
            "no discount": Mistake(
                "γ is left out: what is earned later counts in full.",
                lambda rewards, values, mask, gamma: _q_along(rewards, values, mask, 1.0),
            ),
            "reward left out": Mistake(
                "That is γ V of the longer sentence alone: what the word itself earns is missing.",
                lambda rewards, values, mask, gamma: _q_along(torch.zeros_like(rewards), values, mask, gamma),
            ),
            "reward discounted": Mistake(
                "The word's own reward is discounted too. It comes at once, one step sooner than what V counts.",
                lambda rewards, values, mask, gamma: _q_along(gamma * rewards, values, mask, gamma),
            ),
            "advantage": Mistake(
                "V(s_t) is subtracted: that is the advantage (the one-step TD error, to be exact). Asked for is Q.",
                lambda rewards, values, mask, gamma: torch.where(
                    mask, _q_along(rewards, values, mask, gamma) - values, 0.0
                ),
            ),
            "pads not zero": Mistake(
                "Right where a word was written. Where the mask is False the result should be 0.",
                lambda rewards, values, mask, gamma: torch.where(mask, _q_along(rewards, values, mask, gamma), rewards),
            ),
        },
        hint="Take one row and do it by hand: which number of `values` belongs to the sentence after word 0?",
        remark="Subtract V(s_t) and it is the TD error, the critic's surprise, with which section 4's actor learns.",
    ),
    Exercise(
        id="02.3",
        title="Great expectations",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=10,
        reference=_target,
        inputs=_steps,
        mistakes={
            "as given": Mistake(
                "This is still the version as given. Look at a step that ends the text: `q_next` is then a row of "
                "some other sentence. What can still be earned there?",
                lambda rewards, q_next, over, gamma: rewards + gamma * q_next.amax(-1),
            ),
            "the last reward lost": Mistake(
                "Where the text is over, the target is 0: the one reward that there is comes just then. What is 0 at "
                "the end is the future, not the reward.",
                lambda rewards, q_next, over, gamma: torch.where(over, 0.0, rewards + gamma * q_next.amax(-1)),
            ),
            "turned round": Mistake(
                "The future counts where the text is over, and only there.",
                lambda rewards, q_next, over, gamma: rewards + gamma * torch.where(over, q_next.amax(-1), 0.0),
            ),
            "mean": Mistake(
                "The end is right. But the mean over next words is the future of a blind writer; Q-learning supposes "
                "the best next word.",
                lambda rewards, q_next, over, gamma: rewards + gamma * torch.where(over, 0.0, q_next.mean(-1)),
            ),
            "the word, not its value": Mistake(
                "It looks like argmax: the number of the best word where its value is needed.",
                lambda rewards, q_next, over, gamma: rewards + gamma * torch.where(over, 0.0, q_next.argmax(-1)),
            ),
            "one maximum for all": Mistake(
                "The maximum is over the whole batch: every sentence hopes for the best word of its neighbours.",
                lambda rewards, q_next, over, gamma: rewards + gamma * torch.where(over, 0.0, q_next.amax()),
            ),
        },
        hint="Work out by hand a step with over = True and one with over = False.",
        remark="Bootstrapping past the end: at γ = 1 Q grows for ever; with γ < 1 it is only wrong, and easy to miss.",
    ),
    Exercise(
        id="02.4",
        title="One habit for two words",
        kind="derive",
        difficulty=4,
        importance=3,
        minutes=15,
        reference=_best_habit,
        inputs=_scores,
        call=lambda f, cases: [float(f(*case)) for case in cases],
        atol=1e-3,
        mistakes={
            "one word only": Mistake(
                "It is always 0 or 1: the better of the two pure habits. Where b is large, mixing beats both.",
                _ends_only,
            ),
            "stationary point": Mistake(
                "That is where dJ/dp = 0, in every case. It can be the lowest point, or lie outside of 0 to 1: what is "
                "the sign of the second derivative?",
                _stationary,
            ),
            "clamped": Mistake(
                "The point where dJ/dp = 0, moved into 0 to 1. It can still be the lowest point: what is the sign of "
                "the second derivative?",
                _clamped,
            ),
            "the other word": Mistake(
                "That is the probability of the second word; asked for is p, the first one's.",
                lambda a, b, c: 1 - _best_habit(a, b, c),
            ),
            "b twice": Mistake(
                "That takes b for each of the two mixed orders. b is the sum of both orders' scores: b p (1 − p).",
                lambda a, b, c: _best_habit(a, 2 * b, c),
            ),
            "best J": Mistake(
                "That looks like J at the best habit. Asked for is the habit, p.",
                lambda a, b, c: _habit(_best_habit(a, b, c), a, b, c),
            ),
        },
        hint="There are three candidates: 0, 1, and where dJ/dp = 0 if that lies between. Compare J at each.",
        remark="a + c < b is when J bends down: only then can a mixture win.",
    ),
    Exercise(
        id="02.5",
        title="The watershed",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=4,
        reference=2 / 3,
        rtol=0.01,
        mistakes={
            "half": Mistake(
                "At 1/2 the two words are equally frequent, but two times “great” scores twice as much as two times "
                "“good”. Differentiate J, do not appeal to symmetry.",
                0.5,
            ),
            "the other word": Mistake(
                "That is the share of “great” at the tipping point; p is the share of “good”.", 1 / 3
            ),
            "equal scores": Mistake(
                "There p² = 2 (1 − p)²: both pairs contribute the same to J. The ascent asks about the slope of J, not "
                "about its parts.",
                2 - math.sqrt(2),
            ),
        },
        hint="The ascent tips over where dJ/dp changes sign.",
        remark="dJ/dp = 6p − 4. Left of 2/3 the way up leads to 2, right of it to 1.",
    ),
    Exercise(
        id="02.6",
        title="Ten words, one decision",
        kind="experiment",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=lambda: round(1.6 * _needed()),
        accept=_finds_it,
        rtol=0.02,
        mistakes={
            "one standard error": Mistake(
                "With that many the gap between the two best words is one standard error of its estimate: right about "
                "5 times in 6. How many standard errors are needed for 19 times in 20?",
                lambda: _needed(z=1.0),
            ),
            "in proportion": Mistake(
                "That is what it would take if the error fell as 1/n. It falls as 1/√n.",
                lambda: math.ceil(1.645 * _gap()[1] / _gap()[0]),
            ),
        },
        hint="Try 10, 30, 100 … in `found_share`, and watch how slowly the share climbs.",
        remark="And that was one decision with ten words. A language model has 8,192, at every step.",
    ),
]
