"""Log-probabilities and the losses made of them. Every loss is a scalar to minimise.

Tensors are [batch, time]; `mask` is a bool tensor, True where an action (a generated token, its end-of-text included)
was taken. What stands elsewhere never matters, NaN included, and gets the gradient 0: inputs are masked before anything
is computed from them, because 0 · NaN is NaN on the way back.

`denominator=None` divides by this batch's own count. When a batch is split, pass the whole batch's count to every part:
the sum of the parts' losses and gradients is then the whole batch's. A part without a single action is then worth 0 and
keeps its graph, so `backward` works; without a denominator, a mean over no tokens is a ValueError.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_lib.estimators import as_float, check_batch


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability of each token, in float32 whatever the type of the logits.

    Row t of the logits must be the prediction of tokens[:, t], which a causal LM makes one position earlier.

    Args:
        logits: [B, T, V]. tokens: long [B, T], in [0, V) at pads too.
    Returns:
        [B, T] float32.
    """
    if logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(
            f"logits must be [B, T, V] and tokens [B, T], not {list(logits.shape)} and {list(tokens.shape)}"
        )
    return F.log_softmax(logits.float(), dim=-1).gather(-1, tokens[..., None]).squeeze(-1)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """An estimate per token of KL(π‖ref) from tokens sampled from π.

    With d = log π − log ref: k1 = d, k2 = d²/2, k3 = exp(−d) − 1 + d. k1 and k3 have the right mean, k2 a biased one;
    k2 and k3 are never negative. Differentiable, but their gradients are not the KL's: on average k1's is 0, k2's is
    the KL's with the visited states held fixed, k3's that of KL(ref‖π) there. http://joschu.net/blog/kl-approx.html
    (Schulman 2020).

    Args:
        logprobs, ref_logprobs: [B, T], of the same tokens. kind: "k1", "k2" or "k3".
    Returns:
        [B, T], unmasked.
    """
    if logprobs.shape != ref_logprobs.shape:
        raise ValueError(
            f"logprobs {list(logprobs.shape)} and ref_logprobs {list(ref_logprobs.shape)} must score the same tokens"
        )
    difference = logprobs - ref_logprobs
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * difference.square()
    if kind == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f'kind must be "k1", "k2" or "k3", not {kind!r}')


def policy_gradient_loss(
    logprobs: Tensor, weights: Tensor, mask: Tensor, denominator: float | Tensor | None = None
) -> Tensor:
    """−Σ_t weight_t · log π(a_t|s_t), averaged over episodes. Its gradient is minus the policy gradient's estimate.

    The sum over time is not divided by the episode's length: that would weigh the words of short answers more.
    Williams 1992; Sutton et al. 2000.

    Args:
        logprobs: [B, T]. mask: bool [B, T].
        weights: [B, T], or [B] for one weight an episode: return, Q or advantage. Taken as constants.
        denominator: number of episodes; None: B.
    """
    check_batch(mask, logprobs=logprobs)
    logprobs, weights = _masked(mask, logprobs, _per_token(weights, mask).detach())
    return _over(-(weights * logprobs).sum(), len(mask) if denominator is None else denominator)


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    denominator: float | Tensor | None = None,
) -> Tensor:
    """PPO's clipped surrogate, −min(ρ A, clamp(ρ, 1 − clip, 1 + clip) A) with ρ = π/π_old, averaged over tokens.

    The minimum is the pessimistic one of the two: it takes away the gain from moving further once ρ has left the
    interval, but never the gradient that would bring it back. Schulman et al. 2017, arXiv 1707.06347, equation 7.

    Args:
        logprobs: [B, T], of the current policy; old_logprobs: [B, T], of the policy that sampled. mask: bool [B, T].
        advantages: [B, T], or [B] for one an episode. It and old_logprobs are taken as constants.
        clip: half-width of the interval. denominator: number of tokens; None: the mask's.
    """
    check_batch(mask, logprobs=logprobs, old_logprobs=old_logprobs)
    if not clip > 0:
        raise ValueError(f"clip must be positive, not {clip}")
    logprobs, old_logprobs, advantages = _masked(
        mask, logprobs, old_logprobs.detach(), _per_token(advantages, mask).detach()
    )
    ratio = torch.exp(logprobs - old_logprobs)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return _over(-surrogate.sum(), _tokens(mask) if denominator is None else denominator)


def value_loss(
    values: Tensor,
    returns: Tensor,
    mask: Tensor,
    old_values: Tensor | None = None,
    clip: float | None = None,
    denominator: float | Tensor | None = None,
) -> Tensor:
    """Half the squared error of the critic, averaged over tokens.

    With `clip`, the worse of two errors: the value's, and that of the value held within `clip` of its old one.

    Args:
        values, returns: [B, T]; returns are taken as constants. mask: bool [B, T].
        old_values, clip: given together or not at all. denominator: number of tokens; None: the mask's.
    """
    check_batch(mask, values=values, returns=returns, **({} if old_values is None else {"old_values": old_values}))
    if (old_values is None) != (clip is None):
        raise ValueError("clipping needs both old_values and clip: pass the two, or neither")
    values, returns = _masked(mask, values, returns.detach())
    error = (values - returns).square()
    if clip is not None:
        (old_values,) = _masked(mask, old_values.detach())
        error = torch.maximum(error, (old_values + (values - old_values).clamp(-clip, clip) - returns).square())
    return _over(0.5 * error.sum(), _tokens(mask) if denominator is None else denominator)


def sft_loss(logprobs: Tensor, mask: Tensor, denominator: float | Tensor | None = None) -> Tensor:
    """Behaviour cloning: minus the log-probability of the demonstrated tokens, averaged over tokens.

    Args:
        logprobs: [B, T]. mask: bool [B, T], True on the tokens to imitate.
        denominator: number of tokens; None: the mask's.
    """
    check_batch(mask, logprobs=logprobs)
    (logprobs,) = _masked(mask, logprobs)
    return _over(-logprobs.sum(), _tokens(mask) if denominator is None else denominator)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """−log σ(chosen − rejected − margin), mean over pairs.

    Only differences count: adding a constant to both scores changes nothing. Bradley & Terry 1952; the margin as in
    Llama 2, arXiv 2307.09288.

    Args:
        chosen, rejected: [N], scores of the preferred and of the other answer. margin: a number or [N].
    """
    _check_pairs(
        chosen=chosen, rejected=rejected, **({"margin": margin} if isinstance(margin, Tensor) and margin.dim() else {})
    )
    return -F.logsigmoid(as_float(chosen) - as_float(rejected) - margin).mean()


def plackett_luce_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """The loss of a ranking of K answers: Σ_i −log( e^{s_i} / (e^{s_i} + Σ_{j worse than i} e^{s_j}) ), mean over N.

    Best first, each item is chosen from itself and the strictly worse ones. Without ties this is the likelihood of Luce
    1959 and Plackett 1975; with two items it is `bradley_terry_loss`. Tied items do not compete with each other, which
    makes it a composite likelihood; a row in which all are tied adds 0.

    Args:
        scores: [N, K]. ranks: [N, K], 0 is best, equal ranks are a tie.
    """
    if scores.dim() != 2 or scores.shape != ranks.shape or scores.shape[0] == 0 or scores.shape[1] < 2:
        raise ValueError(
            f"scores {list(scores.shape)} and ranks {list(ranks.shape)} must both be [N, K] with N ≥ 1 and K ≥ 2"
        )
    scores = as_float(scores)
    competes = ranks[:, :, None] < ranks[:, None, :]  # [n, i, j]: j is strictly worse than i
    competes = competes | torch.eye(ranks.shape[1], dtype=torch.bool, device=ranks.device)
    rivals = scores[:, None, :].expand(competes.shape).masked_fill(~competes, float("-inf"))
    return (rivals.logsumexp(-1) - scores).sum(1).mean()


def dpo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Bradley–Terry on the implicit reward β·log(π/ref), mean over pairs.

    Rafailov et al. 2023, arXiv 2305.18290, equation 7.

    Args:
        chosen, rejected: [N], log-probabilities of the completions under the policy, *summed* over their tokens.
        ref_chosen, ref_rejected: [N], the same under the reference; taken as constants. beta: positive.
    """
    _check_pairs(chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    chosen_reward = beta * (as_float(chosen) - as_float(ref_chosen).detach())
    rejected_reward = beta * (as_float(rejected) - as_float(ref_rejected).detach())
    return bradley_terry_loss(chosen_reward, rejected_reward)


def _masked(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    return [torch.where(mask, as_float(tensor), 0.0) for tensor in tensors]


def _per_token(weights: Tensor, mask: Tensor) -> Tensor:
    if weights.shape == mask.shape:
        return weights
    if weights.shape == mask.shape[:1]:
        return weights[:, None].expand(mask.shape)
    raise ValueError(f"weights (advantages) {list(weights.shape)} must be [B] or [B, T] of the mask {list(mask.shape)}")


def _tokens(mask: Tensor) -> Tensor:
    count = mask.sum()
    if count == 0:
        raise ValueError("the mask is False everywhere: skip this batch, or pass the whole batch's denominator")
    return count


def _over(total: Tensor, denominator: float | Tensor) -> Tensor:
    if not denominator > 0:
        raise ValueError(f"denominator is {denominator}: it must be the whole batch's count, at least 1")
    return total / denominator


def _check_pairs(**tensors: Tensor) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    first = next(iter(tensors.values()))
    if first.dim() != 1 or len(first) == 0 or any(shape != [len(first)] for shape in shapes.values()):
        raise ValueError(f"every tensor must be [N], with one entry per pair and N ≥ 1, but the shapes are {shapes}")
