"""Advantage actor-critic (A2C, Mnih et al. 2016): the critic's value head says what was to be expected of each state.

Written like `reinforce`, with a critic in place of the baseline, and like `ppo`, with one plain update a roll-out; it
differs from both where the algorithms do. KL to the reference is charged as reward.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lib.estimators import gae, holistic_rewards
from rlhf_lib.losses import kl_estimate, policy_gradient_loss, value_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import clip_gradients, weight
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import prompt_batch, sample, score
from rlhf_lib.runs import Run, check_finite, generator


@dataclass(frozen=True)
class Config:
    steps: int = 40  # updates
    prompts_per_step: int = 16  # prompts a roll-out
    samples_per_prompt: int = 4  # completions a prompt
    max_new_tokens: int = 24  # a completion is cut off after this many
    temperature: float = 1.0  # of sampling and of every log-probability
    gamma: float = 1.0  # discount a token
    lam: float = 0.95  # GAE's dial between the critic's bias (0: the TD error) and the return's variance (1)
    beta: float = 0.0  # price of one nat of KL to the reference
    value_weight: float = 0.1  # of the critic's loss beside the actor's
    lr: float = 1e-4  # AdamW's learning rate
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    microbatch: int = 64  # rows a forward and backward pass; changes memory, not the result
    seed: int = 0  # decides prompts and samples


def train(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    config: Config | None = None,
    reference: Policy | None = None,
    run: Run | None = None,
    estimate: Callable[[Tensor, Tensor, Tensor, float, float], tuple[Tensor, Tensor]] = gae,
) -> Run:
    """Train `policy` (with a value head) in place to earn `reward` on completions of `prompts`.

    `estimate(rewards, values, mask, gamma, lam) -> (advantages, the critic's targets)`, all [B, T], may be your own.
    The history holds reward, kl (nats a completion; with a reference only), value_loss, entropy (−log π of the sampled
    tokens), length, finished and grad_norm.
    """
    config, run = config or Config(), run or Run()
    if policy.value_head is None:
        raise ValueError("an actor-critic needs a critic: load the policy with value_head=True")
    if config.beta and reference is None:
        raise ValueError("beta > 0 charges the KL to a reference policy: pass reference=")
    if reference is policy:
        raise ValueError("the reference must not change while the policy trains: load it a second time")
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0, fused=True)
    run.track(config, policy=policy, optimizer=optimizer)

    for step in run.steps(config.steps):
        rollout = sample(
            policy,
            prompt_batch(prompts, step, config.prompts_per_step, config.seed),
            max_new_tokens=config.max_new_tokens,
            samples_per_prompt=config.samples_per_prompt,
            temperature=config.temperature,
            generator=generator(config.seed, step),
        )
        mask, batches = rollout.mask, torch.arange(len(rollout)).split(config.microbatch)
        with torch.no_grad():
            scores = reward(rollout).to(policy.device)
            values = torch.cat([score(policy, rollout[rows]).values for rows in batches])
            kl = None if reference is None else kl_estimate(rollout.logprobs, score(reference, rollout).logprobs, "k1")
        rewards = holistic_rewards(scores, mask, kl, config.beta)
        advantages, returns = estimate(rewards, values, mask, config.gamma, config.lam)

        check_finite(step, advantages=advantages)
        optimizer.zero_grad()
        critic = 0.0
        for rows in batches:
            new = score(policy, rollout[rows])
            actor = policy_gradient_loss(new.logprobs, advantages[rows], mask[rows], denominator=len(rollout))
            error = value_loss(new.values, returns[rows], mask[rows], denominator=mask.sum())
            (weight(len(rollout)) * actor + weight(mask.sum()) * config.value_weight * error).backward()
            critic += error.item()
        norm = clip_gradients(parameters, config.max_grad_norm)
        check_finite(step, gradient=norm)
        optimizer.step()

        run.log(
            step,
            reward=(scores if scores.dim() == 1 else scores.where(mask, 0).sum(1)).mean(),
            kl=None if kl is None else kl.sum(1).mean(),
            value_loss=critic,
            entropy=-rollout.logprobs.sum() / mask.sum(),
            length=rollout.lengths.float().mean(),
            finished=rollout.finished.float().mean(),
            grad_norm=norm,
        )
    return run
