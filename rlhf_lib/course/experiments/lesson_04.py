"""Lesson 04: REINFORCE until gibberish wins."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from rlhf_lib import metrics, reviews
from rlhf_lib.algorithms import reinforce
from rlhf_lib.course import stages
from rlhf_lib.models import Policy
from rlhf_lib.rewards import vader
from rlhf_lib.rollout import Rollout
from rlhf_lib.runs import Run


def without_brakes(seed: int) -> reinforce.Config:
    """Lesson 04's REINFORCE on text: a high learning rate, no KL."""
    return reinforce.Config(steps=30, lr=1e-3, seed=seed)


def gauges(diary: Sequence[tuple[Rollout, torch.Tensor]], start: Policy) -> dict[str, list[float]]:
    """What became of the texts (roll-out, scores) of each training step.

    Their mean score, their perplexity under the policy that training started from, the share of different word pairs.
    """
    return {
        "score": [scores.mean().item() for _, scores in diary],
        "perplexity": [metrics.perplexity(start, texts[::2]) for texts, _ in diary],  # every other text, for speed
        "distinct-2": [metrics.distinct_n(texts.completions(), 2) for texts, _ in diary],
    }


def gibberish(seed: int, beta: float = 0.0) -> dict:
    """Lesson 04: REINFORCE without a baseline on VADER's score; the gauges at every step. At beta = 0 it has no KL."""
    policy, start, lexicon, diary = stages.sft_policy(), stages.sft_policy(), vader(), []

    def reward(texts: Rollout) -> torch.Tensor:
        diary.append((texts, lexicon(texts)))
        return diary[-1][1]

    reinforce.train(
        policy,
        reviews.openings("train"),
        reward,
        replace(without_brakes(seed), beta=beta),
        reference=start if beta else None,
        run=Run(progress=False),
        baseline=reinforce.no_baseline,
    )
    return gauges(diary, start)
