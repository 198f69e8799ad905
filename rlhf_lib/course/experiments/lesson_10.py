"""Lesson 10: RLHF, and lesson 04's gibberish cured."""

from dataclasses import replace

from rlhf_lib import reviews
from rlhf_lib.algorithms import reinforce
from rlhf_lib.course import stages
from rlhf_lib.course.experiments.lesson_04 import gibberish
from rlhf_lib.course.experiments.shared import RLHF, examine
from rlhf_lib.runs import Run

CURE = 0.05  # price of a nat of KL that keeps lesson 04's runs from gibberish


def rlhf(seed: int) -> dict:
    """RLHF against the panel's reward model: curves, and SFT and RLHF examined on test openings."""
    start, reward, judge = stages.sft_policy(), stages.panel_reward_model(), stages.judge()
    policy = stages.sft_policy()
    config = replace(RLHF, seed=seed)
    run = reinforce.train(policy, reviews.openings("train"), reward, config, reference=start, run=Run(progress=False))
    prompts = reviews.openings("test", limit=64)
    found = {
        name: examine(one, prompts, reward, judge, start, seed) for name, one in (("SFT", start), ("RLHF", policy))
    }
    return {"curve_reward": run.column("reward"), "curve_kl": run.column("kl"), **found}


def rlhf_and_gibberish_cured(seed: int) -> dict:
    """Lesson 10: RLHF, and lesson 04's runs once more with a price on the KL."""
    return rlhf(seed) | {"cured": gibberish(seed, CURE)}
