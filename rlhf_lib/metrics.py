"""How good is a language model, and is its text still text? Bits per character, perplexity, variety."""

import math
from collections.abc import Sequence

import torch

from rlhf_lib.models import Policy
from rlhf_lib.rollout import Rollout, from_texts, score


@torch.no_grad()
def bits_per_character(policy: Policy, texts: Sequence[str], batch_size: int = 64) -> float:
    """Bits that the model needs for `texts`, the end token's included, over their number of characters.

    Comparable between models with different tokenizers, which perplexity a token is not. The model starts from its
    start token, or from its end token where the tokenizer adds no start (as GPT-2 and SmolLM2 separate documents).
    """
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
    """exp(mean −log p a token) of a roll-out's completions under `model`, at temperature 1.

    Under the policy that RL started from it tells whether the text is still text: far above that policy's own
    perplexity on its own samples is gibberish to it, far below is a phrase said again and again.
    """
    logprobs = score(model, rollout).logprobs
    return math.exp(-(logprobs.sum() / rollout.mask.sum()).item())


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Share of different n-grams of words among all of them (Li et al. 2016): 1 is no repetition, near 0 one phrase.

    It falls with the number of texts, so compare equally many. Texts shorter than n words give none; NaN if all are.
    """
    grams = [tuple(words[i : i + n]) for words in (text.split() for text in texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")
