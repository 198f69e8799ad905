"""Lesson 11: PPO with and without SFT before it, and with each of its details taken away."""

from dataclasses import replace

import torch

from rlhf_lib import reviews
from rlhf_lib.algorithms import ppo
from rlhf_lib.course import details, stages
from rlhf_lib.course.experiments.shared import examine
from rlhf_lib.runs import Run

PPO = ppo.Config(steps=10, prompts_per_step=8, samples_per_prompt=4, lr=3e-4, beta=0.1, minibatches=1)


def ppo_and_its_details(seed: int) -> dict:
    """Lesson 11: PPO from the pre-trained model and from the SFT policy; and, in the micro language, two seeds of PPO
    without each of its details. Both policies are examined with the pre-trained model as reference.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models of the micro size only wait for a second one
    taken_away = {}
    for variant in details.VARIANTS:
        first, second = (details.measure(variant, 2 * seed + k) for k in (0, 1))
        taken_away[variant] = {key: [first[key], second[key]] for key in first}
    torch.set_num_threads(threads)
    reward, judge, base = stages.panel_reward_model(), stages.judge(), stages.base_model()
    openings, prompts = reviews.openings("train"), reviews.openings("test", limit=48)
    starts = {"pre-trained": stages.base_model, "SFT": stages.sft_policy}
    found, curves = {}, {}
    for name, start in starts.items():
        policy, run = start(value_head=True), Run(progress=False)
        ppo.train(policy, openings, reward, replace(PPO, seed=seed), start(), run)
        found[name] = examine(start(), prompts, reward, judge, base, seed)
        found[f"{name} → PPO"] = examine(policy, prompts, reward, judge, base, seed)
        curves[f"{name} → PPO"] = {key: run.column(key) for key in ("reward", "kl", "approx_kl")}
    return {"details": taken_away, "curves": curves, **found}
