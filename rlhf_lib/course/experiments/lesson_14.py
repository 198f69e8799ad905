"""Lesson 14: proxies optimised for too long."""

import math
from dataclasses import replace

import torch

from rlhf_lib import reviews
from rlhf_lib.algorithms import reinforce, reward_model
from rlhf_lib.course import stages
from rlhf_lib.course.experiments.shared import LEARNING, labelled_pairs
from rlhf_lib.models import Policy, RewardModel
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import Rollout, sample
from rlhf_lib.runs import Run, generator

HACK = reinforce.Config(steps=32, prompts_per_step=8, samples_per_prompt=4, lr=5e-4, beta=0.01)
FEW, MORE = 25, 200  # labelled pairs
TRIES = (1, 2, 4, 8, 16, 32)  # texts among which best-of-n chooses


@torch.no_grad()
def texts_to_choose_from(seed: int) -> Rollout:
    """TRIES[-1] completions by the SFT policy of each of 24 test openings."""
    how = {"max_new_tokens": 24, "samples_per_prompt": TRIES[-1], "generator": generator(seed, 3)}
    return sample(stages.sft_policy(), reviews.openings("test", limit=24), **how)


def in_own_units(model: RewardModel, texts: Rollout) -> Reward:
    """A model's score in standard deviations from its mean over `texts`, so that several can be compared."""
    with torch.no_grad():
        scores = model(texts)
    return lambda rollout: (model(rollout) - scores.mean()) / scores.std()


def small_proxy(pairs: int, seed: int) -> RewardModel:
    """A reward model of `pairs` pairs of SFT texts, spread over MORE openings, that the panel's model labelled."""
    labels = labelled_pairs(stages.sft_policy(), stages.panel_reward_model(), MORE, seed)
    rm = stages.base_reward_model()
    reward_model.train(rm, labels[:: MORE // pairs], replace(LEARNING, seed=seed), Run(progress=False))
    return rm


def best_of(scores: torch.Tensor, values: torch.Tensor, n: int) -> float:
    """The expected value of the best-scored of n texts, from N >= n texts of each prompt; scores and values [P, N].

    The mean over all ways to choose n of the N: no bias, and little noise (Nakano et al. 2021, arXiv 2112.09332).
    """
    size = scores.shape[1]
    ways = torch.tensor([math.comb(i, n - 1) / math.comb(size, n) for i in range(size)])
    return (values.gather(1, scores.argsort(1)).double().cpu() @ ways.double()).mean().item()


def overoptimise(
    policy: Policy, rewards: dict[str, Reward], reference: Policy, config: reinforce.Config, run: Run | None = None
) -> dict[str, list[float]]:
    """RL of `policy`, in place, against rewards["proxy"]: the mean of every reward, and the KL, at each step."""
    curves: dict[str, list[float]] = {name: [] for name in rewards}

    def reward(texts: Rollout) -> torch.Tensor:
        scores = {name: one(texts) for name, one in rewards.items()}
        for name, found in scores.items():
            curves[name].append(found.mean().item())
        return scores["proxy"]

    run = run or Run(progress=False)
    reinforce.train(policy, reviews.openings("train"), reward, config, reference=reference, run=run)
    return curves | {"KL": run.column("kl")}


@torch.no_grad()
def what_it_writes(policy: Policy, seed: int) -> list[str]:
    """A completion of the lecture's opening and of three test openings, at temperature 1."""
    prompts = [reviews.LECTURE_OPENING, *reviews.openings("test", limit=3)]
    return sample(policy, prompts, max_new_tokens=24, generator=generator(seed, 4)).completions()


def hacking(seed: int) -> dict:
    """Lesson 14: proxies of FEW and of MORE pairs, optimised by RL and by best-of-n. Gold, the panel's model, labelled
    the pairs; the judge labelled nothing. Scores are in standard deviations of the SFT policy's.
    """
    start, texts, found = stages.sft_policy(), texts_to_choose_from(seed), {}
    others = {
        "gold": in_own_units(stages.panel_reward_model(), texts),
        "judge": in_own_units(stages.judge(), texts),
    }
    for pairs in (FEW, MORE):
        rewards = {"proxy": in_own_units(small_proxy(pairs, seed), texts), **others}
        with torch.no_grad():
            scores = {name: reward(texts).view(-1, TRIES[-1]) for name, reward in rewards.items()}
        filtered = {name: [best_of(scores["proxy"], one, n) for n in TRIES] for name, one in scores.items()}
        correlation = torch.corrcoef(torch.stack([scores[name].flatten() for name in ("proxy", "gold")]))[0, 1].item()
        policy = stages.sft_policy()
        curves = overoptimise(policy, rewards, start, replace(HACK, seed=seed))
        found[f"{pairs} pairs"] = {
            "RL": curves,
            "best of n": filtered,
            "correlation": correlation,
            "texts": what_it_writes(policy, seed),
        }
    return found | {"SFT": {"texts": what_it_writes(start, seed)}}
