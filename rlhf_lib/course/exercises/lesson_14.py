"""Exercises of lesson 14: reward hacking."""

import functools
import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_number, draw_tensor


# 14.2 the slope of gold
def _policy_and_scores(generator):
    p = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1
    return (p / p.sum()).round(decimals=3), draw_tensor(generator, 5).double(), draw_tensor(generator, 5).double()


def _covariance(p, proxy, gold):
    return p @ (gold * (proxy - p @ proxy))


# 14.3 the best of n and a rare hack
def _rare(generator):
    return (round(draw_number(generator, 0.01, 0.3), 3),)


def _tries(p):
    return math.ceil(math.log(1 / 2) / math.log(1 - p))


# 14.5 the sceptic
def _opinions(generator):
    offsets = draw_tensor(generator, 3, 1, low=-4, high=4)
    return draw_tensor(generator, 3, 4) + offsets, draw_tensor(generator, 3, 5) + offsets


def _sceptical(scores, on_reference):
    return (scores - on_reference.mean(1, keepdim=True)).min(0).values


# 14.6 how many ratings
BAR, MOST = 0.1, 60


@functools.cache
def _world():
    """gold [N], reference [N] and word counts [N, 10] of the lesson's micro world."""
    from rlhf_lib import mdp, reviews

    world = reviews.micro_mdp(horizon=3)
    words, mask = mdp.enumerate_episodes(world)
    counts = (torch.nn.functional.one_hot(words, 10) * mask[..., None]).sum(1).double()
    gold = mdp.episode_returns(world, words, mask, torch.float64) - (counts[:, :-1] - 1).clamp(min=0).sum(1)
    return gold, 10.0 ** -mask.sum(1).double(), counts


def _family(seed: int) -> torch.Tensor:
    """Eight members [8, N] of the Gibbs family of a proxy fitted to 20 labelled pairs."""
    gold, ref, counts = _world()
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.multinomial(ref, 40, replacement=True, generator=generator).view(2, -1)
    wins = torch.rand(20, generator=generator, dtype=torch.float64) < (gold[i] - gold[j]).sigmoid()
    gap = torch.where(wins[:, None], counts[i] - counts[j], counts[j] - counts[i])
    w = torch.zeros(10, dtype=torch.float64)
    for _ in range(12):  # Newton's method
        p = (gap @ w).sigmoid()
        bend = (gap.T * p * (1 - p)) @ gap + 0.1 * torch.eye(10, dtype=torch.float64)
        w = w + torch.linalg.solve(bend, gap.T @ (1 - p) - 0.1 * w)
    t = torch.tensor([0.0, 0.3, 0.5, 0.8, 1.2, 1.8, 3.0, 6.0], dtype=torch.float64)
    return (ref.log() + t[:, None] * (counts @ w) / (counts @ w).std()).softmax(1)


def lost(n: int, seed: int, repeats: int = 100) -> float:
    """Gold lost against the best candidate by choosing among eight with n noisy ratings each; a mean of `repeats`."""
    candidates, gold = _family(seed), _world()[0]
    truth, generator = candidates @ gold, torch.Generator().manual_seed(seed + 1)
    drawn = torch.multinomial(candidates, n * repeats, replacement=True, generator=generator)
    noise = torch.randn(drawn.shape, generator=generator, dtype=torch.float64)
    chosen = (gold[drawn] + noise).view(8, repeats, n).mean(-1).argmax(0)
    return (truth.max() - truth[chosen].mean()).item()


def _enough(n) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if int(n) != n or not 1 <= n <= MOST:
        return False, f"n is a whole number of ratings, from 1 to {MOST}."
    mean, low, high = mean_interval([lost(int(n), seed) for seed in range(500, 516)])
    return high < BAR, (
        f"On 16 new proxies {n:g} ratings each lose {mean:.3f} of gold, 95 % interval {low:.3f} to {high:.3f}; its "
        f"upper end must lie below {BAR}. Price: ${20 * 8 * int(n):,}."
    )


# 14.7 best of n, estimated from N samples
def _samples(generator):
    proxy = torch.randperm(6, generator=generator).double()
    return proxy, draw_tensor(generator, 6).double(), int(torch.randint(2, 5, (), generator=generator))


def _weighted(proxy, gold, weights):
    return weights @ gold[proxy.argsort()] / weights.sum()


def _estimate(proxy, gold, n):
    ways = torch.tensor([math.comb(i, n - 1) for i in range(len(proxy))], dtype=gold.dtype)
    return ways @ gold[proxy.argsort()] / math.comb(len(proxy), n)


def _with_replacement(proxy, gold, n):
    level = (torch.arange(len(proxy) + 1, dtype=gold.dtype) / len(proxy)) ** n
    return level.diff() @ gold[proxy.argsort()]


EXERCISES = [
    Exercise(
        id="14.1",
        title="Twice as sure of itself",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=4,
        reference="the same curve",
        choices=(
            "the same curve",
            "a higher curve",
            "a curve that turns at half the KL",
            "a curve that turns at twice the KL",
        ),
        mistakes={
            "higher": Mistake(
                "The proxy's own curve is higher. Gold is not measured in the proxy's units: which policies are met?",
                "a higher curve",
            ),
            "half": Mistake(
                "Twice the proxy goes as far with a KL price twice as dear. Write down the colleague's policy at 2β.",
                "a curve that turns at half the KL",
            ),
            "twice": Mistake(
                "The turn comes at another β. Which β of yours gives the colleague's policy, and what is its KL?",
                "a curve that turns at twice the KL",
            ),
        },
        remark="exp(2·proxy/2β) is exp(proxy/β), and the 7 goes into Z: the same policies in the same order, at twice "
        "the β. So β says nothing across reward models, and KL does.",
    ),
    Exercise(
        id="14.2",
        title="The slope of gold",
        kind="derive",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_covariance,
        inputs=_policy_and_scores,
        mistakes={
            "log Z forgotten": Mistake(
                "That is E[gold · proxy], as if Z did not change. Then adding 7 to the proxy would change the slope.",
                lambda p, proxy, gold: p @ (gold * proxy),
            ),
            "slope of the proxy": Mistake(
                "That is the variance of the proxy: how fast the *proxy* rises.",
                lambda p, proxy, gold: p @ (proxy - p @ proxy) ** 2,
            ),
            "correlation": Mistake(
                "That is the correlation. The derivative has units of gold times proxy: nothing is divided.",
                lambda p, proxy, gold: (
                    _covariance(p, proxy, gold) / (_covariance(p, proxy, proxy) * _covariance(p, gold, gold)).sqrt()
                ),
            ),
            "regression": Mistake(
                "That is the slope of gold per unit of proxy gained. Per unit of 1/β nothing is divided by the "
                "proxy's variance.",
                lambda p, proxy, gold: _covariance(p, proxy, gold) / _covariance(p, proxy, proxy),
            ),
            "sign": Mistake(
                "The sign: that is the slope with a rising KL price. The function is asked for a rising 1/β.",
                lambda p, proxy, gold: -_covariance(p, proxy, gold),
            ),
            "not weighted": Mistake(
                "All texts count alike here. The covariance is the present policy's.",
                lambda p, proxy, gold: ((gold - gold.mean()) * (proxy - proxy.mean())).mean(),
            ),
        },
        hint="d log Z/dt is the expected proxy; and dπ/dt = π · d log π/dt.",
        remark="With gold = proxy it is the variance, which is never negative.",
    ),
    Exercise(
        id="14.3",
        title="How many tries until the hack wins?",
        kind="derive",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=_tries,
        inputs=_rare,
        mistakes={
            "in proportion": Mistake(
                "It looks like 1/(2p): n·p is the expected *number* of hacks among n draws. Two of them in one set win "
                "it only once.",
                lambda p: math.ceil(1 / (2 * p)),
            ),
            "one expected": Mistake(
                "After 1/p draws there has been one hack on average, and the best is one in about 63 % of cases.",
                lambda p: math.ceil(1 / p),
            ),
            "all of them": Mistake(
                "That asks that *every* draw be a hack, pⁿ. It takes a single one to win.",
                lambda p: math.ceil(math.log(1 / 2) / math.log(p)),
            ),
            "rounded down": Mistake(
                "One too few: with that many the hack still loses more often than not.", lambda p: _tries(p) - 1
            ),
            "not a whole number": Mistake(
                "Right so far, and one cannot draw a part of a text: which whole number is the first to do?",
                lambda p: math.log(1 / 2) / math.log(1 - p),
            ),
        },
        hint="The best of n is no hack only where none of the n draws is one.",
        remark="About 0.7/p for a small p.",
    ),
    Exercise(
        id="14.4",
        title="Same distance, whose proxy is higher?",
        kind="predict",
        difficulty=3,
        importance=3,
        minutes=5,
        reference="Gibbs",
        choices=("best of n", "Gibbs", "it depends on the proxy"),
        mistakes={
            "best of n": Mistake(
                "Best-of-n picks the highest it can find, but which policy *maximises* E[proxy] − β·KL (lesson 10)?",
                "best of n",
            ),
            "depends": Mistake(
                "Suppose some policy had more proxy at the same KL than Gibbs at β. What would its E[proxy] − β·KL be?",
                "it depends on the proxy",
            ),
        },
        remark="Gibbs maximises E[proxy] − β·KL; at equal KL nothing has more proxy. Of gold this says nothing.",
    ),
    Exercise(
        id="14.5",
        title="The sceptic who is only grumpy",
        kind="find the bug",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=_sceptical,
        inputs=_opinions,
        mistakes={
            "as given": Mistake(
                "This is still the minimum of raw scores. Add 100 to one member's scores: nobody's opinion has "
                "changed, but the minimum has.",
                lambda scores, on_reference: scores.min(0).values,
            ),
            "centred on the batch": Mistake(
                "Each member is centred on the batch itself. Then the mean pay is the same whatever the policy writes, "
                "and getting better earns nothing: on whose texts should the zero be?",
                lambda scores, on_reference: (scores - scores.mean(1, keepdim=True)).min(0).values,
            ),
            "centred over members": Mistake(
                "The mean over members has been subtracted, text by text. It is each member's own zero that is "
                "arbitrary.",
                lambda scores, on_reference: (scores - scores.mean(0)).min(0).values,
            ),
            "one zero for all": Mistake(
                "One number is subtracted for all members. Each has a zero of its own.",
                lambda scores, on_reference: (scores - on_reference.mean()).min(0).values,
            ),
            "kindest": Mistake(
                "That is the most enthusiastic member's opinion.",
                lambda scores, on_reference: (scores - on_reference.mean(1, keepdim=True)).max(0).values,
            ),
            "mean": Mistake(
                "That is the ensemble's mean; a sceptic takes the minimum.",
                lambda scores, on_reference: (scores - on_reference.mean(1, keepdim=True)).mean(0),
            ),
        },
        hint="Which texts have all members scored that do not change while the policy trains?",
        remark="Now the member that has changed its mind most since the reference decides, text by text.",
    ),
    Exercise(
        id="14.6",
        title="How many ratings?",
        kind="experiment",
        difficulty=3,
        importance=3,
        minutes=10,
        reference=50,
        accept=_enough,
        mistakes={"too few": Mistake("Three ratings of each are mostly noise.", 3)},
        hint="The table above loses gold against the oracle as a function of n: read off where it becomes 0.1, and add "
        "room for the interval.",
    ),
    Exercise(
        id="14.7",
        title="Every n from one set of samples",
        kind="implement",
        difficulty=3,
        importance=3,
        minutes=15,
        reference=_estimate,
        inputs=_samples,
        mistakes={
            "with replacement": Mistake(
                "Those are the weights (i/N)ⁿ − ((i−1)/N)ⁿ: the same sample may be drawn twice, which n fresh samples "
                "never do. Count the sets of n different samples in which the i-th is the best.",
                _with_replacement,
            ),
            "first n": Mistake(
                "That uses the first n samples only and throws the others away: right on average, and noisy.",
                lambda proxy, gold, n: gold[proxy[:n].argmax()],
            ),
            "sorted by gold": Mistake(
                "The samples are sorted by gold, so that gold does the choosing. Who chooses in best-of-n?",
                lambda proxy, gold, n: _estimate(gold, gold, n),
            ),
            "proxy's value": Mistake(
                "That is the proxy of the best by proxy. Its gold is asked for.",
                lambda proxy, gold, n: _estimate(proxy, proxy.to(gold.dtype), n),
            ),
            "top n": Mistake(
                "That is the mean of the n best of all N. The best of n is one sample.",
                lambda proxy, gold, n: gold[proxy.argsort()[-n:]].mean(),
            ),
            "choose n": Mistake(
                "Counted are the sets of n below the i-th sample. It is a member itself: how many others does the set "
                "have?",
                lambda proxy, gold, n: _weighted(
                    proxy,
                    gold,
                    torch.tensor([math.comb(i, n) for i in range(len(proxy))], dtype=gold.dtype),
                ),
            ),
            "downwards": Mistake(
                "The samples are sorted downwards: this is the worst of n.",
                lambda proxy, gold, n: _estimate(-proxy, gold, n),
            ),
        },
        hint="Sort by proxy. The sample with i others below it is the best of C(i, n − 1) of the C(N, n) sets.",
        remark="One set of samples gives the whole curve, and every sample counts in every point of it.",
    ),
]
