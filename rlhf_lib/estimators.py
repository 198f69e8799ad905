"""From rewards to the weights of log-probabilities: returns, advantages, baselines, whitening.

Tensors are [batch, time]. `mask` is a bool tensor, True where an action (a generated token, its end-of-text included)
was taken. It may have gaps, such as an observation between two turns: time, and with it discounting, advances only
where the mask is True. What stands at the other positions never matters, NaN included, and results there are 0.

No gradient flows through anything here. float32 and float64 keep their type; every other type is computed in float32.
"""

import torch
from torch import Tensor


def as_float(x: Tensor) -> Tensor:
    """`x` itself if it is float32 or float64, else `x` as float32 (half precision is too coarse to sum in)."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_batch(mask: Tensor, **tensors: Tensor) -> None:
    """Raise ValueError unless `mask` is a bool tensor [B, T] and each named tensor has its shape."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be a bool tensor, not {mask.dtype}: pass mask.bool()")
    if mask.dim() != 2:
        raise ValueError(f"mask must be [batch, time], but its shape is {list(mask.shape)}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)} and mask {list(mask.shape)}: both must be [batch, time]"
            )


@torch.no_grad()
def reward_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """The discounted sum of the rewards from each action on, Σ_{k≥t} γ^{k−t} r_k.

    The sum starts at the action's own reward: what was earned before it cannot depend on it. Discounting counts from
    the action's own step, so at γ < 1 the exact policy gradient needs the factor γ^t as well.
    Sutton et al. 2000, theorem 1.

    Args:
        rewards: [B, T]. mask: bool [B, T]. gamma: in [0, 1]; it counts actions, not positions.
    Returns:
        [B, T], 0 where the mask is False.
    """
    check_batch(mask, rewards=rewards)
    _check_unit("gamma", gamma)
    rewards = as_float(rewards)
    out = torch.zeros_like(rewards)
    running = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = torch.where(mask[:, t], rewards[:, t] + gamma * running, running)
        out[:, t] = torch.where(mask[:, t], running, 0.0)
    return out


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: Â_t = Σ_{k≥t} (γλ)^{k−t} δ_k with δ_t = r_t + γ V(s_{t+1}) − V(s_t).

    λ = 1 is reward-to-go minus the value (no bias from the critic, most variance); λ = 0 is the TD error δ_t (the other
    way round). The value after the last action is 0: the episode is over. As with `reward_to_go`, the exact gradient at
    γ < 1 needs the factor γ^t too. Schulman et al. 2016, arXiv 1506.02438, equation 16.

    Args:
        rewards, values: [B, T], values[:, t] being V of the state in which action t was taken. mask: bool [B, T].
        gamma, lam: in [0, 1]; they count actions, not positions.
    Returns:
        (advantages, returns), each [B, T] and 0 where the mask is False. returns = advantages + values are the
        λ-returns, a critic's targets.
    """
    check_batch(mask, rewards=rewards, values=values)
    _check_unit("gamma", gamma)
    _check_unit("lam", lam)
    rewards, values = as_float(rewards), as_float(values)
    advantages = torch.zeros(mask.shape, dtype=torch.promote_types(rewards.dtype, values.dtype), device=rewards.device)
    next_value = advantages.new_zeros(len(mask))
    next_advantage = advantages.new_zeros(len(mask))
    for t in reversed(range(mask.shape[1])):
        here = mask[:, t]
        advantage = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * next_advantage
        next_value = torch.where(here, values[:, t], next_value)
        next_advantage = torch.where(here, advantage, next_advantage)
        advantages[:, t] = torch.where(here, advantage, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and population standard deviation 1 over the masked entries of the whole batch.

    Whiten a batch before cutting it into minibatches, not each minibatch. With fewer than two entries, or where all of
    them are equal up to rounding, there is no scale to divide by and the entries are centred only.

    Args:
        x: [B, T]. mask: bool [B, T].
    Returns:
        [B, T], 0 where the mask is False.
    """
    check_batch(mask, x=x)
    x = as_float(x)
    out = torch.zeros_like(x)
    entries = x[mask]
    if len(entries) == 0:
        return out
    shifted = entries - entries[0]  # so that equal entries centre to exactly 0, whatever their size
    centred = shifted - shifted.mean()
    std = centred.square().mean().sqrt()
    rounding = torch.finfo(x.dtype).eps * entries.abs().max()
    out[mask] = centred / torch.where(std > rounding, std, 1.0)
    return out


@torch.no_grad()
def leave_one_out(scores: Tensor, group_size: int) -> Tensor:
    """Each score minus the mean of the *other* scores of its group.

    The others are drawn independently of this sample, so they are a baseline without bias; a mean with the sample's own
    score in it would shrink the gradient by (N − 1)/N. Kool et al. 2019; RLOO in Ahmadian et al. 2024,
    arXiv 2402.14740.

    Args:
        scores: [B], the samples of one prompt next to each other. group_size: at least 2, a divisor of B.
    Returns:
        [B]; the entries of a group sum to 0.
    """
    groups = _groups(scores, group_size)
    return (groups - (groups.sum(1, keepdim=True) - groups) / (group_size - 1)).flatten()


@torch.no_grad()
def group_normalize(scores: Tensor, group_size: int, scale: str = "none", eps: float = 1e-4) -> Tensor:
    """Each score minus the mean of its whole group, its own score included; GRPO's advantage (arXiv 2402.03300).

    Args:
        scores: [B], the samples of one prompt next to each other. group_size: at least 2, a divisor of B.
        scale: "none", or "std" to divide by (the group's sample standard deviation + eps), which changes the objective.
        eps: keeps a group whose scores are nearly equal from being blown up.
    Returns:
        [B]; the entries of a group sum to 0.
    """
    if scale not in ("none", "std"):
        raise ValueError(f'scale must be "none" or "std", not {scale!r}')
    groups = _groups(scores, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if scale == "std":
        centred = centred / (groups.std(1, keepdim=True, correction=1) + eps)
    return centred.flatten()


@torch.no_grad()
def holistic_rewards(scores: Tensor, mask: Tensor, kl: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """Rewards per action from a score of the whole text, with a KL penalty on every action.

    r_t = score at the last action, else 0, minus β·kl_t. The penalty must be part of the reward, and reach earlier
    actions through reward-to-go, for its gradient to be that of the sequence's KL.
    Ziegler et al. 2019, arXiv 1909.08593, equation 2.

    Args:
        scores: [B], put on each row's last action; or [B, T], taken as they are.
        mask: bool [B, T].
        kl: [B, T], an estimate per token such as `losses.kl_estimate`. beta: the penalty's weight, not negative.
    Returns:
        [B, T], 0 where the mask is False.
    Raises:
        ValueError: for scores [B], if a row has no action that could carry its score; if a score or (at β > 0) a kl
            that counts is NaN or infinite; if β > 0 without kl.
    """
    check_batch(mask, **({} if kl is None else {"kl": kl}))
    if beta < 0 or (beta > 0 and kl is None):
        raise ValueError(f"beta is {beta}: it must not be negative, and a positive one needs kl, a penalty per token")
    if scores.shape == mask.shape:
        rewards = as_float(scores)
    elif scores.shape == mask.shape[:1]:
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"rows {empty} have no action to carry their score: drop them before scoring")
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        rewards = torch.zeros(mask.shape, dtype=as_float(scores).dtype, device=scores.device)
        rewards.scatter_(1, last[:, None], as_float(scores)[:, None])
    else:
        raise ValueError(f"scores {list(scores.shape)} must be [B] or [B, T] of the mask {list(mask.shape)}")
    _check_finite("scores", rewards, mask)
    if beta > 0:
        _check_finite("kl", kl, mask)
        rewards = rewards - beta * as_float(kl)
    return torch.where(mask, rewards, 0.0)


def _check_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value}")


def _check_finite(name: str, x: Tensor, mask: Tensor) -> None:
    bad = (mask & ~torch.isfinite(x)).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{name} is NaN or infinite in rows {bad}: look at what made it, then repair or drop them")


def _groups(scores: Tensor, group_size: int) -> Tensor:
    if scores.dim() != 1:
        raise ValueError(f"scores must be [B], one per completion, but its shape is {list(scores.shape)}")
    if group_size < 2:
        raise ValueError(f"group_size is {group_size}: a sample alone has nothing to be compared with, draw at least 2")
    if len(scores) % group_size:
        raise ValueError(f"{len(scores)} scores do not divide into groups of {group_size}: pass whole groups")
    return as_float(scores).reshape(-1, group_size)
