"""`rlhf train ALGORITHM --out FOLDER ...`: one training run, from names and files to a saved model.

The options of an algorithm are the fields of its Config, with their comments as help, and what it learns from. The
folder holds metrics.jsonl, config.json, the last checkpoint, from which the same command resumes, and model/. Several
processes (see `rlhf_lib.processes`) train as one.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import torch

from rlhf_lib import preferences, processes, reviews
from rlhf_lib.algorithms import actor_critic, dpo, group, nlpo, ppo, reinforce, reward_model, sft
from rlhf_lib.labels import read_labels
from rlhf_lib.models import AdaptersOff, Policy, RewardModel, load_model, load_reward_model
from rlhf_lib.rewards import Reward, text_reward, vader
from rlhf_lib.runs import Run, write_text

LOOPS = {  # name -> (module, the configuration that its options start from, what it does)
    "sft": (sft, sft.Config(), "supervised fine-tuning on demonstrations"),
    "reward_model": (reward_model, reward_model.Config(), "a score of texts, from people's rankings"),
    "dpo": (dpo, dpo.Config(), "direct preference optimisation on pairs of completions"),
    "reinforce": (reinforce, reinforce.Config(), "policy gradient with a leave-one-out baseline"),
    "actor_critic": (actor_critic, actor_critic.Config(), "policy gradient with a learnt critic"),
    "ppo": (ppo, ppo.Config(), "proximal policy optimisation"),
    "nlpo": (nlpo, nlpo.Config(), "PPO among the words that a lagging copy proposes"),
    "rloo": (group, group.RLOO, "a group of completions a prompt, each against the others' mean"),
    "grpo": (group, group.GRPO, "the same, divided by the group's standard deviation, as published"),
    "dr_grpo": (group, group.DR_GRPO, "GRPO without its two divisions"),
    "dapo": (group, group.DAPO, "GRPO with DAPO's average over tokens"),
}
WITH_CRITIC = (actor_critic, ppo, nlpo)
DATA = {  # without --data the course's own ratings are used, where they can be
    sft: 'JSON lines {"prompt": ..., "completion": ...}; by default positive reviews, cut after five words',
    reward_model: "the labels of the labelling widget; by default people's ratings of the training blocks",
    dpo: 'JSON lines {"prompt": ..., "chosen": ..., "rejected": ...}',
}


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model; `rlhf train ALGORITHM --help` shows an algorithm's options",
        description=__doc__.partition("\n\n")[2],
    )
    algorithms = parser.add_subparsers(title="algorithms", metavar="ALGORITHM", required=True)
    for name, (module, config, what) in LOOPS.items():
        options = algorithms.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        options.add_argument("--out", type=Path, required=True, help="the run's folder; one with a run is resumed")
        options.add_argument(
            "--model", default="tiny", help="to start from: micro, tiny (default), smol, a folder, a hub name"
        )
        options.add_argument(
            "--lora", type=int, metavar="RANK", help="train adapters of this rank instead of all weights"
        )
        options.add_argument("--device", help="cpu, cuda or mps (default: CUDA where there is one)")
        options.add_argument("--bf16", action="store_true", help="compute in bfloat16 over float32 weights")
        options.add_argument("--checkpoint-every", type=int, default=20, metavar="N", help="steps (default: 20)")
        if module in DATA:
            options.add_argument("--data", type=Path, required=module is dpo, help=DATA[module])
        else:
            options.add_argument(
                "--reward",
                required=True,
                help="vader, a reward model's folder, or module:function, which "
                "takes prompts and completions and returns numbers",
            )
            options.add_argument(
                "--prompts", type=Path, help="a text file, a prompt a line; by default how negative reviews begin"
            )
        if module not in (sft, reward_model):
            options.add_argument("--reference", help="the policy to stay close to (default: the model to start from)")
        settings = options.add_argument_group("the algorithm's settings")
        for field, kind, choices, comment in _settings(config):
            default = getattr(config, field)
            settings.add_argument(
                f"--{field.replace('_', '-')}",
                type=kind,
                choices=choices,
                default=default,
                metavar=None if choices else kind.__name__.strip("_").upper(),
                help=f"{comment} (default: {default})".replace("%", "%%"),
            )
        options.set_defaults(run=run, algorithm=name, loop=module, config=config)


def run(arguments: argparse.Namespace) -> int:
    """Train as the arguments say, save the model, and print where it is."""
    module = arguments.loop
    config = dataclasses.replace(
        arguments.config, **{f.name: getattr(arguments, f.name) for f in dataclasses.fields(arguments.config)}
    )
    if arguments.device:
        os.environ["RLHF_DEVICE"] = arguments.device
    how = {"dtype": torch.bfloat16 if arguments.bf16 else None}
    diary = Run(arguments.out, checkpoint_every=arguments.checkpoint_every)
    model, learn = _task(module, config, arguments, how)
    with processes.first_alone():
        _remember(arguments, arguments.out / "command.json")
    learn(config=config, run=diary)
    if processes.index() == 0:
        folder = arguments.out / "model"
        model.save(folder)
        last = diary.history[-1] if diary.history else {}
        print(", ".join(f"{key} {value:.4g}" for key, value in last.items()))
        print(f"model: {folder}")
        if diary.interrupted:
            print("stopped early: the same command goes on from here")
    return 130 if diary.interrupted else 0


def _remember(arguments: argparse.Namespace, file: Path) -> None:
    """Keep what the run learns from beside it; ValueError where the folder has a run of something else."""
    named = ("algorithm", "model", "lora", "bf16", "data", "reward", "prompts", "reference")
    told = {name: str(value) for name in named if (value := getattr(arguments, name, None)) not in (None, False)}
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else told
    if stored != told:
        differs = [name for name in named if stored.get(name) != told.get(name)]
        raise ValueError(f"{file.parent} holds a run with another {', '.join(differs)}: choose another folder")
    if processes.index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(told, indent=1) + "\n")


def _task(module: types.ModuleType, config, arguments: argparse.Namespace, how: dict):
    """The model to train, and its `train` with all but config and run filled in."""
    if module is reward_model:
        rankings = _rankings(arguments.data, config)
        model: Policy | RewardModel = load_reward_model(arguments.model, lora=arguments.lora, **how)
        return model, lambda **options: module.train(model, rankings, **options)
    model = load_model(arguments.model, lora=arguments.lora, value_head=module in WITH_CRITIC, **how)
    if module is sft:
        pairs = reviews.demonstrations() if arguments.data is None else _lines(arguments.data, "prompt", "completion")
        return model, lambda **options: module.train(model, pairs, **options)
    priced = module is dpo or config.beta or getattr(config, "kl_target", None)
    reference = None
    if arguments.lora and not arguments.reference:
        reference = AdaptersOff(model)
    elif priced or arguments.reference:
        reference = load_model(arguments.reference or arguments.model, **how)
    if module is dpo:
        pairs = _lines(arguments.data, "prompt", "chosen", "rejected")
        return model, lambda **options: module.train(model, pairs, reference, **options)
    prompts, reward = _prompts(arguments.prompts), _reward(arguments.reward, how)
    return model, lambda **options: module.train(model, prompts, reward, reference=reference, **options)


def _reward(name: str, how: dict) -> Reward:
    if name == "vader":
        return vader()
    if Path(name).is_dir():
        return load_reward_model(name, **how)
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"--reward {name}: neither vader, nor a folder, nor module:function")
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise ValueError(f"--reward {name}: module {module} has no function {function}")
    return text_reward(found)


def _prompts(file: Path | None) -> list[str]:
    if file is None:
        return reviews.openings("train")
    prompts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{file} holds no prompt: write one a line")
    return prompts


def _rankings(file: Path | None, config: reward_model.Config) -> list[preferences.Ranking]:
    if file is None:
        part = reviews.load().subset("train")
        size = 32 if config.loss == "bradley_terry" else 4
        same = torch.Generator().manual_seed(config.seed)  # in every process
        return preferences.rankings_from_ratings(part.texts, part.ratings, size, same, repeats=8)
    rankings, problems = read_labels(file)
    if not rankings:
        raise ValueError(f"{file} holds no labels{': ' + problems[0] if problems else ''}")
    for problem in problems:
        print(f"{file}: {problem}")
    return rankings


def _lines(file: Path, *keys: str) -> list[tuple[str, ...]]:
    """The named texts of each JSON line; ValueError with the number of a line that lacks one."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            found.append(tuple(row[key] for key in keys))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{file}, line {number}: wanted {{"{keys[0]}": ..., ...}} with {", ".join(keys)}'
            ) from error
        if not all(isinstance(text, str) for text in found[-1]):
            raise ValueError(f"{file}, line {number}: {', '.join(keys)} must be strings")
    return found


def _settings(config) -> Iterator[tuple[str, type, tuple | None, str]]:
    """(field, type, choices or None, comment) of each field of a Config, those that it inherits first."""
    source = "".join(inspect.getsource(base) for base in reversed(type(config).__mro__[:-1]))
    for name, kind in typing.get_type_hints(type(config)).items():
        comment = re.search(rf"^    {name}: .*?  # (.*)$", source, re.M).group(1)
        if typing.get_origin(kind) is typing.Literal:
            yield name, str, typing.get_args(kind), comment
            continue
        if isinstance(kind, types.UnionType):  # a number or None
            kind = next(part for part in typing.get_args(kind) if part is not type(None))
        yield name, _yes_or_no if kind is bool else kind, None, comment


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "true", "no", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: yes or no")
    return text.lower() in ("yes", "true")
