"""Lesson 11's details: each variant changes what it says and nothing else."""

import math

import pytest
import torch
from small_models import MICRO_PROMPT, micro_reward

from rlhf_lib.course import details
from rlhf_lib.estimators import whiten
from rlhf_lib.losses import ppo_loss
from rlhf_lib.models import load_model
from rlhf_lib.rollout import sample, score


def drawn(model=None, **options):
    prompts = [MICRO_PROMPT, "not very good but very dull and"]
    generator = torch.Generator().manual_seed(0)
    model = model or load_model("micro")
    return sample(model, prompts, samples_per_prompt=8, max_new_tokens=4, generator=generator, **options)


def test_the_micro_reward_is_the_one_of_the_tests():
    rollout = drawn()
    torch.testing.assert_close(details.score(rollout), micro_reward()(rollout))


@pytest.mark.parametrize("variant", details.VARIANTS)
def test_every_variant_trains_and_is_measured(variant, monkeypatch):
    monkeypatch.setattr(details, "CONFIG", details.replace(details.CONFIG, steps=1))
    found = details.measure(variant, seed=0)
    assert found.keys() == {"gain", "J", "KL", "approx_kl"} and all(map(math.isfinite, found.values()))
    assert found["gain"] < 1 and found["KL"] > 0


def test_the_only_right_log_probabilities_are_those_of_score():
    for model in (load_model("micro"), details.gpt2()):
        rollout = drawn(model)
        with torch.no_grad():
            by_hand = details.token_logprobs(details.logits_of(model, rollout), rollout.tokens)
            torch.testing.assert_close(by_hand[rollout.mask], rollout.logprobs[rollout.mask], atol=1e-5, rtol=0)
            torch.testing.assert_close(score(model, rollout).logprobs, rollout.logprobs, atol=1e-5, rtol=0)
            off = {
                name: (wrong(model, rollout) - rollout.logprobs)[rollout.mask].abs().max()
                for name, wrong in details.SCORES.items()
            }
        rotary = off.pop("position ids count the pads") < 1e-5
        assert rotary == (model.name == "micro") and min(off.values()) > 1e-3


def test_wrong_losses_are_wrong_and_agree_where_nothing_is_to_be_seen():
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    new, old, advantages = (torch.randn(3, 5, generator=generator) for _ in range(3))
    right = ppo_loss(new, old, advantages, mask, 0.2)
    torch.testing.assert_close(details.mean(details.clipped((new - old).exp(), advantages, 0.2), mask), right)
    for name, loss in details.LOSSES.items():
        fair = right if loss not in details.NOT_WHITENED else ppo_loss(new, old, whiten(advantages, mask), mask, 0.2)
        same = torch.allclose(loss(new, old, advantages, mask, 0.2), fair)
        assert same == (loss is details.whitened_by_minibatch), name  # one minibatch is the whole batch here
        masked = torch.where(mask, advantages, 99.0)
        torch.testing.assert_close(loss(new, old, masked, mask, 0.2), loss(new, old, advantages, mask, 0.2))


def test_the_end_token_is_what_is_masked_out():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    logprobs = torch.zeros(2, 3, requires_grad=True)
    details.end_token_masked_out(logprobs, torch.zeros(2, 3), torch.ones(2, 3), mask, 0.2).backward()
    assert (logprobs.grad != 0).tolist() == [[True, True, True], [True, False, False]]


def test_scores_land_where_the_wrong_rewards_put_them():
    rollout = drawn()
    last = details.score_in_the_last_column(rollout)
    assert not last[:, :-1].any() and torch.equal(last[:, -1], details.score(rollout))
    assert torch.equal(details.score_at_every_word(rollout)[:, 0], details.score(rollout))
