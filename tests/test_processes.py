"""Two processes under Accelerate against one alone: same batch, same weights."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import ALGORITHMS, train_micro, weights_of
from two_processes import SHORT

from rlhf_lib import processes, runs
from rlhf_lib.rollout import Rollout
from rlhf_lib.runs import shuffled_batches

pytest.importorskip("accelerate")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The folders and weights of all loops, trained by two processes."""
    folder = tmp_path_factory.mktemp("together")
    program = Path(__file__).with_name("two_processes.py")
    done = subprocess.run([*LAUNCH, program, folder], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def side_by_side(rollouts: list[Rollout]) -> Rollout:
    """One roll-out of the rows of all, prompts filled up on the left and completions on the right."""

    def filled(name: str, left: bool) -> torch.Tensor:
        parts = [getattr(rollout, name) for rollout in rollouts]
        width = max(part.shape[1] for part in parts)
        gaps = [width - part.shape[1] for part in parts]
        rest = [
            (0, 0) * (part.dim() - 2) + ((gap, 0) if left else (0, gap)) for part, gap in zip(parts, gaps, strict=True)
        ]
        return torch.cat([torch.nn.functional.pad(part, pad) for part, pad in zip(parts, rest, strict=True)])

    wide = {"prompt_ids": True, "prompt_mask": True, "tokens": False, "mask": False, "logprobs": False}
    if rollouts[0].allowed is not None:
        wide["allowed"] = False
    whole = {name: filled(name, left) for name, left in wide.items()}
    return replace(rollouts[0], **whole, finished=torch.cat([rollout.finished for rollout in rollouts]))


def sampled_as_by_two(sample):
    """`sample`, drawing each half of the prompts as the process that has it would."""
    steps = iter(range(100))

    def both(policy, prompts, *, generator, action_mask=None, **options):
        step, half = next(steps), len(prompts) // 2
        halves = []
        for process, part in enumerate((prompts[:half], prompts[half:])):
            noise = runs._generator(0, step, process)
            halves.append(sample(policy, part, generator=noise, action_mask=action_mask, **options))
        return side_by_side(halves)

    return both


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_processes_end_in_the_weights_of_one(algorithm, together, monkeypatch):
    loop = importlib.import_module(f"rlhf_lib.algorithms.{algorithm}")
    start = weights_of(train_micro(algorithm, **SHORT[algorithm] | {"lr": 0.0})[0])
    if hasattr(loop, "sample"):
        monkeypatch.setattr(loop, "sample", sampled_as_by_two(loop.sample))
    alone, _ = train_micro(algorithm, **SHORT[algorithm])
    first, second = (load_file(together / f"{algorithm}-{process}.safetensors") for process in (0, 1))
    for name, weights in weights_of(alone).items():
        assert torch.equal(first[name], second[name])
        if name == "head.bias":
            continue  # comparisons do not touch it: its gradient is rounding, of which Adam makes a step
        moved = (weights - start[name]).abs().max()
        assert (weights - first[name]).abs().max() < 1e-3 * moved + 1e-6, name


def test_only_the_first_process_writes_and_records_everybodys_mean(together):
    for algorithm in ALGORITHMS:
        rows = [json.loads(line) for line in (together / algorithm / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(len(rows))) and rows
        assert len(list((together / algorithm).glob("checkpoint-*"))) == 1
    torch.testing.assert_close(rows[0]["first_ratio"], 0.0, atol=1e-4, rtol=0)


def pretend(monkeypatch, count: int, index: int = 0) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setenv("RANK", str(index))


def test_a_batch_is_shared_out_whole(monkeypatch):
    whole = shuffled_batches(11, 5, 2, seed=3)
    parts = []
    for index in range(2):
        pretend(monkeypatch, 2, index)
        parts.append(shuffled_batches(11, 5, 2, seed=3))
    assert len(parts[0]) == len(parts[1]) == 4 and len(whole) == 6  # a last batch of one item cannot be shared
    kept = [batch for batch in whole if len(batch) > 1]
    for batch, first, second in zip(kept, *parts, strict=True):
        assert torch.equal(torch.cat([first, second]), batch) and len(first) and len(second)


def test_prompts_are_shared_equally_or_not_at_all(monkeypatch):
    pretend(monkeypatch, 3, 1)
    assert processes.share(["a", "b", "c", "d", "e", "f"]) == ["c", "d"]
    with pytest.raises(ValueError, match="multiple of 3"):
        processes.share(["a", "b"])


def test_processes_draw_apart_and_the_first_as_if_alone(monkeypatch):
    alone = runs.generator(4, 2).initial_seed()
    pretend(monkeypatch, 2, 0)
    assert runs.generator(4, 2).initial_seed() == alone
    pretend(monkeypatch, 2, 1)
    assert runs.generator(4, 2).initial_seed() != alone


def test_alone_nothing_changes(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")  # a scheduler may set it
    x, mask = torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert processes.index() == 0 and processes.weight(7) == 1.0 and processes.share([1, 2]) == [1, 2]
    assert processes.total(x) is x and processes.mean(x) is x
    assert torch.equal(processes.batchwide(lambda a, b: a * b, x, mask), x)


def test_processes_that_are_not_connected_are_named(monkeypatch):
    pretend(monkeypatch, 2)
    monkeypatch.setattr(sys.modules["accelerate"], "PartialState", lambda cpu: type("Alone", (), {"num_processes": 1}))
    with pytest.raises(RuntimeError, match="1 of 2 processes"):
        processes.total(torch.ones(1))
