"""What lesson 15 measures: a language model that learns to play, with and without the answers masked out."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlhf_lib import games
from rlhf_lib.algorithms import agent
from rlhf_lib.course import stages
from rlhf_lib.losses import policy_gradient_loss
from rlhf_lib.models import Policy
from rlhf_lib.rollout import score
from rlhf_lib.runs import Run, generator

LOOKING = ("look", "inventory", "examine")  # what these commands begin with changes nothing in the world
AGENT = agent.Config(steps=12, episodes=24, horizon=6, lr=1e-4)
TRAINED_ON = ("kitchen", "kitchen-2", "kitchen-3", "kitchen-4")
HELD_OUT = {"a new combination": "kitchen-5", "a new word": "kitchen-6"}
CURVES = ("score", "won", "entropy", "answers")


def buttons(name: str) -> games.Game:
    """A recorded game without the commands that only look."""
    return games.load(name).without(*LOOKING)


@torch.no_grad()
def mean_score(policy: Policy, game: games.Game, seed: int, episodes: int = 48) -> float:
    """Mean score of sampled episodes."""
    noise = generator(seed, 2_000_000)
    played = games.play(policy, [game], horizon=AGENT.horizon, episodes=episodes, generator=noise)
    return played.scores.mean().item()


@torch.no_grad()
def greedy_score(policy: Policy, game: games.Game) -> float:
    """Score of the one episode in which the likeliest token is always taken."""
    return games.play(policy, [game], horizon=AGENT.horizon, temperature=0).scores.item()


def gradient_parts(policy: Policy, played: games.Played) -> tuple[Tensor, Tensor]:
    """Two parts of the gradient step that forgets the mask: from the commands' tokens, and from the answers'."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    weights = played.per_token(agent.turn_advantages(played.rewards, played.taken, played.rollout.samples_per_prompt))
    logprobs, parts = score(policy, agent.everything(played)).logprobs, []
    for mask in (played.rollout.mask, played.rollout.observed):
        loss = policy_gradient_loss(logprobs, weights, mask, denominator=len(played))
        parts.append(torch.cat([-g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)]))
    return parts[0], parts[1]


def trained(learn_from: str, names: Sequence[str], seed: int, config: agent.Config = AGENT) -> tuple[Policy, Run]:
    """The base model after playing the named games; the episodes of a step are shared among them."""
    policy, run = stages.base_model(), Run(progress=False)
    config = replace(config, learn_from=learn_from, episodes=config.episodes // len(names), seed=seed)
    agent.train(policy, [buttons(name) for name in names], config, run)
    return policy, run


def playing(seed: int) -> dict:
    """Lesson 15: the kitchen learnt from the commands' tokens, and from everything; and what others gain by it."""
    kitchen, start = buttons("kitchen"), stages.base_model()
    noise = generator(seed, 1_000_000)
    played = games.play(start, [kitchen], horizon=AGENT.horizon, episodes=48, generator=noise)
    commands, answers = gradient_parts(start, played)
    found: dict = {
        "gradient": {
            "commands": commands.norm().item(),
            "answers": answers.norm().item(),
            "cosine": torch.cosine_similarity(commands, answers, dim=0).item(),
        },
        "before": {"sampled": mean_score(start, kitchen, seed), "greedy": greedy_score(start, kitchen)},
    }
    elsewhere = {"untrained": held_out(start, seed)}
    for learn_from in ("commands", "everything"):
        policy, run = trained(learn_from, ["kitchen"], seed)
        found[learn_from] = {key: run.column(key) for key in CURVES}
        found[learn_from] |= {"sampled": mean_score(policy, kitchen, seed), "greedy": greedy_score(policy, kitchen)}
        if learn_from == "commands":
            elsewhere["one kitchen"] = held_out(policy, seed)
    policy, _ = trained("commands", TRAINED_ON, seed)
    elsewhere["four kitchens"] = held_out(policy, seed)
    return found | {"held out": elsewhere}


def held_out(policy: Policy, seed: int) -> dict[str, float]:
    """Mean score in the kitchens that no policy was trained in, and in the first of them under a misleading order."""
    return {what: mean_score(policy, game, seed) for what, game in held_out_games().items()}


def held_out_games() -> dict[str, games.Game]:
    """The games of `held_out`. Where the order misleads, the points are still earned as before."""
    found = {what: buttons(name) for what, name in HELD_OUT.items()}
    first = found["a new combination"]
    swapped = first.intro.replace("into the toaster", "into the fridge")
    return found | {"a misleading order": replace(first, intro=swapped)}
