"""Language as a token-level MDP, small enough that every episode can be listed and every quantity is exact.

A state is the tokens so far, an action the next token, and the transition appends it. A `policy` is any callable that
takes tokens [N, T] (long, T ≤ horizon) and returns log-probabilities [N, T, A]: at each position, those of the action
there given all the tokens before it (and not the token itself). float64 in gives float64 out.

One MDP is one prompt; several prompts are a mean over MDPs.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_lib.estimators import as_float, check_batch, holistic_rewards, reward_to_go

Policy = Callable[[Tensor], Tensor]

MAX_EPISODES = 2_000_000  # beyond this a listing takes gigabytes and minutes


@dataclass(frozen=True)
class TokenMDP:
    """A vocabulary, a length limit and a reward. The return of an episode is Σ_{t=0} γ^t r_t.

    Attributes:
        actions: the tokens' names; an action is an index into them.
        horizon: K, the most actions an episode can have.
        reward: reward(tokens [N, K], mask [N, K]) -> [N], given at each episode's last action, or [N, K], one an
            action. What it gives where the mask is False never matters.
        gamma: discount, in [0, 1].
        eos: index of the action that ends an episode, or None. It is itself an action and can earn reward.
    """

    actions: tuple[str, ...]
    horizon: int
    reward: Callable[[Tensor, Tensor], Tensor]
    gamma: float = 1.0
    eos: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", tuple(self.actions))
        if not self.actions or self.horizon < 1:
            raise ValueError(f"an MDP needs actions and a horizon of at least 1, not {self.actions}, {self.horizon}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be between 0 and 1, not {self.gamma}")
        if self.eos is not None and self.eos not in range(len(self.actions)):
            raise ValueError(f"eos is {self.eos}: it must be an index into the {len(self.actions)} actions, or None")

    @property
    def continuing(self) -> tuple[int, ...]:
        """The actions that do not end the episode, in order."""
        return tuple(a for a in range(len(self.actions)) if a != self.eos)


class Values(NamedTuple):
    """What `exact_values` returns; row i belongs to states[i]."""

    v: Tensor  # [S], expected return from the state on
    q: Tensor  # [S, A], the same after an action there
    advantage: Tensor  # [S, A], q − v
    states: tuple[tuple[int, ...], ...]


def enumerate_episodes(mdp: TokenMDP) -> tuple[Tensor, Tensor]:
    """Every episode once, in lexicographic order; it ends at eos or after `horizon` actions.

    Returns:
        tokens: long [N, K], filled up with eos. mask: bool [N, K], True up to and including the last action.
    Raises:
        ValueError: if there are more than MAX_EPISODES.
    """
    size, inner, horizon = len(mdp.actions), len(mdp.continuing), mdp.horizon
    ended = sum(inner**t for t in range(horizon)) if mdp.eos is not None else 0
    if (count := ended + inner**horizon) > MAX_EPISODES:
        raise ValueError(f"{count:,} episodes are too many to list: shorten the horizon, or use sample_episodes")
    tokens = torch.zeros((1, 0), dtype=torch.long)
    alive = torch.ones(1, dtype=torch.bool)
    masks = []
    for _ in range(horizon):
        children = torch.where(alive, size, 1)  # an episode that is over has one continuation: the filling
        first = torch.repeat_interleave(children.cumsum(0) - children, children)
        action = torch.arange(int(children.sum())) - first
        tokens, alive = tokens.repeat_interleave(children, 0), alive.repeat_interleave(children)
        masks = [m.repeat_interleave(children) for m in masks] + [alive]
        if mdp.eos is not None:
            action = torch.where(alive, action, mdp.eos)
            alive = alive & (action != mdp.eos)
        tokens = torch.cat([tokens, action[:, None]], 1)
    return tokens, torch.stack(masks, 1)


@torch.no_grad()
def sample_episodes(
    mdp: TokenMDP, policy: Policy, n: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """`n` episodes drawn from the policy, in the same form as `enumerate_episodes`.

    With a seeded CPU generator the result is the same every time.
    """
    if n < 1:
        raise ValueError(f"n is {n}: ask for at least one episode")
    tokens = torch.full((n, mdp.horizon), 0 if mdp.eos is None else mdp.eos)
    mask = torch.zeros((n, mdp.horizon), dtype=torch.bool)
    alive = torch.arange(n)
    for t in range(mdp.horizon):
        logprobs = _call(mdp, policy, tokens[alive, : t + 1])[:, t].cpu()
        tokens[alive, t] = torch.multinomial(logprobs.exp(), 1, generator=generator).squeeze(1)
        mask[alive, t] = True
        if mdp.eos is not None:
            alive = alive[tokens[alive, t] != mdp.eos]
        if len(alive) == 0:
            break
    return tokens, mask


def action_logprobs(mdp: TokenMDP, policy: Policy, tokens: Tensor, mask: Tensor) -> Tensor:
    """log π(a_t|s_t) of the episodes' own actions, [N, K], 0 where the mask is False. Differentiable.

    Summed over time it is the log-probability of the episode.
    """
    check_batch(mask, tokens=tokens)
    logprobs = _call(mdp, policy, tokens, mask)
    tokens, mask = tokens.to(logprobs.device), mask.to(logprobs.device)
    return torch.where(mask, logprobs.gather(-1, tokens[..., None]).squeeze(-1), 0.0)


def episode_rewards(mdp: TokenMDP, tokens: Tensor, mask: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The MDP's reward of every action, [N, K], 0 where the mask is False.

    `dtype=None` keeps a floating type of the reward's and makes every other one the default type.
    """
    check_batch(mask, tokens=tokens)
    rewards = torch.as_tensor(mdp.reward(tokens, mask), dtype=dtype, device=mask.device)
    if rewards.shape not in (mask.shape, mask.shape[:1]):
        raise ValueError(f"reward gave {list(rewards.shape)} for tokens {list(tokens.shape)}: it must be [N] or [N, K]")
    return holistic_rewards(rewards if rewards.is_floating_point() else rewards.to(torch.get_default_dtype()), mask)


def episode_returns(mdp: TokenMDP, tokens: Tensor, mask: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Σ_{t=0} γ^t r_t of each episode, [N]."""
    return reward_to_go(episode_rewards(mdp, tokens, mask, dtype), mask, mdp.gamma)[:, 0]


def exact_objective(mdp: TokenMDP, policy: Policy) -> Tensor:
    """J(θ), the expected return: the sum over every episode of its probability times its return.

    Differentiable, so `torch.autograd.grad(exact_objective(mdp, policy), parameters)` is the exact policy gradient.
    With a KL penalty the objective is `exact_objective(mdp, policy) - beta * exact_kl(mdp, policy, reference)`.
    """
    tokens, mask, _, logprobs, _ = _listed(mdp, policy)
    return logprobs.sum(1).exp() @ episode_returns(mdp, tokens, mask, logprobs.dtype).to(logprobs.device)


def exact_values(mdp: TokenMDP, policy: Policy) -> Values:
    """V, Q and A of every non-terminal state, discounted from the state's own step. Differentiable.

    Q(s, a) is the expected reward-to-go over all episodes through s and a, given that the policy acts from then on; it
    is defined for actions and states that the policy never reaches too.

    Returns:
        Values(v [S], q [S, A], advantage [S, A], states); states are token tuples by length, then lexicographic, so
        states[0] is () and v[0] is J.
    """
    tokens, mask, index, logprobs, table = _listed(mdp, policy)
    rewards = episode_rewards(mdp, tokens, mask, table.dtype)
    to_go = reward_to_go(rewards, mask, mdp.gamma).to(table.device)
    after = pad(logprobs[:, 1:], (0, 1)).flip(1).cumsum(1).flip(1)  # log-prob of all that follows each action
    mask = mask.to(table.device)
    flat = index * len(mdp.actions) + tokens.to(table.device)
    q = table.new_zeros(table.numel()).index_add(0, flat[mask], (after.exp() * to_go)[mask]).view_as(table)
    v = (table.exp() * q).sum(1)
    lengths = range(_depth(mdp) + 1)
    states = itertools.chain.from_iterable(itertools.product(mdp.continuing, repeat=t) for t in lengths)
    return Values(v, q, q - v[:, None], tuple(states))


def state_distribution(mdp: TokenMDP, policy: Policy) -> Tensor:
    """P(s), the probability that an episode passes through s, [S], in the order of `exact_values`. Differentiable.

    The policy gradient theorem reads ∇J = Σ_s γ^|s| P(s) Σ_a ∇π(a|s) Q(s, a). Σ_s P(s) is the mean episode length.
    """
    return _reach(mdp, _state_logprobs(mdp, policy))


def exact_kl(mdp: TokenMDP, policy: Policy, reference: Policy) -> Tensor:
    """KL(policy‖reference) between the distributions of whole episodes, in nats, undiscounted. Differentiable.

    It is also the sum over states of the probability to pass through them times the KL between the next tokens there.
    """
    own, other = _state_logprobs(mdp, policy), _state_logprobs(mdp, reference)
    reach = _reach(mdp, own)
    never = own.isneginf() | (reach == 0)[:, None]  # 0·log 0 is 0, whatever the reference gives there
    return reach @ (own.exp() * torch.where(never, 0.0, own - other)).sum(1)


def gibbs(mdp: TokenMDP, reference: Policy, beta: float) -> tuple[Tensor, Tensor]:
    """The best that KL-penalised RL can reach: p* = p_ref·e^{R/β}/Z maximises E_p[R] − β·KL(p‖p_ref), at β·log Z.

    R is an episode's return. Every distribution of episodes is some policy's, so a softmax table attains it.
    Korbak et al. 2022, arXiv 2205.11275.

    Returns:
        (log p* [N] in the order of `enumerate_episodes`, the value β·log Z).
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    tokens, mask, _, logprobs, _ = _listed(mdp, reference)
    tilted = logprobs.sum(1) + episode_returns(mdp, tokens, mask, logprobs.dtype).to(logprobs.device) / beta
    return tilted.log_softmax(0), beta * tilted.logsumexp(0)


def _call(mdp: TokenMDP, policy: Policy, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """The policy's log-probs [N, T, A], checked (where the mask is True) for the mistakes that would pass unnoticed."""
    logprobs = policy(tokens)
    wanted = [*tokens.shape, len(mdp.actions)]
    if list(logprobs.shape) != wanted:
        raise ValueError(f"the policy gave {list(logprobs.shape)}: its log-probs here must be [N, T, A] = {wanted}")
    logprobs = as_float(logprobs)
    with torch.no_grad():
        off = logprobs.logsumexp(-1).abs()
        off = (off if mask is None else torch.where(mask.to(off.device), off, 0.0)).amax()
        apart = (logprobs[:, 0].exp() - logprobs[:1, 0].exp()).abs().amax()
    if not off < 1e-2:  # NaN is not either
        raise ValueError(f"the policy's log-probs are not normalised ({off:.3g} nats off): end it with log_softmax(-1)")
    if not apart < 1e-2:
        raise ValueError(
            "the policy's first log-probs differ between rows, though nothing comes before them: does it look at the "
            "token it is to predict (shift it by one position), or is dropout on (call .eval())?"
        )
    return logprobs


def _depth(mdp: TokenMDP) -> int:
    """Length of the longest state: K − 1, unless every first action ends the episode."""
    return mdp.horizon - 1 if mdp.continuing else 0


def _state_logprobs(mdp: TokenMDP, policy: Policy) -> Tensor:
    """log π(·|s) of every state, [S, A]: one call on the longest states, whose beginnings are all the others."""
    depth, inner = _depth(mdp), len(mdp.continuing)
    if inner**depth > MAX_EPISODES:
        raise ValueError(f"{inner**depth:,} states are too many to list: shorten the horizon, or use sample_episodes")
    longest = torch.tensor(list(itertools.product(mdp.continuing, repeat=depth)), dtype=torch.long).view(
        inner**depth, depth
    )
    logprobs = _call(mdp, policy, pad(longest, (0, 1)))  # the last column is never looked at
    return torch.cat([logprobs[:: inner ** (depth - t), t] for t in range(depth + 1)])


def _reach(mdp: TokenMDP, table: Tensor) -> Tensor:
    """The probability to pass through each state, [S], from the states' log-probs [S, A]."""
    level, levels, start = table.new_ones(1), [], 0
    for _ in range(_depth(mdp) + 1):
        levels.append(level)
        here = table[start : start + len(level)]
        start += len(level)
        level = (level[:, None] * here[:, list(mdp.continuing)].exp()).flatten()
    return torch.cat(levels)


def _listed(mdp: TokenMDP, policy: Policy) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What an exact sum over episodes needs: tokens and mask; on the policy's device, the rows of their states [N, K],
    the log-probs of their actions [N, K], and the states' log-probs [S, A] from which these come.
    """
    tokens, mask = enumerate_episodes(mdp)
    inner = len(mdp.continuing)
    rank = tokens if mdp.eos is None else tokens - (tokens > mdp.eos).long()  # of the action among those that continue
    index, within, start = torch.zeros_like(tokens), torch.zeros(len(tokens), dtype=torch.long), 0
    for t in range(mdp.horizon):
        index[:, t] = torch.where(mask[:, t], start + within, 0)
        within, start = within * inner + rank[:, t], start + inner**t
    table = _state_logprobs(mdp, policy)
    index = index.to(table.device)
    logprobs = torch.where(mask.to(table.device), table[index, tokens.to(table.device)], 0.0)
    return tokens, mask, index, logprobs, table
