"""Group methods: no critic. What a prompt's other completions earned says what was to be expected of this one.

RLOO (Ahmadian et al. 2024, arXiv 2402.14740) and GRPO (Shao et al. 2024, arXiv 2402.03300) are settings of one loop;
Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) and DAPO (Yu et al. 2025, arXiv 2503.14476) lie between. Written like
`ppo`; the two differ where the algorithms do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from rlhf_lib.estimators import group_normalize, holistic_rewards, leave_one_out
from rlhf_lib.losses import kl_estimate, ppo_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import clip_gradients, weight
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import prompt_batch, sample, score
from rlhf_lib.runs import Run, check_finite, generator


@dataclass(frozen=True)
class Config:
    steps: int = 40  # roll-outs
    prompts_per_step: int = 8  # prompts a roll-out
    samples_per_prompt: int = 8  # completions a prompt: the group
    max_new_tokens: int = 24  # a completion is cut off after this many
    temperature: float = 1.0  # of sampling and of every log-probability
    advantage: Literal["leave_one_out", "mean", "std"] = "leave_one_out"  # std: (score − mean) / (deviation + 1e-4)
    average: Literal["sum", "mean", "batch"] = "sum"  # of a completion's tokens; or over all tokens of the update
    kl_in: Literal["reward", "loss"] = "reward"  # k1 of the whole text, before the group is compared; or k3 a token
    beta: float = 0.05  # price of one nat of KL to the reference
    epochs: int = 1  # passes over each roll-out
    minibatches: int = 1  # updates a pass
    clip: float = 0.2  # the ratio earns nothing beyond 1 ± clip; the first update's is 1
    lr: float = 1e-4  # Adam's learning rate
    adam_eps: float = 1e-5  # Adam's epsilon
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    seed: int = 0  # decides prompts, samples and minibatches


RLOO = Config()  # unbiased: its gradient is that of E[score] − β KL
GRPO = Config(advantage="std", average="mean", kl_in="loss")  # as published
DR_GRPO = Config(advantage="mean", kl_in="loss")  # GRPO without its two divisions
DAPO = Config(advantage="std", average="batch", beta=0.0)  # its averaging; not its other three changes


def train(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    config: Config | None = None,
    reference: Policy | None = None,
    run: Run | None = None,
) -> Run:
    """Train `policy` in place to earn `reward` on completions of `prompts`.

    The history holds reward, kl (nats a completion, with a reference only), entropy, length, finished, grad_norm, and
    flat: the share of groups whose advantages are all 0, which teach nothing.
    """
    config, run = config or Config(), run or Run()
    if config.beta and reference is None:
        raise ValueError("beta > 0 charges the KL to a reference policy: pass reference=, or set beta=0")
    if reference is policy:
        raise ValueError("the reference must not change while the policy trains: load it a second time")
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.lr, eps=config.adam_eps, fused=True)
    run.track(config, policy=policy, optimizer=optimizer)

    for step in run.steps(config.steps):
        noise = generator(config.seed, step)
        rollout = sample(
            policy,
            prompt_batch(prompts, step, config.prompts_per_step, config.seed),
            max_new_tokens=config.max_new_tokens,
            samples_per_prompt=config.samples_per_prompt,
            temperature=config.temperature,
            generator=noise,
        )
        mask, old, kl = rollout.mask, rollout.logprobs, None
        with torch.no_grad():
            scores = reward(rollout).to(policy.device)
            if reference is not None:
                ref = score(reference, rollout).logprobs
                kl = kl_estimate(old, ref, "k1")
        charged = config.beta if config.kl_in == "reward" else 0.0
        advantages = group_advantages(
            holistic_rewards(scores, mask, kl, charged).sum(1), config.samples_per_prompt, config.advantage
        )
        check_finite(step, advantages=advantages)

        norms = []
        for _ in range(config.epochs):
            for rows in torch.randperm(len(rollout), generator=noise).chunk(config.minibatches):
                new = score(policy, rollout[rows]).logprobs
                share, count = shares(mask[rows], config.average)
                loss = ppo_loss(new, old[rows], advantages[rows] * share, mask[rows], config.clip, denominator=count)
                if config.beta and config.kl_in == "loss":
                    k3 = torch.where(mask[rows], kl_estimate(new, ref[rows], "k3"), 0.0)
                    loss = loss + config.beta * (share[:, None] * k3).sum() / count
                optimizer.zero_grad()
                (weight(count) * loss).backward()
                norms.append(clip_gradients(parameters, config.max_grad_norm))
                check_finite(step, loss=loss, gradient=norms[-1])
                optimizer.step()

        run.log(
            step,
            reward=(scores if scores.dim() == 1 else scores.where(mask, 0).sum(1)).mean(),
            kl=None if kl is None else kl.sum(1).mean(),
            entropy=-old.sum() / mask.sum(),
            length=rollout.lengths.float().mean(),
            finished=rollout.finished.float().mean(),
            flat=(advantages.view(-1, config.samples_per_prompt) == 0).all(1).float().mean(),
            grad_norm=fmean(norm.item() for norm in norms),
        )
    return run


def group_advantages(scores: Tensor, group_size: int, kind: str) -> Tensor:
    """[B], one advantage a completion, from scores [B] of groups that lie next to each other."""
    if kind == "leave_one_out":
        return leave_one_out(scores, group_size)
    return group_normalize(scores, group_size, {"mean": "none", "std": "std"}[kind])


def shares(mask: Tensor, average: str) -> tuple[Tensor, Tensor | int]:
    """How much each completion's token counts, [B], and by what the sum over all tokens is divided.

    "sum" weighs every token alike, whatever the batch. "mean" gives a long completion's tokens less weight, so that
    being wrong at length costs less a token. "batch" divides by how many tokens happen to be there.
    """
    lengths = mask.sum(1)
    if average == "batch":
        return torch.ones_like(lengths, dtype=torch.float32), lengths.sum()
    return (1 / lengths if average == "mean" else torch.ones_like(lengths, dtype=torch.float32)), len(mask)
