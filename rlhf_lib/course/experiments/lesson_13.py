"""Lesson 13: what each method makes of equally many completions."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from rlhf_lib import reviews
from rlhf_lib.algorithms import best_of_n, dpo, group, ppo
from rlhf_lib.course import stages
from rlhf_lib.course.experiments.shared import compared, examine
from rlhf_lib.models import Policy, RewardModel
from rlhf_lib.rollout import Rollout
from rlhf_lib.runs import Run, generator

BUDGET = 480  # completions that each of lesson 13's methods may sample
PRICE = 0.1  # of a nat of KL, for all of them
ROLLOUTS = {"steps": 15, "prompts_per_step": 8, "samples_per_prompt": 4, "beta": PRICE, "lr": 3e-4}
RIVALS = {
    "RLOO": replace(group.RLOO, **ROLLOUTS),
    "GRPO": replace(group.GRPO, **ROLLOUTS),
    "PPO": ppo.Config(**ROLLOUTS, epochs=2, minibatches=1),
}
DPO = dpo.Config(batch_size=16, lr=3e-4, beta=PRICE)


def equal_budget(seed: int) -> dict:
    """Lesson 13: what BUDGET completions buy by each method, on 48 test openings; curves of the training.

    Beside the MEASURES of `examine` (of the best of 10: reward, judge, and the most that its KL can be) objective:
    reward − PRICE · KL; tokens: sampled from BUDGET completions; seconds: of the processor, without examining.
    """
    reward, judge, start = stages.panel_reward_model(), stages.judge(), stages.sft_policy()
    prompts = reviews.openings("test", limit=48)
    found = {"SFT": examine(start, prompts, reward, judge, start, seed) | {"tokens": 0, "seconds": 0.0}}
    curves = {}
    for name in (*RIVALS, "DPO"):
        began = time.process_time()
        policy, run, tokens = rival(name, seed)
        spent = {"tokens": tokens, "seconds": time.process_time() - began}
        found[name] = examine(policy, prompts, reward, judge, start, seed) | spent
        kept = ("chosen", "rejected", "accuracy") if name == "DPO" else ("reward", "kl")
        curves[name] = {key: run.column(key) for key in kept}
    found["best of 10"] = best_of_ten(prompts, seed)
    for measures in found.values():
        measures["objective"] = measures["reward"] - PRICE * measures["KL"]
    return {"table": found, "curves": curves}


def rival(name: str, seed: int) -> tuple[Policy, Run, int]:
    """One of RIVALS, or "DPO", trained from the SFT policy: the policy, its run, and how many tokens were sampled."""
    policy, reference = stages.sft_policy(value_head=name == "PPO"), stages.sft_policy()
    reward, run = stages.panel_reward_model(), Run(progress=False)
    if name == "DPO":
        pairs, tokens = preference_pairs(reference, reward, BUDGET // 2, seed)
        dpo.train(policy, pairs, reference, replace(DPO, seed=seed), run)
        return policy, run, tokens
    config = replace(RIVALS[name], seed=seed)
    train = ppo.train if name == "PPO" else group.train
    train(policy, reviews.openings("train"), reward, config, reference=reference, run=run)
    return policy, run, round(sum(run.column("length")) * config.prompts_per_step * config.samples_per_prompt)


def preference_pairs(writer: Policy, person: RewardModel, n: int, seed: int) -> tuple[list[tuple[str, str, str]], int]:
    """(prompt, chosen, rejected) for `dpo`, as `compared` by a person; and how many tokens were sampled."""
    prompts = reviews.openings("train", limit=n)
    rollout, wins = compared(writer, prompts, person, seed)
    texts = rollout.completions()
    pairs = zip(prompts, texts[0::2], texts[1::2], wins, strict=True)
    return [(prompt, *((a, b) if won else (b, a))) for prompt, a, b, won in pairs if a != b], int(rollout.mask.sum())


@torch.no_grad()
def best_of_ten(prompts: Sequence[str], seed: int) -> dict[str, float]:
    """The SFT policy's best of ten for each prompt, in the form of `equal_budget`."""
    reward, began, tokens = stages.panel_reward_model(), time.process_time(), []

    def counted(rollout: Rollout) -> torch.Tensor:
        tokens.append(int(rollout.mask.sum()))
        return reward(rollout)

    options = {"max_new_tokens": 24, "generator": generator(seed, 1_000_001)}
    best = best_of_n.best_of_n(stages.sft_policy(), prompts, counted, 10, **options)
    spent = {"tokens": sum(tokens), "seconds": time.process_time() - began}
    scores = {"reward": reward(best).mean().item(), "judge": stages.judge()(best).mean().item()}
    return scores | {"KL": best_of_n.kl_bound(10)} | spent
