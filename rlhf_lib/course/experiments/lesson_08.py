"""Lesson 08: what labels teach, by who wrote the texts."""

from dataclasses import replace

import torch

from rlhf_lib import preferences, reviews
from rlhf_lib.algorithms import reward_model
from rlhf_lib.course import stages
from rlhf_lib.course.experiments.shared import LEARNING, labelled_pairs, writers
from rlhf_lib.models import Policy
from rlhf_lib.rollout import sample
from rlhf_lib.runs import Run, generator

FEEDBACK = 300  # labelled pairs


def feedback_point(writer: Policy, seed: int) -> dict[str, float]:
    """What a reward model learns from FEEDBACK pairs of a writer's texts, labelled by the held-out judge as a person.

    people: accuracy on real people's comparisons of real test sentences. SFT texts: share of pairs of the SFT policy's
    texts, for validation openings, that it orders as the judge does.
    """
    judge, rm = stages.judge(), stages.base_reward_model()
    labels = labelled_pairs(writer, judge, FEEDBACK, seed)
    reward_model.train(rm, labels, replace(LEARNING, seed=seed), Run(progress=False))
    test = reviews.load().subset("test")
    judged = preferences.cross_block_pairs(test.ratings, test.block, 20_000, generator(0))
    people = preferences.pairwise_accuracy(rm.score_texts(test.texts), judged, resamples=2).value
    prompts = reviews.openings("validation", limit=64)
    texts = sample(stages.sft_policy(), prompts, max_new_tokens=24, samples_per_prompt=4, generator=generator(seed, 2))
    one, other = torch.combinations(torch.arange(4)).T
    with torch.no_grad():
        scores = [model(texts).view(64, 4) for model in (rm, judge)]
    agree = torch.stack([s[:, one] - s[:, other] for s in scores]).prod(0) > 0
    return {"people": people, "SFT texts": agree.float().mean().item()}


def feedback(seed: int) -> dict:
    """Lesson 08: what labels teach, by who wrote the texts."""
    return {name: feedback_point(writer, seed) for name, writer in writers(seed).items()}
