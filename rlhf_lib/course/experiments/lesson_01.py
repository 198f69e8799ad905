"""Lesson 01: how many of the buttons a language model considers."""

import torch

from rlhf_lib import metrics, reviews
from rlhf_lib.models import load_model
from rlhf_lib.runs import generator


@torch.no_grad()
def buttons(seed: int) -> dict[str, float]:
    """Lesson 01: exp(entropy) of SmolLM2's next-token distribution in the states along 50 random test sentences."""
    texts, policy = reviews.load().subset("test").texts, load_model("smol")
    drawn = torch.randperm(len(texts), generator=generator(seed))[:50].tolist()
    return {"actions": policy.vocabulary, **metrics.buttons_considered(policy, [texts[i] for i in drawn])}
