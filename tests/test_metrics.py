"""Measures of a policy's doubt, on models small enough to know the answer."""

import math
from types import SimpleNamespace

import pytest
import torch
from small_models import KINDS, policy_of

from rlhf_lib import metrics
from rlhf_lib.models import load_model

TEXTS = ["good", "not very good and awful but great", "dull and bad"]


def test_a_policy_with_equal_logits_considers_every_token_in_every_state():
    policy = load_model("micro")
    torch.nn.init.zeros_(policy.lm.get_output_embeddings().weight)
    found = metrics.entropies(policy, TEXTS)
    assert [len(row) for row in found] == [2, 8, 4]  # a state before each word and one before the end
    assert torch.cat(found).exp().tolist() == pytest.approx([policy.vocabulary] * 14, rel=1e-5)
    summary = metrics.buttons_considered(policy, TEXTS)
    assert list(summary) == ["typical", "tenth", "ninetieth"]
    assert list(summary.values()) == pytest.approx([policy.vocabulary] * 3, rel=1e-4)


class HalfAndQuarters:
    """One half, a quarter and a quarter, whatever came before; all other tokens are impossible."""

    device, lm = torch.device("cpu"), SimpleNamespace(config=None)

    def __init__(self):
        self.tokenizer = load_model("micro").tokenizer

    def __call__(self, ids, attention_mask, last):
        logits = torch.full((len(ids), last, len(self.tokenizer)), -torch.inf)
        logits[..., 2:5] = torch.tensor([0.5, 0.25, 0.25]).log()
        return logits, None


def test_impossible_tokens_add_nothing():
    (entropy,) = metrics.entropies(HalfAndQuarters(), ["good"])
    assert entropy.tolist() == pytest.approx([1.5 * math.log(2)] * 2)
    assert metrics.buttons_considered(HalfAndQuarters(), ["good"])["typical"] == pytest.approx(2**1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_in_the_batch_change_nothing(kind):
    policy, texts = policy_of(kind), ["a bad movie a bad movie", "a", "a good movie"]
    alone = [metrics.entropies(policy, [text])[0] for text in texts]
    for a, b in zip(metrics.entropies(policy, texts, batch_size=2), alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="empty"):
        metrics.entropies(load_model("micro"), ["good", ""])
