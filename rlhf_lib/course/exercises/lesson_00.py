"""Exercises of lesson 00: welcome."""

import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_number, draw_tensor

# 00.1 a score of your own
OPENINGS = ("So-so songs, but", "Six stars say", "I loved the book but")
WORDS = ("Superb", "superb", "silly", "shines", "Slow", "grass", "roses", "as", "bliss", "us", "a", "film", "the", "it")


def _reviews(generator):
    """Three openings and three completions in which an s begins, ends and stands within words, small and large."""
    completions = []
    for _ in range(3):
        picked = torch.randint(len(WORDS), (6,), generator=generator).tolist()
        completions.append(" " + " ".join(["Slow", *(WORDS[i] for i in picked), "superb", "grass", "us"]) + ".")
    return list(OPENINGS), completions


def _alliteration(prompts, completions):
    return [float(sum(word.lower().startswith("s") for word in text.split())) for text in completions]


def _each(count):
    """The wrong score that counts in each completion what `count(text)` counts."""
    return lambda prompts, completions: [float(count(text)) for text in completions]


# 00.2 how many people to ask
BAR = 0.82  # the agreement to reach
CHEAPEST = 5  # the fewest people who reach it


def agreement(people: int, seed: int = 0, pairs: int = 400) -> float:
    """How often a vote of `people` raters prefers the sentence that the rest of their panel prefers.

    Each pair is two random sentences of one block, so that the same people rated both. A person votes for the one that
    they rated higher, or for neither; a vote that ends in a tie counts one half. Pairs on which the rest is evenly
    split are drawn again.
    """
    from rlhf_lib import reviews
    from rlhf_lib.runs import generator

    rated, noise, counts = reviews.load(), generator(seed), []
    while len(counts) < pairs:
        first = int(torch.randint(len(rated), (), generator=noise))
        start = first // reviews.BLOCK * reviews.BLOCK
        size = min(reviews.BLOCK, len(rated) - start)
        second = start + int(torch.randint(size, (), generator=noise))
        gaps = [a - b for a, b in zip(rated.ratings[first], rated.ratings[second], strict=False)]
        order = torch.randperm(len(gaps), generator=noise).tolist()
        votes = sum((gaps[i] > 0) - (gaps[i] < 0) for i in order[:people])
        rest = sum(gaps[i] for i in order[people:])
        if rest != 0:
            counts.append(0.5 if votes == 0 else float((votes > 0) == (rest > 0)))
    return sum(counts) / pairs


def _reaches_the_bar(people) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if people != int(people) or not 1 <= people <= 11:
        return False, "Ask a whole number of people, from 1 to 11 (the smallest panel has 15, and some must be left)."
    people = int(people)
    mean, low, high = mean_interval([agreement(people, seed, pairs=1200) for seed in range(100, 106)])
    said = f"On 6 new draws {people} agree with the rest {mean:.1%} of the time, 95 % interval {low:.1%} to {high:.1%}"
    if low <= BAR:
        return False, f"{said}: that is not safely above {BAR:.0%}."
    if people > CHEAPEST:
        return False, f"{said}: above {BAR:.0%}, but fewer people would do, and each costs $20."
    return True, f"{said}: above {BAR:.0%}, at ${20 * people} a pair."


# 00.3 find the bug: from answers to pairs
CHOICES = ("left", "right", "tie", "skip")


def _answers(generator):
    """Six pairs and what was clicked on them: each of the four buttons at least once."""
    extra = torch.randint(len(CHOICES), (2,), generator=generator).tolist()
    clicked = [*CHOICES, *(CHOICES[i] for i in extra)]
    order = torch.randperm(len(clicked), generator=generator).tolist()
    return [(f"a{i}", f"b{i}") for i in range(len(clicked))], [clicked[i] for i in order]


def _preferred_pairs(pairs, choices):
    found = []
    for (left, right), choice in zip(pairs, choices, strict=True):
        if choice in ("left", "right"):
            found.append((left, right) if choice == "left" else (right, left))
    return found


def _as_given(pairs, choices):
    found = []
    for (left, right), choice in zip(pairs, choices, strict=True):
        better, worse = (left, right) if choice == "left" else (right, left)
        found.append((better, worse))
    return found


def _ties_both_ways(pairs, choices):
    found = []
    for (left, right), choice in zip(pairs, choices, strict=True):
        if choice in ("left", "tie"):
            found.append((left, right))
        if choice in ("right", "tie"):
            found.append((right, left))
    return found


def _without(*dropped):
    """As given, but for the choices that are left out."""

    def pairs_without(pairs, choices):
        kept = [(pair, choice) for pair, choice in zip(pairs, choices, strict=True) if choice not in dropped]
        return _as_given([pair for pair, _ in kept], [choice for _, choice in kept])

    return pairs_without


# 00.5 the weights
def _rewards(generator):
    """Six rewards on a scale up to 100 and a beta: exp(r/β) is beyond the largest float32, the weights are moderate."""
    return draw_tensor(generator, 6, low=96.0, high=100.0), draw_number(generator, 0.6, 1.0)


def _weights(rewards, beta):
    return (rewards / beta).softmax(-1)


def _plain(rewards, beta):
    raised = (rewards / beta).exp()
    return raised / raised.sum()


# 00.6 the largest KL
def _count(generator):
    return (int(torch.randint(10, 1000, (), generator=generator)),)


EXERCISES = [
    Exercise(
        id="00.1",
        title="A score of your own",
        kind="implement",
        difficulty=1,
        importance=3,
        minutes=5,
        reference=_alliteration,
        inputs=_reviews,
        mistakes={
            "small letters only": Mistake(
                "It looks as if words with a capital S are not counted: “Superb” begins with an s too.",
                _each(lambda text: sum(word.startswith("s") for word in text.split())),
            ),
            "anywhere in the word": Mistake(
                "It looks as if every s counts, also inside a word: “bliss” has two, and begins with none.",
                _each(lambda text: text.lower().count("s")),
            ),
            "words with an s": Mistake(
                "It looks as if words count that have an s anywhere: “grass” begins with a g.",
                _each(lambda text: sum("s" in word.lower() for word in text.split())),
            ),
            "the end of the word": Mistake(
                "It looks as if words that end in s are counted: “as” does not begin with one.",
                _each(lambda text: sum(word.lower().strip(".").endswith("s") for word in text.split())),
            ),
            "the opening counts": Mistake(
                "The openings are counted as well. The policy did not write those, so they should earn it nothing.",
                lambda prompts, completions: _alliteration(
                    None, [a + b for a, b in zip(prompts, completions, strict=True)]
                ),
            ),
            "openings only": Mistake(
                "The openings are counted, and the completions are what the policy wrote.",
                lambda prompts, completions: _alliteration(None, prompts),
            ),
            "one total": Mistake(
                "It looks like one total over all completions; what is wanted is a list with one number for each.",
                lambda prompts, completions: sum(_alliteration(prompts, completions)),
            ),
            "share of the words": Mistake(
                "It looks like a share of the words, where the number of words is wanted.",
                _each(lambda text: sum(w.lower().startswith("s") for w in text.split()) / len(text.split())),
            ),
        },
        hint="Split one completion into words by hand, and mark those that count.",
        remark="Your function is a reward now: further down, a language model is steered by it.",
    ),
    Exercise(
        id="00.2",
        title="How many people must you ask?",
        kind="experiment",
        difficulty=1,
        importance=4,
        minutes=6,
        reference=CHEAPEST,
        accept=_reaches_the_bar,
        mistakes={
            "one is enough": Mistake(
                "One person's choice is a noisy thing: on every fourth pair or so the others see it differently.", 1
            ),
        },
        hint="Run `agreement(people, seed)` for several seeds, and let `runs.mean_interval` say how sure you are.",
        remark="How confident are you? As confident as the interval is far from the bar, and no more.",
    ),
    Exercise(
        id="00.3",
        title="The undecided voter",
        kind="find the bug",
        difficulty=2,
        importance=4,
        minutes=6,
        reference=_preferred_pairs,
        inputs=_answers,
        mistakes={
            "as given": Mistake(
                "This still does what the given version does. Look at what an answer that is not “left” becomes.",
                _as_given,
            ),
            "skips count": Mistake(
                "Ties are out, and a skipped pair still counts as a win for one side.", _without("tie")
            ),
            "ties count": Mistake(
                "Skips are out, and a tie still counts as a win for one side: the model would learn from nobody's "
                "preference.",
                _without("skip"),
            ),
            "ties both ways": Mistake(
                "A tie gives two pairs, one each way round. Their pushes cancel in the loss only while the scores are "
                "equal; here a tie should give no pair.",
                _ties_both_ways,
            ),
            "turned round": Mistake(
                "Every pair is the wrong way round: the better text comes first.",
                lambda pairs, choices: [(worse, better) for better, worse in _preferred_pairs(pairs, choices)],
            ),
        },
        hint="Try it on one pair with each of the four answers.",
        remark="Nothing crashed, and a loss would still have gone down: bugs of this kind are found by looking.",
    ),
    Exercise(
        id="00.4",
        title="Who wins when steering is free?",
        kind="predict",
        difficulty=1,
        importance=5,
        minutes=3,
        reference="D",
        choices=("A", "B", "C", "D"),
        mistakes={
            "A": Mistake(
                "A is the likeliest before steering. It stays on top while β is large; what does exp(r/β) do to a "
                "difference of rewards when β is nearly 0?",
                "A",
            ),
            "B": Mistake(
                "B is on top for middling β. Its reward is not the highest, and near β = 0 that decides.", "B"
            ),
            "C": Mistake(
                "C would be the one most of us want. But D's reward is a little higher: divide that little by "
                "β = 0.01 and see what is left of C's advantage.",
                "C",
            ),
        },
        remark="However rare D was and however slight its lead: as β goes to 0 only the reward counts. Whether the "
        "reward deserves that trust is the subject of lesson 14.",
    ),
    Exercise(
        id="00.5",
        title="The weights",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=8,
        reference=_weights,
        inputs=_rewards,
        mistakes={
            "overflow": Mistake(
                "The formula is right and the numbers overflow: exp(120) is more than a float32 can hold, and "
                "inf/inf is NaN. Does a constant added to all rewards change the weights?",
                _plain,
            ),
            "unnormalised and overflow": Mistake(
                "The weights are infinite, and do not add up to 1. Divide by their sum; and as exp(120) is more than a "
                "float32 can hold: does a constant added to all rewards change the weights?",
                lambda rewards, beta: (rewards / beta).exp(),
            ),
            "unnormalised": Mistake(
                "The best sample has weight 1, so they do not add up to 1: divide by their sum, not by the largest.",
                lambda rewards, beta: ((rewards - rewards.max()) / beta).exp(),
            ),
            "beta multiplied": Mistake(
                "It looks as if the rewards were multiplied by β. What should happen to the weights as β grows?",
                lambda rewards, beta: (rewards * beta).softmax(-1),
            ),
            "sign": Mistake(
                "The worst sample has the most weight: look at the sign.",
                lambda rewards, beta: (-rewards / beta).softmax(-1),
            ),
            "no beta": Mistake("β has no effect on the weights.", lambda rewards, beta: rewards.softmax(-1)),
            "linear": Mistake(
                "The weights are proportional to the rewards themselves: no exponential, and negative rewards would "
                "give negative weights.",
                lambda rewards, beta: rewards / rewards.sum(),
            ),
            "mean 1": Mistake(
                "The weights have mean 1 where they should add up to 1.",
                lambda rewards, beta: len(rewards) * _weights(rewards, beta),
            ),
        },
        hint="Try rewards of [0, 1] at β = 1: the weights are 1/(1 + e) and e/(1 + e).",
    ),
    Exercise(
        id="00.6",
        title="How far can reweighting go?",
        kind="derive",
        difficulty=2,
        importance=3,
        minutes=5,
        reference=lambda n: math.log(n),
        inputs=_count,
        mistakes={
            "bits": Mistake("That is in bits; the course measures KL in nats, so with which logarithm?", math.log2),
            "the count": Mistake("A logarithm is missing: put w = 1 for one sample and 0 for the others.", float),
            "sign": Mistake(
                "A KL is never negative. Is it log(w/q) or log(q/w)?",
                lambda n: -math.log(n),
            ),
            "swapped": Mistake(
                "Infinite: that is KL(q‖w), the other way round, in which samples without weight cost everything.",
                lambda n: math.inf,
            ),
            "best of n": Mistake(
                "That is the KL of best-of-n, where the n samples are drawn anew each time (lesson 10). Here they are "
                "given, and all weight goes to one of them.",
                lambda n: math.log(n) - (n - 1) / n,
            ),
            "zero": Mistake("0 is the smallest KL: that of equal weights.", lambda n: 0.0),
        },
        hint="Which weights are farthest from equal ones? Put them into the sum; 0·log 0 is 0.",
        remark="256 samples reach 5.5 nats and no further. To go on, the policy itself must change: that is RL.",
    ),
]
