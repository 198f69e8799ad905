"""NLPO's mask: what it allows, when it changes, and that sampling, ratio, gradient and KL all use the same one."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from small_models import (
    KINDS,
    MICRO_PROMPT,
    PROMPTS,
    end_soon,
    micro_reward,
    policy_of,
    same_weights,
    unbatched,
    weights_of,
)
from test_algorithms import START, TEXT, other_micro, whole_vocabulary, worth_of
from tools import gradient

from rlhf_lib.algorithms import nlpo, ppo
from rlhf_lib.algorithms.nlpo import Proposals, nucleus
from rlhf_lib.mdp import exact_kl, exact_objective
from rlhf_lib.models import load_model
from rlhf_lib.rollout import sample, score, unpack_bits
from rlhf_lib.runs import Run, generator, student_t_quantile

PROMPTS_OF_MICRO = [MICRO_PROMPT, "not very"]
SMALL = {"prompts_per_step": 2, "samples_per_prompt": 4, "max_new_tokens": 4, "lr": 1e-2}
LOGITS = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()


def quiet() -> Run:
    return Run(progress=False)


def micro(**options):
    return load_model("micro", device="cpu", **options)


def drawn(policy, proposals, **options):
    options = {"max_new_tokens": 10, "samples_per_prompt": 6, "generator": generator(4)} | options
    rollout = sample(policy, PROMPTS, action_mask=proposals, **options)
    return rollout, unpack_bits(rollout.allowed, policy.vocabulary)


# --- what is proposed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top_p", "top_k", "allowed"),
    [
        (0.4, None, [0, 1, 0, 0]),  # the likeliest alone carries more
        (0.7, None, [0, 1, 0, 1]),  # 0.5 is not enough: the action that crosses 0.7 is kept
        (0.9, None, [1, 1, 0, 1]),
        (0.96, None, [1, 1, 1, 1]),
        (1.0, None, [1, 1, 1, 1]),
        (0.9, 1, [0, 1, 0, 0]),
        (0.7, 3, [0, 1, 0, 1]),  # at most three
    ],
)
def test_the_nucleus_by_hand(top_p, top_k, allowed):
    for logits in (LOGITS, LOGITS + 7):
        assert nucleus(logits, top_p, top_k).int().tolist() == allowed
    assert nucleus(LOGITS.expand(2, 3, 4), top_p, top_k).int().tolist() == [[allowed] * 3] * 2


def test_everything_is_allowed_at_1_and_nothing_makes_no_sense():
    logits = torch.linspace(0, -60, 5000)  # of whose tail a cumulative sum in float32 sees nothing
    assert nucleus(logits, 1.0).all() and not nucleus(logits, 1 - 1e-6).all()
    for bad in ({"top_p": 0.0}, {"top_p": 1.1}, {"top_p": 0.9, "top_k": 0}):
        with pytest.raises(ValueError, match="top_"):
            nucleus(LOGITS, **bad)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_state_is_proposed_for_as_if_it_stood_alone(kind):
    """With prompts of different lengths, rows that finish, and another roll-out afterwards."""
    policy = policy_of(kind)
    proposals = Proposals(policy_of(kind, seed=1), 0.7, temperature=0.8)
    for seed in (4, 5):
        rollout, allowed = drawn(policy, proposals, generator=generator(seed), temperature=0.8)
        assert len(rollout.lengths.unique()) > 2
        for row, ids in enumerate(rollout.sequences()):
            logits, _ = unbatched(proposals.model, ids)
            wanted = nucleus(logits[int(rollout.prompt_mask[row].sum()) - 1 : -1] / 0.8, 0.7)
            wanted[:, 2] = True
            assert torch.equal(allowed[row, : len(wanted)], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_is_always_allowed(kind):
    policy = policy_of(kind)
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight[2] = 0  # an end that would not be among the likeliest
    rollout, allowed = drawn(policy, Proposals(policy, 1e-6))
    assert allowed[rollout.mask][:, 2].all()
    assert allowed[rollout.mask].sum(-1).max() <= 2
    assert rollout.finished.any() or rollout.mask.all()
    rollout, allowed = drawn(policy, Proposals(policy, 1.0, top_k=3))
    assert allowed[rollout.mask][:, 2].all() and allowed[rollout.mask].sum(-1).max() <= 4


# --- the stored mask is the one that counts ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_outside_its_mask_and_the_ratio_is_1(kind):
    policy = policy_of(kind)
    rollout, allowed = drawn(policy, Proposals(policy_of(kind, seed=1), 0.7))
    own = allowed.gather(-1, rollout.tokens[..., None]).squeeze(-1)
    assert own[rollout.mask].all() and not allowed[rollout.mask].all(-1).any()
    torch.testing.assert_close(score(policy, rollout).logprobs, rollout.logprobs, atol=1e-5, rtol=0)
    row = 3
    logits, _ = unbatched(policy, rollout.sequences()[row])
    logits = logits[int(rollout.prompt_mask[row].sum()) - 1 : -1].masked_fill(
        ~allowed[row][rollout.mask[row]], -torch.inf
    )
    wanted = logits.log_softmax(-1).gather(1, rollout.tokens[row][rollout.mask[row]][:, None]).squeeze(1)
    torch.testing.assert_close(rollout.logprobs[row][rollout.mask[row]], wanted, atol=1e-5, rtol=0)

    policy, reference = policy_of(kind), policy_of(kind)
    config = nlpo.Config(steps=1, prompts_per_step=4, samples_per_prompt=3, max_new_tokens=8, epochs=1, minibatches=1)
    (row,) = nlpo.train(policy, PROMPTS, end_soon, replace(config, top_p=0.7), reference, quiet()).history
    assert row["first_ratio"] < 1e-5 and row["clip_fraction"] == 0 and row["kl"] > 0.01
    assert 1 <= row["allowed"] < 24


def test_ratios_in_later_updates_are_those_of_the_stored_mask(monkeypatch):
    """The policy moves, and with it what it would propose; the ratio does not see that."""
    seen = []

    def loss(logprobs, old, advantages, mask, clip):
        seen.append((logprobs, old, mask))
        return ppo.ppo_loss(logprobs, old, advantages, mask, clip)

    scored, original = [], nlpo.score
    monkeypatch.setattr(nlpo, "score", lambda model, rollout: (scored.append(rollout), original(model, rollout))[1])
    policy = micro(value_head=True)
    config = nlpo.Config(steps=1, beta=0.0, epochs=4, minibatches=1, **SMALL | {"lr": 5e-2})
    nlpo.train(policy, [MICRO_PROMPT], micro_reward(), config, run=quiet(), loss=loss)
    whole, parts = scored[0], scored[1:]
    assert len(parts) == len(seen) == 4
    for part, (logprobs, old, mask) in zip(parts, seen, strict=True):
        rows = [(whole.tokens == t).all(1).nonzero()[0, 0].item() for t in part.tokens]
        assert torch.equal(part.allowed, whole.allowed[rows]) and torch.equal(old, part.logprobs)
        assert logprobs[mask].isfinite().all()
    apart = (seen[-1][0] - seen[-1][1])[seen[-1][2]].abs().max()
    now, _ = sample_masks(policy, whole)
    assert apart > 0.1 and not torch.equal(now, unpack_bits(whole.allowed, 12)[whole.mask])


@torch.no_grad()
def sample_masks(policy, rollout, top_p=0.9):
    """What a policy proposes in the states of a roll-out: at its actions [N, V], and everywhere."""
    ids = torch.cat([rollout.prompt_ids, rollout.tokens], 1)[:, :-1]
    attention = torch.cat([rollout.prompt_mask, rollout.mask], 1)[:, :-1]
    may = nucleus(policy(ids, attention, last=rollout.tokens.shape[1])[0], top_p)
    may[..., policy.tokenizer.eos_token_id] = True
    return may[rollout.mask], may


def test_the_mask_lags_and_is_refreshed():
    policy, before, steps = micro(value_head=True), [], []

    def reward(rollout):
        before.append(copy.deepcopy(policy))
        steps.append(rollout)
        return micro_reward()(rollout)

    config = nlpo.Config(steps=7, beta=0.0, mask_every=3, **SMALL)
    nlpo.train(policy, PROMPTS_OF_MICRO, reward, config, run=quiet())
    fresh = []
    for step, rollout in enumerate(steps):
        allowed = unpack_bits(rollout.allowed, 12)[rollout.mask]
        assert torch.equal(allowed, sample_masks(before[step - step % 3], rollout)[0])
        fresh.append(torch.equal(allowed, sample_masks(before[step], rollout)[0]))
    assert fresh[0] and fresh[3] and fresh[6] and not all(fresh)


def test_a_refreshed_mask_policy_forgets_what_it_had_read():
    proposals, other, rows = Proposals(micro(), 0.5), micro(), torch.arange(2)
    with torch.no_grad():
        for embeddings in (other.lm.get_input_embeddings(), other.lm.get_output_embeddings()):
            embeddings.weight.copy_(embeddings.weight.flip(0))
    ids = torch.tensor([[1, 4, 7], [1, 5, 3]])
    proposals(ids[:, :2], ids[:, :2] > 0, rows)
    proposals.refresh(other)
    fresh = Proposals(other, 0.5)(ids, ids > 0, rows)
    assert torch.equal(proposals(ids, ids > 0, rows), fresh)
    assert not torch.equal(Proposals(micro(), 0.5)(ids, ids > 0, rows), fresh)


def test_updates_evaluate_each_sequence_once_and_never_the_mask_policy():
    policy, calls, sampling = micro(value_head=True), [], [True]

    def count(module, inputs, output):
        if not sampling[0]:
            assert module is policy
            calls.append(inputs[0].numel())

    def reward(rollout):
        sampling[0] = False
        lengths.append((len(rollout), rollout.prompt_ids.shape[1] + rollout.tokens.shape[1] - 1))
        return end_soon(rollout)

    lengths = []
    policy.register_forward_hook(count)  # copied with the policy, so the mask policy is counted too
    nlpo.train(policy, PROMPTS_OF_MICRO, reward, nlpo.Config(steps=1, beta=0.0, epochs=4, **SMALL), run=quiet())
    ((rows, width),) = lengths
    assert sum(calls) == (1 + 4) * rows * width  # once for the values, and once in each pass


# --- against PPO, and against the exact gradient ----------------------------------------------------------------------


def test_with_everything_allowed_it_is_ppo():
    ends, histories = [], []
    for algorithm, options in ((ppo, {}), (nlpo, {"top_p": 1.0})):
        policy = micro(value_head=True)
        config = algorithm.Config(steps=4, beta=0.1, kl_target=0.05, seed=3, **SMALL, **options)
        run = algorithm.train(policy, PROMPTS_OF_MICRO, micro_reward(), config, micro(), quiet())
        ends.append(weights_of(policy))
        histories.append([{k: v for k, v in row.items() if k != "allowed"} for row in run.history])
    assert same_weights(*ends) and histories[0] == histories[1]
    assert {row["allowed"] for row in run.history} == {12}


FREE = {"steps": 1, "prompts_per_step": 1, "max_new_tokens": 2, "max_grad_norm": 1e9, "lr": 0.0, "epochs": 1}
FREE |= {"minibatches": 1, "lam": 1.0, "value_weight": 0.0, "whiten": False, "top_p": 0.6}


def loop_gradients(samples, repeats, beta, reference):
    """[repeats, P]: minus the gradient of one update of `nlpo.train` as a mean over episodes, from as many seeds."""
    policy, found = micro(value_head=True), []
    for seed in range(repeats):
        config = nlpo.Config(samples_per_prompt=samples, beta=beta, seed=seed, **FREE)
        (row,) = nlpo.train(policy, [START], worth_of, config, reference, quiet()).history
        per_episode = -row["length"]  # the loss is a mean over tokens
        found.append(torch.cat([per_episode * p.grad.flatten() for p in policy.lm.parameters()]).double())
    return torch.stack(found)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_first_update_follows_the_exact_gradient_of_the_masked_policy(beta):
    model, reference = micro(), other_micro()
    own, other = whole_vocabulary(model), whole_vocabulary(reference)

    def masked(policy):
        def call(tokens):
            may = nucleus(own(tokens).detach(), FREE["top_p"])
            may[..., 2] = True
            return policy(tokens).masked_fill(~may, -torch.inf).log_softmax(-1)

        return call

    def objective(policy, against):
        return gradient(exact_objective(TEXT, policy) - beta * exact_kl(TEXT, policy, against), model).double()

    wanted = objective(masked(own), other)
    wrong = [objective(own, other)]  # without the mask
    if beta:
        wrong.append(objective(masked(own), masked(other)))  # the KL to a masked reference
    repeats, looks = 16, torch.randn(30, len(wanted), generator=generator(0), dtype=torch.float64)
    looks = torch.cat([looks, wanted[None], *[(wanted - w)[None] for w in wrong]])
    looks = looks / looks.norm(dim=1, keepdim=True)
    bound = student_t_quantile(1 - 1e-4 / (2 * len(looks)), repeats - 1)  # family-wise p > 1e-4

    def largest_t(target):
        off = (found - target) @ looks.T
        return (off.mean(0).abs() / (off.std(0) / math.sqrt(repeats))).max()

    found = loop_gradients(1500, repeats, beta, reference)
    assert largest_t(wanted) < bound
    for target in wrong:
        assert largest_t(target) > bound  # this many samples can tell


def test_the_kl_is_that_of_the_masked_policy():
    """Before any update π is the reference: what is left of the KL is the price of the mask, −log π(allowed)."""
    policy, found = micro(value_head=True), []

    def reward(rollout):
        with torch.no_grad():
            found.append((rollout.logprobs - score(policy, replace(rollout, allowed=None)).logprobs).sum(1).mean())
        return end_soon(rollout)

    config = nlpo.Config(steps=1, beta=0.1, top_p=0.6, **SMALL)
    (row,) = nlpo.train(policy, [MICRO_PROMPT], reward, config, micro(), quiet()).history
    assert row["kl"] == pytest.approx(found[0].item(), rel=1e-4) and row["kl"] > 0.2


def test_what_makes_no_sense():
    policy, critic = micro(), micro(value_head=True)
    with pytest.raises(ValueError, match="value_head=True"):
        nlpo.train(policy, [MICRO_PROMPT], end_soon, nlpo.Config(beta=0.0), run=quiet())
    with pytest.raises(ValueError, match="reference="):
        nlpo.train(critic, [MICRO_PROMPT], end_soon, nlpo.Config(), run=quiet())
    with pytest.raises(ValueError, match="second time"):
        nlpo.train(critic, [MICRO_PROMPT], end_soon, nlpo.Config(), critic, quiet())


def test_a_frozen_base_is_shared_and_adapters_lag():
    pytest.importorskip("peft")
    policy = micro(lora=4, value_head=True)
    proposals = Proposals(policy)
    pairs = list(zip(policy.parameters(), proposals.model.parameters(), strict=True))
    assert all((own is copied) == (not own.requires_grad) for own, copied in pairs)
    config = nlpo.Config(steps=2, beta=0.0, **SMALL)
    nlpo.train(policy, [MICRO_PROMPT], end_soon, config, run=quiet())
    assert any(not torch.equal(own, copied) for own, copied in pairs if own.requires_grad)
    proposals.refresh(policy)
    assert all(torch.equal(own, copied) for own, copied in pairs)
