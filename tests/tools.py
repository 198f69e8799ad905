"""Small MDPs, a softmax table and the checker that holds an estimator's gradient against the exact one."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlhf_lib.mdp import TokenMDP, Values, action_logprobs, enumerate_episodes, sample_episodes

F64 = torch.float64


class Table(nn.Module):
    """A softmax policy with logits of its own for every sequence of tokens shorter than the horizon."""

    def __init__(self, mdp: TokenMDP, seed: int = 0, dtype: torch.dtype = F64, spread: float = 1.0):
        super().__init__()
        size = len(mdp.actions)
        rows = sum(size**t for t in range(mdp.horizon))
        logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=F64)
        self.logits = nn.Parameter((spread * logits).to(dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits[prefix_rows(tokens, self.logits.shape[1])].log_softmax(-1)


def prefix_rows(tokens: Tensor, size: int) -> Tensor:
    """[N, T] -> [N, T]: a number for what precedes each position, 0 for nothing, then by length, then lexicographic."""
    code, first, rows = torch.zeros(len(tokens), dtype=torch.long), 0, []
    for t in range(tokens.shape[1]):
        rows.append(first + code)
        code, first = code * size + tokens[:, t], first + size**t
    return torch.stack(rows, 1)


def stepwise(tokens: Tensor, mask: Tensor) -> Tensor:
    """A reward for every action that depends on all the tokens so far. NaN where there is no action."""
    code, rewards = torch.zeros(len(tokens), dtype=F64), []
    for t in range(tokens.shape[1]):
        code = 3 * code + tokens[:, t] + 1
        rewards.append(0.5 + torch.sin(1.3 * code))
    return torch.where(mask, torch.stack(rewards, 1), torch.nan)


def holistic(tokens: Tensor, mask: Tensor) -> Tensor:
    """One score for the whole text, in which the words interact and ending is worth something."""
    words = torch.tensor([1.0, 0.4, -0.8], dtype=F64)[tokens] * mask
    return words.sum(1) + 0.7 * words[:, 0] * words[:, -1] - 0.2 * mask.sum(1)


def story(reward: Callable = stepwise, gamma: float = 0.8, horizon: int = 3) -> TokenMDP:
    """Three words, of which the middle one ends the text."""
    return TokenMDP(("good", "end", "bad"), horizon, reward, gamma, eos=1)


def at(table: Tensor, values: Values, tokens: Tensor, mask: Tensor) -> Tensor:
    """`table` ([S] or [S, A], rows as in values.states) at the episodes' states (actions): [N, K], NaN elsewhere."""
    size = values.q.shape[1]
    rows = [int(prefix_rows(torch.tensor([[*state, 0]]), size)[0, -1]) for state in values.states]
    wide = torch.full((sum(size**t for t in range(tokens.shape[1])), *table.shape[1:]), torch.nan, dtype=table.dtype)
    wide[rows] = table
    found = wide[prefix_rows(tokens, size)]
    found = found if table.dim() == 1 else found.gather(-1, tokens[..., None]).squeeze(-1)
    return torch.where(mask, found, torch.nan)


def discount(mask: Tensor, gamma: float) -> Tensor:
    """γ^t, t counted in actions."""
    return gamma ** (mask.long().cumsum(1) - 1).clamp(min=0).to(F64)


def gradient(scalar: Tensor, module: nn.Module) -> Tensor:
    grads = torch.autograd.grad(scalar, list(module.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in grads])


Loss = Callable[[TokenMDP, Table, Tensor, Tensor], Tensor]


def gradients_of_all(
    loss: Loss, mdp: TokenMDP, policy: Table, group: int = 1, behaviour: Table | None = None
) -> tuple[Tensor, Tensor]:
    """The loss's gradient for every episode (or every tuple of `group` episodes), [U, P], and its probability, [U].

    The episodes come from `behaviour`, or from the policy itself. The loss sees a batch of `group` episodes, as in use.
    """
    tokens, mask = enumerate_episodes(mdp)
    with torch.no_grad():
        logprobs = action_logprobs(mdp, behaviour or policy, tokens, mask).sum(1)
    rows, probabilities = [], []
    for unit in itertools.product(range(len(tokens)), repeat=group):
        chosen = list(unit)
        rows.append(gradient(loss(mdp, policy, tokens[chosen], mask[chosen]), policy))
        probabilities.append(logprobs[chosen].sum().exp())
    return torch.stack(rows), torch.stack(probabilities)


class Checker:
    """Holds a loss's gradient against `target`'s: its exact expectation, and averages over samples."""

    def __init__(
        self,
        loss: Loss,
        target: Callable[[TokenMDP, Table], Tensor],
        mdp: TokenMDP,
        policy: Table,
        group: int = 1,
        behaviour: Table | None = None,
    ):
        self.loss, self.mdp, self.policy, self.group = loss, mdp, policy, group
        self.behaviour = behaviour or policy
        self.wanted = gradient(target(mdp, policy), policy)
        each, probability = gradients_of_all(loss, mdp, policy, group, behaviour)
        self.expected = probability @ each
        centred = each - self.expected
        self.covariance = centred.T @ (probability[:, None] * centred)  # of one unit's gradient
        self.variance = self.covariance.diagonal()

    def bias(self) -> float:
        """Largest difference between the expected gradient and the wanted one."""
        return float((self.expected - self.wanted).abs().max())

    def sampled(self, units: int, repeats: int, seed: int = 0) -> Tensor:
        """[repeats, P]: the gradient of batches of `units` episodes or groups."""
        generator, rows = torch.Generator().manual_seed(seed), units * self.group
        tokens, mask = sample_episodes(self.mdp, self.behaviour, rows * repeats, generator)
        batches = zip(tokens.split(rows), mask.split(rows), strict=True)
        return torch.stack([gradient(self.loss(self.mdp, self.policy, *batch), self.policy) for batch in batches])

    def p_value(self, sampled: Tensor, units: int) -> float:
        """Family-wise (Bonferroni over coordinates) p-value of the mean of `sampled` being off the wanted gradient."""
        error = sampled.mean(0) - self.wanted
        std = (self.variance / (units * len(sampled))).sqrt()
        if (error[std < 1e-12].abs() > 1e-9).any():
            return 0.0
        z = float((error / std)[std >= 1e-12].abs().max()) if (std >= 1e-12).any() else 0.0
        return min(1.0, int((std >= 1e-12).sum()) * math.erfc(z / math.sqrt(2)))

    def error_p_value(self, sampled: Tensor, units: int) -> float:
        """Two-sided p-value of the batches' squared errors being off (variance of one unit) / N.

        Passing at several N means that the error falls as 1/√N. The squared error of correlated coordinates is close to
        a chi-square with (tr Σ)² / tr Σ² degrees of freedom (Satterthwaite).
        """
        ratio = (sampled - self.wanted).square().sum() * units / self.variance.sum()
        freedom = self.variance.sum().square() / self.covariance.square().sum()
        above = chi_square_tail(ratio * freedom, len(sampled) * freedom)
        return 2 * min(above, 1 - above)


def chi_square_tail(statistic: Tensor, freedom: Tensor) -> float:
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


def chi_square_p(observed: Tensor, expected: Tensor) -> float:
    """p-value of counts against expected counts."""
    statistic = ((observed - expected).square() / expected).sum()
    return chi_square_tail(statistic, torch.tensor(len(expected) - 1.0, dtype=F64))
