"""Stored results that lessons draw behind their one live run: `python -m rlhf_lib.course.results 10` makes lesson 10's.

A results file holds one entry a seed for everything measured, and what made it: command, seeds, machine, versions.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable

import torch

from rlhf_lib.course import experiments, stages
from rlhf_lib.paths import data_dir
from rlhf_lib.runs import write_text

SEEDS = (0, 1, 2, 3)
MORE_SEEDS = dict.fromkeys(("08", "09"), tuple(range(8)))  # a few labels each: so noisy that four told little

# lesson -> (file, one seed's results)
MAKERS: dict[str, tuple[str, Callable[[int], dict]]] = {
    "01": ("01_buttons", experiments.lesson_01.buttons),
    "04": ("04_reinforce", experiments.lesson_04.gibberish),
    "07": ("07_sft", experiments.lesson_07.cloning),
    "08": ("08_feedback", experiments.lesson_08.feedback),
    "09": ("09_learning_curve", experiments.lesson_09.learning_curve),
    "10": ("10_rlhf", experiments.lesson_10.rlhf_and_gibberish_cured),
    "11": ("11_ppo", experiments.lesson_11.ppo_and_its_details),
    "12": ("12_nlpo", experiments.lesson_12.nlpo_table),
    "13": ("13_direct", experiments.lesson_13.equal_budget),
    "14": ("14_hacking", experiments.lesson_14.hacking),
    "15": ("15_agents", experiments.lesson_15.playing),
    "16": ("16_scaling", experiments.lesson_16.smol_and_trl),
}


def load(name: str) -> dict:
    """The results stored as data/results/NAME.json, with a list over the seeds in place of every seed's value.

    Where a lesson runs at another scale, those of that scale (NAME-smol.json), if somebody has made them.
    """
    file = data_dir() / "results" / f"{name}.json"
    if not file.is_file():
        raise FileNotFoundError(f"no stored results {name}: run `python -m rlhf_lib.course.results {name[:2]}` first")
    if stages.SCALE != "tiny":
        own = file.with_stem(f"{name}-{stages.SCALE}")
        if own.is_file():
            file = own
        else:
            print(f"no stored runs of {stages.SCALE!r}: those of the tiny model stand in")
    stored = json.loads(file.read_text(encoding="utf-8"))
    return _side_by_side(stored["seeds"]) | {"made": stored["made"]}


def make(lesson: str) -> None:
    """Run all seeds of a lesson and store them."""
    name, one_seed = MAKERS[lesson]
    command = f"python -m rlhf_lib.course.results {lesson}"
    if stages.SCALE != "tiny":
        name, command = f"{name}-{stages.SCALE}", f"{command} --scale {stages.SCALE}"
    seeds = MORE_SEEDS.get(lesson, SEEDS)
    results = [_rounded(one_seed(seed)) for seed in seeds]
    made = {
        "command": command,
        "seeds": list(seeds),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    file = data_dir() / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps({"made": made, "seeds": results}, indent=1) + "\n")
    print(f"wrote {file}")


def _side_by_side(entries: list):
    if isinstance(entries[0], dict):
        return {key: _side_by_side([entry[key] for entry in entries]) for key in entries[0]}
    return entries


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="+", choices=sorted(MAKERS), help="lessons whose results to make")
    parser.add_argument("--scale", default="tiny", choices=("tiny", "smol"), help="the language model (smol: on a GPU)")
    options = parser.parse_args()
    stages.SCALE = options.scale
    for lesson in options.lessons:
        make(lesson)


if __name__ == "__main__":
    main()
