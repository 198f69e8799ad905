"""What lesson 16 adds: the reference that a LoRA policy is itself, step times, and the dictionary of TRL's names."""

from dataclasses import replace

import pytest
import torch
from small_models import MICRO_PROMPT, micro_reward

from rlhf_lib.algorithms import group
from rlhf_lib.course import experiments, results
from rlhf_lib.models import AdaptersOff, load_model
from rlhf_lib.rollout import sample, score
from rlhf_lib.runs import generator

STEPS = group.Config(steps=3, prompts_per_step=1, samples_per_prompt=8, max_new_tokens=4, lr=1e-2, beta=0.1)


def test_switched_off_adapters_give_the_base_model_to_the_bit_before_and_after_training():
    base, policy = load_model("micro", device="cpu"), load_model("micro", device="cpu", lora=2)
    off = AdaptersOff(policy)
    rollout = sample(base, [MICRO_PROMPT], samples_per_prompt=4, max_new_tokens=4, generator=generator(0))
    expected = score(base, rollout).logprobs
    assert torch.equal(score(off, rollout).logprobs, expected)
    assert torch.equal(score(policy, rollout).logprobs, expected)

    run = experiments.lesson_16.StepTimes(progress=False)
    group.train(policy, [MICRO_PROMPT], micro_reward(), STEPS, off, run)
    assert torch.equal(score(off, rollout).logprobs, expected)
    assert not torch.allclose(score(policy, rollout).logprobs, expected, atol=1e-3)
    assert abs(run.history[0]["kl"]) < 1e-6 and run.history[-1]["kl"] != 0
    assert len(run.seconds) == 3 and min(run.seconds) > 0


def test_a_reference_of_its_own_trains_as_a_second_model_does():
    weights = []
    for second in (False, True):
        policy = load_model("micro", device="cpu", lora=2)
        reference = load_model("micro", device="cpu") if second else AdaptersOff(policy)
        group.train(policy, [MICRO_PROMPT], micro_reward(), STEPS, reference)
        weights.append(torch.cat([p.flatten() for p in policy.parameters() if p.requires_grad]))
    assert len(weights[0]) and torch.equal(*weights)


def test_without_adapters_there_is_nothing_to_switch_off():
    with pytest.raises(ValueError, match="no adapters"):
        AdaptersOff(load_model("micro", device="cpu"))


def test_the_dictionary_gives_this_librarys_own_defaults():
    config, known = group.RLOO, 0
    for ours, here, *_ in experiments.lesson_16.DICTIONARY:
        if hasattr(config, ours):
            assert getattr(config, ours) == here
            known += 1
    assert known >= 11
    assert experiments.lesson_16.DICTIONARY[0][1] == config.prompts_per_step * config.samples_per_prompt


def test_the_dictionary_gives_trls_defaults_and_settings_that_it_knows(tmp_path):
    trl = pytest.importorskip("trl", reason='TRL is not installed: pip install -e ".[peers]"')
    rloo, grpo = (kind(output_dir=tmp_path, use_cpu=True) for kind in (trl.RLOOConfig, trl.GRPOConfig))
    for _, _, name, of_rloo, of_grpo in experiments.lesson_16.DICTIONARY:
        assert getattr(rloo, name, "") == of_rloo and getattr(grpo, name) == of_grpo, name
    given = experiments.lesson_16.trl_settings(3)
    made = trl.RLOOConfig(output_dir=tmp_path, **given)
    assert all(getattr(made, name) == value for name, value in given.items() if name != "report_to")


@pytest.mark.slow
def test_the_first_step_of_lesson_16_comes_out_the_same_again(smol, monkeypatch):
    """One roll-out, before anything was learnt: rounding may tip a word over."""
    pytest.importorskip("vaderSentiment")
    monkeypatch.setattr(experiments.lesson_16, "SMOL", replace(experiments.lesson_16.SMOL, steps=1))
    monkeypatch.setattr(experiments.lesson_16, "examine", lambda policy, seed: {})
    stored, again = results.load("16_scaling")["SmolLM2"], experiments.lesson_16.smol_rloo(0)
    assert again["reward"][0] == pytest.approx(stored["reward"][0][0], abs=0.15)
    assert again["kl"][0] == pytest.approx(0.0, abs=1e-2)


@pytest.mark.slow
def test_trl_trains_the_saved_model_and_it_comes_back(tmp_path, rated, monkeypatch):
    pytest.importorskip("trl", reason='TRL is not installed: pip install -e ".[peers]"')
    monkeypatch.setattr(experiments.lesson_16, "BESIDE", replace(experiments.lesson_16.BESIDE, prompts_per_step=1))
    load_model("tiny").save(tmp_path)
    policy, seconds, rewards = experiments.lesson_16.train_with_trl(str(tmp_path), seed=0, steps=2)
    assert len(seconds) == len(rewards) == 2 and all(-1 <= reward <= 1 for reward in rewards)
    before, after = (next(iter(model.parameters())) for model in (load_model("tiny"), policy))
    assert before.shape == after.shape and not torch.equal(before, after)
