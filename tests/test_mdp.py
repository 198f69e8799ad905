"""The exact MDP: against hand-computed values, against a recursion written another way, and against its own samples."""

import itertools
import math

import pytest
import torch
from tools import F64, Table, chi_square_p, discount, gradient, holistic, prefix_rows, stepwise, story

from rlhf_lib.mdp import (
    TokenMDP,
    action_logprobs,
    enumerate_episodes,
    episode_returns,
    episode_rewards,
    exact_kl,
    exact_objective,
    exact_values,
    gibbs,
    sample_episodes,
    state_distribution,
)


def uniform(size):
    return lambda tokens: torch.full((*tokens.shape, size), -math.log(size), dtype=F64)


def pay(tokens, mask):
    return torch.where(mask, torch.tensor([2.0, 1.0])[tokens], torch.inf)


def test_hand_computed_values():
    # Go pays 2, stop pays 1, each has probability 1/2, γ = 1/2:
    # (stop) 1 · 1/2, (go, go) (2 + 2/2) · 1/4, (go, stop) (2 + 1/2) · 1/4.
    mdp = TokenMDP(("go", "stop"), 2, pay, gamma=0.5, eos=1)
    assert exact_objective(mdp, uniform(2)).item() == pytest.approx(1.875)
    values = exact_values(mdp, uniform(2))
    assert values.states == ((), (0,))
    assert values.v.tolist() == pytest.approx([1.875, 1.5])
    assert values.q.flatten().tolist() == pytest.approx([2.75, 1.0, 2.0, 1.0])
    assert values.advantage.flatten().tolist() == pytest.approx([0.875, -0.875, 0.5, -0.5])
    assert state_distribution(mdp, uniform(2)).tolist() == pytest.approx([1.0, 0.5])


def test_a_score_per_episode_is_given_at_its_last_action():
    mdp = TokenMDP(("go", "stop"), 2, lambda tokens, mask: 10 * tokens[:, 0] + mask.sum(1), gamma=0.5, eos=1)
    tokens, mask = enumerate_episodes(mdp)
    assert tokens.tolist() == [[0, 0], [0, 1], [1, 1]] and mask.tolist() == [[True, True], [True, True], [True, False]]
    assert episode_rewards(mdp, tokens, mask).tolist() == [[0, 2], [0, 2], [11, 0]]
    assert episode_returns(mdp, tokens, mask).tolist() == [1, 1, 11]
    assert exact_objective(mdp, uniform(2)).item() == pytest.approx(0.25 + 0.25 + 5.5)


@pytest.mark.parametrize("eos", [None, 0, 1, 2])
@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_enumeration_lists_every_episode_once(horizon, eos):
    mdp = TokenMDP(("a", "b", "c"), horizon, holistic, eos=eos)
    wanted = set()
    for path in itertools.product(range(3), repeat=horizon):
        wanted.add(path[: path.index(eos) + 1] if eos in path else path)
    tokens, mask = enumerate_episodes(mdp)
    listed = [tuple(row[m].tolist()) for row, m in zip(tokens, mask, strict=True)]
    assert len(listed) == len(wanted) and set(listed) == wanted
    assert listed == sorted(listed)
    assert (mask[:, 1:] <= mask[:, :-1]).all() and mask[:, 0].all()
    assert tokens.shape == mask.shape == (len(wanted), horizon) and tokens.dtype == torch.long
    policy = Table(mdp, seed=3)
    assert action_logprobs(mdp, policy, tokens, mask).sum(1).exp().sum().item() == pytest.approx(1)


def walk(mdp, policy, rewards, state=()):
    """V and Q of every state by recursion, in plain numbers; rewards: {tokens up to the action: reward}."""
    probabilities = policy(torch.tensor([[*state, 0]]))[0, -1].exp().tolist()
    values, q = {}, []
    for action in range(len(mdp.actions)):
        after, future = (*state, action), 0.0
        if action != mdp.eos and len(after) < mdp.horizon:
            below = walk(mdp, policy, rewards, after)
            values.update(below)
            future = below[after][0]
        q.append(rewards[after] + mdp.gamma * future)
    values[state] = (sum(p * x for p, x in zip(probabilities, q, strict=True)), q)
    return values


@pytest.mark.parametrize("reward", [stepwise, holistic])
@pytest.mark.parametrize("eos", [None, 0, 1])
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_values_agree_with_a_recursion(reward, eos, gamma):
    mdp = TokenMDP(("good", "end", "bad"), 3, reward, gamma, eos)
    policy = Table(mdp, seed=1)
    tokens, mask = enumerate_episodes(mdp)
    rewards = {}
    for row, m, r in zip(tokens.tolist(), mask, episode_rewards(mdp, tokens, mask).tolist(), strict=True):
        rewards.update({tuple(row[: t + 1]): r[t] for t in range(int(m.sum()))})
    wanted = walk(mdp, policy, rewards)
    values = exact_values(mdp, policy)
    assert list(values.states) == sorted(wanted, key=lambda state: (len(state), state))
    assert values.v.tolist() == pytest.approx([wanted[s][0] for s in values.states])
    assert values.q.tolist() == [pytest.approx(wanted[s][1]) for s in values.states]
    assert torch.allclose(values.advantage, values.q - values.v[:, None])
    objective = exact_objective(mdp, policy)
    assert objective.item() == pytest.approx(wanted[()][0])
    assert torch.allclose(gradient(values.v[0], policy), gradient(objective, policy))


def test_gradient_of_the_objective_agrees_with_finite_differences():
    mdp = story()
    policy = Table(mdp, seed=4)
    exact = gradient(exact_objective(mdp, policy), policy)
    logits = policy.logits.detach().clone().flatten()
    for i in range(0, len(logits), 5):
        sides = []
        for step in (1e-5, -1e-5):
            moved = logits.clone()
            moved[i] += step
            policy.logits.data = moved.view_as(policy.logits)
            sides.append(exact_objective(mdp, policy).item())
        assert exact[i].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-8)


def test_policy_gradient_theorem():
    mdp = story(gamma=0.6)
    policy = Table(mdp, seed=2)
    values = exact_values(mdp, policy)
    lengths = torch.tensor([len(s) for s in values.states])
    weight = (mdp.gamma**lengths * state_distribution(mdp, policy)).detach()
    probabilities = [policy(torch.tensor([[*s, 0]]))[0, -1].exp() for s in values.states]
    surrogate = (weight[:, None] * torch.stack(probabilities) * values.q.detach()).sum()
    assert torch.allclose(gradient(surrogate, policy), gradient(exact_objective(mdp, policy), policy))


def test_state_distribution_sums_to_the_mean_length():
    mdp = story()
    policy = Table(mdp, seed=5)
    tokens, mask = enumerate_episodes(mdp)
    probability = action_logprobs(mdp, policy, tokens, mask).sum(1).exp()
    reach = state_distribution(mdp, policy)
    assert reach.sum().item() == pytest.approx((probability * mask.sum(1)).sum().item())
    for state, p in zip(exact_values(mdp, policy).states, reach.tolist(), strict=True):
        k = len(state)
        through = (tokens[:, :k] == torch.tensor(state, dtype=torch.long)).all(1) & mask[:, k]
        assert p == pytest.approx(probability[through].sum().item())


def test_kl_between_episode_distributions():
    mdp = story()
    policy, reference = Table(mdp, seed=1), Table(mdp, seed=2)
    tokens, mask = enumerate_episodes(mdp)
    own = action_logprobs(mdp, policy, tokens, mask).sum(1)
    other = action_logprobs(mdp, reference, tokens, mask).sum(1)
    wanted = (own.exp() * (own - other)).sum()
    assert exact_kl(mdp, policy, reference).item() == pytest.approx(wanted.item())
    assert exact_kl(mdp, policy, policy).item() == 0
    assert torch.allclose(gradient(exact_kl(mdp, policy, reference), policy), gradient(wanted, policy))


def test_actions_of_probability_zero():
    mdp = story()
    policy, reference = Table(mdp), Table(mdp, seed=1)
    with torch.no_grad():
        policy.logits[0, 2] = -torch.inf  # never starts with "bad"
        reference.logits[12] = torch.tensor([0.0, 0.0, -torch.inf])  # after "bad bad", which the policy never sees
    objective = exact_objective(mdp, policy) - 0.1 * exact_kl(mdp, policy, reference)
    assert torch.isfinite(objective) and torch.isfinite(gradient(objective, policy)).all()
    assert torch.isfinite(exact_values(mdp, policy).q).all()
    assert exact_kl(mdp, reference, policy) == torch.inf
    tokens, _ = sample_episodes(mdp, policy, 200, torch.Generator().manual_seed(0))
    assert (tokens[:, 0] != 2).all()


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_gibbs_is_the_optimum_of_the_penalised_objective(beta):
    mdp = story(holistic, gamma=0.9)
    reference, best = Table(mdp, seed=1), Table(mdp)
    logprobs, value = gibbs(mdp, reference, beta)
    assert logprobs.exp().sum().item() == pytest.approx(1)

    # A table has the Gibbs distribution if its logits are the log-probabilities to pass through state and action.
    tokens, mask = enumerate_episodes(mdp)
    through = torch.zeros_like(best.logits)
    cells = prefix_rows(tokens, 3) * 3 + tokens
    through.view(-1).index_add_(0, cells[mask], logprobs.detach().exp()[:, None].expand(mask.shape)[mask])
    best.logits.data = through.clamp(min=1e-300).log()
    assert torch.allclose(action_logprobs(mdp, best, tokens, mask).sum(1), logprobs)

    def penalised(policy):
        return exact_objective(mdp, policy) - beta * exact_kl(mdp, policy, reference)

    assert penalised(best).item() == pytest.approx(value.item())
    assert gradient(penalised(best), best).abs().max() < 1e-10
    for seed in range(5):
        policy = Table(mdp, seed=seed)
        own = action_logprobs(mdp, policy, tokens, mask).sum(1)
        gap = (own.exp() * (own - logprobs)).sum()  # what is missing is β times the KL to the optimum
        assert penalised(policy).item() == pytest.approx((value - beta * gap).item())


def test_samples_have_the_enumerated_form_and_distribution():
    mdp = story()
    policy = Table(mdp, seed=6, spread=0.5)
    tokens, mask = sample_episodes(mdp, policy, 20_000, torch.Generator().manual_seed(0))
    every, every_mask = enumerate_episodes(mdp)
    same = (tokens[:, None] == every).all(2) & (mask[:, None] == every_mask).all(2)
    assert (same.sum(1) == 1).all()
    expected = 20_000 * action_logprobs(mdp, policy, every, every_mask).sum(1).exp().detach()
    assert chi_square_p(same.sum(0).to(F64), expected) > 1e-4
    another = 20_000 * action_logprobs(mdp, Table(mdp, seed=6, spread=0.55), every, every_mask).sum(1).exp().detach()
    assert chi_square_p(same.sum(0).to(F64), another) < 1e-4


@pytest.mark.parametrize("n", [100, 1_000, 10_000])
def test_mean_return_of_samples_is_the_objective(n):
    mdp = story()
    policy = Table(mdp, seed=7)
    returns = episode_returns(mdp, *sample_episodes(mdp, policy, n, torch.Generator().manual_seed(n)))
    every = enumerate_episodes(mdp)
    probability = action_logprobs(mdp, policy, *every).sum(1).exp().detach()
    objective = exact_objective(mdp, policy).item()
    std = float((probability * (episode_returns(mdp, *every) - objective).square()).sum().sqrt())
    assert abs(returns.mean().item() - objective) < 4 * std / math.sqrt(n)


def test_sampling_is_deterministic():
    mdp = story()
    policy = Table(mdp)
    draws = [sample_episodes(mdp, policy, 50, torch.Generator().manual_seed(1))[0] for _ in range(2)]
    other, mask = sample_episodes(mdp, policy, 50, torch.Generator().manual_seed(2))
    assert torch.equal(*draws) and not torch.equal(draws[0], other)
    assert not action_logprobs(mdp, policy, other, mask).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_policy_decides_the_precision(dtype):
    mdp = story(lambda tokens, mask: [1] * len(tokens))
    policy = Table(mdp, dtype=dtype)
    values = exact_values(mdp, policy)
    results = [exact_objective(mdp, policy), values.q, exact_kl(mdp, policy, policy), *gibbs(mdp, policy, 1.0)]
    assert all(result.dtype == dtype for result in results)


def test_an_mdp_in_which_every_action_ends():
    mdp = TokenMDP(("end",), 3, lambda tokens, mask: mask.sum(1).float(), eos=0)
    tokens, mask = enumerate_episodes(mdp)
    assert mask.tolist() == [[True, False, False]]
    assert exact_values(mdp, uniform(1)).states == ((),)
    assert exact_objective(mdp, uniform(1)) == 1


def test_ten_words_and_five_steps_are_listed_in_full():
    mdp = TokenMDP(tuple("abcdefghij"), 5, lambda tokens, mask: (tokens == 3).sum(1).double())
    values = exact_values(mdp, uniform(10))
    assert len(values.states) == 11_111 and enumerate_episodes(mdp)[0].shape == (100_000, 5)
    assert values.v[0].item() == pytest.approx(0.5)


def test_discount_helper_counts_actions():
    assert discount(torch.tensor([[True, False, True]]), 0.5)[0, [0, 2]].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"actions": ()}, "actions"),
        ({"gamma": 1.5}, "gamma"),
        ({"eos": 3}, "eos is 3"),
        ({"eos": -1}, "eos is -1"),
    ],
)
def test_impossible_mdps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenMDP(**{"actions": ("a", "b", "c"), "horizon": 2, "reward": holistic, **arguments})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda tokens: torch.zeros(len(tokens), 3), r"must be \[N, T, A\]"),
        (lambda tokens: torch.zeros(*tokens.shape, 3), "not normalised"),
        (lambda tokens: torch.full((*tokens.shape, 3), torch.nan), "not normalised"),
        (lambda tokens: torch.eye(3)[tokens].log_softmax(-1), "look at the token it is to predict"),
    ],
)
def test_policies_that_are_none_are_refused(policy, message):
    for use in (exact_objective, exact_values, lambda m, p: action_logprobs(m, p, *enumerate_episodes(m))):
        with pytest.raises(ValueError, match=message):
            use(story(), policy)


def test_rewards_of_the_wrong_shape_or_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"reward gave \[15, 3, 1\]"):
        exact_objective(story(lambda tokens, mask: stepwise(tokens, mask)[..., None]), Table(story()))
    with pytest.raises(ValueError, match="NaN or infinite"):
        exact_objective(story(lambda tokens, mask: tokens[:, 0] / 0.0), Table(story()))


def test_what_cannot_be_listed_or_sampled_is_refused():
    large = TokenMDP(tuple("abcdefghij"), 8, holistic)
    for use in (enumerate_episodes, lambda m: exact_kl(m, uniform(10), uniform(10))):
        with pytest.raises(ValueError, match="too many to list"):
            use(large)
    with pytest.raises(ValueError, match="at least one episode"):
        sample_episodes(story(), uniform(3), 0)
    with pytest.raises(ValueError, match="beta must be positive"):
        gibbs(story(), uniform(3), 0.0)
