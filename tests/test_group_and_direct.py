"""RLOO, GRPO, DPO and best of n: against exact gradients and distributions, and against each other."""

import dataclasses
import math

import pytest
import torch
from small_models import MICRO_PAIRS, PROMPTS, end_soon, micro_reward, policy_of, same_weights, weights_of
from test_algorithms import FREE, START, TEXT, other_micro, whole_vocabulary, worth_of
from tools import gradient

from rlhf_lib.algorithms import dpo, group, reinforce
from rlhf_lib.algorithms.best_of_n import best_of_n, kl_bound
from rlhf_lib.losses import bradley_terry_loss
from rlhf_lib.mdp import enumerate_episodes, exact_kl, exact_objective
from rlhf_lib.models import load_model
from rlhf_lib.rollout import sample
from rlhf_lib.runs import Run, generator


def quiet() -> Run:
    return Run(progress=False)


def micro(**options):
    return load_model("micro", device="cpu", **options)


def first_gradient(reward=worth_of, reference=None, prompts=1, **settings):
    """Minus the language model's gradient in one step of `group.train`, which moves nothing."""
    policy = micro()
    config = group.Config(
        **{"steps": 1, "max_new_tokens": 2, "beta": 0.0, "prompts_per_step": prompts} | FREE | settings
    )
    run = group.train(policy, [START], reward, config, reference, quiet())
    return -torch.cat([p.grad.flatten() for p in policy.lm.parameters()]), run.history[0]


def long_or_short(rollout):
    """1 for a completion of one token, 0 for longer ones: many groups are of one mind."""
    return (rollout.lengths == 1).float()


# --- group methods ----------------------------------------------------------------------------------------------------


def test_rloo_follows_the_exact_gradient_of_score_minus_kl():
    model, reference, beta = micro(), other_micro(), 0.5
    own, other = whole_vocabulary(model), whole_vocabulary(reference)
    plain = gradient(exact_objective(TEXT, own), model)
    wanted = plain - beta * gradient(exact_kl(TEXT, own, other), model)
    errors = {}
    for size in (200, 800, 3200):
        found = [first_gradient(reference=reference, beta=beta, samples_per_prompt=size, seed=s)[0] for s in range(4)]
        errors[size] = torch.stack([(f - wanted).square().sum() for f in found]).mean().item() * size
    assert max(errors.values()) < 1.8 * min(errors.values())  # falls as 1/√N
    mean = torch.stack(found).mean(0)
    assert torch.cosine_similarity(mean, wanted, dim=0) > 0.98
    assert (mean - wanted).norm() < 0.3 * (plain - wanted).norm()


def test_rloo_is_reinforce_with_the_leave_one_out_baseline_up_to_what_came_before_a_token():
    """On texts of one token the two are the same; the KL of earlier tokens is all that parts them on longer ones."""
    reference, found = other_micro(), []
    for algorithm in (reinforce, group):
        policy = micro()
        config = algorithm.Config(steps=1, prompts_per_step=3, samples_per_prompt=4, max_new_tokens=1, beta=0.3, **FREE)
        algorithm.train(policy, [START], worth_of, config, reference, quiet())
        found.append(torch.cat([p.grad.flatten() for p in policy.lm.parameters()]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_groups_own_mean_shrinks_the_gradient(size):
    fair, _ = first_gradient(samples_per_prompt=size, prompts=6)
    own, _ = first_gradient(samples_per_prompt=size, prompts=6, advantage="mean")
    torch.testing.assert_close(own, fair * (size - 1) / size)


def test_with_two_samples_and_scores_of_0_and_1_the_deviation_only_rescales():
    plain, _ = first_gradient(long_or_short, samples_per_prompt=2, prompts=200, advantage="mean")
    scaled, row = first_gradient(long_or_short, samples_per_prompt=2, prompts=200, advantage="std")
    torch.testing.assert_close(scaled, plain / (math.sqrt(0.5) + 1e-4), atol=1e-6, rtol=1e-4)
    assert 0.2 < row["flat"] < 1


def test_the_deviation_weighs_rare_successes_more():
    """Scores of 0 and 1: in a group of G with k ones the factor is 1/std, least where half of them are right."""
    scores = torch.zeros(2, 8)
    scores[0, :1], scores[1, :4] = 1, 1
    plain, scaled = (group.group_advantages(scores.flatten(), 8, kind).view(2, 8) for kind in ("mean", "std"))
    factor = (scaled / plain)[:, 0]
    assert factor[0] > 1.4 * factor[1]
    assert (group.group_advantages(torch.ones(8), 8, "std") == 0).all()


def test_averages_agree_where_lengths_do_and_part_where_they_do_not():
    one = [first_gradient(samples_per_prompt=8, average=a, max_new_tokens=1)[0] for a in ("sum", "mean", "batch")]
    torch.testing.assert_close(one[0], one[1])
    torch.testing.assert_close(one[0], one[2])
    (total, row), (mean, _), (batch, _) = (
        first_gradient(samples_per_prompt=8, average=average) for average in ("sum", "mean", "batch")
    )
    torch.testing.assert_close(batch * row["length"], total)  # divided by tokens instead of completions
    assert torch.cosine_similarity(mean, total, dim=0) < 0.999
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()
    share, count = group.shares(mask, "mean")
    assert (share[:, None] * mask).sum().item() == pytest.approx(2) and count == 2  # every completion weighs the same


def test_k3_in_the_loss_pulls_along_the_forward_kl_not_the_reverse_one():
    """One action; see detail 14: its sampled gradient is that of KL(reference‖π)."""
    model, reference = micro(), other_micro()
    mdp = dataclasses.replace(TEXT, horizon=1)
    own, other = whole_vocabulary(model), whole_vocabulary(reference)
    ids = torch.zeros(1, 1, dtype=torch.long)
    logp, logq = own(ids)[0, 0], other(ids)[0, 0].detach()
    forward = gradient((logq.exp() * (logq - logp)).sum(), model)
    reverse = gradient(exact_kl(mdp, own, other), model)
    found, _ = first_gradient(
        lambda rollout: torch.zeros(len(rollout)),
        reference,
        samples_per_prompt=4000,
        max_new_tokens=1,
        beta=1.0,
        kl_in="loss",
        advantage="mean",
    )
    assert (found + forward).norm() < 0.15 * forward.norm()
    assert (found + forward).norm() < 0.5 * (found + reverse).norm()


@pytest.mark.parametrize("config", [group.RLOO, group.GRPO, group.DR_GRPO, group.DAPO])
def test_all_of_them_raise_the_exact_objective(config):
    policy = micro()
    before = exact_objective(TEXT, whole_vocabulary(policy)).item()
    config = dataclasses.replace(
        config, steps=12, prompts_per_step=4, max_new_tokens=2, lr=3e-3, epochs=2, minibatches=2
    )
    run = group.train(policy, [START], worth_of, config, micro(), quiet())
    assert exact_objective(TEXT, whole_vocabulary(policy)).item() > before + 0.3
    assert run.history[0]["kl"] == pytest.approx(0, abs=1e-5) and run.history[-1]["kl"] > 0.01


def test_calls_of_group_that_make_no_sense():
    policy = micro()
    with pytest.raises(ValueError, match="reference"):
        group.train(policy, [START], worth_of, group.Config(), run=quiet())
    with pytest.raises(ValueError, match="second time"):
        group.train(policy, [START], worth_of, group.Config(), policy, quiet())
    with pytest.raises(ValueError, match="group"):
        group.train(policy, [START], worth_of, group.Config(beta=0.0, samples_per_prompt=1), run=quiet())
    before = weights_of(policy)
    with pytest.raises((ValueError, FloatingPointError)):
        group.train(policy, [START], lambda r: torch.full((len(r),), math.nan), group.Config(beta=0.0), run=quiet())
    assert same_weights(before, weights_of(policy))


# --- DPO --------------------------------------------------------------------------------------------------------------


def test_dpo_learns_its_pairs_from_even_odds():
    policy, reference = micro(), micro()
    config = dpo.Config(epochs=30, batch_size=4, lr=2e-3)
    run = dpo.train(policy, MICRO_PAIRS, reference, config, quiet())
    first, last = run.history[0], run.history[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and first["margin"] == pytest.approx(0, abs=1e-5)
    assert last["accuracy"] == 1 and last["loss"] < 0.5 and last["margin"] > 0.3
    chosen, rejected = dpo.text_logprobs(policy, MICRO_PAIRS) - dpo.text_logprobs(reference, MICRO_PAIRS)
    assert (chosen > rejected).all()


@torch.no_grad()
def test_log_probabilities_of_a_text_are_those_of_its_tokens_and_its_end():
    policy = policy_of("gpt2")
    chosen, rejected = dpo.text_logprobs(policy, [("a", " good movie", " bad"), ("a bad", "", " movie a bad")])
    for prompt, text, got in (("a", " bad", rejected[0]), ("a bad", "", chosen[1]), ("a", " good movie", chosen[0])):
        start = policy.tokenizer(prompt)["input_ids"]
        row = [*start, *(policy.tokenizer(text)["input_ids"] if text else []), 2]
        logprobs = policy.lm(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        wanted = sum(logprobs[i - 1, row[i]].item() for i in range(len(start), len(row)))
        assert got.item() == pytest.approx(wanted, abs=1e-4)


def test_dpo_splits_a_batch_without_changing_its_gradient():
    found = []
    for microbatch in (16, 3, 1):
        policy = micro()
        config = dpo.Config(batch_size=4, microbatch=microbatch, lr=0.0, max_grad_norm=1e9)
        dpo.train(policy, MICRO_PAIRS, other_micro(), config, quiet())
        found.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=1e-4)


def test_the_implicit_reward_of_the_best_policy_is_the_reward():
    """With π ∝ π_ref·exp(r/β), the exact optimum of E[r] − β KL, DPO's loss is Bradley–Terry's on r itself."""
    model, beta = micro(), 0.7
    tokens, mask = enumerate_episodes(TEXT)
    reward = TEXT.reward(tokens, mask).double()
    ref = whole_vocabulary(model)(tokens).gather(-1, tokens[..., None]).squeeze(-1).where(mask, 0).sum(1).double()
    best = (ref + reward / beta).log_softmax(0)
    pairs = torch.randint(len(tokens), (2, 500), generator=generator(0))
    found = dpo.dpo_loss(best[pairs[0]], best[pairs[1]], ref[pairs[0]], ref[pairs[1]], beta)
    torch.testing.assert_close(found, bradley_terry_loss(reward[pairs[0]], reward[pairs[1]]))


def test_calls_of_dpo_that_make_no_sense():
    policy = micro()
    with pytest.raises(ValueError, match="second time"):
        dpo.train(policy, MICRO_PAIRS, policy, run=quiet())
    with pytest.raises(ValueError, match="beta"):
        dpo.train(policy, MICRO_PAIRS, micro(), dpo.Config(beta=0.0), quiet())


# --- best of n --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_best_of_n_is_drawn_from_its_exact_distribution():
    model, n = micro(), 4
    tokens, mask = enumerate_episodes(TEXT)
    reward = TEXT.reward(tokens, mask) + 0.01 * tokens[:, 0]  # so that no two texts tie
    p = whole_vocabulary(model)(tokens).gather(-1, tokens[..., None]).squeeze(-1).where(mask, 0).sum(1).exp().double()
    assert len(reward.unique()) == len(reward) and p.sum().item() == pytest.approx(1, abs=1e-5)
    below = torch.stack([p[reward < r].sum() for r in reward])
    exact = (below + p) ** n - below**n
    kl = (exact * (exact / p).log()).sum().item()
    assert kl < kl_bound(n) and kl == pytest.approx(kl_bound(n), abs=0.1)

    def untied(rollout):
        return worth_of(rollout) + 0.01 * rollout.tokens[:, 0]

    best = best_of_n(model, [START] * 2000, untied, n, max_new_tokens=2, generator=generator(0))
    assert len(best) == 2000 and best.samples_per_prompt == 1
    scores = untied(best).double()
    mean = (exact * reward).sum().item()
    spread = math.sqrt((exact * (reward - mean) ** 2).sum().item() / 2000)
    assert abs(scores.mean().item() - mean) < 4 * spread
    assert mean > (p * reward).sum().item() + 10 * spread  # and not the policy's own


def test_one_of_one_is_a_sample_and_n_must_be_one_at_least():
    policy = policy_of("llama")
    one = best_of_n(policy, PROMPTS, end_soon, 1, max_new_tokens=5, generator=generator(3))
    plain = sample(policy, PROMPTS, max_new_tokens=5, generator=generator(3))
    assert torch.equal(one.tokens, plain.tokens) and kl_bound(1) == 0
    with pytest.raises(ValueError, match="at least 1"):
        kl_bound(0)


def test_best_of_n_reads_the_reward_of_prompt_and_completion():
    best = best_of_n(micro(), ["awful", "very"], micro_reward(), 8, max_new_tokens=3, generator=generator(1))
    every = sample(micro(), ["awful", "very"], max_new_tokens=3, samples_per_prompt=8, generator=generator(1))
    torch.testing.assert_close(micro_reward()(best), micro_reward()(every).view(2, 8).amax(1))
