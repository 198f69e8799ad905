"""Lesson 07: what cloning teaches, from which start and from whom."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from rlhf_lib import metrics, reviews
from rlhf_lib.algorithms import sft
from rlhf_lib.course import stages
from rlhf_lib.course.experiments.shared import writers
from rlhf_lib.models import Policy
from rlhf_lib.rollout import from_texts, sample
from rlhf_lib.runs import Run, generator

CLONING = sft.Config(epochs=1, batch_size=32)
CLONED = 640  # demonstrations, each seen once
RATES = {"random weights": 2e-3, "pre-trained": 3e-4}  # learning rates that suit these weights at the start
FIRM_RATE = 1e-3  # for the pre-trained weights to take on a manner in so few steps


def demonstrators(seed: int) -> dict[str, list[tuple[str, str]]]:
    """CLONED (prompt, completion) of train sentences that people found good (mean ≥ 2), bad (≤ −2), or half each."""
    not_bad = set(reviews.demonstrations("train", min_rating=-1.99))
    bad = [pair for pair in reviews.demonstrations("train", min_rating=-4) if pair not in not_bad]
    drawn = {}
    for k, (name, pairs) in enumerate({"good": reviews.demonstrations("train"), "bad": bad}.items()):
        drawn[name] = [pairs[i] for i in torch.randperm(len(pairs), generator=generator(seed, k)).tolist()[:CLONED]]
    half = CLONED // 2
    return drawn | {"half of each": drawn["good"][:half] + drawn["bad"][:half]}


def clone(policy: Policy, demonstrations: Sequence[tuple[str, str]], seed: int, rate: float) -> list[float]:
    """Clone demonstrations into `policy`, in place. Returns the loss of each step, before its update (nats a token)."""
    run = Run(progress=False)
    return sft.train(policy, demonstrations, replace(CLONING, lr=rate, seed=seed), run).column("loss")


def manner(policy: Policy, seed: int, limit: int = 64) -> dict[str, float]:
    """The judge's mean score of 4 samples for each of `limit` validation openings, negative and positive ones."""
    positive = [prompt for prompt, _ in reviews.demonstrations("validation")]
    openings = {
        "negative openings": reviews.openings("validation", limit=limit),
        "positive openings": positive[:: len(positive) // limit][:limit],
    }
    how = {"max_new_tokens": 24, "samples_per_prompt": 4, "generator": generator(seed, 3)}
    with torch.no_grad():
        return {name: stages.judge()(sample(policy, some, **how)).mean().item() for name, some in openings.items()}


def cloning(seed: int) -> dict:
    """Lesson 07: random against pre-trained weights at equal steps of cloning; good, bad and mixed demonstrators."""
    data, pupils = demonstrators(seed), writers(seed)
    unseen = from_texts(pupils["pre-trained"], reviews.demonstrations("validation")[::3])
    judged, curves, perplexity = {"none": manner(pupils["pre-trained"], seed)}, {}, {}
    for name, rate in RATES.items():
        perplexity[name] = metrics.perplexity(pupils[name], unseen)
        curves[name] = clone(pupils[name], data["good"], seed, rate)
        perplexity[f"{name} → SFT"] = metrics.perplexity(pupils[name], unseen)
    for name, demonstrations in data.items():
        pupil = stages.base_model()
        clone(pupil, demonstrations, seed, FIRM_RATE)
        judged[name] = manner(pupil, seed)
    return {"curves": curves, "perplexity": perplexity, "judge": judged}
