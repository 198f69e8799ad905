"""What several lessons measure with, and on."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from rlhf_lib import metrics, preferences, reviews
from rlhf_lib.algorithms import reinforce, reward_model
from rlhf_lib.course import stages
from rlhf_lib.losses import kl_estimate
from rlhf_lib.models import Policy, RewardModel, load_model
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import Rollout, sample, score
from rlhf_lib.runs import generator

MEASURES = ("reward", "judge", "KL", "perplexity", "distinct-2", "length", "finished")
RLHF = reinforce.Config(steps=20, prompts_per_step=16, samples_per_prompt=4, lr=3e-4, beta=0.1)
LEARNING = reward_model.Config(epochs=2, batch_size=8, lr=1e-3)


@torch.no_grad()
def examine(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    judge: RewardModel,
    reference: Policy,
    seed: int = 0,
    action_mask: Callable | None = None,
    fluent: Policy | None = None,
) -> dict[str, float]:
    """The MEASURES of a policy: 4 samples of at most 24 tokens for each prompt, under an action mask if there is one.

    reward, judge: mean scores. KL: nats a completion to the (unmasked) reference (mean of k1). perplexity: under
    `fluent`, by default the reference. distinct-2: of the completions. length: tokens. finished: share that drew the
    end token.
    """
    options = {"max_new_tokens": 24, "samples_per_prompt": 4, "generator": generator(seed, 1_000_000)}
    rollout = sample(policy, prompts, action_mask=action_mask, **options)
    kl = kl_estimate(rollout.logprobs, score(reference, replace(rollout, allowed=None)).logprobs)
    values = (
        reward(rollout).mean().item(),
        judge(rollout).mean().item(),
        kl.sum(1).mean().item(),
        metrics.perplexity(fluent or reference, rollout),
        metrics.distinct_n(rollout.completions(), 2),
        rollout.lengths.float().mean().item(),
        rollout.finished.float().mean().item(),
    )
    return dict(zip(MEASURES, values, strict=True))


def writers(seed: int = 0) -> dict[str, Policy]:
    """Who may write the texts that people compare: the model with random weights, pre-trained, fine-tuned (SFT)."""
    base = load_model(stages.SCALE)
    torch.manual_seed(seed)
    fresh = Policy(type(base.lm)(base.lm.config), base.tokenizer, name=base.name).to(base.device)
    return {"random weights": fresh, "pre-trained": base, "SFT": stages.sft_policy()}


@torch.no_grad()
def compared(writer: Policy, prompts: Sequence[str], person: RewardModel, seed: int) -> tuple[Rollout, list[bool]]:
    """Two completions a prompt, and whether a simulated person prefers the first of them.

    With probability σ(gap of the scores), as a Bradley–Terry rater would.
    """
    rollout = sample(writer, prompts, max_new_tokens=24, samples_per_prompt=2, generator=generator(seed))
    first, second = person(rollout).view(-1, 2).unbind(1)
    return rollout, (torch.rand(len(first), generator=generator(seed, 1)) < (first - second).sigmoid().cpu()).tolist()


def labelled_pairs(writer: Policy, person: RewardModel, n: int, seed: int) -> list[preferences.Ranking]:
    """Pairs of texts for n train openings, as `compared` by a person. Equal texts are left out."""
    rollout, wins = compared(writer, reviews.openings("train", limit=n), person, seed)
    texts = [p + c for p, c in zip(rollout.prompts(), rollout.completions(), strict=True)]
    pairs = zip(texts[0::2], texts[1::2], wins, strict=True)
    return [preferences.Ranking((a, b), (0, 1) if won else (1, 0)) for a, b, won in pairs if a != b]
