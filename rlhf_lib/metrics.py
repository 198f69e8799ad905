"""How good is a language model, and is its text still text? Bits per character, perplexity, variety."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from rlhf_lib.models import Policy
from rlhf_lib.rollout import Rollout, from_texts, score


@torch.no_grad()
def bits_per_character(policy: Policy, texts: Sequence[str], batch_size: int = 64) -> float:
    """Bits that the model needs for `texts`, the end token's included, over their number of characters.

    Comparable between models with different tokenizers, which perplexity a token is not. The model starts from its
    start token, or from its end token where the tokenizer adds no start (as GPT-2 and SmolLM2 separate documents).
    """
    if not any(texts):
        raise ValueError("no text to measure: give at least one that is not empty")
    tokenizer = policy.tokenizer
    start = tokenizer("")["input_ids"][:1] or [tokenizer.eos_token_id]
    texts = sorted(texts, key=len)
    nats = 0.0
    for first in range(0, len(texts), batch_size):
        batch = from_texts(policy, [(start, text) for text in texts[first : first + batch_size]])
        nats -= score(policy, batch).logprobs.sum().item()
    return nats / math.log(2) / sum(len(text) for text in texts)


@torch.no_grad()
def perplexity(model: Policy, rollout: Rollout) -> float:
    """exp(mean −log p a token) of a roll-out's completions under `model`, at temperature 1 and without action mask.

    Under the policy that RL started from it tells whether the text is still text: far above that policy's own
    perplexity on its own samples is gibberish to it, far below is a phrase said again and again.
    """
    logprobs = score(model, replace(rollout, temperature=1.0, allowed=None)).logprobs
    return math.exp(-(logprobs.sum() / rollout.mask.sum()).item())


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Share of different n-grams of words among all of them (Li et al. 2016): 1 is no repetition, near 0 one phrase.

    It falls with the number of texts, so compare equally many. Texts shorter than n words give none; NaN if all are.
    """
    grams = [tuple(words[i : i + n]) for words in (text.split() for text in texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


@torch.no_grad()
def entropies(policy: Policy, texts: Sequence[str], batch_size: int = 16) -> list[torch.Tensor]:
    """Entropy, in nats, of the policy's next-token distribution in every state along each text, the one before its end
    included: one tensor a text.

    exp(entropy) is how many equally likely tokens would leave the same doubt; exp of the mean entropy is the geometric
    mean of these numbers. The model starts as in `bits_per_character`.
    """
    if not all(texts):
        raise ValueError("an empty text has no states to measure: leave it out")
    start = policy.tokenizer("")["input_ids"][:1] or [policy.tokenizer.eos_token_id]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = {}
    for first in range(0, len(texts), batch_size):
        rows = order[first : first + batch_size]
        batch = from_texts(policy, [(start, texts[i]) for i in rows])
        ids = torch.cat([batch.prompt_ids, batch.tokens], 1)[:, :-1]
        attention = torch.cat([batch.prompt_mask, batch.mask], 1)[:, :-1]
        logits, _ = policy(ids, attention, last=batch.tokens.shape[1])
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        found |= {i: row[keep].cpu() for i, row, keep in zip(rows, entropy, batch.mask, strict=True)}
    return [found[i] for i in range(len(texts))]


def buttons_considered(policy: Policy, texts: Sequence[str]) -> dict[str, float]:
    """Among how many tokens the policy effectively chooses in the states along `texts`: exp(entropy), summed up.

    "typical" is the geometric mean; a tenth of the states lie below "tenth" and a tenth above "ninetieth".
    """
    entropy = torch.cat(entropies(policy, texts))
    few, many = entropy.exp().quantile(torch.tensor([0.1, 0.9])).tolist()
    return {"typical": entropy.mean().exp().item(), "tenth": few, "ninetieth": many}
