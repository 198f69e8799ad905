"""Every estimator's gradient against the exact one.

Each case is a loss as it is used on a batch, and the scalar whose gradient it should have on average. Twice: the
expectation over all episodes, exactly; and averages over samples of three sizes, whose error must be chance and fall as
1/√N. The wrong versions at the end must fail both, which is what makes passing mean something.
"""

import functools

import pytest
import torch
from tools import F64, Checker, Table, at, discount, gradient, holistic, stepwise, story

from rlhf_lib.estimators import gae, group_normalize, holistic_rewards, leave_one_out, reward_to_go
from rlhf_lib.losses import kl_estimate, policy_gradient_loss, ppo_loss, sft_loss, value_loss
from rlhf_lib.mdp import (
    TokenMDP,
    action_logprobs,
    enumerate_episodes,
    episode_returns,
    episode_rewards,
    exact_kl,
    exact_objective,
    exact_values,
    state_distribution,
)

STEPS = story(stepwise, gamma=0.8)  # a reward for every action, discounted
TEXT = story(holistic, gamma=1.0)  # a score for the whole text
SHORT = story(stepwise, gamma=0.8, horizon=2)  # 7 episodes, few enough to list every group of three
ONE = story(stepwise, gamma=1.0, horizon=1)
BETA = 0.5


@functools.cache
def policy_of(mdp):
    return Table(mdp, seed=11)


@functools.cache
def reference_of(mdp):
    return Table(mdp, seed=12)


@functools.cache
def values_of(mdp):
    with torch.no_grad():
        return exact_values(mdp, policy_of(mdp))


@functools.cache
def wrong_values(mdp):
    """A critic that knows nothing."""
    return torch.randn(len(values_of(mdp).v), dtype=F64, generator=torch.Generator().manual_seed(5))


# --- losses, as they are used on a batch ------------------------------------------------------------------------------


def weighted(weights):
    """The policy gradient loss with weights(mdp, tokens, mask) -> [B, T] or [B]."""

    def loss(mdp, policy, tokens, mask):
        return policy_gradient_loss(action_logprobs(mdp, policy, tokens, mask), weights(mdp, tokens, mask), mask)

    return loss


def to_go(mdp, tokens, mask):
    return reward_to_go(episode_rewards(mdp, tokens, mask), mask, mdp.gamma)


def discounted_to_go(mdp, tokens, mask):
    return discount(mask, mdp.gamma) * to_go(mdp, tokens, mask)


def minus_baseline(mdp, tokens, mask):
    return discount(mask, mdp.gamma) * (to_go(mdp, tokens, mask) - 0.7)


def exact_q(mdp, tokens, mask):
    values = values_of(mdp)
    return discount(mask, mdp.gamma) * at(values.q, values, tokens, mask)


def exact_advantage(mdp, tokens, mask):
    values = values_of(mdp)
    return discount(mask, mdp.gamma) * at(values.advantage, values, tokens, mask)


def gae_weights(lam, critic=None):
    def weights(mdp, tokens, mask):
        values = values_of(mdp)
        v = at(values.v if critic is None else critic(mdp), values, tokens, mask)
        rewards = episode_rewards(mdp, tokens, mask)
        return discount(mask, mdp.gamma) * gae(rewards, v, mask, mdp.gamma, lam)[0]

    return weights


def other_samples(mdp, tokens, mask):
    return leave_one_out(episode_returns(mdp, tokens, mask), 3)


def own_sample_too(mdp, tokens, mask):
    return group_normalize(episode_returns(mdp, tokens, mask), 3)


def ppo_at_ratio_1(mdp, policy, tokens, mask):
    logprobs = action_logprobs(mdp, policy, tokens, mask)
    return ppo_loss(logprobs, logprobs, exact_advantage(mdp, tokens, mask), mask, denominator=len(mask))


def both_logprobs(mdp, policy, tokens, mask):
    return (action_logprobs(mdp, model, tokens, mask) for model in (policy, reference_of(mdp)))


def kl_in_reward(mdp, policy, tokens, mask):
    logprobs, reference = both_logprobs(mdp, policy, tokens, mask)
    kl = kl_estimate(logprobs, reference, "k1")
    rewards = holistic_rewards(mdp.reward(tokens, mask), mask, kl, BETA)
    return policy_gradient_loss(logprobs, reward_to_go(rewards, mask), mask)


def sequence_kl_in_leave_one_out(mdp, policy, tokens, mask):
    logprobs, reference = both_logprobs(mdp, policy, tokens, mask)
    scores = mdp.reward(tokens, mask) - BETA * kl_estimate(logprobs, reference).detach().sum(1)
    return policy_gradient_loss(logprobs, leave_one_out(scores, 2), mask)


def kl_in_loss(kind, importance=False):
    """Sum over tokens, mean over episodes; `importance` multiplies by a ratio that is 1 but has a gradient."""

    def loss(mdp, policy, tokens, mask):
        logprobs, reference = both_logprobs(mdp, policy, tokens, mask)
        estimate = kl_estimate(logprobs, reference, kind)
        if importance:
            estimate = estimate * torch.exp(logprobs - logprobs.detach())
        return estimate.sum() / len(mask)

    return loss


def squared_sequence_ratio(mdp, policy, tokens, mask):
    logprobs, reference = both_logprobs(mdp, policy, tokens, mask)
    return kl_estimate(logprobs.sum(1), reference.sum(1), "k2").mean()


def cloning(mdp, policy, tokens, mask):
    return sft_loss(action_logprobs(mdp, policy, tokens, mask), mask, denominator=len(mask))


# --- what their gradients should be -----------------------------------------------------------------------------------


def minus_objective(mdp, policy):
    return -exact_objective(mdp, policy)


def minus_penalised(mdp, policy):
    return BETA * exact_kl(mdp, policy, reference_of(mdp)) - exact_objective(mdp, policy)


def sequence_kl(mdp, policy):
    return exact_kl(mdp, policy, reference_of(mdp))


def nothing(mdp, policy):
    return 0 * policy.logits.sum()


def next_token_logprobs(mdp, policy):
    return torch.stack([policy(torch.tensor([[*s, 0]]))[0, -1] for s in values_of(mdp).states])


def fixed_states(kl):
    """Σ_s P(s) kl(log π(·|s), log ref(·|s)) with the visited states held fixed."""

    def target(mdp, policy):
        own, other = next_token_logprobs(mdp, policy), next_token_logprobs(mdp, reference_of(mdp))
        return state_distribution(mdp, policy).detach() @ kl(own, other.detach())

    return target


reverse_kl_at_fixed_states = fixed_states(lambda own, other: (own.exp() * (own - other)).sum(1))
forward_kl_at_fixed_states = fixed_states(lambda own, other: (other.exp() * (other - own)).sum(1))


def undiscounted_states(mdp, policy):
    """The direction that results when γ^t is left out: −Σ_s P(s) Σ_a ∇π(a|s) Q(s, a)."""
    own = next_token_logprobs(mdp, policy).exp()
    return -(state_distribution(mdp, policy).detach() @ (own * values_of(mdp).q).sum(1))


def shrunk_objective(mdp, policy):
    """A group of three with its own sample in the baseline: (N − 1)/N."""
    return -2 / 3 * exact_objective(mdp, policy)


def cross_entropy(mdp, policy):
    return exact_kl(mdp, reference_of(mdp), policy)


CASES = {
    "REINFORCE, return": (weighted(episode_returns), minus_objective, STEPS),
    "REINFORCE, whole text": (weighted(episode_returns), minus_objective, TEXT),
    "reward-to-go with γ^t": (weighted(discounted_to_go), minus_objective, STEPS),
    "reward-to-go without γ^t": (weighted(to_go), undiscounted_states, STEPS),
    "constant baseline": (weighted(minus_baseline), minus_objective, STEPS),
    "leave one out": (weighted(other_samples), minus_objective, SHORT, 3),
    "own sample in the baseline": (weighted(own_sample_too), shrunk_objective, SHORT, 3),
    "exact Q": (weighted(exact_q), minus_objective, STEPS),
    "exact advantage": (weighted(exact_advantage), minus_objective, STEPS),
    "GAE, λ = 1, any critic": (weighted(gae_weights(1.0, wrong_values)), minus_objective, STEPS),
    "GAE, λ = 0, exact critic": (weighted(gae_weights(0.0)), minus_objective, STEPS),
    "GAE, λ = 0.6, exact critic": (weighted(gae_weights(0.6)), minus_objective, STEPS),
    "PPO at ratio 1": (ppo_at_ratio_1, minus_objective, STEPS),
    "KL in the reward": (kl_in_reward, minus_penalised, TEXT),
    "sequence KL in leave one out": (sequence_kl_in_leave_one_out, minus_penalised, story(holistic, 1.0, 2), 2),
    "k1 in the loss": (kl_in_loss("k1"), nothing, TEXT),
    "k2 per token in the loss": (kl_in_loss("k2"), reverse_kl_at_fixed_states, TEXT),
    "k3 times ratio in the loss": (kl_in_loss("k3", importance=True), reverse_kl_at_fixed_states, TEXT),
    "k3 in the loss": (kl_in_loss("k3"), forward_kl_at_fixed_states, TEXT),
    "k2 of the sequence in the loss": (squared_sequence_ratio, sequence_kl, TEXT),
    "k2 in the loss, one action": (kl_in_loss("k2"), sequence_kl, ONE),
    "k3 times ratio, one action": (kl_in_loss("k3", importance=True), sequence_kl, ONE),
    "cloning another policy": (cloning, cross_entropy, TEXT, 1, reference_of(TEXT)),
    "cloning oneself": (cloning, nothing, TEXT),
}


# --- the same, done wrong ---------------------------------------------------------------------------------------------


def rewards_so_far(mdp, tokens, mask):
    return episode_rewards(mdp, tokens, mask).cumsum(1)


def one_factor_too_many(mdp, tokens, mask):
    return mdp.gamma * discounted_to_go(mdp, tokens, mask)


def score_at_the_end_only(mdp, tokens, mask):
    return episode_rewards(mdp, tokens, mask)


def wrong_sign(mdp, tokens, mask):
    return -episode_returns(mdp, tokens, mask)


def baseline_that_knows_the_action(mdp, tokens, mask):
    return discounted_to_go(mdp, tokens, mask) - exact_q(mdp, tokens, mask)


def value_of_the_next_state(mdp, tokens, mask):
    v = at(values_of(mdp).v, values_of(mdp), tokens, mask).roll(-1, 1).nan_to_num(0.0)
    return discounted_to_go(mdp, tokens, mask) - discount(mask, mdp.gamma) * v


def interleaved_groups(mdp, tokens, mask):
    """Groups are neighbours; this pairs each sample with the wrong ones, itself among them."""
    returns = episode_returns(mdp, tokens, mask).view(-1, 3)
    return (returns - returns.mean(1, keepdim=True).roll(1, 0) - returns / 3).flatten()


def mean_over_the_length(mdp, policy, tokens, mask):
    logprobs = action_logprobs(mdp, policy, tokens, mask)
    weights = episode_returns(mdp, tokens, mask)[:, None] / mask.sum(1, keepdim=True)
    return policy_gradient_loss(logprobs, weights.expand(mask.shape), mask)


def immediate_kl_only(mdp, policy, tokens, mask):
    logprobs, reference = both_logprobs(mdp, policy, tokens, mask)
    scores = reward_to_go(episode_rewards(mdp, tokens, mask), mask)
    return policy_gradient_loss(logprobs, scores - BETA * kl_estimate(logprobs, reference), mask)


def kl_upside_down(mdp, policy, tokens, mask):
    logprobs, reference = both_logprobs(mdp, policy, tokens, mask)
    rewards = holistic_rewards(mdp.reward(tokens, mask), mask, kl_estimate(reference, logprobs), BETA)
    return policy_gradient_loss(logprobs, reward_to_go(rewards, mask), mask)


WRONG = {
    "forward cumsum": (weighted(rewards_so_far), minus_objective, STEPS),
    "γ^t left out": (weighted(to_go), minus_objective, STEPS),
    "γ^(t+1)": (weighted(one_factor_too_many), minus_objective, STEPS),
    "only the immediate reward": (weighted(score_at_the_end_only), minus_objective, TEXT),
    "descent": (weighted(wrong_sign), minus_objective, STEPS),
    "baseline depends on the action": (weighted(baseline_that_knows_the_action), minus_objective, STEPS),
    "V shifted by one": (weighted(value_of_the_next_state), minus_objective, STEPS),
    "GAE with a wrong critic": (weighted(gae_weights(0.5, wrong_values)), minus_objective, STEPS),
    "mean over the length": (mean_over_the_length, minus_objective, TEXT),
    "own sample in the baseline": (weighted(own_sample_too), minus_objective, SHORT, 3),
    "a third of its own sample": (weighted(interleaved_groups), minus_objective, SHORT, 3),
    "k1 in the loss": (kl_in_loss("k1"), sequence_kl, TEXT),
    "k3 in the loss": (kl_in_loss("k3"), sequence_kl, TEXT),
    "k2 per token in the loss": (kl_in_loss("k2"), sequence_kl, TEXT),
    "k3 times ratio in the loss": (kl_in_loss("k3", importance=True), sequence_kl, TEXT),
    "immediate KL only": (immediate_kl_only, minus_penalised, TEXT),
    "KL with the ratio swapped": (kl_upside_down, minus_penalised, TEXT),
}

SIZES, REPEATS = (50, 200, 800), 24
ENOUGH = 20_000  # samples to notice the smallest of the mistakes


@functools.cache
def checker(right: bool, name: str) -> Checker:
    loss, target, mdp, *rest = (CASES if right else WRONG)[name]
    return Checker(loss, target, mdp, policy_of(mdp), *rest)


@pytest.mark.parametrize("name", CASES)
def test_expected_gradient_is_exact(name):
    assert checker(True, name).bias() < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_sampled_gradient_agrees_and_its_error_falls_with_the_root_of_n(name):
    check = checker(True, name)
    assert check.variance.sum() > 1e-6
    for size in SIZES:
        sampled = check.sampled(size, REPEATS, seed=size)
        assert check.p_value(sampled, size) > 1e-4 / len(SIZES)
        assert check.error_p_value(sampled, size) > 1e-4 / len(SIZES)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_noticed(name):
    check = checker(False, name)
    assert check.bias() > 1e-2
    assert check.p_value(check.sampled(ENOUGH, repeats=1), ENOUGH) < 1e-4 / len(SIZES)


def test_the_error_of_a_biased_estimator_does_not_fall_with_the_root_of_n():
    check = checker(False, "own sample in the baseline")
    small, large = (check.error_p_value(check.sampled(size, REPEATS), size) for size in (5, SIZES[-1]))
    assert small > 1e-4 > large


def test_advantages_have_the_exact_mean_in_every_state():
    """E[Â | s, a] = A(s, a) for GAE with the exact critic, at any λ; and for reward-to-go the mean is Q."""
    policy, values = policy_of(STEPS), values_of(STEPS)
    tokens, mask = enumerate_episodes(STEPS)
    probability = action_logprobs(STEPS, policy, tokens, mask).sum(1).exp().detach()
    rewards, v = episode_rewards(STEPS, tokens, mask), at(values.v, values, tokens, mask)
    estimates = [(gae(rewards, v, mask, STEPS.gamma, lam)[0], values.advantage) for lam in (0.0, 0.6, 1.0)]
    estimates.append((reward_to_go(rewards, mask, STEPS.gamma), values.q))
    for i, state in enumerate(values.states):
        for action in range(3):
            after = torch.tensor([*state, action])
            here = (tokens[:, : len(after)] == after).all(1) & mask[:, len(state)]
            weight = probability[here] / probability[here].sum()
            for estimate, wanted in estimates:
                assert (weight @ estimate[here, len(state)]).item() == pytest.approx(wanted[i, action].item())


def test_value_loss_pulls_every_state_towards_its_value():
    """The expected gradient of the critic's loss is P(s) · (V_w(s) − V(s))."""
    values, tokens, mask = values_of(STEPS), *enumerate_episodes(STEPS)
    probability = action_logprobs(STEPS, policy_of(STEPS), tokens, mask).sum(1).exp().detach()
    rows = at(torch.arange(len(values.v), dtype=F64), values, tokens, mask).nan_to_num(0).long()
    critic = wrong_values(STEPS).clone().requires_grad_()
    returns = reward_to_go(episode_rewards(STEPS, tokens, mask), mask, STEPS.gamma)
    expected = torch.zeros_like(critic)
    for n, p in enumerate(probability):
        one = slice(n, n + 1)
        loss = value_loss(critic[rows[one]], returns[one], mask[one], denominator=1)
        expected += p * torch.autograd.grad(loss, critic)[0]
    wanted = state_distribution(STEPS, policy_of(STEPS)) * (critic - values.v)
    assert (expected - wanted).abs().max() < 1e-12


def test_at_discount_1_every_sample_of_a_sequence_bandit_agrees():
    """A whole text as one action: with one score at the end, each single gradient is that of the token-level MDP."""
    tokens, mask = enumerate_episodes(TEXT)
    policy, scores = policy_of(TEXT), holistic(tokens, mask)
    for n in range(len(tokens)):
        one = slice(n, n + 1)
        logprobs = action_logprobs(TEXT, policy, tokens[one], mask[one])
        by_token = policy_gradient_loss(logprobs, to_go(TEXT, tokens[one], mask[one]), mask[one])
        at_once = policy_gradient_loss(logprobs.sum(1, keepdim=True), scores[one], torch.ones(1, 1, dtype=torch.bool))
        by_token, at_once = (gradient(loss, policy) for loss in (by_token, at_once))
        assert (by_token - at_once).abs().max() < 1e-12


def test_the_checker_sees_a_wrong_value_of_gamma():
    """Two MDPs that differ in γ only have different gradients, so no case above passes by ignoring γ."""
    other = TokenMDP(STEPS.actions, STEPS.horizon, stepwise, 0.9, STEPS.eos)
    policy = policy_of(STEPS)
    difference = gradient(exact_objective(STEPS, policy), policy) - gradient(exact_objective(other, policy), policy)
    assert difference.abs().max() > 1e-2
