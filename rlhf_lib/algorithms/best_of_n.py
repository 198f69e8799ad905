"""Best of n: sample n completions a prompt and keep the one with the highest reward. No training, n times the cost."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator

from rlhf_lib.models import Policy
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import Rollout, sample


@torch.no_grad()
def best_of_n(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    n: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Rollout:
    """The roll-out of each prompt's best completion among n; of equal ones, the first.

    The log-probs it holds are the policy's, not those of the best of n, which are larger (Gao et al. 2022).
    """
    rollout = sample(
        policy,
        prompts,
        max_new_tokens=max_new_tokens,
        samples_per_prompt=n,
        temperature=temperature,
        generator=generator,
    )
    scores = reward(rollout)
    totals = scores if scores.dim() == 1 else scores.where(rollout.mask, 0).sum(1)
    groups = totals.view(-1, n)
    best = groups.argmax(1) + n * torch.arange(len(groups), device=groups.device)
    return replace(rollout[best.to(rollout.tokens.device)], samples_per_prompt=1)


def kl_bound(n: int) -> float:
    """log n − (n − 1)/n, nats: the KL of the best of n to the policy, where no two completions tie; else at most this.

    Beirami et al. 2024, arXiv 2401.01879.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return math.log(n) - (n - 1) / n
