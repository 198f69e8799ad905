"""Supervised fine-tuning (behaviour cloning): make demonstrated completions likely, given their prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlhf_lib.losses import sft_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import clip_gradients, weight
from rlhf_lib.rollout import from_texts, score
from rlhf_lib.runs import Run, check_finite, shuffled_batches


@dataclass(frozen=True)
class Config:
    epochs: int = 1  # passes over the demonstrations
    batch_size: int = 32  # demonstrations an update
    microbatch: int = 8  # demonstrations a pass, those of like length together; spares padding, changes nothing else
    lr: float = 3e-4  # AdamW's learning rate, falling linearly to 0
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    seed: int = 0  # decides the order of the demonstrations


def train(
    policy: Policy, demonstrations: Sequence[tuple[str, str]], config: Config | None = None, run: Run | None = None
) -> Run:
    """Clone demonstrations (prompt, completion) into `policy`, in place. Only the completion is scored.

    Returns the run, whose history holds loss (nats a token) and grad_norm.
    """
    config, run = config or Config(), run or Run()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0, fused=True)
    batches = shuffled_batches(len(demonstrations), config.batch_size, config.epochs, config.seed)
    run.track(config, policy=policy, optimizer=optimizer)

    for step in run.steps(len(batches)):
        batch = sorted((demonstrations[i] for i in batches[step]), key=lambda pair: len(pair[1]))
        parts = [from_texts(policy, batch[k : k + config.microbatch]) for k in range(0, len(batch), config.microbatch)]
        tokens, loss = sum(part.mask.sum() for part in parts), 0.0

        optimizer.param_groups[0]["lr"] = config.lr * (1 - step / len(batches))
        optimizer.zero_grad()
        for part in parts:
            share = sft_loss(score(policy, part).logprobs, part.mask, denominator=tokens)
            (weight(tokens) * share).backward()
            loss += share.detach()
        norm = clip_gradients(parameters, config.max_grad_norm)
        check_finite(step, loss=loss, gradient=norm)
        optimizer.step()
        run.log(step, loss=loss, grad_norm=norm)
    return run
