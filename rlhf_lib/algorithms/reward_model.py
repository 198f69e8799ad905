"""Reward modelling: a score for whole texts, learnt from which of them people preferred."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlhf_lib.losses import bradley_terry_loss, plackett_luce_loss
from rlhf_lib.models import RewardModel, dropout
from rlhf_lib.preferences import Ranking, ordered_pairs
from rlhf_lib.processes import clip_gradients, total, weight
from rlhf_lib.runs import Run, check_finite, generator, shuffled_batches


@dataclass(frozen=True)
class Config:
    epochs: int = 1  # passes over the rankings
    batch_size: int = 4  # sets of texts an update
    lr: float = 3e-4  # AdamW's learning rate: a short linear rise, then linearly to 0
    warmup: float = 0.1  # share of the steps in which the learning rate rises
    weight_decay: float = 0.1  # AdamW's
    dropout: float = 0.1  # while training only: a few thousand sentences are quickly learnt by heart
    loss: Literal["bradley_terry", "plackett_luce"] = "bradley_terry"  # the second needs rankings of one length
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    seed: int = 0  # decides the order of the rankings


def train(rm: RewardModel, rankings: Sequence[Ranking], config: Config | None = None, run: Run | None = None) -> Run:
    """Fit `rm`, in place, to rankings of texts (a pair is a ranking of two). Ties teach Bradley–Terry nothing.

    Every ordered pair within a ranking is used, so that a ranking of K texts costs K forward passes and teaches
    K(K − 1)/2 comparisons. Rankings of the same texts, by several people, are learnt together: they share the passes.
    Returns the run, whose history holds loss (nats a comparison, or a ranking) and accuracy on the batch's pairs.
    """
    config, run = config or Config(), run or Run()
    if config.loss == "plackett_luce" and len({len(ranking.texts) for ranking in rankings}) > 1:
        raise ValueError("plackett_luce needs rankings of one length: use bradley_terry for rankings of several")
    parameters = [p for p in rm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    groups: dict[tuple[str, ...], list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.texts, []).append(ranking)
    groups = list(groups.values())
    batches = shuffled_batches(len(groups), config.batch_size, config.epochs, config.seed)
    rise = max(1, config.warmup * len(batches))
    run.track(config, reward_model=rm, optimizer=optimizer)

    for step in run.steps(len(batches)):
        batch = [groups[i] for i in batches[step]]
        with dropout(rm, config.dropout, seed=generator(config.seed, step).initial_seed()):
            scores = rm.score_ids(rm.encode([text for group in batch for text in group[0].texts]))
        chosen, rejected = (side.to(scores.device) for side in _pairs(batch))
        if total(len(chosen)) == 0:
            continue  # nothing but ties
        if config.loss == "plackett_luce":
            ranks = torch.tensor([ranking.ranks for group in batch for ranking in group], device=scores.device)
            people = torch.tensor([len(group) for group in batch], device=scores.device)
            counted = len(ranks)
            loss = plackett_luce_loss(scores.view(len(batch), -1).repeat_interleave(people, 0), ranks)
        else:
            counted = len(chosen)  # 0 where another process has all that was decided
            loss = bradley_terry_loss(scores[chosen], scores[rejected]) if counted else 0 * scores.sum()

        optimizer.param_groups[0]["lr"] = config.lr * min(
            (step + 1) / rise, (len(batches) - step) / max(1, len(batches) - rise)
        )
        optimizer.zero_grad()
        (weight(counted) * loss).backward()
        norm = clip_gradients(parameters, config.max_grad_norm)
        check_finite(step, loss=loss, gradient=norm)
        optimizer.step()
        run.log(step, loss=loss, accuracy=(scores[chosen] > scores[rejected]).sum() / max(1, len(chosen)))
    return run


def _pairs(groups: Sequence[Sequence[Ranking]]) -> tuple[Tensor, Tensor]:
    """Positions (chosen [M], rejected [M]) of every decided pair among the groups' texts, one group after another."""
    found, first = [], 0
    for group in groups:
        for ranking in group:
            chosen, rejected = ordered_pairs(torch.tensor([ranking.ranks]))
            found.append((chosen + first, rejected + first))
        first += len(group[0].texts)
    chosen, rejected = zip(*found, strict=True)
    return torch.cat(chosen), torch.cat(rejected)
