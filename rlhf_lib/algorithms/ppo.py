"""PPO (Schulman et al. 2017) as RLHF uses it: a clipped ratio, a value head, GAE, and KL to the reference as reward.

Written like `reinforce`; the two differ where the algorithms do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from rlhf_lib.estimators import gae, holistic_rewards, whiten
from rlhf_lib.losses import kl_estimate, ppo_loss, value_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import batchwide, clip_gradients, mean, weight
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import prompt_batch, sample, score
from rlhf_lib.runs import Run, check_finite, generator


@dataclass(frozen=True)
class Config:
    steps: int = 40  # roll-outs
    prompts_per_step: int = 16  # prompts a roll-out
    samples_per_prompt: int = 4  # completions a prompt
    max_new_tokens: int = 24  # a completion is cut off after this many
    temperature: float = 1.0  # of sampling and of every log-probability
    gamma: float = 1.0  # discount a token
    lam: float = 0.95  # GAE's dial between the critic's bias (0) and the return's variance (1)
    beta: float = 0.05  # price of one nat of KL to the reference
    kl_target: float | None = None  # nats a completion; adapts beta towards it (Ziegler et al. 2019), None keeps beta
    kl_gain: float = 0.1  # a step multiplies beta by 1 + kl_gain · (kl/kl_target − 1), the bracket held within ±0.2
    whiten: bool = True  # advantages to mean 0 and standard deviation 1 over the roll-out's actions
    epochs: int = 4  # passes over each roll-out
    minibatches: int = 2  # updates a pass
    max_kl: float = float("inf")  # nats a token from the policy that sampled; a pass that ends beyond it is the last
    clip: float = 0.2  # the ratio earns nothing beyond 1 ± clip; infinite: it may earn anything
    value_clip: float | None = None  # the same for values; None does not clip
    value_weight: float = 0.1  # of the value loss beside the policy loss
    lr: float = 1e-4  # Adam's learning rate
    adam_eps: float = 1e-5  # Adam's epsilon (1e-8 makes tiny gradients as large as big ones)
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    seed: int = 0  # decides prompts, samples and minibatches


def train(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    config: Config | None = None,
    reference: Policy | None = None,
    run: Run | None = None,
    loss: Callable[..., Tensor] = ppo_loss,
) -> Run:
    """Train `policy` (with a value head) in place to earn `reward` on completions of `prompts`.

    `loss(logprobs, old_logprobs, advantages, mask, clip)` may be your own. The history holds reward, kl (nats a
    completion, with a reference only), beta, entropy, length, finished, and of the updates approx_kl (nats a token,
    k3), clip_fraction, value_loss, and first_ratio: the largest |ratio − 1| before the first one, 0 up to rounding.
    """
    config, run = config or Config(), run or Run()
    if policy.value_head is None:
        raise ValueError("PPO needs a critic: load the policy with value_head=True")
    if (config.beta or config.kl_target) and reference is None:
        raise ValueError("beta > 0 charges the KL to a reference policy: pass reference=, or set beta=0")
    if reference is policy:
        raise ValueError("the reference must not change while the policy trains: load it a second time")
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.lr, eps=config.adam_eps, fused=True)
    price = KLPrice(config.beta, config.kl_target, config.kl_gain)
    run.track(config, policy=policy, optimizer=optimizer, price=price)

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
        mask = rollout.mask
        with torch.no_grad():
            scores = reward(rollout).to(policy.device)
            old, values = rollout.logprobs, score(policy, rollout).values
            kl = None if reference is None else kl_estimate(old, score(reference, rollout).logprobs, "k1")
        rewards = holistic_rewards(scores, mask, kl, price.beta)
        advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
        advantages = batchwide(whiten, advantages, mask) if config.whiten else advantages

        updates = []
        for _ in range(config.epochs):
            for rows in torch.randperm(len(rollout), generator=noise).chunk(config.minibatches):
                new = score(policy, rollout[rows])
                actor = loss(new.logprobs, old[rows], advantages[rows], mask[rows], config.clip)
                old_values = None if config.value_clip is None else values[rows]
                critic = value_loss(new.values, returns[rows], mask[rows], old_values, config.value_clip)
                optimizer.zero_grad()
                (weight(mask[rows].sum()) * (actor + config.value_weight * critic)).backward()
                norm = clip_gradients(parameters, config.max_grad_norm)
                check_finite(step, policy_loss=actor, value_loss=critic, gradient=norm)
                optimizer.step()
                updates.append(update_metrics(new.logprobs, old[rows], mask[rows], config.clip, critic))
            if mean(updates[-1]["approx_kl"]) > config.max_kl:
                break

        mean_kl = None if kl is None else mean(kl.sum(1).mean().item())
        run.log(
            step,
            reward=(scores if scores.dim() == 1 else scores.where(mask, 0).sum(1)).mean(),
            kl=mean_kl,
            beta=price.beta,
            first_ratio=updates[0]["max_ratio"],
            **{key: fmean(u[key] for u in updates) for key in ("approx_kl", "clip_fraction", "value_loss")},
            entropy=-rollout.logprobs.sum() / mask.sum(),
            length=rollout.lengths.float().mean(),
            finished=rollout.finished.float().mean(),
        )
        price.adapt(mean_kl)
    return run


class KLPrice:
    """β, the price of a nat of KL; it rises while the KL is above its target (Ziegler et al. 2019, section 2.2)."""

    def __init__(self, beta: float, target: float | None, gain: float):
        self.beta, self.target, self.gain = beta, target, gain

    def adapt(self, kl: float | None) -> None:
        if self.target is not None and kl is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + self.gain * error

    def state_dict(self) -> dict:
        return {"beta": self.beta}

    def load_state_dict(self, state: dict) -> None:
        self.beta = state["beta"]


@torch.no_grad()
def update_metrics(new: Tensor, old: Tensor, mask: Tensor, clip: float, value_loss: Tensor) -> dict[str, float]:
    """Over action tokens only: pads would dilute every one of them."""
    log_ratio = (new - old)[mask]
    off = log_ratio.expm1().abs()
    found = {"approx_kl": (log_ratio.expm1() - log_ratio).mean(), "clip_fraction": (off > clip).float().mean()}
    found |= {"max_ratio": off.max(), "value_loss": value_loss}
    return {name: value.item() for name, value in found.items()}
