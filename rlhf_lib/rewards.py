"""Rewards: any callable that takes a roll-out and returns scores [B], or rewards per token [B, T].

A reward model is one as it stands. These wrap functions of text.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_lib.rollout import Rollout

Reward = Callable[[Rollout], Tensor]


def text_reward(f: Callable[[list[str], list[str]], list[float]]) -> Reward:
    """The reward that decodes a roll-out and asks f(prompts, completions), two lists of B strings, for B numbers.

    A wrong count and a score that is not finite raise ValueError, which shows the text that caused it.
    """

    def reward(rollout: Rollout) -> Tensor:
        prompts, completions = rollout.prompts(), rollout.completions()
        scores = torch.as_tensor(f(prompts, completions), dtype=torch.float32, device=rollout.tokens.device)
        if scores.shape != (len(rollout),):
            raise ValueError(f"the reward function returned shape {list(scores.shape)} for {len(rollout)} completions")
        bad = (~scores.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"the reward of {prompts[bad[0]]!r} + {completions[bad[0]]!r} is {scores[bad[0]].item()}")
        return scores

    return reward


def vader() -> Reward:
    """The sentiment of prompt + completion by VADER's lexicon and rules (Hutto & Gilbert 2014): compound, −1 to 1."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ImportError("the VADER reward needs its lexicon: pip install 'rlhf-lib[smol]'") from error
    analyzer = SentimentIntensityAnalyzer()

    def compound(prompts: list[str], completions: list[str]) -> list[float]:
        return [analyzer.polarity_scores(p + c)["compound"] for p, c in zip(prompts, completions, strict=True)]

    return text_reward(compound)
