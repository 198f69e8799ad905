"""Lesson 12: the table of NLPO's paper in small."""

from dataclasses import fields, replace

from rlhf_lib import metrics, reviews
from rlhf_lib.algorithms import nlpo, ppo
from rlhf_lib.course import stages
from rlhf_lib.course.experiments.shared import examine
from rlhf_lib.models import Policy
from rlhf_lib.rollout import from_texts
from rlhf_lib.runs import Run

NLPO = nlpo.Config(
    steps=10, prompts_per_step=8, samples_per_prompt=4, epochs=2, minibatches=2, lr=3e-4, beta=0.05, mask_every=3
)
PPO_TWIN = ppo.Config(**{field.name: getattr(NLPO, field.name) for field in fields(ppo.Config)})
NLPO_MEASURES = ("judge", "reward", "perplexity of reviews", "perplexity", "distinct-2", "length", "KL")


def nlpo_row(policy: Policy, reference: Policy, seed: int) -> dict[str, dict[str, float]]:
    """A policy on test openings, writing freely and under its own mask: NLPO_MEASURES.

    Those of `examine`, KL to the policy that training started from; perplexity: of the policy's texts under the
    pre-trained model; perplexity of reviews: of test sentences under the policy, which never has a mask.
    """
    reward, judge, base = stages.panel_reward_model(), stages.judge(), stages.base_model()
    prompts, sentences = reviews.openings("test", limit=24), reviews.load().subset("test").texts[::10]
    bos = [base.tokenizer.bos_token_id]
    fluency = {"perplexity of reviews": metrics.perplexity(policy, from_texts(base, [(bos, s) for s in sentences]))}
    masks = {"free": None, "masked": nlpo.Proposals(policy, NLPO.top_p)}
    return {
        way: examine(policy, prompts, reward, judge, reference, seed, action_mask=mask, fluent=base) | fluency
        for way, mask in masks.items()
    }


def nlpo_table(seed: int) -> dict:
    """Lesson 12: zero-shot, supervised, and PPO and NLPO from either, each as `nlpo_row` sees it; and their curves."""
    openings, reward = reviews.openings("train"), stages.panel_reward_model()
    starts = {"": stages.base_model, "supervised+": stages.sft_policy}
    found, curves = {}, {}
    for name, start in starts.items():
        reference = start()
        found[name.rstrip("+") or "zero-shot"] = nlpo_row(reference, reference, seed)
        for label, train, config in (("PPO", ppo.train, PPO_TWIN), ("NLPO", nlpo.train, NLPO)):
            policy = start(value_head=True)
            config = replace(config, seed=seed)
            run = train(policy, openings, reward, config, reference=reference, run=Run(progress=False))
            found[name + label], curves[name + label] = nlpo_row(policy, reference, seed), run.column("reward")
    return found | {"curves": curves}
