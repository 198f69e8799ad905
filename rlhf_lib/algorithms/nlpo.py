"""NLPO (Ramamurthy et al. 2023, arXiv 2210.01241): PPO among the actions that a lagging copy of the policy proposes.

Written like `ppo`, from which it differs by the mask: drawn up once, while sampling, then stored for every ratio.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_lib.algorithms import ppo
from rlhf_lib.estimators import gae, holistic_rewards, whiten
from rlhf_lib.losses import kl_estimate, ppo_loss, value_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import batchwide, clip_gradients, mean, weight
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import prompt_batch, sample, score, unpack_bits
from rlhf_lib.runs import Run, check_finite, generator


@dataclass(frozen=True)
class Config(ppo.Config):  # all of PPO's, and:
    top_p: float = 0.9  # the mask policy proposes its likeliest actions, up to this probability; 1 is PPO
    top_k: int | None = None  # and at most so many of them
    mask_every: int = 5  # roll-outs before the mask policy becomes a copy of the policy again


def train(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    config: Config | None = None,
    reference: Policy | None = None,
    run: Run | None = None,
    loss: Callable[..., Tensor] = ppo_loss,
) -> Run:
    """Train `policy` (with a value head) in place to earn `reward` under the mask on completions of `prompts`.

    The masked policy is what is trained: `sample(policy, ..., action_mask=Proposals(policy))`. The history is PPO's and
    `allowed`, the mean number of actions to choose from. kl is KL(masked π‖ref), charged and reported alike: unmasked
    log-probs of masked samples would make no KL at all, and a number that can be negative.
    """
    config, run = config or Config(), run or Run()
    if policy.value_head is None:
        raise ValueError("NLPO needs a critic: load the policy with value_head=True")
    if (config.beta or config.kl_target) and reference is None:
        raise ValueError("beta > 0 charges the KL to a reference policy: pass reference=, or set beta=0")
    if reference is policy:
        raise ValueError("the reference must not change while the policy trains: load it a second time")
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.lr, eps=config.adam_eps, fused=True)
    price = ppo.KLPrice(config.beta, config.kl_target, config.kl_gain)
    proposals = Proposals(policy, config.top_p, config.top_k, config.temperature)
    run.track(config, policy=policy, optimizer=optimizer, price=price, mask_policy=proposals.model)

    for step in run.steps(config.steps):
        if step % config.mask_every == 0:
            proposals.refresh(policy)
        noise = generator(config.seed, step)
        rollout = sample(
            policy,
            prompt_batch(prompts, step, config.prompts_per_step, config.seed),
            max_new_tokens=config.max_new_tokens,
            samples_per_prompt=config.samples_per_prompt,
            temperature=config.temperature,
            generator=noise,
            action_mask=proposals,
        )
        mask, unmasked = rollout.mask, replace(rollout, allowed=None)  # the reference may say anything
        with torch.no_grad():
            scores = reward(rollout).to(policy.device)
            old, values = rollout.logprobs, score(policy, rollout).values
            kl = None if reference is None else kl_estimate(old, score(reference, unmasked).logprobs, "k1")
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
                updates.append(ppo.update_metrics(new.logprobs, old[rows], mask[rows], config.clip, critic))
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
            allowed=unpack_bits(rollout.allowed[mask], policy.vocabulary).sum(-1).float().mean(),
            entropy=-rollout.logprobs.sum() / mask.sum(),
            length=rollout.lengths.float().mean(),
            finished=rollout.finished.float().mean(),
        )
        price.adapt(mean_kl)
    return run


class Proposals:
    """The mask policy, an action_mask of `sample`: a copy of the policy allows its likeliest actions and to end."""

    def __init__(self, policy: Policy, top_p: float = 0.9, top_k: int | None = None, temperature: float = 1.0):
        shared = [policy.tokenizer, *(p for p in policy.parameters() if not p.requires_grad)]  # LoRA's frozen base
        self.model = copy.deepcopy(policy, {id(thing): thing for thing in shared})
        self.top_p, self.top_k, self.temperature = top_p, top_k, temperature or 1.0
        self._ids = None  # what the cache has seen: one forward a sequence, a token at a time

    def refresh(self, policy: Policy) -> None:
        self.model.load_state_dict(policy.state_dict())
        self._ids = None

    @torch.no_grad()
    def __call__(self, ids: Tensor, attention_mask: Tensor, rows: Tensor) -> Tensor:
        goes_on = self._ids is not None and torch.equal(self._ids[kept := torch.isin(self._rows, rows)], ids[:, :-1])
        if not goes_on:
            self._cache = DynamicCache()
        elif not kept.all():
            self._cache.batch_select_indices(kept.nonzero().squeeze(1))
        self._ids, self._rows = ids, rows
        new = ids[:, -1:] if goes_on else ids
        logits = self.model(new, attention_mask, last=1, cache=self._cache)[0][:, -1]
        allowed = nucleus(logits / self.temperature, self.top_p, self.top_k)
        allowed[:, self.model.tokenizer.eos_token_id] = True
        return allowed


def nucleus(logits: Tensor, top_p: float, top_k: int | None = None) -> Tensor:
    """bool [..., V]: the likeliest actions, with the one that carries their sum to `top_p`, but at most `top_k`."""
    if not 0 < top_p <= 1 or top_k == 0:
        raise ValueError(f"top_p is {top_p}: it must be in (0, 1]; top_k is {top_k}: at least 1, or None")
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    keep = (probability.cumsum(-1) - probability < top_p) | (top_p == 1)
    keep[..., top_k or keep.shape[-1] :] = False
    return torch.zeros_like(keep).scatter(-1, order, keep)
