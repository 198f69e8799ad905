"""Trains every micro loop as one of the processes that Accelerate starts, each for three steps; keeps the weights."""

import sys
from pathlib import Path

from safetensors.torch import save_file
from small_models import ALGORITHMS, train_micro, weights_of

from rlhf_lib import processes
from rlhf_lib.runs import Run

# one update a pass: minibatches are drawn apart in each process
SHORT = {"sft": {"epochs": 2}, "reward_model": {"epochs": 2, "dropout": 0.0}, "dpo": {"epochs": 2}}
SHORT |= {name: {"steps": 3, "minibatches": 1, "epochs": 2} for name in ("group", "ppo", "nlpo")}
SHORT |= {name: {"steps": 3} for name in ("reinforce", "actor_critic")}


def main(folder: Path) -> None:
    for algorithm in ALGORITHMS:
        model, _ = train_micro(algorithm, Run(folder / algorithm), **SHORT[algorithm])
        save_file(weights_of(model), folder / f"{algorithm}-{processes.index()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
