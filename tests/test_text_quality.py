"""Bits per character, perplexity, variety: on models whose answer is known."""

import math

import pytest
import torch
from small_models import KINDS, mixed, policy_of, tokenizer_of, unbatched

from rlhf_lib.metrics import bits_per_character, distinct_n, perplexity

TEXTS = ["a good movie", "bad", "a bad bad movie"]


def uniform(kind):
    policy = policy_of(kind)
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.zero_()
    return policy


@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_a_model_that_knows_nothing(kind):
    tokens = sum(len(tokenizer_of(kind)(t, add_special_tokens=False)["input_ids"]) + 1 for t in TEXTS)  # + end token
    wanted = tokens * math.log2(24) / sum(map(len, TEXTS))
    assert bits_per_character(uniform(kind), TEXTS) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bits_are_those_of_the_texts_one_by_one(kind):
    policy, nats = policy_of(kind), 0.0
    for text in TEXTS:
        start = 1 if kind == "llama" else 2  # the start token, or the end token where the tokenizer adds none
        row = [start, *tokenizer_of(kind)(text, add_special_tokens=False)["input_ids"], 2]
        logprobs = unbatched(policy, row)[0].double().log_softmax(-1)
        nats -= sum(logprobs[i, token].item() for i, token in enumerate(row[1:]))
    wanted = nats / math.log(2) / sum(map(len, TEXTS))
    assert bits_per_character(policy, TEXTS) == pytest.approx(wanted, rel=1e-5)
    assert bits_per_character(policy, TEXTS[::-1], batch_size=2) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="no text"):
        bits_per_character(policy, [])


def test_perplexity_is_at_temperature_1_whatever_the_rollout_was_sampled_at():
    policy = policy_of("gpt2")
    may = torch.arange(24) > 1
    rollout = mixed(policy, temperature=1.7, action_mask=lambda ids, *_: may.expand(len(ids), -1))
    total = 0.0
    for row, sequence in enumerate(rollout.sequences()):
        logprobs = unbatched(policy, sequence)[0].double().log_softmax(-1)
        start = int(rollout.prompt_mask[row].sum())
        total += sum(logprobs[t - 1, sequence[t]].item() for t in range(start, len(sequence)))
    assert perplexity(policy, rollout) == pytest.approx(math.exp(-total / int(rollout.mask.sum())), rel=1e-5)
    assert perplexity(uniform("gpt2"), rollout) == pytest.approx(24, rel=1e-5)


def test_distinct_n():
    assert distinct_n(["a b a b"], n=1) == 0.5
    assert distinct_n(["a b a b"], n=2) == pytest.approx(2 / 3)
    assert distinct_n(["a b", "a b"]) == 0.5 and distinct_n(["a b", "c d"]) == 1
    assert distinct_n(["a b", "c"]) == 1  # no pair runs from one text into the next
    assert math.isnan(distinct_n(["a", ""]))
