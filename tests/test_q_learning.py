"""Q-learning against the best that enumeration finds."""

import pytest
import torch

from rlhf_lib.algorithms import q_learning
from rlhf_lib.mdp import TokenMDP, enumerate_episodes, episode_rewards, exact_objective, exact_values
from rlhf_lib.models import TablePolicy
from rlhf_lib.runs import Run


def every_action(tokens, mask):
    """A reward for every action that depends on the word, the place and what came before."""
    past = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
    return torch.sin(1.3 * tokens + 0.7 * past) - 0.2 * torch.arange(tokens.shape[1])


def best_returns(mdp):
    """Q* by listing: of all episodes that go on from (state, action), the largest discounted return from there."""
    tokens, mask = enumerate_episodes(mdp)
    rewards, found = episode_rewards(mdp, tokens, mask, torch.float64), {}
    for text, used, pay in zip(tokens.tolist(), mask.sum(1).tolist(), rewards.tolist(), strict=True):
        for t in range(used):
            key, future = (tuple(text[:t]), text[t]), sum(mdp.gamma ** (k - t) * pay[k] for k in range(t, used))
            found[key] = max(found.get(key, -99), future)
    states = exact_values(mdp, TablePolicy(mdp)).states
    return torch.tensor([[found[s, a] for a in range(len(mdp.actions))] for s in states], dtype=torch.float64)


def quiet():
    return Run(progress=False)


@pytest.mark.parametrize("eos", [None, 1])
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_it_finds_the_exact_values_of_the_best_policy(eos, gamma):
    mdp = TokenMDP(("a", "b", "c", "d"), horizon=3, reward=every_action, gamma=gamma, eos=eos)
    policy = q_learning.EpsilonGreedy(mdp, epsilon=1.0).double()  # explores everything
    q_learning.train(policy, mdp, q_learning.Config(steps=300, episodes_per_step=32), quiet())
    best = best_returns(mdp)
    torch.testing.assert_close(policy.q.detach(), best, atol=1e-6, rtol=0)
    policy.epsilon = 0.0
    torch.testing.assert_close(exact_objective(mdp, policy).detach(), best[0].max(), atol=1e-6, rtol=0)


def test_exploring_a_fifth_of_the_time_is_enough_here():
    mdp = TokenMDP(("a", "b", "c", "d"), horizon=3, reward=every_action, eos=1)
    policy = q_learning.EpsilonGreedy(mdp, epsilon=0.2).double()
    run = q_learning.train(policy, mdp, run=quiet())
    rewards = [row["reward"] for row in run.history]
    assert sum(rewards[-20:]) > sum(rewards[:20])
    policy.epsilon = 0.0
    assert exact_objective(mdp, policy).item() == pytest.approx(best_returns(mdp)[0].max().item(), abs=1e-6)


def test_the_policy_is_the_best_action_and_otherwise_any():
    mdp = TokenMDP(("a", "b", "c", "d"), horizon=2, reward=every_action)
    policy = q_learning.EpsilonGreedy(mdp, epsilon=0.2)
    policy.q.data[0] = torch.tensor([1.0, 3.0, 3.0, 0.0])
    first = policy(torch.zeros((1, 2), dtype=torch.long)).exp()[0, 0]
    torch.testing.assert_close(first, torch.tensor([0.05, 0.45, 0.45, 0.05]))
    with pytest.raises(ValueError, match="epsilon must be between 0 and 1"):
        q_learning.EpsilonGreedy(mdp, epsilon=1.5)


def test_nothing_comes_after_the_end():
    rewards, q_next = torch.tensor([1.0, 1.0]), torch.tensor([[5.0, 2.0], [float("nan"), 7.0]])
    target = q_learning.td_target(rewards, q_next, torch.tensor([False, True]), 0.5)
    assert target.tolist() == [3.5, 1.0]


def test_a_nan_reward_is_named_before_it_reaches_the_table():
    mdp = TokenMDP(("a", "b"), horizon=2, reward=lambda tokens, mask: torch.full(mask.shape[:1], float("nan")))
    with pytest.raises((ValueError, FloatingPointError), match="NaN|not finite"):
        q_learning.train(q_learning.EpsilonGreedy(mdp), mdp, run=quiet())


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    mdp = TokenMDP(("a", "b", "c"), horizon=3, reward=every_action, eos=0)
    whole = q_learning.EpsilonGreedy(mdp).double()
    q_learning.train(whole, mdp, q_learning.Config(steps=20), quiet())
    for steps in (8, 20):
        again = q_learning.EpsilonGreedy(mdp).double()
        q_learning.train(again, mdp, q_learning.Config(steps=steps), Run(tmp_path, progress=False))
    assert torch.equal(whole.q, again.q) and whole.q.any()
