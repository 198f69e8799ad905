"""`rlhf train`: every algorithm from the command line, resumed, and refused with a sentence that helps."""

import dataclasses
import json
import math
import re
import subprocess
import sys

import pytest
import torch
from small_models import weights_of
from test_processes import LAUNCH  # skips where Accelerate is missing

from rlhf_lib import cli
from rlhf_lib.cli.train import LOOPS, WITH_CRITIC, _settings
from rlhf_lib.labels import append_label
from rlhf_lib.models import load_model, load_reward_model
from rlhf_lib.paths import project_root
from rlhf_lib.preferences import Ranking

SMALL = ["--steps", "2", "--prompts-per-step", "2", "--samples-per-prompt", "2", "--max-new-tokens", "4"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What runs learn from, in a folder that modules are found in."""
    (tmp_path / "prompts.txt").write_text("awful\n\nnot very\n")
    (tmp_path / "sft.jsonl").write_text('{"prompt": "awful", "completion": " but great"}\n' * 4)
    (tmp_path / "dpo.jsonl").write_text('{"prompt": "bad", "chosen": " but good", "rejected": " dull"}\n' * 4)
    (tmp_path / "scores.py").write_text(
        "def short(prompts, completions):\n    return [-float(len(text)) for text in completions]\n"
        "def broken(prompts, completions):\n    return [float('nan') for text in completions]\n"
    )
    append_label(tmp_path / "labels.jsonl", Ranking(("very good", "not good"), (0, 1)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "scores", raising=False)
    return tmp_path


def command(algorithm: str, files, *more) -> list[str]:
    words = ["train", algorithm, "--model", "micro", "--out", str(files / "out")]
    if algorithm in ("sft", "dpo"):
        words += ["--data", str(files / f"{algorithm}.jsonl"), "--epochs", "2"]
    elif algorithm == "reward_model":
        words += ["--data", str(files / "labels.jsonl")]
    else:
        words += ["--reward", "scores:short", "--prompts", str(files / "prompts.txt"), *SMALL]
    return [*words, *more]


@pytest.mark.parametrize("algorithm", LOOPS)
def test_every_setting_is_an_option_that_says_what_it_is(algorithm, capsys):
    config = LOOPS[algorithm][1]
    settings = {name: comment for name, _, _, comment in _settings(config)}
    assert list(settings) == [field.name for field in dataclasses.fields(config)] and all(settings.values())
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", algorithm, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and all(f"--{name.replace('_', '-')} " in said for name in settings)


def test_the_readmes_commands_are_understood():
    text = (project_root() / "README.md").read_text(encoding="utf-8")
    lines = [words.split() for words in re.findall(r"^(?:rlhf|torchrun .* -m rlhf_lib.cli) (train .*)$", text, re.M)]
    assert len(lines) >= 2
    for words in lines:
        assert cli.parser().parse_args(words).algorithm == words[1]


@pytest.mark.parametrize("algorithm", LOOPS)
def test_a_run_leaves_a_model_that_loads_and_its_metrics(algorithm, files, capsys):
    assert cli.main(command(algorithm, files, "--lr", "0.01")) == 0
    out = files / "out"
    load = load_reward_model if algorithm == "reward_model" else load_model
    trained, fresh = load(out / "model"), load("micro")
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))
    assert f"model: {out / 'model'}" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows and all(math.isfinite(value) for row in rows for value in row.values())
    assert json.loads((out / "config.json").read_text())["lr"] == 0.01
    if LOOPS[algorithm][0] in WITH_CRITIC:
        assert load_model(out / "model", value_head=True).value_head.weight.any()


def test_options_reach_the_algorithm_and_presets_differ(files):
    assert cli.main(command("grpo", files, "--average", "batch", "--clip", "inf", "--out", str(files / "a"))) == 0
    stored = json.loads((files / "a" / "config.json").read_text())
    assert (stored["advantage"], stored["average"], stored["clip"]) == ("std", "batch", math.inf)
    assert cli.main(command("ppo", files, "--whiten", "no", "--kl-target", "3", "--out", str(files / "b"))) == 0
    stored = json.loads((files / "b" / "config.json").read_text())
    assert stored["whiten"] is False and stored["kl_target"] == 3.0


@pytest.mark.parametrize("algorithm", ["dpo", "ppo", "rloo"])
def test_adapters_are_what_is_saved_and_their_base_is_the_reference(algorithm, files):
    assert cli.main(command(algorithm, files, "--lora", "2", "--lr", "0.01")) == 0
    out, base = files / "out" / "model", load_model("micro")
    assert (out / "adapter_model.safetensors").is_file() and not (out / "model.safetensors").exists()
    before, after = (weights_of(model.lm) for model in (base, load_model(out)))
    kept = {name.replace("base_model.model.", "").replace(".base_layer", ""): w for name, w in after.items()}
    assert all(torch.equal(kept[name], weights) for name, weights in before.items())
    assert any(w.any() for name, w in after.items() if "lora_B" in name)


def test_the_same_command_resumes_and_more_steps_go_on(files, capsys):
    assert cli.main(command("rloo", files)) == 0
    once = weights_of(load_model(files / "out" / "model"))
    assert cli.main(command("rloo", files)) == 0
    again = weights_of(load_model(files / "out" / "model"))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert cli.main(command("rloo", files, "--steps", "3")) == 0
    assert len((files / "out" / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--reward", "scores:broken", "--out", "elsewhere"], "nan"),
        (["--reward", "scores:none"], "module scores has no function none"),
        (["--reward", "praise"], "neither vader, nor a folder, nor module:function"),
        (["--reward", "no_such_module:f"], "no_such_module"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--model", "huge"], "no model 'huge'"),
    ],
)
def test_what_cannot_work_ends_in_one_sentence(more, words, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert cli.main(command("rloo", files, *more)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("rlhf: ") and words in said
    assert not (files / "out" / "model").exists()


def test_a_folder_belongs_to_what_its_run_learns_from(files, capsys):
    assert cli.main(command("rloo", files)) == 0
    assert cli.main(command("rloo", files, "--reward", "vader")) == 1
    assert "another reward" in capsys.readouterr().err
    assert cli.main(command("rloo", files, "--lr", "1")) == 1
    assert "another lr" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["nonsense", '{"prompt": "a"}', '{"prompt": "a", "completion": 3}', "[1, 2]"])
def test_a_line_that_cannot_be_read_is_named(line, files, capsys):
    (files / "sft.jsonl").write_text('{"prompt": "awful", "completion": " but great"}\n' + line + "\n")
    assert cli.main(command("sft", files)) == 1
    assert "line 2" in capsys.readouterr().err


def test_files_with_nothing_in_them_are_refused(files, capsys):
    for name, algorithm in {"prompts.txt": "rloo", "labels.jsonl": "reward_model", "sft.jsonl": "sft"}.items():
        (files / name).write_text("")
        assert cli.main(command(algorithm, files)) == 1
        assert "rlhf: " in capsys.readouterr().err


def test_two_processes_train_one_model(files):
    words = command("ppo", files, "--minibatches", "1")
    done = subprocess.run(
        [*LAUNCH, "-m", "rlhf_lib.cli", *words], capture_output=True, text=True, timeout=240, cwd=files
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("model: ") == 1  # only the first process speaks
    assert load_model(files / "out" / "model").vocabulary == load_model("micro").vocabulary
    assert len((files / "out" / "metrics.jsonl").read_text().splitlines()) == 2
