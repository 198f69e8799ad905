"""What lessons build on, trained on first use and kept: the SFT policy, the panel's reward model, yours, the judge.

Each is cached under a hash of all that made it (recipe, settings, the tiny model's weights, the labels), so that a
changed ingredient makes a new one, and with the digests of its files, so that a damaged one is noticed and remade.

All are made of the shipped tiny model, or, where SCALE is "smol", of SmolLM2.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from rlhf_lib import labels, preferences, reviews
from rlhf_lib.algorithms import reward_model, sft
from rlhf_lib.assets import cache_dir, sha256
from rlhf_lib.models import Policy, RewardModel, load_model, load_reward_model
from rlhf_lib.paths import data_dir, workspace_dir
from rlhf_lib.rollout import sample
from rlhf_lib.runs import generator, write_text

SCALE = "tiny"  # lessons set this one name to "smol" to run their cells on SmolLM2
RANK = 16  # of the adapters that SmolLM2 learns in place of its weights
LAYERS = 3  # of the tiny model's four that a reward model keeps: a quarter quicker, and no clear difference in accuracy
RECIPE = 4  # raise it when the code below changes what it makes
GROUP = 32  # sentences a ranking: each carries one rater's number
SFT = sft.Config(epochs=1, batch_size=32, lr=3e-4)
RATERS = 8  # rankings of each group, each by raters drawn anew
PASSES = {"train": 1.5, "judge": 1}  # over a split's sentences
PANEL = reward_model.Config(epochs=1, batch_size=1, lr=7e-4, dropout=0.05)
JUDGE = replace(PANEL, seed=1)
YOURS = reward_model.Config(epochs=4, batch_size=8, lr=3e-5)


def base_model(value_head: bool = False) -> Policy:
    """The pre-trained model of this scale, as everything starts."""
    return load_model(SCALE, value_head=value_head, lora=_rank())


def base_reward_model() -> RewardModel:
    """A reward model on the pre-trained model's lower layers (all of SmolLM2's), with a fresh head."""
    return load_reward_model(SCALE, lora=_rank(), layers=LAYERS if SCALE == "tiny" else None)


def sft_policy(value_head: bool = False) -> Policy:
    """The base model after behaviour cloning of the train blocks' best sentences, from their first words on."""

    def make(folder: Path) -> None:
        policy = base_model()
        sft.train(policy, reviews.demonstrations("train"), SFT)
        policy.save(folder)

    return load_model(_kept("sft_policy", SFT, make), value_head=value_head)


def panel_reward_model() -> RewardModel:
    """A reward model of the people who rated the train blocks."""
    return load_reward_model(_kept("panel_reward_model", PANEL, lambda folder: _train_on("train", PANEL, folder), SFT))


def judge() -> RewardModel:
    """The held-out judge: a reward model of the "judge" blocks, which neither policy nor reward model ever saw."""
    return load_reward_model(_kept("judge", JUDGE, lambda folder: _train_on("judge", JUDGE, folder), SFT))


def your_reward_model(path: Path | None = None) -> RewardModel:
    """The panel's reward model, trained further on the labels you gave in lessons 00 and 08 (or at `path`).

    Without labels it is the panel's.
    """
    yours, problems = labels.read_labels(path or labels_file())
    for problem in problems:
        print(problem)
    if not yours:
        return panel_reward_model()
    described = [[ranking.texts, ranking.ranks] for ranking in yours]

    def make(folder: Path) -> None:
        rm = panel_reward_model()
        reward_model.train(rm, yours, YOURS)
        _centre(rm)
        rm.save(folder)

    return load_reward_model(_kept("your_reward_model", YOURS, make, PANEL, SFT, described))


def labels_file() -> Path:
    """Where the labelling widgets of the lessons keep what you click."""
    return workspace_dir() / "labels.jsonl"


def rankings(split: str, passes: float, seed: int = 0) -> list[preferences.Ranking]:
    """`passes` over a split's sentences in groups of 32, each group ranked eight times by raters drawn at random."""
    part, random, found = reviews.load().subset(split), generator(seed), []
    for _ in range(math.ceil(passes)):
        found += preferences.rankings_from_ratings(part.texts, part.ratings, GROUP, random, repeats=RATERS)
    groups = len(found) // RATERS / math.ceil(passes)  # a pass
    return found[: round(passes * groups) * RATERS]


def _rank() -> int | None:
    return None if SCALE == "tiny" else RANK


def _train_on(split: str, config: reward_model.Config, folder: Path) -> None:
    rm = base_reward_model()
    reward_model.train(rm, rankings(split, PASSES[split], config.seed), config)
    _centre(rm)
    rm.save(folder)


def _centre(rm: RewardModel) -> None:
    """Let the mean score be 0 on what the SFT policy, from which RL starts, makes of negative openings."""
    prompts = reviews.openings("validation", limit=64)
    rollout = sample(sft_policy(), prompts, max_new_tokens=24, samples_per_prompt=4, generator=generator(0))
    rm.centre([p + c for p, c in zip(rollout.prompts(), rollout.completions(), strict=True)])


def _kept(name: str, config, make: Callable[[Path], None], *ingredients) -> Path:
    """The folder of a finished stage, made by `make(folder)` unless a sound one is cached."""
    recipe = [
        RECIPE,
        GROUP,
        PASSES,
        RATERS,
        LAYERS,
        dataclasses.asdict(config),
        sha256(data_dir() / "tiny" / "model.safetensors") if SCALE == "tiny" else [SCALE, RANK],
    ]
    recipe += [dataclasses.asdict(i) if dataclasses.is_dataclass(i) else i for i in ingredients]
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_dir() / "stages" / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir() and not _sound(folder):
            print(f"the cached {name} is damaged: making it again")
            shutil.rmtree(folder)
        if not folder.is_dir():
            print(f"making {name}: once, then it is kept")
            began, partial = time.perf_counter(), folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            digests = {file.name: sha256(file) for file in sorted(partial.iterdir())}
            write_text(partial / "digests.json", json.dumps(digests, indent=1))
            os.replace(partial, folder)
            print(f"made {name} in {time.perf_counter() - began:.0f} s")
    return folder


def _sound(folder: Path) -> bool:
    try:
        digests = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
        return all(sha256(folder / file) == digest for file, digest in digests.items())
    except (OSError, ValueError):
        return False


if __name__ == "__main__":  # all that the lessons share
    for stage in (sft_policy, panel_reward_model, judge):
        stage()
