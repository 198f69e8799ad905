"""Stages: made once, kept under a hash of what made them, made again when stale or damaged. At micro scale."""

import dataclasses
import threading

import pytest
import torch
from small_models import MICRO_DEMONSTRATIONS, MICRO_PROMPT, MICRO_RANKINGS, same_weights, weights_of

from rlhf_lib.course import stages
from rlhf_lib.labels import append_label
from rlhf_lib.models import load_model, load_reward_model
from rlhf_lib.preferences import Ranking


@pytest.fixture(autouse=True)
def micro(monkeypatch, tmp_path):
    """The stages' own code on the micro model, in an empty cache, without labels of the user's."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stages, "workspace_dir", lambda: tmp_path / "workspace")
    monkeypatch.setattr(stages, "load_model", lambda name, **k: load_model("micro" if name == "tiny" else name, **k))
    monkeypatch.setattr(
        stages, "load_reward_model", lambda name, **k: load_reward_model("micro" if name == "tiny" else name, **k)
    )
    monkeypatch.setattr(stages, "LAYERS", 1)
    monkeypatch.setattr(stages.reviews, "demonstrations", lambda *a, **k: MICRO_DEMONSTRATIONS)
    monkeypatch.setattr(stages.reviews, "openings", lambda *a, **k: [MICRO_PROMPT])
    monkeypatch.setattr(stages, "rankings", lambda split, passes, seed=0: MICRO_RANKINGS * 2)
    return tmp_path


def kept(root):
    """The folders of finished stages, by the name in front of the hash."""
    return sorted(path.name.rsplit("-", 1)[0] for path in (root / "cache" / "stages").iterdir() if path.is_dir())


def folder(root, name):
    (found,) = (path for path in (root / "cache" / "stages").glob(f"{name}-*") if path.is_dir())
    return found


def test_a_stage_is_made_once_and_then_loaded(micro, capsys):
    first = stages.panel_reward_model()
    assert capsys.readouterr().out.count("making panel_reward_model") == 1
    assert kept(micro) == ["panel_reward_model", "sft_policy"]  # centring it needed the policy's samples
    again = stages.panel_reward_model()
    assert capsys.readouterr().out == ""
    assert again is not first and same_weights(weights_of(first), weights_of(again))
    assert not same_weights(weights_of(first), weights_of(load_reward_model("micro")))


def test_the_same_recipe_makes_the_same_weights(micro, monkeypatch, tmp_path):
    first = weights_of(stages.panel_reward_model())
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "elsewhere"))
    assert same_weights(first, weights_of(stages.panel_reward_model()))


def test_the_sft_policy_can_have_a_value_head_that_starts_at_zero():
    policy = stages.sft_policy(value_head=True)
    assert stages.sft_policy().value_head is None
    assert not policy.value_head.weight.any() and not policy.value_head.bias.any()


@pytest.mark.parametrize("harm", ["changed", "cut", "missing", "no digests", "bad digests"])
def test_a_damaged_stage_is_noticed_and_made_again(micro, capsys, harm):
    sound = weights_of(stages.sft_policy())
    weights, digests = (folder(micro, "sft_policy") / name for name in ("model.safetensors", "digests.json"))
    content = weights.read_bytes()
    if harm == "changed":
        weights.write_bytes(content[:-8] + bytes(8 * [1]))
    elif harm == "cut":
        weights.write_bytes(content[: len(content) // 2])
    elif harm == "missing":
        weights.unlink()
    elif harm == "no digests":
        digests.unlink()
    else:
        digests.write_text('{"model.safetensors": ', encoding="utf-8")
    capsys.readouterr()
    repaired = weights_of(stages.sft_policy())
    said = capsys.readouterr().out
    assert "the cached sft_policy is damaged: making it again" in said and "made sft_policy in" in said
    assert same_weights(sound, repaired)
    stages.sft_policy()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ingredient", ["settings", "code", "tiny model"])
def test_a_stage_whose_ingredients_changed_is_made_again(micro, monkeypatch, capsys, ingredient):
    stages.sft_policy()
    if ingredient == "settings":
        monkeypatch.setattr(stages, "SFT", dataclasses.replace(stages.SFT, lr=2 * stages.SFT.lr))
    elif ingredient == "code":
        monkeypatch.setattr(stages, "RECIPE", stages.RECIPE + 1)
    else:
        real = stages.sha256
        monkeypatch.setattr(stages, "sha256", lambda path: "0" * 64 if path.parent.name == "tiny" else real(path))
    capsys.readouterr()
    stages.sft_policy()
    assert "making sft_policy" in capsys.readouterr().out
    assert kept(micro) == ["sft_policy", "sft_policy"]  # the old one stays: going back costs nothing


def test_what_a_reward_model_is_centred_with_is_an_ingredient(monkeypatch, capsys):
    stages.panel_reward_model()
    monkeypatch.setattr(stages, "SFT", dataclasses.replace(stages.SFT, lr=2 * stages.SFT.lr))
    capsys.readouterr()
    stages.panel_reward_model()
    assert "making panel_reward_model" in capsys.readouterr().out


def test_a_stage_that_was_interrupted_leaves_nothing_that_looks_finished(micro, monkeypatch):
    train = stages.sft.train

    def interrupted(policy, *args):
        train(policy, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.sft, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stages.sft_policy()
    monkeypatch.setattr(stages.sft, "train", train)
    assert not [name for name in kept(micro) if not name.endswith(".partial")]
    stages.sft_policy()
    assert "sft_policy" in kept(micro)


def test_two_who_want_a_stage_at_once_make_it_once(capsys):
    threads = [threading.Thread(target=stages.sft_policy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().out.count("making sft_policy") == 1


def test_the_judge_is_another_model_than_the_reward_model(monkeypatch):
    asked = []
    monkeypatch.setattr(
        stages, "rankings", lambda split, passes, seed=0: asked.append((split, seed)) or MICRO_RANKINGS * 2
    )
    panel, judge = stages.panel_reward_model(), stages.judge()
    assert asked == [("train", stages.PANEL.seed), ("judge", stages.JUDGE.seed)]
    assert not same_weights(weights_of(panel), weights_of(judge))


def test_reward_models_are_centred_on_the_sft_policys_completions():
    rm, policy = stages.panel_reward_model(), stages.sft_policy()
    rollout = stages.sample(
        policy, [MICRO_PROMPT], max_new_tokens=24, samples_per_prompt=400, generator=stages.generator(5)
    )
    scores = rm(rollout).detach()
    assert abs(scores.mean()) < 0.5 * max(1.0, scores.std().item())  # the stage itself had a handful of samples


def test_without_labels_your_reward_model_is_the_panels():
    assert same_weights(weights_of(stages.your_reward_model()), weights_of(stages.panel_reward_model()))


def test_your_labels_make_a_reward_model_of_yours_and_a_new_label_a_new_one(micro, capsys):
    path = stages.labels_file()
    append_label(path, Ranking(("awful", "very great"), (0, 1)))
    panel, yours = stages.panel_reward_model(), stages.your_reward_model()
    texts = ["awful", "very great"]
    gaps = [rm.score_texts(texts).diff().item() for rm in (panel, yours)]
    assert gaps[1] < gaps[0]  # this person likes it awful
    capsys.readouterr()
    stages.your_reward_model()
    assert capsys.readouterr().out == ""
    append_label(path, Ranking(("dull", "good"), (0, 1)))
    stages.your_reward_model()
    assert "making your_reward_model" in capsys.readouterr().out


def test_a_damaged_label_is_reported_and_the_others_count(micro, capsys):
    path = stages.labels_file()
    append_label(path, Ranking(("awful", "very great"), (0, 1)))
    with path.open("a", encoding="utf-8") as file:
        file.write("not a label\n")
    yours = stages.your_reward_model()
    assert "line 2 is damaged" in capsys.readouterr().out
    assert torch.isfinite(yours.score_texts(["good"])).all()


def test_another_scale_has_stages_of_its_own_that_are_adapters(micro, monkeypatch):
    pytest.importorskip("peft")
    stages.sft_policy()
    monkeypatch.setattr(stages, "SCALE", "micro")
    policy, rm = stages.sft_policy(), stages.panel_reward_model()
    assert kept(micro).count("sft_policy") == 2
    adapters = list((micro / "cache" / "stages").glob("*/adapter_model.safetensors"))
    assert sorted(file.parent.name.rsplit("-", 1)[0] for file in adapters) == ["panel_reward_model", "sft_policy"]
    base = stages.base_model()
    assert same_weights(weights_of(base), weights_of(stages.base_model()))
    assert not same_weights(weights_of(base), weights_of(policy))
    assert all("lora" in name or "head" in name for model in (policy, rm) for name in trained(model))


def trained(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
