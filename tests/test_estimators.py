"""Estimators: hand-computed constants, and properties that hold whatever the numbers."""

import pytest
import torch

from rlhf_lib.estimators import gae, group_normalize, holistic_rewards, leave_one_out, reward_to_go, whiten

F64 = torch.float64
NAN, INF = torch.nan, torch.inf


@pytest.fixture(autouse=True)
def seed_torch():
    torch.manual_seed(0)


def batch(seed=0, rows=5, time=7):
    """Rewards, values and a mask with gaps, an empty row and a full one; NaN and infinity where there is no action."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, time, generator=generator) < 0.6
    mask[0], mask[1] = True, False
    rewards, values = (torch.randn(rows, time, generator=generator, dtype=F64) for _ in range(2))
    return torch.where(mask, rewards, NAN), torch.where(mask, values, -INF), mask


def compact(x, mask):
    """The rows' entries without the gaps, as lists."""
    return [row[m].tolist() for row, m in zip(x, mask, strict=True)]


def test_reward_to_go_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, NAN, 8.0], [5.0, 7.0, INF]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0]]).bool()
    # The gap in row 1 costs no time: 3 + 8/2, not 3 + 8/4.
    assert reward_to_go(rewards, mask, gamma=0.5).tolist() == [[3.0, 4.0, 4.0], [7.0, 0.0, 8.0], [8.5, 7.0, 0.0]]
    assert reward_to_go(rewards, mask).tolist() == [[7.0, 6.0, 4.0], [11.0, 0.0, 8.0], [12.0, 7.0, 0.0]]
    assert torch.equal(reward_to_go(rewards, mask, gamma=0.0), torch.where(mask, rewards, 0.0))


def test_gae_by_hand():
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    # TD errors 1 + 0.9·1 − 0.5 = 1.4, 0.9·1.5 − 1 = 0.35, 2 − 1.5 = 0.5 (nothing follows), each next one weighs 0.45.
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    assert advantages[0].tolist() == pytest.approx([1.4 + 0.45 * 0.575, 0.575, 0.5])
    assert returns[0].tolist() == pytest.approx([0.5 + 1.4 + 0.45 * 0.575, 1.575, 2.0])


def test_gae_by_hand_with_an_observation_and_a_pad():
    rewards, values = torch.tensor([[1.0, NAN, 0.0, 2.0, INF]]), torch.tensor([[0.5, INF, 1.0, 1.5, NAN]])
    mask = torch.tensor([[True, False, True, True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    assert advantages[0].tolist() == pytest.approx([1.4 + 0.45 * 0.575, 0.0, 0.575, 0.5, 0.0])
    assert returns[0].tolist() == pytest.approx([0.5 + 1.4 + 0.45 * 0.575, 0.0, 1.575, 2.0, 0.0])


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_gae_at_its_two_ends(seed, gamma):
    rewards, values, mask = batch(seed)
    to_go = reward_to_go(rewards, mask, gamma)
    advantages, returns = gae(rewards, values, mask, gamma, lam=1.0)
    assert torch.allclose(advantages, torch.where(mask, to_go - values, 0.0)) and torch.allclose(returns, to_go)
    advantages, _ = gae(rewards, values, mask, gamma, lam=0.0)
    for got, r, v in zip(compact(advantages, mask), compact(rewards, mask), compact(values, mask), strict=True):
        assert got == pytest.approx([a + gamma * after - b for a, b, after in zip(r, v, [*v[1:], 0.0], strict=False)])


@pytest.mark.parametrize("seed", range(3))
def test_gaps_take_no_time_and_what_stands_in_them_never_matters(seed):
    rewards, values, mask = batch(seed)
    tight_mask = torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True)
    tight = [torch.zeros(mask.shape, dtype=F64) for _ in range(2)]
    for x, y in zip(tight, (rewards, values), strict=True):
        x[tight_mask] = y[mask]
    for function in (reward_to_go, lambda r, m, g: gae(r, values if r is rewards else tight[1], m, g, 0.8)[0]):
        got, wanted = function(rewards, mask, 0.9), function(tight[0], tight_mask, 0.9)
        assert compact(got, mask) == compact(wanted, tight_mask)
        assert (got[~mask] == 0).all()


def test_rows_do_not_depend_on_each_other():
    rewards, values, mask = batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    for whole, part in zip(gae(rewards, values, mask), gae(rewards[order], values[order], mask[order]), strict=True):
        assert torch.equal(whole[order], part)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_whitened_entries_have_mean_0_and_standard_deviation_1(dtype):
    x, _, mask = batch(3, rows=20)
    out = whiten((1e3 + 1e-2 * x).to(dtype), mask)
    entries = out[mask].double()
    assert out.dtype == dtype and (out[~mask] == 0).all()
    assert entries.mean().item() == pytest.approx(0, abs=1e-5)
    assert entries.square().mean().sqrt().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(entries.argsort(), (1e3 + 1e-2 * x).to(dtype)[mask].argsort())


def test_whiten_by_hand():
    x, mask = torch.tensor([[1.0, NAN], [3.0, INF]]), torch.tensor([[True, False], [True, False]])
    assert whiten(x, mask).tolist() == [[-1.0, 0.0], [1.0, 0.0]]  # the population's standard deviation: 1, not √2


def test_whiten_without_a_spread_only_centres():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    for value in (0.1, 1e6, -3.3e-7):
        assert (whiten(torch.full((2, 3), value), mask) == 0).all()
    rounding = torch.tensor([[0.1 + 0.2, 0.3, 0.3], [0.3, NAN, NAN]], dtype=F64)
    assert whiten(rounding, mask).abs().max() < 1e-15
    alone = torch.tensor([[False, True, False], [False, False, False]])
    assert (whiten(torch.full((2, 3), 5.0), alone) == 0).all()
    assert (whiten(torch.full((2, 3), NAN), torch.zeros(2, 3, dtype=torch.bool)) == 0).all()


def test_leave_one_out_by_hand():
    # Groups are neighbours: (1, 2, 6) and (0, 0, 3).
    assert leave_one_out(torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]), 3).tolist() == [-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]
    assert leave_one_out(torch.tensor([5, 2]), 2).tolist() == [3.0, -3.0]


def test_group_normalize_by_hand():
    scores = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert group_normalize(scores, 3).tolist() == [-2.0, -1.0, 3.0, -1.0, -1.0, 2.0]
    pair = group_normalize(torch.tensor([0.0, 2.0]), 2, scale="std", eps=0.5)
    assert pair.tolist() == pytest.approx([-1 / (2**0.5 + 0.5), 1 / (2**0.5 + 0.5)])
    equal = group_normalize(torch.full((4,), 0.1), 4, scale="std")
    assert equal.abs().max() < 1e-3  # eps keeps rounding from being blown up


@pytest.mark.parametrize("group_size", [2, 3, 4])
def test_group_advantages_sum_to_0_and_ignore_a_shift(group_size):
    scores = torch.randn(12, dtype=F64, generator=torch.Generator().manual_seed(group_size))
    shift = torch.repeat_interleave(torch.arange(12 // group_size), group_size) * 10.0
    for function in (leave_one_out, group_normalize, lambda s, g: group_normalize(s, g, "std")):
        advantages = function(scores, group_size)
        assert advantages.view(-1, group_size).sum(1).abs().max() < 1e-12
        assert torch.allclose(function(scores + shift, group_size), advantages)
    # Without its own score in it the mean is further away, by N / (N − 1).
    ratio = leave_one_out(scores, group_size) / group_normalize(scores, group_size)
    assert torch.allclose(ratio, torch.full_like(ratio, group_size / (group_size - 1)))


def test_holistic_rewards_by_hand():
    mask = torch.tensor([[True, True, False], [False, True, True], [True, False, False]])
    scores = torch.tensor([5.0, 7.0, 9.0])
    assert holistic_rewards(scores, mask).tolist() == [[0, 5, 0], [0, 0, 7], [9, 0, 0]]
    kl = torch.tensor([[1.0, 2.0, NAN], [INF, 3.0, -1.0], [4.0, NAN, NAN]])
    assert holistic_rewards(scores, mask, kl, 0.5).tolist() == [[-0.5, 4.0, 0], [0, -1.5, 7.5], [7.0, 0, 0]]
    assert torch.equal(holistic_rewards(scores, mask, torch.full((3, 3), INF), 0.0), holistic_rewards(scores, mask))


def test_holistic_rewards_take_scores_per_token_as_they_are():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    scores = torch.tensor([[1.0, NAN, 2.0], [INF, NAN, 3.0]])
    assert holistic_rewards(scores, mask).tolist() == [[1, 0, 2], [0, 0, 0]]
    assert holistic_rewards(scores, mask, torch.ones(2, 3), 2.0).tolist() == [[-1, 0, 0], [0, 0, 0]]


def test_holistic_rewards_sum_to_the_score_minus_the_sequence_kl():
    _, _, mask = batch(4)
    mask[1, 2] = True
    kl, scores = torch.randn(mask.shape, dtype=F64), torch.randn(5, dtype=F64)
    total = reward_to_go(holistic_rewards(scores, mask, kl, 0.3), mask)
    wanted = scores - 0.3 * torch.where(mask, kl, 0.0).sum(1)
    assert torch.allclose(total.gather(1, mask.int().argmax(1, keepdim=True)).squeeze(1), wanted)


def test_no_gradient_flows_through_an_estimator():
    mask = torch.ones(2, 3, dtype=torch.bool)
    x, y = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    scores = torch.randn(4, requires_grad=True)
    results = [
        reward_to_go(x, mask),
        *gae(x, y, mask),
        whiten(x, mask),
        leave_one_out(scores, 2),
        group_normalize(scores, 2),
        holistic_rewards(x, mask, y, 0.1),
        holistic_rewards(scores[:2], mask, y, 0.1),
    ]
    assert not any(result.requires_grad for result in results)


def test_half_precision_and_integers_are_computed_in_float32():
    mask = torch.ones(1, 300, dtype=torch.bool)
    for dtype in (torch.bfloat16, torch.float16, torch.long):
        ones = torch.ones(1, 300, dtype=dtype)
        assert reward_to_go(ones, mask)[0, 0] == 300  # bfloat16 would stop at 256
        results = [*gae(ones, ones, mask), whiten(ones, mask), holistic_rewards(ones, mask), leave_one_out(ones[0], 2)]
        assert all(result.dtype == torch.float32 for result in results)


ONE = torch.ones(2, 3)
MASK = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reward_to_go(ONE, MASK.int()), r"pass mask.bool\(\)"),
        (lambda: reward_to_go(ONE[:, :2], MASK), r"rewards has shape \[2, 2\] and mask \[2, 3\]"),
        (lambda: reward_to_go(ONE[0], MASK[0]), r"must be \[batch, time\]"),
        (lambda: reward_to_go(ONE, MASK, gamma=1.1), "gamma must be between 0 and 1"),
        (lambda: gae(ONE, ONE[:1], MASK), r"values has shape \[1, 3\]"),
        (lambda: gae(ONE, ONE, MASK, lam=-0.1), "lam must be between 0 and 1"),
        (lambda: whiten(ONE[:1], MASK), r"x has shape \[1, 3\]"),
        (lambda: leave_one_out(ONE[0], 1), "draw at least 2"),
        (lambda: leave_one_out(ONE[0], 0), "draw at least 2"),
        (lambda: leave_one_out(ONE[0], 2), "3 scores do not divide into groups of 2"),
        (lambda: leave_one_out(ONE, 2), r"scores must be \[B\]"),
        (lambda: group_normalize(ONE[0], 1), "draw at least 2"),
        (lambda: group_normalize(ONE[0], 2), "do not divide"),
        (lambda: group_normalize(ONE[0], 3, scale="var"), 'must be "none" or "std"'),
        (lambda: holistic_rewards(ONE[0], MASK), r"scores \[3\] must be \[B\] or \[B, T\] of the mask \[2, 3\]"),
        (lambda: holistic_rewards(ONE[:, :1], MASK), r"scores \[2, 1\]"),
        (lambda: holistic_rewards(torch.tensor([0.0, NAN]), MASK), r"scores is NaN or infinite in rows \[1\]"),
        (lambda: holistic_rewards(ONE / 0, MASK), r"rows \[0, 1\]"),
        (lambda: holistic_rewards(ONE[:, 0], MASK, ONE * NAN, 0.1), "kl is NaN or infinite"),
        (lambda: holistic_rewards(ONE[:, 0], MASK, ONE[:, :2], 0.1), r"kl has shape \[2, 2\]"),
        (lambda: holistic_rewards(ONE[:, 0], MASK, beta=0.1), "needs kl"),
        (lambda: holistic_rewards(ONE[:, 0], MASK, ONE, -0.1), "must not be negative"),
        (
            lambda: holistic_rewards(ONE[:, 0], torch.tensor([[True] * 3, [False] * 3])),
            r"rows \[1\] have no action to carry their score",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
