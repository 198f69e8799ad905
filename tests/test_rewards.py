"""Rewards: functions of text, VADER, a reward model as it stands."""

import sys
from pathlib import Path

import pytest
import torch
from small_models import mixed, policy_of, reward_model_of

from rlhf_lib.rewards import text_reward, vader
from rlhf_lib.rollout import from_texts


@pytest.fixture
def rollout():
    return mixed(policy_of("llama"))


def test_a_text_reward_sees_prompts_and_completions(rollout):
    seen = []

    def score(prompts, completions):
        seen.append((prompts, completions))
        return [len(c) for c in completions]

    scores = text_reward(score)(rollout)
    assert seen == [(rollout.prompts(), rollout.completions())]
    assert scores.dtype == torch.float32 and scores.tolist() == [len(c) for c in rollout.completions()]


@pytest.mark.parametrize("answer", [[1.0], 1.0, [[1.0]] * 12])
def test_a_wrong_number_of_scores(answer, rollout):
    with pytest.raises(ValueError, match="12 completions"):
        text_reward(lambda prompts, completions: answer)(rollout)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_shown_with_its_text(bad):
    texts = from_texts(policy_of("llama"), [("a", " movie"), ("bad", " bad")])
    with pytest.raises(ValueError, match="'bad' .* ' bad'"):
        text_reward(lambda prompts, completions: [0.0, bad])(texts)


def test_a_reward_model_is_a_reward(rollout):
    rm = reward_model_of("llama")
    assert rm(rollout).shape == (12,)


def test_vader():
    pytest.importorskip("vaderSentiment")
    texts = from_texts(policy_of("llama"), [("a", " good movie"), ("a", " bad movie"), ("a", " movie"), ("bad", "")])
    good, bad, neutral, prompt = vader()(texts).tolist()
    assert -1 <= bad < 0 < good <= 1 and neutral == 0
    assert bad == pytest.approx(prompt)  # the prompt counts too
    assert good == pytest.approx(0.4404)  # what the original's documentation gives for "good" alone


def test_without_vader_the_error_names_the_extra_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(ImportError, match=r"rlhf-lib\[(\w+)\]") as error:
        vader()
    extra = str(error.value).split("[")[1].split("]")[0]
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert any(r.startswith("vaderSentiment") for r in pyproject["project"]["optional-dependencies"][extra])
