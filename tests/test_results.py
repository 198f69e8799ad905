"""Stored results: complete, and made again by the command that they name."""

import itertools
import json

import pytest
import torch

from rlhf_lib import reviews
from rlhf_lib.course import details, experiments, results, stages
from rlhf_lib.paths import data_dir


@pytest.mark.parametrize("lesson", sorted(results.MAKERS))
def test_stored_results_say_what_made_them_and_cover_every_seed(lesson):
    name, _ = results.MAKERS[lesson]
    stored = json.loads((data_dir() / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert stored["made"]["command"] == f"python -m rlhf_lib.course.results {lesson}"
    seeds = results.MORE_SEEDS.get(lesson, results.SEEDS)
    assert stored["made"]["seeds"] == list(seeds)
    assert len(stored["seeds"]) == len(seeds) >= 4
    assert {"machine", "torch"} <= stored["made"].keys()


def test_load_puts_the_seeds_side_by_side(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    seeds = [{"a": 1.0, "b": {"c": [1, 2]}}, {"a": 2.0, "b": {"c": [3, 4]}}]
    (tmp_path / "results" / "99_x.json").write_text(json.dumps({"made": {}, "seeds": seeds}), encoding="utf-8")
    monkeypatch.setattr(results, "data_dir", lambda: tmp_path)
    assert results.load("99_x") == {"a": [1.0, 2.0], "b": {"c": [[1, 2], [3, 4]]}, "made": {}}
    with pytest.raises(FileNotFoundError, match="course.results 98"):
        results.load("98_y")


def test_making_stores_one_entry_a_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "data_dir", lambda: tmp_path)
    monkeypatch.setitem(results.MAKERS, "99", ("99_x", lambda seed: {"value": seed / 3}))
    results.make("99")
    assert results.load("99_x")["value"] == [0.0, 0.333333, 0.666667, 1.0]


def test_another_scale_keeps_runs_of_its_own_and_borrows_the_tiny_models_until_then(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(stages, "SCALE", "tiny")  # put back after main has set it
    monkeypatch.setitem(results.MAKERS, "99", ("99_x", lambda seed: {"scale": stages.SCALE}))
    results.make("99")
    monkeypatch.setattr(stages, "SCALE", "smol")
    assert results.load("99_x")["scale"] == ["tiny"] * 4
    assert "those of the tiny model stand in" in capsys.readouterr().out

    monkeypatch.setattr("sys.argv", ["results", "99", "--scale", "smol"])
    results.main()
    found = results.load("99_x")
    assert found["scale"] == ["smol"] * 4
    assert found["made"]["command"] == "python -m rlhf_lib.course.results 99 --scale smol"
    stages.SCALE = "tiny"
    assert results.load("99_x")["scale"] == ["tiny"] * 4


@pytest.mark.slow
def test_one_seed_of_lesson_10_comes_out_the_same_again(rated):
    """The same first step; rounding then grows with every update, so of the end only the outcome is compared."""
    stored, again = results.load("10_rlhf"), experiments.lesson_10.rlhf(0)
    assert again["curve_reward"][0] == pytest.approx(stored["curve_reward"][0][0], abs=0.05)
    spread = max(stored["RLHF"]["judge"]) - min(stored["RLHF"]["judge"])
    assert again["RLHF"]["judge"] == pytest.approx(stored["RLHF"]["judge"][0], abs=max(0.3, 2 * spread))
    assert again["RLHF"]["judge"] > again["SFT"]["judge"]


@pytest.mark.slow
def test_one_draw_of_lesson_01_comes_out_the_same_again(rated):
    """A forward pass and no training, so that platforms differ by rounding alone."""
    stored, again = results.load("01_buttons"), experiments.lesson_01.buttons(0)
    assert again == {key: pytest.approx(stored[key][0], rel=1e-2) for key in again}


@pytest.mark.slow
def test_one_row_of_lesson_12_comes_out_the_same_again(rated):
    """Sampling and no training; a rounding error may still tip a word over, and the texts that follow it."""
    stored, policy = results.load("12_nlpo")["supervised"], stages.sft_policy()
    for way, measures in experiments.lesson_12.nlpo_row(policy, policy, 0).items():
        for name, value in measures.items():
            assert value == pytest.approx(stored[way][name][0], rel=0.15, abs=0.15)


def test_one_run_of_lesson_11_comes_out_the_same_again():
    """Plain PPO in the micro language: seconds, and on other platforms only rounding away."""
    stored, again = results.load("11_ppo")["details"]["PPO"], details.measure("PPO", 0)
    assert again["gain"] == pytest.approx(stored["gain"][0][0], abs=0.1)
    assert again["KL"] == pytest.approx(stored["KL"][0][0], abs=0.6)


@pytest.mark.slow
def test_one_point_of_lesson_08_comes_out_the_same_again(rated):
    """300 noisy labels, so that rounding errors grow: within what other seeds gave, and a little more."""
    stored = results.load("08_feedback")["pre-trained"]
    again = experiments.lesson_08.feedback_point(experiments.shared.writers(0)["pre-trained"], 0)
    for test, values in stored.items():
        assert again[test] == pytest.approx(values[0], abs=max(0.05, max(values) - min(values)))


@pytest.mark.slow
def test_one_row_of_lesson_13_comes_out_the_same_again(rated):
    """Sampling and no training; a rounding error may tip a word over, and which of ten is the best."""
    stored, again = (
        results.load("13_direct")["table"]["best of 10"],
        experiments.lesson_13.best_of_ten(reviews.openings("test", limit=48), 0),
    )
    assert again["KL"] == pytest.approx(stored["KL"][0], rel=1e-5)
    for name in ("reward", "judge", "tokens"):
        assert again[name] == pytest.approx(stored[name][0], rel=0.15, abs=0.15)


@pytest.mark.slow
def test_one_proxy_of_lesson_14_comes_out_the_same_again(rated):
    """A reward model of 25 pairs: rounding errors grow in training, so within what other seeds gave, and a little."""
    stored = results.load("14_hacking")["25 pairs"]["correlation"]
    texts = experiments.lesson_14.texts_to_choose_from(0)
    models = experiments.lesson_14.small_proxy(25, 0), stages.panel_reward_model()
    with torch.no_grad():
        again = torch.corrcoef(torch.stack([model(texts) for model in models]))[0, 1].item()
    assert again == pytest.approx(stored[0], abs=max(0.05, max(stored) - min(stored)))


def test_best_of_is_the_mean_over_all_sets():
    scores, values = torch.tensor([[0.3, 2.0, -1.0, 0.7]]), torch.tensor([[5.0, 1.0, 4.0, 2.0]])
    for n in (1, 2, 3, 4):
        best = [values[0, max(some, key=scores[0].__getitem__)].item() for some in itertools.combinations(range(4), n)]
        assert experiments.lesson_14.best_of(scores, values, n) == pytest.approx(sum(best) / len(best))


@pytest.mark.slow
def test_one_run_of_lesson_15_comes_out_the_same_again():
    """The same first episodes; rounding errors then grow with every update: of the end only the level is compared."""
    stored = results.load("15_agents")
    policy, run = experiments.lesson_15.trained("commands", ["kitchen"], 0)
    again = run.column("score")
    assert again[0] == pytest.approx(stored["commands"]["score"][0][0], abs=0.1)
    assert run.column("answers")[0] == pytest.approx(stored["commands"]["answers"][0][0], abs=0.05)
    assert sum(again[-3:]) / 3 == pytest.approx(sum(stored["commands"]["score"][0][-3:]) / 3, abs=0.3)
    assert experiments.lesson_15.mean_score(policy, experiments.lesson_15.buttons("kitchen"), 0) > 1.5


@pytest.mark.slow
def test_one_run_of_lesson_07_comes_out_the_same_again(rated):
    """The same first step; rounding errors then grow, so of the end only the level is compared."""
    stored, pupil = results.load("07_sft")["curves"]["pre-trained"][0], experiments.shared.writers(0)["pre-trained"]
    again = experiments.lesson_07.clone(
        pupil, experiments.lesson_07.demonstrators(0)["good"], 0, experiments.lesson_07.RATES["pre-trained"]
    )
    assert again[0] == pytest.approx(stored[0], abs=0.02) and again[-1] == pytest.approx(stored[-1], abs=0.1)
