"""Lesson 16: RLOO on SmolLM2 under LoRA, and TRL beside this library."""

import os
import tempfile
import time
from dataclasses import replace

import torch

from rlhf_lib import reviews
from rlhf_lib.algorithms import group
from rlhf_lib.course import stages
from rlhf_lib.losses import kl_estimate
from rlhf_lib.models import AdaptersOff, Policy, load_model
from rlhf_lib.rewards import vader
from rlhf_lib.rollout import Rollout, sample, score
from rlhf_lib.runs import Run, generator

RANK = 16
SMOL = group.Config(steps=12, prompts_per_step=1, samples_per_prompt=16, max_new_tokens=16, lr=5e-4, beta=0.02)
SEEN = {"the lecture's opening": "opening", "16 openings it never saw": "unseen"}  # what `examine` measures


def smol_and_trl(seed: int) -> dict:
    """RLOO on SmolLM2, and by TRL beside this library, in one thread (the seconds are the processor's). Needs TRL."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"SmolLM2": smol_rloo(seed), "beside": beside_trl(seed)}
    finally:
        torch.set_num_threads(threads)


def smol_rloo(seed: int) -> dict:
    """RLOO on SmolLM2 with LoRA, on the lecture's opening, paid by VADER: curves, seconds a step, and `examine`."""
    policy, run = load_model("smol", lora=RANK), StepTimes(progress=False)
    before = examine(policy, seed)
    group.train(policy, [reviews.LECTURE_OPENING], vader(), replace(SMOL, seed=seed), AdaptersOff(policy), run)
    curves = {name: run.column(name) for name in ("reward", "kl", "length")}
    return curves | {"seconds": run.seconds, "before": before, "after": examine(policy, seed)}


def examine(policy: Policy, seed: int) -> dict:
    """Mean VADER of 16 completions of the lecture's opening, and of one for each of 16 test openings; three texts."""
    how = {"max_new_tokens": SMOL.max_new_tokens, "generator": generator(seed, 1_000_000)}
    opening = sample(policy, [reviews.LECTURE_OPENING], samples_per_prompt=16, **how)
    unseen = sample(policy, reviews.openings("test", limit=16), **how)
    scores = {name: vader()(texts).mean().item() for name, texts in (("opening", opening), ("unseen", unseen))}
    return scores | {"texts": opening.completions()[:3]}


class StepTimes(Run):
    """A run that also keeps each step's seconds of the processor: other programs do not lengthen them."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seconds: list[float] = []

    def steps(self, count: int):
        began = time.process_time()
        for step in super().steps(count):
            yield step
            now = time.process_time()
            self.seconds.append(now - began)
            began = now


BESIDE = group.Config(steps=15, prompts_per_step=8, samples_per_prompt=4, max_new_tokens=24, lr=3e-4, beta=0.05)


def beside_trl(seed: int) -> dict:
    """RLOO by this library and by TRL's trainer: one saved model, the same prompts, reward, budget and settings.

    Each: seconds (of the processor, a step), reward (a step's mean), and `held_out`; that of the SFT policy, from which
    both start, too. Needs TRL: pip install "rlhf-lib[peers]".
    """
    with tempfile.TemporaryDirectory() as folder:
        start = stages.sft_policy()
        start.save(folder)
        ours, run = load_model(folder), StepTimes(progress=False)
        config = replace(BESIDE, seed=seed)
        group.train(ours, reviews.openings("train"), vader(), config, reference=start, run=run)
        found = {"rlhf_lib": {"seconds": run.seconds, "reward": run.column("reward")} | held_out(ours, start, seed)}
        theirs, seconds, rewards = train_with_trl(folder, seed)
        found["TRL"] = {"seconds": seconds, "reward": rewards} | held_out(theirs, start, seed)
    return found | {"start": held_out(start, start, seed)}


def train_with_trl(folder: str, seed: int, steps: int = BESIDE.steps) -> tuple[Policy, list[float], list[float]]:
    """TRL's RLOO with BESIDE's settings on the model saved in `folder`: the policy, seconds and reward a step."""
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false")
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    compound, seconds = vader(), []

    class Timer(TrainerCallback):
        def on_step_begin(self, *arguments, **options):
            self.began = time.process_time()

        def on_step_end(self, *arguments, **options):
            seconds.append(time.process_time() - self.began)

    trainer = RLOOTrainer(
        model=folder,
        args=RLOOConfig(output_dir=f"{folder}/trl", **trl_settings(seed) | {"max_steps": steps}),
        reward_funcs=lambda prompts, completions, **_: compound(Texts(prompts, completions)).tolist(),
        train_dataset=Dataset.from_dict({"prompt": reviews.openings("train")}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        callbacks=[Timer()],
    )
    trainer.remove_callback(PrinterCallback)  # thirty numbers a step
    trainer.train()
    trainer.save_model(f"{folder}/theirs")
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    return load_model(f"{folder}/theirs"), seconds, rewards


def trl_settings(seed: int) -> dict:
    """BESIDE in TRL's names, and what TRL sets otherwise by default."""
    return {
        "max_steps": BESIDE.steps,
        "per_device_train_batch_size": BESIDE.prompts_per_step * BESIDE.samples_per_prompt,
        "num_generations": BESIDE.samples_per_prompt,
        "max_completion_length": BESIDE.max_new_tokens,
        "temperature": BESIDE.temperature,
        "beta": BESIDE.beta,
        "num_iterations": BESIDE.epochs,
        "epsilon": BESIDE.clip,
        "learning_rate": BESIDE.lr,
        "adam_epsilon": BESIDE.adam_eps,
        "max_grad_norm": BESIDE.max_grad_norm,
        "seed": seed,
        "lr_scheduler_type": "constant",  # default: falls to 0
        "gradient_checkpointing": False,  # default: True
        "bf16": False,  # default: True
        "disable_dropout": True,  # default: False
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


DICTIONARY_COLUMNS = ("group.Config", "here", "TRL's name", "RLOOConfig", "GRPOConfig")
DICTIONARY = [  # with the defaults of each; "": no such setting
    ("prompts_per_step · samples_per_prompt", 64, "per_device_train_batch_size", 8, 8),
    ("samples_per_prompt", 8, "num_generations", 2, 8),
    ("max_new_tokens", 24, "max_completion_length", 512, 512),
    ("temperature", 1.0, "temperature", 1.0, 1.0),
    ("epochs", 1, "num_iterations", 1, 1),
    ("minibatches", 1, "steps_per_generation", 1, 1),
    ("clip", 0.2, "epsilon", 0.2, 0.2),
    ("max_grad_norm", 1.0, "max_grad_norm", 1.0, 1.0),
    ("beta", 0.05, "beta", 0.05, 0.0),
    ("advantage", "leave_one_out", "scale_rewards", "", "group"),
    ("average", "sum", "loss_type", "", "dapo"),
    ("lr", 1e-4, "learning_rate", 1e-6, 1e-6),
    ("lr stays as it is", "constant", "lr_scheduler_type", "linear", "linear"),
    ("adam_eps", 1e-5, "adam_epsilon", 1e-8, 1e-8),
    ("dropout is off", True, "disable_dropout", False, False),
    ("dtype=torch.bfloat16", False, "bf16", True, True),
    ("recomputing activations", False, "gradient_checkpointing", True, True),
]


class Texts:
    """Prompts and completions in the form that a reward asks a roll-out for."""

    def __init__(self, prompts: list[str], completions: list[str]):
        self.prompts, self.completions = lambda: prompts, lambda: completions
        self.tokens = torch.zeros(len(prompts), 1)

    def __len__(self) -> int:
        return len(self.tokens)


@torch.no_grad()
def held_out(policy: Policy, start: Policy, seed: int) -> dict[str, float]:
    """VADER, KL to the start and length of 4 completions for each of 48 test openings."""
    how = {"max_new_tokens": BESIDE.max_new_tokens, "samples_per_prompt": 4, "generator": generator(seed, 1_000_000)}
    rollout: Rollout = sample(policy, reviews.openings("test", limit=48), **how)
    kl = kl_estimate(rollout.logprobs, score(start, rollout).logprobs).sum(1)
    measured = vader()(rollout), kl, rollout.lengths.float()
    return dict(zip(("positive", "KL", "length"), (x.mean().item() for x in measured), strict=True))
