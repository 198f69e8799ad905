"""REINFORCE (Williams 1992): raise the log-probability of sampled tokens by what came after them.

With `beta` > 0 and a reference, the KL to it is charged on every token, as RLHF does; with 0 this is the recipe of
text generation before 2018.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lib.estimators import holistic_rewards, leave_one_out, reward_to_go
from rlhf_lib.losses import kl_estimate, policy_gradient_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import clip_gradients, weight
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import Rollout, prompt_batch, sample, score
from rlhf_lib.runs import Run, check_finite, generator


@dataclass(frozen=True)
class Config:
    steps: int = 40  # updates
    prompts_per_step: int = 16  # prompts a roll-out
    samples_per_prompt: int = 4  # completions a prompt
    max_new_tokens: int = 24  # a completion is cut off after this many
    temperature: float = 1.0  # of sampling and of every log-probability
    gamma: float = 1.0  # discount a token
    beta: float = 0.0  # price of one nat of KL to the reference
    lr: float = 1e-4  # AdamW's learning rate
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    microbatch: int = 64  # rows a forward and backward pass; changes memory, not the result
    seed: int = 0  # decides prompts and samples


def no_baseline(returns: Tensor, rollout: Rollout) -> Tensor:
    """Weights [B, T]: the returns as they are."""
    return returns


def leave_one_out_baseline(returns: Tensor, rollout: Rollout) -> Tensor:
    """Weights [B, T]: the returns minus the mean total return of the prompt's *other* samples, at every token.

    The baseline does not depend on the sample it is subtracted from, so the gradient stays unbiased.
    """
    total = returns[:, 0]
    baseline = total - leave_one_out(total, rollout.samples_per_prompt)
    return torch.where(rollout.mask, returns - baseline[:, None], 0.0)


def train(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    config: Config | None = None,
    reference: Policy | None = None,
    run: Run | None = None,
    baseline: Callable[[Tensor, Rollout], Tensor] = leave_one_out_baseline,
) -> Run:
    """Train `policy` in place to earn `reward` on completions of `prompts`.

    `baseline(returns [B, T], rollout) -> weights [B, T]` may be your own. The history holds reward, kl (nats a
    completion; with a reference only), entropy (−log π of the sampled tokens), length, finished and grad_norm.
    """
    config, run = config or Config(), run or Run()
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
        with torch.no_grad():
            scores = reward(rollout).to(policy.device)
            kl = None if reference is None else kl_estimate(rollout.logprobs, score(reference, rollout).logprobs, "k1")
        rewards = holistic_rewards(scores, rollout.mask, kl, config.beta)
        weights = baseline(reward_to_go(rewards, rollout.mask, config.gamma), rollout)

        check_finite(step, weights=weights)
        optimizer.zero_grad()
        for rows in torch.arange(len(rollout)).split(config.microbatch):
            logprobs = score(policy, rollout[rows]).logprobs
            loss = policy_gradient_loss(logprobs, weights[rows], rollout.mask[rows], denominator=len(rollout))
            (weight(len(rollout)) * loss).backward()
        norm = clip_gradients(parameters, config.max_grad_norm)
        check_finite(step, gradient=norm)
        optimizer.step()

        run.log(
            step,
            reward=(scores if scores.dim() == 1 else scores.where(rollout.mask, 0).sum(1)).mean(),
            kl=None if kl is None else kl.sum(1).mean(),
            entropy=-rollout.logprobs.sum() / rollout.mask.sum(),
            length=rollout.lengths.float().mean(),
            finished=rollout.finished.float().mean(),
            grad_norm=norm,
        )
    return run
