"""Q-learning (Watkins 1989) on a token-level MDP: Q-values in a table, learnt from episodes, and the policy they imply.

The value-based contrast to the policy gradients beside it. A table has a number for every word after every beginning,
so it serves languages small enough to enumerate; lesson 02 measures what becomes of it as the vocabulary grows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lib.estimators import reward_to_go
from rlhf_lib.mdp import TokenMDP, episode_rewards, sample_episodes
from rlhf_lib.models import TablePolicy
from rlhf_lib.runs import Run, check_finite, generator


@dataclass(frozen=True)
class Config:
    steps: int = 200  # roll-outs
    episodes_per_step: int = 16  # episodes a roll-out
    alpha: float = 0.5  # step size: how much of the way a Q-value goes towards its target
    seed: int = 0  # decides the episodes


class EpsilonGreedy(TablePolicy):
    """A table of Q-values [S, A] as a policy: the best action (several share it), but with probability ε any action.

    Called like every policy of an MDP, with tokens [N, T] for log-probs [N, T, A]. Starts at Q = 0.
    """

    def __init__(self, mdp: TokenMDP, epsilon: float = 0.2):
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, not {epsilon}")
        super().__init__(mdp)
        self.epsilon = epsilon

    @property
    def q(self) -> Tensor:
        """The Q-values [S, A], rows in the order of `mdp.exact_values(...).states`."""
        return self.logits

    def forward(self, tokens: Tensor) -> Tensor:
        q = self.q[self.rows(tokens)]
        best = (q == q.amax(-1, keepdim=True)).to(q.dtype)
        return ((1 - self.epsilon) * best / best.sum(-1, keepdim=True) + self.epsilon / self.actions).log()


@torch.no_grad()
def td_target(rewards: Tensor, q_next: Tensor, over: Tensor, gamma: float) -> Tensor:
    """r + γ·max_a Q(s', a), and r alone where the episode is over: what a step has shown Q(s, a) to be.

    Args:
        rewards: [...]. q_next: [..., A], Q-values of the next states; ignored where over. over: bool [...].
    """
    return rewards + gamma * torch.where(over, 0.0, q_next.amax(-1))


@torch.no_grad()
def train(policy: EpsilonGreedy, mdp: TokenMDP, config: Config | None = None, run: Run | None = None) -> Run:
    """Learn the Q-values of the best policy, in place, from episodes that `policy` itself explores.

    A pair that a roll-out meets several times moves by its mean error. The history holds reward (the mean
    return of the episodes as they were explored) and td_error (mean absolute).
    """
    config, run = config or Config(), run or Run()
    run.track(config, policy=policy)

    for step in run.steps(config.steps):
        tokens, mask = sample_episodes(mdp, policy, config.episodes_per_step, generator(config.seed, step))
        rewards = episode_rewards(mdp, tokens, mask, policy.q.dtype)
        check_finite(step, rewards=rewards)
        rows, goes_on = policy.rows(tokens), torch.nn.functional.pad(mask[:, 1:], (0, 1))
        q_next = policy.q[rows.roll(-1, 1)]  # the last column's is another row's, and over
        errors = td_target(rewards, q_next, ~goes_on, mdp.gamma) - policy.q[rows, tokens]

        pair = (rows * policy.actions + tokens)[mask]
        count = torch.bincount(pair, minlength=policy.q.numel())
        total = policy.q.new_zeros(policy.q.numel()).index_add(0, pair, errors[mask])
        policy.q.add_(config.alpha * (total / count.clamp(min=1)).view_as(policy.q))

        returns = reward_to_go(rewards, mask, mdp.gamma)[:, 0]
        run.log(step, reward=returns.mean(), td_error=errors[mask].abs().mean())
    return run
