"""Lesson 11: PPO with one detail taken away at a time, in the micro review language.

What lives in the loop is a switch of `ppo.Config`; the rest is a wrong loss, a wrong reward, or a policy prepared
wrongly, which `ppo.train` is given in place of the right one.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from rlhf_lib import reviews
from rlhf_lib.algorithms import ppo
from rlhf_lib.estimators import whiten
from rlhf_lib.losses import ppo_loss, token_logprobs
from rlhf_lib.mdp import exact_kl, exact_objective, gibbs
from rlhf_lib.models import Policy, as_policy, dropout, load_model
from rlhf_lib.rewards import Reward
from rlhf_lib.rollout import Rollout
from rlhf_lib.rollout import score as score_again
from rlhf_lib.runs import Run

WORLD, OPENING = reviews.micro_mdp(horizon=3), "awful"
CONFIG = ppo.Config(steps=10, prompts_per_step=1, samples_per_prompt=32, max_new_tokens=3, lr=5e-3, beta=0.2)


def score(rollout: Rollout) -> Tensor:
    """`reviews.micro_score` of prompt and completion, [B]."""
    texts = [reviews.micro_ids((p + c).split()) for p, c in zip(rollout.prompts(), rollout.completions(), strict=True)]
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    mask = torch.tensor([[True] * len(text) + [False] * (width - len(text)) for text in texts])
    return reviews.micro_score(ids, mask)


# --- switches of ppo.Config -------------------------------------------------------------------------------------------

SWITCHES = {
    "no clip": {"clip": math.inf},
    "no clip, passes end at KL 0.02": {"clip": math.inf, "max_kl": 0.02},
    "clip, and passes end at KL 0.02": {"max_kl": 0.02},
    "1 pass a roll-out": {"epochs": 1},
    "16 passes a roll-out": {"epochs": 16},
    "advantages not whitened": {"whiten": False},
    "λ = 1: no bootstrapping": {"lam": 1.0},
    "λ = 0: TD errors": {"lam": 0.0},
    "values clipped, too": {"value_clip": 0.2},
    "Adam's ε = 1e-8": {"adam_eps": 1e-8},
    "gradient of any length": {"max_grad_norm": math.inf},
    "no price of KL": {"beta": 0.0},
    "price adapts to 1 nat": {"kl_target": 1.0},
}

# --- wrong losses -----------------------------------------------------------------------------------------------------


def mean(objective: Tensor, mask: Tensor) -> Tensor:
    """Minus the mean over actions: what every loss below ends with unless that is its mistake."""
    return -torch.where(mask, objective, 0.0).sum() / mask.sum()


def clipped(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def max_for_min(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    return mean(torch.maximum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages), mask)


def clip_alone(logprobs, old_logprobs, advantages, mask, clip):
    return mean((logprobs - old_logprobs).exp().clamp(1 - clip, 1 + clip) * advantages, mask)


def ratio_upside_down(logprobs, old_logprobs, advantages, mask, clip):
    return mean(clipped((old_logprobs - logprobs).exp(), advantages, clip), mask)


def log_ratio_clipped(logprobs, old_logprobs, advantages, mask, clip):
    log_ratio = logprobs - old_logprobs
    return mean(torch.minimum(log_ratio * advantages, log_ratio.clamp(1 - clip, 1 + clip) * advantages), mask)


def old_refreshed(logprobs, old_logprobs, advantages, mask, clip):
    return ppo_loss(logprobs, logprobs.detach(), advantages, mask, clip)


def pads_in_the_mean(logprobs, old_logprobs, advantages, mask, clip):
    return ppo_loss(logprobs, old_logprobs, advantages, mask, clip, denominator=mask.numel())


def each_text_its_own_mean(logprobs, old_logprobs, advantages, mask, clip):
    objective = torch.where(mask, clipped((logprobs - old_logprobs).exp(), advantages, clip), 0.0)
    return -(objective.sum(1) / mask.sum(1)).mean()


def end_token_masked_out(logprobs, old_logprobs, advantages, mask, clip):
    """What a mask of `ids != pad` does where the pad is the end token."""
    followed = torch.nn.functional.pad(mask[:, 1:], (0, 1), value=True)  # a text as wide as the batch was cut off
    return ppo_loss(logprobs, old_logprobs, advantages, mask & followed, clip)


def whitened_by_minibatch(logprobs, old_logprobs, advantages, mask, clip):
    return ppo_loss(logprobs, old_logprobs, whiten(advantages, mask), mask, clip)


def whitened_with_pads(logprobs, old_logprobs, advantages, mask, clip):
    whitened = whiten(torch.where(mask, advantages, 0.0), torch.ones_like(mask))
    return ppo_loss(logprobs, old_logprobs, whitened, mask, clip)


def whitened_upside_down(logprobs, old_logprobs, advantages, mask, clip):
    here = advantages[mask]
    return ppo_loss(logprobs, old_logprobs, (advantages - here.mean()) * here.std(correction=0), mask, clip)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "max for min": max_for_min,
    "clip alone, no min": clip_alone,
    "ratio upside down": ratio_upside_down,
    "log-ratio clipped": log_ratio_clipped,
    "old log-probs refreshed": old_refreshed,
    "pads in the mean": pads_in_the_mean,
    "each text its own mean": each_text_its_own_mean,
    "end token masked out": end_token_masked_out,
    "whitened minibatch by minibatch": whitened_by_minibatch,
    "whitened with the pads": whitened_with_pads,
    "times the std, not divided": whitened_upside_down,
}

# --- wrong rewards, and a wrong start ---------------------------------------------------------------------------------


def score_in_the_last_column(rollout: Rollout) -> Tensor:
    rewards = torch.zeros(rollout.mask.shape)
    rewards[:, -1] = score(rollout)
    return rewards


def score_at_every_word(rollout: Rollout) -> Tensor:
    return score(rollout)[:, None].expand(rollout.mask.shape)


REWARDS: dict[str, Reward] = {
    "score in the last column": score_in_the_last_column,
    "score at every word": score_at_every_word,
}
# --- wrong log-probabilities: not the sampler's --------------------------------------------------------------------


def at_another_temperature(model: Policy, rollout: Rollout) -> Tensor:
    return score_again(model, replace(rollout, temperature=0.7)).logprobs


def with_dropout(model: Policy, rollout: Rollout) -> Tensor:
    with dropout(model, rate=0.1, seed=0):
        return score_again(model, rollout).logprobs


def shifted(model: Policy, rollout: Rollout) -> Tensor:
    """Row t of the logits predicts token t + 1: here it is asked about token t."""
    return token_logprobs(logits_of(model, rollout, shift=1), rollout.tokens)


def positions_with_pads(model: Policy, rollout: Rollout) -> Tensor:
    return token_logprobs(logits_of(model, rollout, count_pads=True), rollout.tokens)


def in_bfloat16(model: Policy, rollout: Rollout) -> Tensor:
    logprobs = logits_of(model, rollout).bfloat16().log_softmax(-1)
    return logprobs.gather(-1, rollout.tokens[..., None]).squeeze(-1).float()


def without_attention_mask(model: Policy, rollout: Rollout) -> Tensor:
    return token_logprobs(logits_of(model, rollout, hide_pads=False), rollout.tokens)


def logits_of(model: Policy, rollout: Rollout, shift=0, count_pads=False, hide_pads=True) -> Tensor:
    """What predicts the roll-out's tokens, [B, T, V], made by hand: as `score` makes it, or with one thing wrong."""
    ids = torch.cat([rollout.prompt_ids, rollout.tokens], 1)
    attention = torch.cat([rollout.prompt_mask, rollout.mask], 1).long()
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    if count_pads:
        positions = torch.arange(ids.shape[1]).expand(ids.shape)
    attention = attention if hide_pads else torch.ones_like(attention)
    logits = model.lm(input_ids=ids, attention_mask=attention, position_ids=positions).logits
    first = rollout.prompt_ids.shape[1] - 1 + shift
    return logits[:, first : first + rollout.tokens.shape[1]]


SCORES: dict[str, Callable[[Policy, Rollout], Tensor]] = {
    "logits off by one position": shifted,
    "scored at another temperature": at_another_temperature,
    "dropout left on": with_dropout,
    "position ids count the pads": positions_with_pads,
    "pads are attended to": without_attention_mask,
    "log-softmax in bfloat16": in_bfloat16,
}


def gpt2() -> Policy:
    """A small random GPT-2 over the micro language: positions are numbered and looked up, not rotary."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_model("micro").tokenizer
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, **sizes))
    return Policy(lm, tokenizer, name="gpt2")


# --- runs -------------------------------------------------------------------------------------------------------------

NOT_WHITENED = {whitened_by_minibatch, whitened_with_pads, whitened_upside_down}  # by the loop: they do it themselves
VARIANTS = ("PPO", *SWITCHES, *LOSSES, *REWARDS, "random value head")


def train(variant: str, seed: int, **changes) -> tuple[Policy, Run]:
    """PPO in the micro language with one detail changed, named in VARIANTS; `changes` go into its `ppo.Config`."""
    loss = LOSSES.get(variant, ppo_loss)
    config = replace(CONFIG, seed=seed, **SWITCHES.get(variant, {}), **changes)
    config = replace(config, whiten=False) if loss in NOT_WHITENED else config
    policy, reference = load_model("micro", value_head=True), load_model("micro")
    if variant == "random value head":
        torch.nn.init.normal_(policy.value_head.weight, generator=torch.Generator().manual_seed(seed))
    reward = REWARDS.get(variant, score)
    return policy, ppo.train(policy, [OPENING], reward, config, reference, Run(progress=False), loss)


def measure(variant: str, seed: int) -> dict[str, float]:
    """Exactly, after training: the mean score J, the KL to the start, and `gain`, the share of what J − β·KL could have
    risen (to the optimum of `mdp.gibbs`) by which it did. On the way: the mean of approx_kl, nats a word.
    """
    policy, run = train(variant, seed)
    start, end = (as_policy(one, OPENING, WORLD) for one in (load_model("micro"), policy))
    with torch.no_grad():
        first, last, kl = exact_objective(WORLD, start), exact_objective(WORLD, end), exact_kl(WORLD, end, start)
        _, best = gibbs(WORLD, start, CONFIG.beta)
    gain = (last - CONFIG.beta * kl - first) / (best - first)
    return {"gain": gain.item(), "J": last.item(), "KL": kl.item(), "approx_kl": fmean(run.column("approx_kl"))}
