"""Lesson 09: what labels teach, by their number and by who gives them."""

from dataclasses import replace

from rlhf_lib import preferences, reviews
from rlhf_lib.algorithms import reward_model
from rlhf_lib.course import stages
from rlhf_lib.course.experiments.shared import LEARNING
from rlhf_lib.runs import Run, generator

LABELS = (100, 300, 1000, 2000)  # labelled pairs, one person each
PANELS = (30, 100, 300)  # labelled pairs, each by a whole panel


def learning_curve(seed: int) -> dict:
    """Lesson 09: test accuracy across blocks after a number of labels, each by one person or by a whole panel."""
    return {
        "one person": {str(n): learning_point(n, "random", seed) for n in LABELS},
        "the panel": {str(n): learning_point(n, "mean", seed) for n in PANELS},
    }


def learning_point(labels: int, rater: str, seed: int) -> float:
    """Pairwise accuracy on test blocks of a reward model trained on `labels` pairs of train sentences (ties included).

    rater: "random" for one person's number a sentence, "mean" for its panel's.
    """
    part, test = reviews.load().subset("train"), reviews.load().subset("test")
    pairs = preferences.rankings_from_ratings(part.texts, part.ratings, 2, generator(seed), rater=rater)[:labels]
    rm = stages.base_reward_model()
    reward_model.train(rm, pairs, replace(LEARNING, seed=seed), Run(progress=False))
    judged = preferences.cross_block_pairs(test.ratings, test.block, 20_000, generator(0))
    return preferences.pairwise_accuracy(rm.score_texts(test.texts), judged, resamples=2).value
