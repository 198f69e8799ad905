"""Rankings, pairs and agreement, against values worked out by hand and published ones."""

import math

import pytest
import torch
from torch.testing import assert_close

from rlhf_lib import preferences
from rlhf_lib.preferences import (
    Pairs,
    Ranking,
    cross_block_pairs,
    expected_calibration_error,
    human_ceiling,
    krippendorff_alpha,
    ordered_pairs,
    pairwise_accuracy,
    rankings_from_ratings,
    rating_matrix,
    text_pairs,
    within_block_pairs,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- rankings --------------------------------------------------------------------------------------------------------


def test_a_ranking_keeps_what_it_is_given():
    ranking = Ranking(["a", "b", "c"], [2, 0, 0])
    assert ranking == Ranking(("a", "b", "c"), (2, 0, 0))
    assert hash(ranking) == hash(Ranking(("a", "b", "c"), (2, 0, 0)))


@pytest.mark.parametrize(
    ("texts", "ranks", "message"),
    [
        (("a",), (0,), "at least two texts"),
        (("a", "b"), (0,), "as many ranks"),
        (("a", "b"), (0, 1, 2), "as many ranks"),
        (("a", "b"), (0, 1.0), "whole numbers"),
        (("a", "b"), (False, True), "whole numbers"),
        (("a", "b"), (1, 2), "has rank 0"),
        (("a", "b"), (-1, 0), "has rank 0"),
        (("a", None), (0, 1), "strings"),
        ("ab", (0, 1), "strings"),
    ],
)
def test_a_wrong_ranking_is_refused(texts, ranks, message):
    with pytest.raises(ValueError, match=message):
        Ranking(texts, ranks)


def test_ordered_pairs_of_the_lectures_ranking():
    # B > C = D > A, and a second ranking that ties everything: flat positions 4 to 7 never appear.
    chosen, rejected = ordered_pairs(torch.tensor([[2, 0, 1, 1], [0, 0, 0, 0]]))
    pairs = set(zip(chosen.tolist(), rejected.tolist(), strict=True))
    assert pairs == {(1, 0), (1, 2), (1, 3), (2, 0), (3, 0)}
    assert len(chosen) == 5
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        ordered_pairs(torch.tensor([0, 1]))


def test_ordered_pairs_index_flattened_scores():
    ranks = torch.randint(0, 3, (50, 5), generator=seeded())
    chosen, rejected = ordered_pairs(ranks)
    assert (ranks.flatten()[chosen] < ranks.flatten()[rejected]).all()
    assert_close(chosen // 5, rejected // 5)  # never across two rankings
    ties = (ranks[:, :, None] == ranks[:, None, :]).sum() - ranks.numel()
    assert len(chosen) == (50 * 5 * 4 - ties) / 2


def test_text_pairs_of_rankings_of_several_sizes():
    rankings = [Ranking(("a", "b"), (1, 0)), Ranking(("c", "d"), (0, 0)), Ranking(("e", "f", "g"), (0, 3, 0))]
    assert text_pairs(rankings) == [("b", "a"), ("e", "f"), ("g", "f")]


# --- rankings from ratings -------------------------------------------------------------------------------------------

# Eight texts in two blocks. Person 0 loves the even texts, person 1 the odd ones; block 1 has a third who likes none.
TEXTS = [f"text {i}" for i in range(8)]
RATINGS = [[4, 0], [0, 4], [4, 0], [0, 4], [4, 0, -4], [0, 4, -4], [4, 0, -4], [0, 4, -4]]
BLOCK = [0, 0, 0, 0, 1, 1, 1, 1]


def test_rankings_use_every_text_once():
    rankings = rankings_from_ratings(TEXTS, RATINGS, 3, seeded())
    used = [text for ranking in rankings for text in ranking.texts]
    assert len(rankings) == 2 and len(set(used)) == 6 and set(used) <= set(TEXTS)


def test_rankings_by_the_mean_follow_the_mean():
    texts, ratings = ["low", "middle", "same", "high"], [[-1, -2], [0, 1], [1, 0, 0.5], [3]]
    (ranking,) = rankings_from_ratings(texts, ratings, 4, seeded(), rater="mean")
    assert dict(zip(ranking.texts, ranking.ranks, strict=True)) == {"low": 3, "middle": 1, "same": 1, "high": 0}


def test_rankings_by_random_raters_draw_each_rating_alike():
    first = 0
    for seed in range(2000):
        (ranking,) = rankings_from_ratings(["a", "b"], [[0, 2, 4], [1]], 2, seeded(seed))
        first += ranking.ranks[ranking.texts.index("a")] == 0
    assert abs(first / 2000 - 2 / 3) < 4 * math.sqrt(2 / 9 / 2000)


def test_rankings_within_blocks_are_by_one_person():
    for seed in range(20):
        rankings = rankings_from_ratings(TEXTS, RATINGS, 4, seeded(seed), block=BLOCK)
        assert len(rankings) == 2
        for ranking in rankings:
            numbers = [int(text.split()[1]) for text in ranking.texts]
            assert len({BLOCK[i] for i in numbers}) == 1
            by_text = [rank for _, rank in sorted(zip(numbers, ranking.ranks, strict=True))]
            assert by_text in ([0, 2, 0, 2], [2, 0, 2, 0], [0, 0, 0, 0])  # person 0, 1 or 2; never a mixture


def test_rankings_within_blocks_leave_out_what_does_not_fill_a_group():
    block = [0, 0, 0, 1, 1, 1, 2, 2]
    for ranking in rankings_from_ratings(TEXTS, RATINGS, 2, seeded(1), rater="mean", block=block):
        assert len({block[TEXTS.index(text)] for text in ranking.texts}) == 1
    assert len(rankings_from_ratings(TEXTS, RATINGS, 2, seeded(1), block=block)) == 3


def test_rankings_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = rankings_from_ratings(TEXTS, RATINGS, 2, seeded(5))
    torch.manual_seed(2)
    assert rankings_from_ratings(TEXTS, RATINGS, 2, seeded(5)) == one
    assert rankings_from_ratings(TEXTS, RATINGS, 2, seeded(6)) != one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TEXTS[:7], RATINGS, 2, seeded()), "one entry a text"),
        ((TEXTS, RATINGS, 1, seeded()), "at least two texts"),
        ((TEXTS, RATINGS, 2, seeded(), "best"), "rater must be"),
        ((TEXTS, [*RATINGS[:7], []], 2, seeded()), "at least one rating"),
    ],
)
def test_rankings_refuse_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        rankings_from_ratings(*arguments)


# --- pairs and accuracy ----------------------------------------------------------------------------------------------


def test_pairs_within_blocks_are_one_persons():
    pairs = within_block_pairs(RATINGS, BLOCK, 4000, seeded())
    assert_close(pairs.better_block, pairs.worse_block)
    assert_close(pairs.better_block, torch.tensor(BLOCK)[pairs.better])
    assert ((pairs.better - pairs.worse) % 2 == 1).all()  # two even texts, or two odd ones, are always a tie
    assert len(pairs) + pairs.ties == 4000
    # Block 0: 2 of 6 pairs tie. Block 1: the same for two of three people, and all pairs for the third.
    share = (1 / 3 + (2 / 3 * 1 / 3 + 1 / 3)) / 2
    assert abs(pairs.tie_share - share) < 4 * math.sqrt(share * (1 - share) / 4000)


def test_pairs_across_blocks():
    pairs = cross_block_pairs(RATINGS, BLOCK, 4000, seeded())
    assert (pairs.better_block != pairs.worse_block).all()
    assert_close(pairs.worse_block, torch.tensor(BLOCK)[pairs.worse])
    share = 1 / 3  # of a {0, 4} and a {0, 4, -4} text, whatever their order
    assert abs(pairs.tie_share - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    # Given a text of block 1 rated -4, which is one in three, the other one is better.
    lost = (pairs.worse_block == 1).sum() / 4000
    assert abs(lost - (1 / 3 + 1 / 6)) < 0.035


def test_pairs_across_blocks_are_drawn_evenly():
    block = [0, 1, 1, 1, 2, 2]
    pairs = cross_block_pairs([[i] for i in range(6)], block, 22_000, seeded(2))
    counts = torch.zeros(6, 6).index_put((pairs.worse, pairs.better), torch.ones(len(pairs)), accumulate=True)
    possible = torch.tensor([[i < j and block[i] != block[j] for j in range(6)] for i in range(6)])
    assert int(possible.sum()) == 11 and (counts[~possible] == 0).all()
    assert ((counts[possible] - 2000).abs() < 4 * math.sqrt(2000)).all()


def test_pairs_need_something_to_compare():
    with pytest.raises(ValueError, match="no block has two texts"):
        within_block_pairs(RATINGS[:2], [0, 1], 10, seeded())
    with pytest.raises(ValueError, match="at least two blocks"):
        cross_block_pairs(RATINGS[:4], BLOCK[:4], 10, seeded())


def pairs_of(better, worse, better_block=None, worse_block=None, ties=0) -> Pairs:
    better, worse = torch.tensor(better), torch.tensor(worse)
    own = torch.zeros_like(better) if better_block is None else torch.as_tensor(better_block)
    return Pairs(better, worse, own, own if worse_block is None else torch.as_tensor(worse_block), ties)


def test_accuracy_by_hand():
    pairs = pairs_of([0, 1, 2, 3], [1, 2, 3, 0], ties=1)
    found = pairwise_accuracy([3.0, 2.0, 2.0, 1.0], pairs)  # right, equal, right, wrong
    assert found.value == 0.625
    assert (found.low, found.high) == (0.625, 0.625)  # one block, so resampling blocks changes nothing
    assert pairs.tie_share == 0.2
    assert pairwise_accuracy(torch.tensor([4.0, 3, 2, 5], requires_grad=True), pairs).value == 0.75
    with pytest.raises(ValueError, match="NaN"):
        pairwise_accuracy([float("nan"), 1, 2, 3], pairs)
    with pytest.raises(ValueError, match="no decided pairs"):
        pairwise_accuracy([1.0], pairs_of([], []))


def test_interval_is_as_wide_as_blocks_make_it():
    # 40 blocks of 50 pairs. In half of the blocks every pair is right, in the others none: the evidence is 40 facts.
    block = torch.arange(40).repeat_interleave(50)
    scores = torch.zeros(40, 2)
    scores[torch.arange(40), torch.arange(40) % 2] = 1
    pairs = pairs_of((2 * block).tolist(), (2 * block + 1).tolist(), block)
    found = pairwise_accuracy(scores.flatten(), pairs, resamples=4000)
    half_width = 1.96 * math.sqrt(0.25 / 40)
    assert found.value == 0.5
    assert_close(torch.tensor([found.low, found.high]), 0.5 + half_width * torch.tensor([-1, 1]), atol=0.025, rtol=0)
    narrow = pairwise_accuracy(scores.flatten(), pairs, confidence=0.5, resamples=4000)
    assert_close(
        torch.tensor(narrow.high - narrow.low), torch.tensor(2 * 0.6745 * math.sqrt(0.25 / 40)), atol=0.02, rtol=0
    )


def test_interval_across_blocks_covers():
    # Scores of a block share an error. The interval has to contain the true accuracy about as often as it says.
    covered, trials, generator = 0, 60, seeded(1)
    block = torch.arange(30).repeat_interleave(6)
    expected = (
        0.5 + math.asin(0.5) / math.pi
    )  # scores of two texts differ by the truth and noise of 3 times its variance
    for _ in range(trials):
        truth = torch.randn(180, generator=generator)
        shared = torch.randn(30, generator=generator)[block]
        own = torch.randn(180, generator=generator)
        scores = truth + math.sqrt(1.5) * shared + math.sqrt(1.5) * own
        pairs = cross_block_pairs(truth[:, None].tolist(), block.tolist(), 1500, generator)
        found = pairwise_accuracy(scores, pairs, resamples=200)
        covered += found.low <= expected <= found.high
    assert covered / trials > 0.85


def test_accuracy_is_the_same_every_time():
    pairs = cross_block_pairs(RATINGS, BLOCK, 100, seeded())
    scores = [float(i % 3) for i in range(8)]
    assert pairwise_accuracy(scores, pairs) == pairwise_accuracy(scores, pairs)
    assert cross_block_pairs(RATINGS, BLOCK, 100, seeded()).better.equal(pairs.better)


# --- agreement -------------------------------------------------------------------------------------------------------


def test_ceiling_where_people_agree_and_where_they_do_not():
    agreed = [[i, i, i] for i in range(6)]
    for kind in ("within", "across"):
        found = human_ceiling(agreed, [0, 0, 0, 1, 1, 1], kind, seeded(), 500)
        assert (found.two_people.value, found.person_and_rest.value, found.tie_share) == (1, 1, 0)
    opposed = [[1, -1], [-1, 1], [1, -1], [-1, 1]]
    found = human_ceiling(opposed, [0] * 4, "within", seeded(), 3000)
    assert (found.two_people.value, found.person_and_rest.value) == (0, 0)
    assert abs(found.tie_share - 1 / 3) < 0.04


def test_ceiling_counts_a_tied_rest_as_half():
    ratings = [[1, 2, 0], [0, 0, 2]]  # persons 1 and 2 cancel, which leaves person 0 with a rest that ties
    found = human_ceiling(ratings, [0, 0], "within", seeded(), 6000)
    # Person 0: the rest (1, 1) ties, 1/2. Person 1: the rest (1/2, 1) disagrees. Person 2: (3/2, 0) disagrees.
    assert found.person_and_rest.value == pytest.approx(1 / 6, abs=0.02)
    assert found.two_people.value == pytest.approx(1 / 3, abs=0.03)  # of the three couples only 0 and 1 agree


def test_ceiling_across_never_uses_one_rating_twice():
    found = human_ceiling([[1, -1], [0, 0]], [0, 1], "across", seeded(), 2000)
    assert found.two_people.value == 0  # the other rating of the first text always says the opposite
    with pytest.raises(ValueError, match="at least two ratings"):
        human_ceiling([[1], [0, 0]], [0, 1], "across", seeded(), 10)
    with pytest.raises(ValueError, match="kind must be"):
        human_ceiling([[1, 1], [0, 0]], [0, 1], "between", seeded(), 10)


def test_ceiling_of_the_real_ratings(rated):
    # Measured independently of this module, over every pair and person: 31.4, 79.3, 82.3; 14.6, 87.1, 88.5 per cent.
    within = human_ceiling(rated.ratings, rated.block, "within", seeded(0), 60_000)
    across = human_ceiling(rated.ratings, rated.block, "across", seeded(0), 60_000)
    assert_close(torch.tensor([within.tie_share, within.two_people.value, within.person_and_rest.value]),
                 torch.tensor([0.3135, 0.7930, 0.8233]), atol=0.008, rtol=0)  # fmt: skip
    assert_close(torch.tensor([across.tie_share, across.two_people.value, across.person_and_rest.value]),
                 torch.tensor([0.1459, 0.8710, 0.8850]), atol=0.008, rtol=0)  # fmt: skip


NAN = float("nan")
# Four observers, twelve units: the example in Krippendorff (2011), whose interval alpha is 0.849.
KRIPPENDORFF = torch.tensor(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


def test_alpha_of_the_published_example():
    assert round(krippendorff_alpha(KRIPPENDORFF), 3) == 0.849
    assert krippendorff_alpha(1e6 + 10 * KRIPPENDORFF) == pytest.approx(krippendorff_alpha(KRIPPENDORFF), abs=1e-9)
    lists = [[x for x in row if x == x] for row in KRIPPENDORFF.tolist()]
    assert krippendorff_alpha(lists) == pytest.approx(krippendorff_alpha(KRIPPENDORFF), abs=1e-12)


def test_alpha_at_its_ends():
    assert krippendorff_alpha([[1, 1], [2, 2], [5, 5, 5]]) == 1
    noise = torch.randint(-4, 5, (20_000, 5), generator=seeded())
    assert abs(krippendorff_alpha(noise)) < 0.02
    assert krippendorff_alpha([[1, -1], [-1, 1]]) == pytest.approx(-0.5)  # D_o = 4, D_e = 8/3
    assert math.isnan(krippendorff_alpha([[2, 2], [2, 2]]))
    assert math.isnan(krippendorff_alpha([[1], [2]]))


def test_alpha_of_the_real_ratings(rated):
    assert krippendorff_alpha(rated.ratings) == pytest.approx(0.798, abs=0.001)


def test_rating_matrix_is_filled_with_nan():
    assert_close(
        rating_matrix([[1, 2], [3]]), torch.tensor([[1.0, 2.0], [3.0, NAN]], dtype=torch.float64), equal_nan=True
    )


# --- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    # Bin [0.2, 0.3): mean 0.25, half right, 2 of 5. Bin [0.9, 1]: mean 0.95, two thirds right, 3 of 5.
    found = expected_calibration_error([0.2, 0.3 - 1e-9, 0.9, 0.95, 1.0], [0, 1, 1, 0, 1])
    assert found == pytest.approx(0.4 * 0.25 + 0.6 * (0.95 - 2 / 3), abs=1e-6)
    assert expected_calibration_error([0.2, 0.9], [0, 1], bins=1) == pytest.approx(0.05)
    assert expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([0, 1])) == 0


def test_calibration_error_of_calibrated_and_overconfident_models():
    probability = torch.rand(100_000, generator=seeded())
    outcome = torch.rand(100_000, generator=seeded(1)) < probability
    assert expected_calibration_error(probability, outcome.float()) < 0.01
    assert expected_calibration_error(probability.round(), outcome.float()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("probability", [[1.2, 0.5], [NAN, 0.5], [0.5], [[0.5, 0.5]], []])
def test_calibration_error_refuses_what_is_no_probability(probability):
    with pytest.raises(ValueError):
        expected_calibration_error(probability, [1, 0] if probability else [])


def test_the_module_needs_torch_alone():
    source = preferences.__spec__.loader.get_source(preferences.__name__)
    assert "import numpy" not in source and "from rlhf_lib" not in source
