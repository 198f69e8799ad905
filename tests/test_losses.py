"""Losses: hand-computed constants and gradients, and properties that hold whatever the numbers."""

import itertools
import math

import pytest
import torch

from rlhf_lib.losses import (
    bradley_terry_loss,
    dpo_loss,
    kl_estimate,
    plackett_luce_loss,
    policy_gradient_loss,
    ppo_loss,
    sft_loss,
    token_logprobs,
    value_loss,
)

F64 = torch.float64
NAN, INF = torch.nan, torch.inf
MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def leaf(*rows):
    return torch.tensor(rows, dtype=F64, requires_grad=True)


def grad(loss, x):
    return torch.autograd.grad(loss, x, retain_graph=True)[0]


# --- log-probabilities and KL -----------------------------------------------------------------------------------------


def test_token_logprobs_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [1.0, 1.0]]])
    assert token_logprobs(logits, torch.tensor([[1, 0]]))[0].exp().tolist() == pytest.approx([0.75, 0.5])
    huge = torch.tensor([[[1e4, 1e4 - 1.0]]])
    assert token_logprobs(huge, torch.tensor([[0]])).item() == pytest.approx(-math.log(1 + math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_token_logprobs_are_float32_and_normalised(dtype):
    logits = torch.randn(2, 3, 50, dtype=F64).to(dtype)
    every = [token_logprobs(logits, torch.full((2, 3), v)) for v in range(50)]
    assert every[0].dtype == torch.float32
    assert (torch.stack(every).exp().sum(0) - 1).abs().max() < 1e-5


def test_token_logprobs_of_forbidden_tokens_and_their_gradient():
    logits = torch.tensor([[[0.0, -INF, 0.0]]], requires_grad=True)
    assert token_logprobs(logits, torch.tensor([[1]])).item() == -INF
    assert grad(token_logprobs(logits, torch.tensor([[0]])).sum(), logits).flatten().tolist() == [0.5, 0.0, -0.5]


def test_kl_estimates_by_hand():
    logprobs, reference = leaf([0.0, math.log(0.5)]), torch.tensor([[math.log(0.5), 0.0]], dtype=F64)
    d = math.log(2)
    assert kl_estimate(logprobs, reference)[0].tolist() == pytest.approx([d, -d])
    assert kl_estimate(logprobs, reference, "k2")[0].tolist() == pytest.approx([d * d / 2, d * d / 2])
    assert kl_estimate(logprobs, reference, "k3")[0].tolist() == pytest.approx([0.5 - 1 + d, 2 - 1 - d])
    for kind, wanted in (("k1", [1, 1]), ("k2", [d, -d]), ("k3", [0.5, -1])):
        assert grad(kl_estimate(logprobs, reference, kind).sum(), logprobs)[0].tolist() == pytest.approx(wanted)


def test_means_of_kl_estimates():
    policy, reference = (torch.randn(6, dtype=F64).log_softmax(0) for _ in range(2))
    exact = (policy.exp() * (policy - reference)).sum().item()
    mean = {kind: (policy.exp() * kl_estimate(policy, reference, kind)).sum().item() for kind in ("k1", "k2", "k3")}
    assert mean["k1"] == pytest.approx(exact) and mean["k3"] == pytest.approx(exact)
    assert abs(mean["k2"] - exact) > 1e-3  # k2 alone is biased
    assert (kl_estimate(policy, reference, "k3") >= 0).all() and (kl_estimate(policy, policy, "k3") == 0).all()


def test_small_differences_keep_their_k3():
    # exp(−d) − 1 + d in float32 would be all rounding here.
    got = kl_estimate(torch.tensor([1e-3]), torch.zeros(1), "k3").item()
    assert got == pytest.approx(0.5e-6, rel=1e-1)


# --- masked losses ----------------------------------------------------------------------------------------------------


def test_policy_gradient_loss_by_hand():
    logprobs = leaf([-1.0, -2.0, NAN], [-3.0, NAN, -INF])
    weights = torch.tensor([[2.0, 0.5, INF], [-1.0, NAN, NAN]], requires_grad=True)
    loss = policy_gradient_loss(logprobs, weights, MASK)
    assert loss.item() == 0.0 and loss.requires_grad  # (2 + 1 − 3) / 2 episodes
    assert policy_gradient_loss(logprobs, weights, MASK, denominator=1).item() == 0.0
    assert grad(loss, logprobs).tolist() == [[-1.0, -0.25, 0.0], [0.5, 0.0, 0.0]]
    assert torch.autograd.grad(policy_gradient_loss(logprobs, weights, MASK), weights, allow_unused=True) == (None,)


def test_one_weight_an_episode_weighs_all_its_actions():
    logprobs = leaf([-1.0, -2.0, NAN], [-3.0, NAN, NAN])
    assert policy_gradient_loss(logprobs, torch.tensor([2.0, 4.0]), MASK).item() == 9.0  # (2·3 + 4·3) / 2
    once = ppo_loss(logprobs, logprobs, torch.tensor([2.0, 4.0]), MASK)
    assert once.item() == pytest.approx(-8 / 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 1.0, -1.0, -1.0),
        (1.1, 1.0, -1.1, -1.1),
        (1.5, 1.0, -1.2, 0.0),  # gained enough: no reason to go on
        (0.5, 1.0, -0.5, -0.5),  # the wrong way: the gradient brings it back
        (0.5, -1.0, 0.8, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_ppo_loss_by_hand(ratio, advantage, loss, slope):
    old = torch.tensor([[-1.0, NAN]], dtype=F64, requires_grad=True)
    logprobs = leaf([-1.0 + math.log(ratio), 800.0])
    advantages = torch.tensor([[advantage, NAN]], dtype=F64, requires_grad=True)
    got = ppo_loss(logprobs, old, advantages, torch.tensor([[True, False]]), clip=0.2)
    assert got.item() == pytest.approx(loss)
    found = torch.autograd.grad(got, [logprobs, old, advantages], allow_unused=True)
    assert found[0][0].tolist() == pytest.approx([slope, 0.0]) and found[1:] == (None, None)


def test_value_loss_by_hand():
    values, returns = (
        leaf([1.0, 3.0, NAN], [0.0, INF, NAN]),
        torch.tensor([[2.0, 1.0, NAN], [0.0, NAN, NAN]], dtype=F64),
    )
    returns.requires_grad_()
    loss = value_loss(values, returns, MASK)
    assert loss.item() == pytest.approx((1 + 4 + 0) / 2 / 3)
    assert grad(loss, values).flatten().tolist() == pytest.approx([-1 / 3, 2 / 3, 0, 0, 0, 0])
    assert torch.autograd.grad(value_loss(values, returns, MASK), returns, allow_unused=True) == (None,)


def test_clipped_value_loss_takes_the_worse_error():
    mask = torch.ones(1, 3, dtype=torch.bool)
    values, old = leaf([1.0, 1.0, 0.1]), torch.tensor([[0.0, 0.0, 0.0]], dtype=F64)
    returns = torch.tensor([[1.0, 0.0, 1.0]], dtype=F64)
    # Held within 0.5 of 0: errors (1 − 0.5)² against 0, 0.5² against 1², and 0.9² both ways.
    loss = value_loss(values, returns, mask, old, 0.5)
    assert loss.item() == pytest.approx(0.5 * (0.25 + 1.0 + 0.81) / 3)
    assert grad(loss, values)[0].tolist() == pytest.approx([0.0, 1 / 3, -0.3])


def test_sft_loss_by_hand():
    logprobs = leaf([-1.0, -2.0, NAN], [-6.0, -INF, NAN])
    assert sft_loss(logprobs, MASK).item() == 3.0
    assert grad(sft_loss(logprobs, MASK), logprobs)[0].tolist() == pytest.approx([-1 / 3, -1 / 3, 0])


def ppo(x, other, mask, denominator=None):
    return ppo_loss(x, x.detach() + 0.3 * other, other, mask, 0.2, denominator)


def clipped(x, other, mask, denominator=None):
    return value_loss(x, other, mask, 0.9 * other, 0.2, denominator)


MASKED = {
    "policy gradient": (policy_gradient_loss, lambda mask: len(mask)),
    "ppo": (ppo, lambda mask: int(mask.sum())),
    "value": (lambda x, y, m, denominator=None: value_loss(x, y, m, denominator=denominator), lambda m: m.sum()),
    "clipped value": (clipped, lambda mask: mask.sum()),
    "sft": (lambda x, y, m, denominator=None: sft_loss(x, m, denominator), lambda mask: float(mask.sum())),
}


@pytest.fixture(params=list(MASKED))
def masked(request):
    """A masked loss as f(x, other, mask, denominator), its count, and inputs with two rows that have no action."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(8, 5, generator=generator) < 0.6
    mask[2:4] = False
    x = torch.randn(8, 5, generator=generator, dtype=F64, requires_grad=True)
    other = torch.randn(8, 5, generator=generator, dtype=F64)
    return (*MASKED[request.param], x, other, mask)


def test_splitting_a_batch_changes_nothing(masked):
    loss, count, x, other, mask = masked
    whole = loss(x, other, mask)
    assert whole.item() != 0
    for size in (1, 2, 3):
        pieces = zip(x.split(size), other.split(size), mask.split(size), strict=True)
        parts = [loss(*piece, count(mask)) for piece in pieces]
        assert sum(parts).item() == pytest.approx(whole.item())
        assert torch.allclose(sum(grad(part, x) for part in parts), grad(whole, x))
    mean_of_means = (loss(x[:1], other[:1], mask[:1]) + loss(x[1:], other[1:], mask[1:])) / 2
    assert abs(mean_of_means - whole) > 1e-3  # what the denominator is for


def test_the_order_of_rows_changes_nothing(masked):
    loss, _, x, other, mask = masked
    order = torch.tensor([5, 1, 7, 0, 2, 6, 3, 4])
    assert loss(x[order], other[order], mask[order]).item() == pytest.approx(loss(x, other, mask).item())


@pytest.mark.parametrize("garbage", [NAN, INF, -INF, 1e30])
def test_what_is_masked_out_never_matters(masked, garbage):
    loss, _, x, other, mask = masked
    dirty = x.detach().masked_fill(~mask, garbage).requires_grad_()
    assert loss(dirty, other.masked_fill(~mask, garbage), mask).item() == loss(x, other, mask).item()
    found = grad(loss(dirty, other.masked_fill(~mask, garbage), mask), dirty)
    assert torch.equal(found, grad(loss(x, other, mask), x)) and (found[~mask] == 0).all()


def test_a_part_without_actions_is_0_and_keeps_its_graph(masked):
    loss, count, x, other, mask = masked
    nothing = torch.zeros_like(mask)
    part = loss(x, other, nothing, count(mask))
    assert part.item() == 0 and (grad(part, x) == 0).all()
    if loss is policy_gradient_loss:  # the count is of episodes, and there are some
        assert loss(x, other, nothing).item() == 0
    else:
        with pytest.raises(ValueError, match="False everywhere"):
            loss(x, other, nothing)


def test_impossible_denominators_are_refused(masked):
    loss, _, x, other, mask = masked
    for denominator in (0, -1.0, torch.tensor(0), NAN):
        with pytest.raises(ValueError, match="denominator"):
            loss(x, other, mask, denominator)


def test_half_precision_is_summed_in_float32():
    logprobs, mask = torch.full((1, 1000), -1.0, dtype=torch.bfloat16), torch.ones(1, 1000, dtype=torch.bool)
    assert sft_loss(logprobs, mask, denominator=1).item() == 1000
    assert sft_loss(logprobs, mask).dtype == torch.float32


# --- losses on pairs and rankings -------------------------------------------------------------------------------------


def test_bradley_terry_by_hand():
    chosen, rejected = leaf(math.log(3.0), 0.0), torch.zeros(2, dtype=F64)
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert grad(bradley_terry_loss(chosen, rejected), chosen).tolist() == pytest.approx([-0.125, -0.25])
    # A margin asks for more: the same scores lose as if the chosen one's were lower by it.
    assert bradley_terry_loss(chosen, rejected, math.log(3.0)).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    each = bradley_terry_loss(chosen, rejected, torch.tensor([math.log(3.0), 0.0], dtype=F64))
    assert each.item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(torch.tensor([-500.0]), torch.tensor([500.0])).item() == 1000  # and no infinity


def test_preference_losses_ignore_a_shift_per_prompt():
    scores, shift = torch.randn(5, 3, dtype=F64), 10 * torch.randn(5, 1, dtype=F64)
    ranks = torch.tensor([[0, 1, 2], [2, 0, 1], [0, 0, 1], [1, 1, 0], [0, 2, 2]])
    moved = scores + shift
    assert torch.allclose(bradley_terry_loss(*scores.T[:2]), bradley_terry_loss(*moved.T[:2]))
    assert torch.allclose(plackett_luce_loss(scores, ranks), plackett_luce_loss(moved, ranks))


def test_plackett_luce_by_hand():
    scores = torch.tensor([[1.0, 2.0, 3.0]], dtype=F64).log()
    for ranks, wanted in (
        ([2, 1, 0], (3 / 6) * (2 / 3)),
        ([0, 1, 2], (1 / 6) * (2 / 5)),
        ([5, 1, 0], (3 / 6) * (2 / 3)),  # only the order of ranks counts
        ([1, 0, 0], (2 / 3) * (3 / 4)),  # the two best are tied: each against the worst
        ([0, 1, 1], 1 / 6),  # the two worst are tied: neither against anything
        ([1, 1, 1], 1.0),
    ):
        assert plackett_luce_loss(scores, torch.tensor([ranks])).exp().item() == pytest.approx(1 / wanted)


def test_plackett_luce_is_a_distribution_over_rankings():
    scores = torch.randn(1, 4, dtype=F64)
    total = sum((-plackett_luce_loss(scores, torch.tensor([r]))).exp() for r in itertools.permutations(range(4)))
    assert total.item() == pytest.approx(1)


def test_plackett_luce_of_two_is_bradley_terry():
    scores = torch.randn(6, 2, dtype=F64, requires_grad=True)
    ranks = torch.tensor([[0, 1]] * 6)
    pair, listwise = bradley_terry_loss(*scores.T), plackett_luce_loss(scores, ranks)
    assert torch.allclose(pair, listwise) and torch.allclose(grad(pair, scores), grad(listwise, scores))
    assert torch.allclose(plackett_luce_loss(scores.flip(1), ranks.flip(1)), listwise)


def test_plackett_luce_is_the_mean_over_rankings_and_all_ties_are_worth_0():
    scores = torch.randn(3, 4, dtype=F64, requires_grad=True)
    ranks = torch.tensor([[0, 1, 2, 3], [3, 1, 1, 0], [0, 0, 0, 0]])
    rows = [plackett_luce_loss(scores[i : i + 1], ranks[i : i + 1]) for i in range(3)]
    assert plackett_luce_loss(scores, ranks).item() == pytest.approx(sum(rows).item() / 3)
    assert rows[2].item() == 0 and (grad(rows[2], scores) == 0).all()


def test_dpo_by_hand():
    chosen, rejected = leaf(-10.0, -3.0), leaf(-12.0, -3.0)
    reference = torch.tensor([-11.0, -5.0], dtype=F64, requires_grad=True)
    assert dpo_loss(reference, reference, reference, reference).item() == pytest.approx(math.log(2))
    # Implicit rewards 0.5·(1, 2) against 0.5·(−1, 2): margins 1 and 0.
    loss = dpo_loss(chosen, rejected, reference, reference, beta=0.5)
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)
    assert grad(loss, chosen).tolist() == pytest.approx([-0.25 / (1 + math.e), -0.125])
    again = dpo_loss(chosen, rejected, reference, reference, beta=0.5)
    assert torch.autograd.grad(again, reference, allow_unused=True) == (None,)


X, ONE = torch.ones(2, 3), torch.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_logprobs(X, torch.zeros(2, 3).long()), r"logits must be \[B, T, V\]"),
        (lambda: token_logprobs(torch.zeros(2, 3, 4), torch.zeros(2, 4).long()), r"\[2, 3, 4\] and \[2, 4\]"),
        (lambda: kl_estimate(X, X[:, :2]), "the same tokens"),
        (lambda: kl_estimate(X, X, "k4"), 'must be "k1", "k2" or "k3"'),
        (lambda: policy_gradient_loss(X, X, MASK.int()), "bool"),
        (lambda: policy_gradient_loss(X[:, :2], X, MASK), r"logprobs has shape \[2, 2\]"),
        (lambda: policy_gradient_loss(X, X[0], MASK), r"weights \(advantages\) \[3\] must be \[B\] or \[B, T\]"),
        (lambda: policy_gradient_loss(X[:0], X[:0], MASK[:0]), "denominator is 0"),
        (lambda: ppo_loss(X, X[:1], X, MASK), r"old_logprobs has shape \[1, 3\]"),
        (lambda: ppo_loss(X, X, X[:, :1], MASK), r"weights \(advantages\) \[2, 1\]"),
        (lambda: ppo_loss(X, X, X, MASK, clip=0.0), "clip must be positive"),
        (lambda: value_loss(X, ONE, MASK), r"returns has shape \[2\]"),
        (lambda: value_loss(X, X, MASK, clip=0.2), "both old_values and clip"),
        (lambda: value_loss(X, X, MASK, old_values=X), "both old_values and clip"),
        (lambda: sft_loss(X[0], MASK), r"logprobs has shape \[3\]"),
        (lambda: bradley_terry_loss(ONE, ONE[:1]), r"'chosen': \[2\], 'rejected': \[1\]"),
        (lambda: bradley_terry_loss(X, X), r"must be \[N\]"),
        (lambda: bradley_terry_loss(ONE[:0], ONE[:0]), "N ≥ 1"),
        (lambda: bradley_terry_loss(ONE, ONE, torch.ones(3)), r"'margin': \[3\]"),
        (lambda: plackett_luce_loss(X, X[:, :2]), r"\[2, 3\] and ranks \[2, 2\]"),
        (lambda: plackett_luce_loss(X[:, :1], X[:, :1]), "K ≥ 2"),
        (lambda: dpo_loss(ONE, ONE, ONE, X), r"'ref_rejected': \[2, 3\]"),
        (lambda: dpo_loss(ONE, ONE, ONE, ONE, beta=0.0), "beta must be positive"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
