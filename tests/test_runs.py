"""Runs: kill and resume, interrupts, full disks, two runs in one place; and intervals over seeds."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from small_models import (
    ALGORITHMS,
    MICRO_PROMPT,
    RL,
    end_soon,
    micro_reward,
    same_weights,
    train_micro,
    weights_of,
)

from rlhf_lib.algorithms import reinforce
from rlhf_lib.models import load_model
from rlhf_lib.runs import (
    Run,
    check_finite,
    generator,
    load_state,
    mean_interval,
    paired_interval,
    save_state,
    shuffled_batches,
    student_t_quantile,
    write_text,
)


@dataclass(frozen=True)
class Settings:
    steps: int = 4
    lr: float = 0.5


def quiet(directory=None, **options) -> Run:
    return Run(directory, progress=False, **options)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def same_history(a: list[dict], b: list[dict]) -> bool:
    return json.dumps(a) == json.dumps(b)  # NaN included


def count(run: Run, steps: int, weight: torch.nn.Linear | None = None) -> list[int]:
    """A loop that adds 1 to a weight each step."""
    done = []
    for step in run.steps(steps):
        if weight is not None:
            weight.weight.data += 1
        run.log(step, value=torch.tensor(step / 2))
        done.append(step)
    return done


@pytest.fixture
def weight():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    return layer


# --- kill, resume -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The folders of runs whose process was killed in the sixth of eight steps; checkpoints come every third."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(folder)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        process.kill()  # SIGKILL
        process.wait()
        process.stdout.close()
    return folder


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_killed_run_ends_in_the_weights_of_an_uninterrupted_one(algorithm, killed):
    folder = killed / algorithm
    before = rows_of(folder)
    assert [row["step"] for row in before] == list(range(6))
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint-00000003"]

    whole, its_run = train_micro(algorithm)
    model, run = train_micro(algorithm, quiet(folder, checkpoint_every=3))
    assert same_weights(weights_of(model), weights_of(whole))
    assert same_history(run.history, its_run.history) and same_history(rows_of(folder), its_run.history)
    assert same_history(before, its_run.history[:6])
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint-00000008"]

    again, run = train_micro(algorithm, quiet(folder))  # nothing left to do: the result is loaded
    assert same_weights(weights_of(again), weights_of(whole)) and same_history(run.history, its_run.history)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path, weight):
    run = quiet(tmp_path, checkpoint_every=2)
    run.track(Settings(), weight=weight)
    for step in run.steps(5):
        weight.weight.data += 1
        run.log(step, value=step)
        if step == 2:
            break  # as a kill would, without a word
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "va')  # killed while writing
    other = torch.nn.Linear(1, 1, bias=False)
    run = quiet(tmp_path, checkpoint_every=2)
    run.track(Settings(), weight=other)
    assert other.weight.item() == 2 and [row["step"] for row in run.history] == [0, 1] == [
        r["step"] for r in rows_of(tmp_path)
    ]
    assert count(run, 5, other) == [2, 3, 4] and other.weight.item() == 5
    assert run.column("value") == [0, 1, 1, 1.5, 2] and run.column("nothing") == []


def test_without_a_checkpoint_a_run_starts_again(tmp_path, weight):
    run = quiet(tmp_path)
    run.track(Settings(), weight=weight)
    for step in run.steps(3):
        run.log(step)
        break
    run = quiet(tmp_path)
    run.track(Settings(), weight=weight)
    assert count(run, 3) == [0, 1, 2] and len(rows_of(tmp_path)) == 3


def test_more_steps_go_on_where_fewer_ended(tmp_path):
    def train(steps, run):
        policy = load_model("micro", device="cpu")
        reinforce.train(policy, [MICRO_PROMPT], micro_reward(), reinforce.Config(**RL | {"steps": steps}), run=run)
        return weights_of(policy)

    train(3, quiet(tmp_path))
    assert same_weights(train(5, quiet(tmp_path)), train(5, quiet()))


def test_another_configuration_is_refused(tmp_path, weight):
    run = quiet(tmp_path)
    run.track(Settings(lr=0.5), weight=weight)
    count(run, 4, weight)
    with pytest.raises(ValueError, match="another lr"):
        quiet(tmp_path).track(Settings(lr=0.25), weight=weight)
    run = quiet(tmp_path)  # the refusal left nothing locked
    run.track(Settings(steps=6, lr=0.5), weight=weight)
    assert count(run, 6) == [4, 5]


def test_another_model_or_algorithm_is_refused(tmp_path, weight):
    run = quiet(tmp_path)
    run.track(Settings(), weight=weight)
    count(run, 1)
    with pytest.raises(ValueError, match="another model"):
        quiet(tmp_path).track(Settings(), weight=torch.nn.Linear(2, 1, bias=False))
    with pytest.raises(ValueError, match="another algorithm"):
        quiet(tmp_path).track(Settings(), critic=weight)


def test_two_runs_cannot_write_to_one_directory(tmp_path, weight):
    first, second = quiet(tmp_path), quiet(tmp_path)
    first.track(Settings(), weight=weight)
    with pytest.raises(RuntimeError, match="another run is writing"):
        second.track(Settings(), weight=weight)
    count(first, 2)
    second.track(Settings(), weight=weight)
    assert count(second, 3) == [2]


def test_a_failing_step_frees_directory_and_interrupts(tmp_path, weight):
    before = signal.getsignal(signal.SIGINT)
    run = quiet(tmp_path)
    run.track(Settings(), weight=weight)
    with pytest.raises(ZeroDivisionError) as kept:  # the traceback is kept, as a notebook keeps it
        for _ in run.steps(3):
            1 / 0  # noqa: B018
    assert kept.value.__traceback__ is not None and signal.getsignal(signal.SIGINT) is before
    quiet(tmp_path).track(Settings(), weight=weight)


# --- interrupts -------------------------------------------------------------------------------------------------------


def test_an_interrupt_lets_the_step_finish_and_leaves_a_result(tmp_path, capsys):
    handler = signal.getsignal(signal.SIGINT)

    def train(run, interrupts=()):
        policy = load_model("micro", device="cpu")

        def reward(rollout):
            if len(run.history) in interrupts:
                signal.raise_signal(signal.SIGINT)
            return end_soon(rollout)

        reinforce.train(policy, [MICRO_PROMPT], reward, reinforce.Config(**RL), run=run)
        return weights_of(policy)

    run = quiet(tmp_path)
    partial = train(run, interrupts=[2])
    assert run.interrupted and [row["step"] for row in run.history] == [0, 1, 2]
    assert "stopped after step 3 of 8" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler
    whole = train(quiet())
    assert not same_weights(partial, whole)
    resumed = quiet(tmp_path)
    assert same_weights(train(resumed), whole) and not resumed.interrupted

    last = quiet()
    assert same_weights(train(last, interrupts=[7]), whole) and not last.interrupted  # it was the last step anyway


def test_a_second_interrupt_stops_at_once(weight):
    handler, run = signal.getsignal(signal.SIGINT), quiet()
    with pytest.raises(KeyboardInterrupt):
        for _ in run.steps(3):
            signal.raise_signal(signal.SIGINT)
            weight.weight.data += 1
            signal.raise_signal(signal.SIGINT)
            weight.weight.data += 10
    assert weight.weight.item() == 1 and signal.getsignal(signal.SIGINT) is handler


def test_a_run_outside_the_main_thread(weight):
    done = []
    thread = threading.Thread(target=lambda: done.extend(count(quiet(), 3)))
    thread.start()
    thread.join()
    assert done == [0, 1, 2]


# --- checkpoints ------------------------------------------------------------------------------------------------------


FULL = [
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize("error", FULL, ids=["safetensors", "system"])
def test_a_full_disk_costs_a_checkpoint_and_nothing_else(error, tmp_path, weight, monkeypatch):
    run = quiet(tmp_path, checkpoint_every=1)
    run.track(Settings(), weight=weight)
    with pytest.warns(UserWarning, match="disk full"):
        for step in run.steps(4):
            weight.weight.data += 1
            run.log(step)
            if step == 2:
                monkeypatch.setattr(safetensors.torch, "save_file", lambda *args: (_ for _ in ()).throw(error))
    monkeypatch.undo()
    assert weight.weight.item() == 4
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-00000002"]
    run = quiet(tmp_path)
    run.track(Settings(), weight=weight)
    assert weight.weight.item() == 2 and count(run, 4, weight) == [2, 3]


def test_other_errors_of_the_disk_are_errors(tmp_path, weight, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "not yours")

    run = quiet(tmp_path)
    run.track(Settings(), weight=weight)
    monkeypatch.setattr(safetensors.torch, "save_file", refuse)
    with pytest.raises(PermissionError):
        count(run, 1)


def test_checkpoints_hold_adam_to_the_last_bit_and_no_code(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, betas=(0.8, 0.95))
    for _ in range(3):
        layer(torch.ones(3)).square().sum().backward()
        optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "odd": [1, (2.5, None), {"x": torch.arange(3), 7: True}],
        "inf": math.inf,
    }
    save_state(state, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    loaded = load_state(tmp_path)
    assert loaded["odd"][:2] == [1, [2.5, None]] and loaded["odd"][2][7] is True and loaded["inf"] == math.inf
    assert loaded["odd"][2]["x"].tolist() == [0, 1, 2]
    other = torch.optim.AdamW(layer.parameters())
    other.load_state_dict(loaded["optimizer"])
    assert other.param_groups[0]["lr"] == 0.1
    for mine, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_only_what_trains_is_kept(tmp_path, weight):
    model = torch.nn.Sequential(weight, torch.nn.Linear(1, 1).requires_grad_(False))
    run = quiet(tmp_path)
    run.track(Settings(), model=model)
    count(run, 1)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert list(load_state(checkpoint)["model"]) == ["0.weight"]


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "é\n")
    write_text(path, "b\n")
    assert path.read_bytes() == b"b\n" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_bytes() == b"b\n"


def test_a_run_without_directory_writes_nothing(tmp_path, monkeypatch, weight):
    monkeypatch.chdir(tmp_path)
    run = quiet(checkpoint_every=1)
    run.track(Settings(), weight=weight)
    assert count(run, 2) == [0, 1] and not list(tmp_path.iterdir())


# --- randomness, errors, intervals ------------------------------------------------------------------------------------


def test_generators_of_seeds_and_steps():
    assert torch.equal(torch.rand(4, generator=generator(3, 5)), torch.rand(4, generator=generator(3, 5)))
    first = {torch.rand(1, generator=generator(seed, step)).item() for seed in range(-2, 20) for step in range(50)}
    assert len(first) > 1095  # of 1,100; equal float32 numbers happen by chance


def test_shuffled_batches():
    batches = shuffled_batches(7, 3, epochs=2, seed=0)
    assert [len(batch) for batch in batches] == [3, 3, 1, 3, 3, 1]
    passes = [torch.cat(batches[:3]).tolist(), torch.cat(batches[3:]).tolist()]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(7)) and passes[0] != passes[1]
    assert all(torch.equal(a, b) for a, b in zip(batches, shuffled_batches(7, 3, 2, 0), strict=True))
    assert passes[0] != torch.cat(shuffled_batches(7, 3, 2, 1)[:3]).tolist()
    with pytest.raises(ValueError, match="empty"):
        shuffled_batches(0, 3, 1, 0)


def test_check_finite_names_the_culprit():
    check_finite(0, loss=torch.tensor(1.0), weights=torch.ones(2, 2))
    for bad in (math.nan, math.inf):
        with pytest.raises(FloatingPointError, match="weights is not finite at step 3"):
            check_finite(3, loss=torch.tensor(1.0), weights=torch.tensor([1.0, bad]))


@pytest.mark.parametrize(
    ("probability", "freedom", "wanted"),  # from printed tables
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 3, 3.18245),
        (0.975, 7, 2.36462),
        (0.975, 30, 2.04227),
        (0.975, 1000, 1.96234),
        (0.995, 5, 4.03214),
        (0.95, 10, 1.81246),
        (0.9995, 3, 12.9240),
    ],
)
def test_quantiles_of_students_t(probability, freedom, wanted):
    assert student_t_quantile(probability, freedom) == pytest.approx(wanted, rel=3e-6)


def test_the_interval_of_a_mean():
    mean, low, high = mean_interval([1, 2, 3, 4])
    assert mean == 2.5 and high - mean == pytest.approx(2.054260, rel=1e-5) and mean - low == pytest.approx(high - mean)
    assert mean_interval([1, 2, 3, 4], confidence=0.9)[2] == pytest.approx(2.5 + 2.353363 * 1.290994 / 2, rel=1e-5)
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert paired_interval([3, 5, 7, 9], [2, 3, 4, 5]) == mean_interval([1, 2, 3, 4])
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0])
    with pytest.raises(ValueError):
        paired_interval([1, 2, 3], [1, 2])


def test_the_interval_covers_what_it_promises():
    draws = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)).tolist()
    inside = [low <= 0 <= high for _, low, high in map(mean_interval, draws[:400])]
    assert 0.92 < sum(inside) / 400 < 0.98
