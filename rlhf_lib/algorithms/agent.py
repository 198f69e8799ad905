"""Policy gradient for a language model that plays text games: REINFORCE with leave-one-out, over turns.

Written like `reinforce`; the differences are that time is counted in turns, and that an episode holds words which the
policy did not write. RLOO (Ahmadian et al. 2024, arXiv 2402.14740) with the baseline of each turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rlhf_lib.estimators import leave_one_out, reward_to_go
from rlhf_lib.games import Game, Played, play
from rlhf_lib.losses import policy_gradient_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import clip_gradients, weight
from rlhf_lib.rollout import score
from rlhf_lib.runs import Run, check_finite, generator


@dataclass(frozen=True)
class Config:
    steps: int = 40  # updates
    episodes: int = 32  # of each game a step: the group; several processes play so many each
    horizon: int = 6  # turns of an episode
    temperature: float = 1.0  # of sampling and of every log-probability
    gamma: float = 1.0  # discount a turn
    learn_from: Literal["commands", "everything"] = "commands"  # "everything": the answers too, which is a mistake
    lr: float = 1e-4  # AdamW's learning rate
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    microbatch: int = 32  # episodes a forward and backward pass; changes memory, not the result
    seed: int = 0  # decides the episodes


def train(policy: Policy, games: Sequence[Game], config: Config | None = None, run: Run | None = None) -> Run:
    """Train `policy` in place to score in `games`.

    The history holds score, won, turns, entropy (−log π of the commands, nats a turn), answers (−log-probability of
    the answers' tokens, nats a token) and grad_norm, of the episodes before each update.
    """
    config, run = config or Config(), run or Run()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0, fused=True)
    run.track(config, policy=policy, optimizer=optimizer)

    for step in run.steps(config.steps):
        played = play(
            policy,
            games,
            horizon=config.horizon,
            episodes=config.episodes,
            temperature=config.temperature,
            generator=generator(config.seed, step),
        )
        advantages = turn_advantages(played.rewards, played.taken, config.episodes, config.gamma)
        weights = played.per_token(advantages)

        check_finite(step, weights=weights)
        optimizer.zero_grad()
        surprise, count = 0.0, 0
        for rows in torch.arange(len(played)).split(config.microbatch):
            read = everything(played)[rows]
            logprobs, asked = score(policy, read).logprobs, played.rollout.mask[rows]
            learnt = asked if config.learn_from == "commands" else read.mask
            loss = policy_gradient_loss(logprobs, weights[rows], learnt, denominator=len(played))
            (weight(len(played)) * loss).backward()
            answers = read.mask & ~asked
            surprise, count = surprise - logprobs.detach()[answers].sum(), count + answers.sum()
        norm = clip_gradients(parameters, config.max_grad_norm)
        check_finite(step, gradient=norm)
        optimizer.step()

        run.log(
            step,
            score=played.scores.mean(),
            won=played.won.float().mean(),
            turns=played.taken.sum(1).float().mean(),
            entropy=-played.rollout.logprobs.sum() / played.taken.sum(),
            answers=surprise / count,
            grad_norm=norm,
        )
    return run


def turn_advantages(rewards: Tensor, taken: Tensor, episodes: int, gamma: float = 1.0) -> Tensor:
    """Reward-to-go of each turn minus the mean one of the game's *other* episodes at that turn; [B, K], 0 if not taken.

    An episode that is over has nothing to come, and counts as that. The others know nothing of this episode: no bias.
    """
    to_go = reward_to_go(rewards, taken, gamma)
    others = torch.stack([leave_one_out(column, episodes) for column in to_go.unbind(1)], 1)
    return torch.where(taken, others, 0.0)


def everything(played: Played):
    """The roll-out with the answers' tokens counted as actions, too: what it is when they are not masked out."""
    return replace(played.rollout, mask=played.rollout.real)
