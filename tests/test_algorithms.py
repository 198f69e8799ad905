"""The loops: their gradients against the exact ones, what they learn, and that they stop before harm is done."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from small_models import (
    ALGORITHMS,
    KINDS,
    MICRO_DEMONSTRATIONS,
    MICRO_PROMPT,
    MICRO_RANKINGS,
    PROMPTS,
    end_soon,
    micro_reward,
    policy_of,
    reward_model_of,
    same_weights,
    train_micro,
    weights_of,
)
from tools import gradient

from rlhf_lib import algorithms, reviews
from rlhf_lib.algorithms import actor_critic, dpo, ppo, reinforce, reward_model, sft
from rlhf_lib.estimators import reward_to_go
from rlhf_lib.losses import ppo_loss
from rlhf_lib.mdp import TokenMDP, exact_kl, exact_objective
from rlhf_lib.models import as_policy, load_model, load_reward_model
from rlhf_lib.preferences import Ranking
from rlhf_lib.rollout import Rollout, from_texts, sample, score
from rlhf_lib.runs import Run, generator, student_t_quantile

START = [1, 4]  # the prompt of the gradient tests, as ids
FREE = {"max_grad_norm": 1e9, "lr": 0.0}  # so that after one step p.grad is the loss's own gradient at the start


def quiet() -> Run:
    return Run(progress=False)


def micro(**options):
    return load_model("micro", device="cpu", **options)


# --- gradients against the exact ones ---------------------------------------------------------------------------------


def worth(tokens, mask):
    """A score of the whole text that depends on every token, on their order and on the length."""
    values = torch.where(mask, torch.sin(1.7 * tokens.float() + 1), 0.0)
    return values.sum(1) + 0.5 * values[:, 0] * values[:, -1] - 0.3 * mask.sum(1)


def worth_of(rollout: Rollout):
    """The same as a reward. A roll-out is as wide as its longest completion, so it is filled up first."""
    missing = 2 - rollout.tokens.shape[1]
    pad = torch.nn.functional.pad
    return worth(pad(rollout.tokens, (0, missing)), pad(rollout.mask, (0, missing)))


TEXT = TokenMDP(tuple(str(i) for i in range(12)), horizon=2, reward=worth, eos=2)  # all of the micro model's tokens


def whole_vocabulary(model):
    """The model as a policy over all its tokens, which is what `sample` draws from."""

    def policy(tokens):
        ids = torch.cat([torch.tensor(START).expand(len(tokens), -1), tokens[:, :-1]], 1)
        return model(ids, torch.ones_like(ids), last=tokens.shape[1])[0].log_softmax(-1)

    return policy


def other_micro():
    """A reference that is not the policy."""
    reference = micro()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=noise))
    return reference


def loop_gradients(samples: int, repeats: int, beta: float = 0.0, reference=None, policy=None, **settings):
    """[repeats, P]: minus the language model's gradient in one step of `train`, from as many seeds.

    Of `actor_critic` where the policy has a value head, else of `reinforce`.
    """
    policy, found = policy or micro(), []
    algorithm = reinforce if policy.value_head is None else actor_critic
    for seed in range(repeats):
        config = algorithm.Config(
            steps=1,
            prompts_per_step=1,
            samples_per_prompt=samples,
            max_new_tokens=2,
            beta=beta,
            seed=seed,
            **FREE,
            **settings,
        )
        algorithm.train(policy, [START], worth_of, config, reference, quiet())
        found.append(-torch.cat([p.grad.flatten() for p in policy.lm.parameters()]).double())
    return torch.stack(found)


def critic_that_knows_nothing():
    policy = micro(value_head=True)
    torch.nn.init.normal_(policy.value_head.weight, generator=generator(2))
    return policy


# with λ = 1 whatever the critic says; the critic's own gradient, which reaches the shared weights too, is turned off
UNBIASED = {"reinforce": {}, "actor-critic": {"lam": 1.0, "value_weight": 0.0}}


@pytest.mark.parametrize("name", UNBIASED)
def test_the_loop_follows_the_exact_gradient(name):
    model = micro()
    wanted = gradient(exact_objective(TEXT, whole_vocabulary(model)), model).double()
    looks = torch.randn(30, len(wanted), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    looks = torch.cat([looks / looks.norm(dim=1, keepdim=True), (wanted / wanted.norm())[None]])
    errors = {}
    for samples, repeats in ((40, 16), (160, 16), (640, 16)):
        policy = None if name == "reinforce" else critic_that_knows_nothing()
        found = loop_gradients(samples, repeats, policy=policy, **UNBIASED[name])
        off = (found - wanted) @ looks.T
        t = off.mean(0).abs() / (off.std(0) / math.sqrt(repeats))
        assert t.max() < student_t_quantile(1 - 1e-4 / (2 * len(looks)), repeats - 1)  # family-wise p > 1e-4
        errors[samples] = (found - wanted).square().sum(1).mean().item() * samples
    assert max(errors.values()) < 1.6 * min(errors.values())  # the error falls as 1/√N
    assert torch.cosine_similarity(found.mean(0), wanted, dim=0) > 0.97
    doubled = (found - 2 * wanted) @ looks.T  # the test can tell a wrong gradient
    t = doubled.mean(0).abs() / (doubled.std(0) / math.sqrt(repeats))
    assert t.max() > student_t_quantile(1 - 1e-4 / (2 * len(looks)), repeats - 1)


def test_a_critic_that_knows_nothing_misleads_the_actor_below_lambda_1():
    model = micro()
    wanted = gradient(exact_objective(TEXT, whole_vocabulary(model)), model).double()
    off = {}
    for lam in (0.0, 1.0):
        found = loop_gradients(800, 8, policy=critic_that_knows_nothing(), lam=lam, value_weight=0.0).mean(0)
        off[lam] = ((found - wanted).norm() / wanted.norm()).item()
    assert off[0.0] > 3 * off[1.0]


def test_an_actor_critic_that_does_not_ask_its_critic_is_reinforce():
    found = []
    for algorithm in (reinforce, actor_critic):
        policy = critic_that_knows_nothing()
        mine = {"baseline": reinforce.no_baseline}
        if algorithm is actor_critic:
            mine = {"estimate": lambda rewards, values, mask, gamma, lam: (reward_to_go(rewards, mask, gamma), values)}
        config = algorithm.Config(steps=1, prompts_per_step=1, samples_per_prompt=32, max_new_tokens=2, **FREE)
        algorithm.train(policy, [START], worth_of, config, run=quiet(), **mine)
        found.append(torch.cat([p.grad.flatten() for p in policy.lm.parameters()]))
    torch.testing.assert_close(*found)


def test_the_price_of_kl_is_in_the_gradient():
    model, reference, beta = micro(), other_micro(), 0.5
    own, other = whole_vocabulary(model), whole_vocabulary(reference)
    plain = gradient(exact_objective(TEXT, own), model).double()
    wanted = plain - beta * gradient(exact_kl(TEXT, own, other), model).double()
    found = loop_gradients(800, 8, beta, reference).mean(0)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.97
    assert (found - wanted).norm() < 0.3 * (plain - wanted).norm()


def test_the_first_update_of_ppo_points_along_the_exact_gradient():
    model = micro()
    wanted = gradient(exact_objective(TEXT, whole_vocabulary(model)), model)
    policy = micro(value_head=True)
    config = ppo.Config(
        steps=1, prompts_per_step=1, samples_per_prompt=6000, max_new_tokens=2, lam=1.0, beta=0.0, **FREE
    )
    config = dataclasses.replace(config, epochs=1, minibatches=1, value_weight=0.0)
    ppo.train(policy, [START], worth_of, config, run=quiet())
    found = -torch.cat([p.grad.flatten() for p in policy.lm.parameters()])
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.97


@pytest.mark.parametrize("algorithm", [reinforce, actor_critic])
@pytest.mark.parametrize("kind", KINDS)
def test_microbatches_change_memory_and_nothing_else(kind, algorithm):
    found = []
    for microbatch in (64, 5):
        policy = policy_of(kind)
        config = algorithm.Config(
            steps=1, prompts_per_step=4, samples_per_prompt=4, max_new_tokens=8, microbatch=microbatch, **FREE
        )
        run = algorithm.train(policy, PROMPTS, end_soon, config, run=quiet())
        found.append([p.grad for p in policy.lm.parameters()] + [torch.tensor(run.history[0].get("value_loss", 0.0))])
        assert run.history[0]["finished"] < 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(a.abs().max() + 1), rtol=1e-3)


# --- the first minibatch, and metrics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_1_and_kl_0_before_the_first_update(kind):
    policy, reference = policy_of(kind), policy_of(kind)
    policy.train()  # does not turn dropout on
    config = ppo.Config(steps=1, prompts_per_step=4, samples_per_prompt=3, max_new_tokens=8, epochs=1, minibatches=1)
    (row,) = ppo.train(policy, PROMPTS, end_soon, config, reference, quiet()).history
    assert row["first_ratio"] < 1e-5 and abs(row["approx_kl"]) < 1e-6 and row["clip_fraction"] == 0
    assert abs(row["kl"]) < 1e-5 and row["entropy"] > 0.1 and 0 < row["finished"] < 1
    policy = policy_of(kind, value_head=False)
    config = reinforce.Config(steps=1, prompts_per_step=4, samples_per_prompt=3, max_new_tokens=8)
    (row,) = reinforce.train(policy, PROMPTS, end_soon, config, reference, quiet()).history
    assert abs(row["kl"]) < 1e-4 and 0 < row["finished"] < 1 and -row["reward"] == row["length"]


def test_ppo_without_whitening_takes_the_advantages_as_they_are_and_a_loss_of_your_own():
    seen = {}
    for whitened in (True, False):

        def loss(logprobs, old_logprobs, advantages, mask, clip, whitened=whitened):
            seen[whitened] = advantages[mask]
            return ppo_loss(logprobs, old_logprobs, advantages, mask, clip)

        config = ppo.Config(**SMALL, steps=1, beta=0.0, epochs=1, minibatches=1, whiten=whitened)
        ppo.train(micro(value_head=True), [MICRO_PROMPT], micro_reward(), config, run=quiet(), loss=loss)
    assert seen[True].mean().abs() < 1e-5 and seen[True].std(correction=0) == pytest.approx(1, rel=1e-5)
    raw = seen[False]
    torch.testing.assert_close((raw - raw.mean()) / raw.std(correction=0), seen[True], atol=1e-5, rtol=1e-4)
    assert raw.mean().abs() > 0.1


def test_passes_end_once_the_kl_is_beyond_its_limit():
    passes = {}
    for limit in (0.0, math.inf):

        def loss(*inputs, limit=limit):
            passes[limit] = passes.get(limit, 0) + 1
            return ppo_loss(*inputs)

        config = ppo.Config(**SMALL, steps=1, beta=0.0, epochs=5, minibatches=2, max_kl=limit)
        ppo.train(micro(value_head=True), [MICRO_PROMPT], micro_reward(), config, run=quiet(), loss=loss)
    assert passes == {0.0: 2, math.inf: 10}  # two minibatches a pass


def test_first_ratio_compares_with_the_sampler():
    """A policy that scores its own roll-out wrongly is noticed, which a second scoring alone would not do."""
    policy = policy_of("gpt2")
    forward = policy.forward

    def pads_counted(ids, attention_mask, last, cache=None):
        return forward(ids, attention_mask if cache is not None else torch.ones_like(attention_mask), last, cache)

    policy.forward = pads_counted
    config = ppo.Config(steps=1, prompts_per_step=4, samples_per_prompt=3, max_new_tokens=8, beta=0.0)
    (row,) = ppo.train(policy, PROMPTS, end_soon, config, run=quiet()).history
    assert row["first_ratio"] > 1e-2


def test_metrics_of_an_update_count_action_tokens_only():
    new, old = torch.tensor([[0.3, 99.0], [0.0, 0.1]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    mask = torch.tensor([[True, False], [True, True]])
    row = ppo.update_metrics(new, old, mask, 0.2, torch.tensor(7.0))
    assert row["clip_fraction"] == pytest.approx(1 / 3)  # e^0.3 is beyond 1.2, e^0.1 is not
    assert row["max_ratio"] == pytest.approx(0.349859, rel=1e-5)
    assert row["approx_kl"] == pytest.approx((0.049859 + 0.005171) / 3, rel=1e-3) and row["value_loss"] == 7


def test_the_price_of_kl_adapts_as_ziegler_et_al_do():
    price = ppo.KLPrice(0.1, target=6.0, gain=0.1)
    for kl, wanted in ((12.0, 0.102), (6.6, 0.102 * 1.01), (6.0, 0.102 * 1.01), (0.0, 0.102 * 1.01 * 0.98)):
        price.adapt(kl)
        assert price.beta == pytest.approx(wanted)
    fixed = ppo.KLPrice(0.1, None, 0.1)
    fixed.adapt(7.0)
    assert fixed.beta == 0.1


# --- what they learn --------------------------------------------------------------------------------------------------


def exact_score(policy) -> float:
    mdp = reviews.micro_mdp()
    with torch.no_grad():
        return exact_objective(mdp, as_policy(policy, MICRO_PROMPT, mdp)).item()


SMALL = {"prompts_per_step": 1, "samples_per_prompt": 32, "max_new_tokens": 4, "lr": 1e-2}


def test_all_three_raise_the_exact_objective():
    before = exact_score(micro())
    policy = micro()
    reinforce.train(policy, [MICRO_PROMPT], micro_reward(), reinforce.Config(steps=20, **SMALL), run=quiet())
    assert exact_score(policy) > before + 2 and before < -1
    for algorithm, steps in ((actor_critic, 20), (ppo, 10)):
        policy, config = micro(value_head=True), algorithm.Config(steps=steps, beta=0.0, **SMALL)
        run = algorithm.train(policy, [MICRO_PROMPT], micro_reward(), config, run=quiet())
        assert exact_score(policy) > before + 2
        assert run.column("reward")[-1] > run.column("reward")[0] + 2 and "kl" not in run.history[0]


@pytest.mark.parametrize("algorithm", [reinforce, actor_critic, ppo])
def test_a_high_price_keeps_the_kl_small(algorithm):
    kl = {}
    for beta in (0.0, 10.0):
        policy, reference = micro(value_head=True), micro()
        config = algorithm.Config(steps=8, beta=beta, **SMALL)
        algorithm.train(policy, [MICRO_PROMPT], micro_reward(), config, reference, quiet())
        mdp = reviews.micro_mdp()
        own, other = (as_policy(m, MICRO_PROMPT, mdp) for m in (policy, reference))
        with torch.no_grad():
            kl[beta] = exact_kl(mdp, own, other).item()
    assert 5 * kl[10.0] < kl[0.0]


@pytest.mark.parametrize(("algorithm", "options"), [(actor_critic, {"steps": 40}), (ppo, {"value_clip": 0.5})])
def test_the_critic_learns_what_to_expect(algorithm, options):
    policy = micro(value_head=True)
    config = algorithm.Config(**{"steps": 12, "beta": 0.0, "value_weight": 1.0} | SMALL | options)
    run = algorithm.train(policy, [MICRO_PROMPT], lambda rollout: torch.full((len(rollout),), 2.0), config, run=quiet())
    rollout = sample(policy, [MICRO_PROMPT], max_new_tokens=4)
    with torch.no_grad():
        assert score(policy, rollout).values[rollout.mask].tolist() == pytest.approx(
            [2.0] * int(rollout.mask.sum()), abs=0.5
        )
    assert run.column("value_loss")[-1] < 0.1 * run.column("value_loss")[0]


def test_a_reward_for_every_token_and_garbage_beyond_the_end():
    """The same text reward, given per token, trains the same, whatever stands where there is no token."""
    ends = []
    for filling in (0.0, math.nan):

        def reward(rollout, filling=filling):
            last = rollout.mask & ~torch.nn.functional.pad(rollout.mask[:, 1:], (0, 1))
            rewards = torch.where(last, micro_reward()(rollout)[:, None], 0.0)
            return torch.where(rollout.mask, rewards, filling)

        for algorithm in (reinforce, actor_critic, ppo):
            policy, whole = (micro(value_head=algorithm is not reinforce) for _ in range(2))
            config = algorithm.Config(steps=2, beta=0.0, **SMALL)
            run = algorithm.train(policy, [MICRO_PROMPT], reward, config, run=quiet())
            assert math.isfinite(run.history[-1]["reward"])
            algorithm.train(whole, [MICRO_PROMPT], micro_reward(), config, run=quiet())
            ends.append(same_weights(weights_of(policy), weights_of(whole)))
    assert all(ends)


def test_adapters_learn_and_their_base_stays():
    pytest.importorskip("peft")
    policy = micro(lora=4)
    before = weights_of(policy)
    config = reinforce.Config(steps=8, **SMALL)
    run = reinforce.train(policy, [MICRO_PROMPT], end_soon, config, run=quiet())
    changed = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert run.column("length")[-1] < run.column("length")[0]


def test_sft_imitates_its_demonstrations():
    policy = micro()
    first = from_texts(policy, MICRO_DEMONSTRATIONS)
    with torch.no_grad():
        start = -score(policy, first).logprobs.sum().item() / int(first.mask.sum())
    run = sft.train(policy, MICRO_DEMONSTRATIONS, sft.Config(epochs=30, batch_size=4, lr=2e-2), quiet())
    assert run.history[0]["loss"] == pytest.approx(start, rel=1e-5)
    assert run.history[-1]["loss"] < 0.1
    for prompt, completion in MICRO_DEMONSTRATIONS:
        greedy = sample(policy, [prompt], max_new_tokens=6, temperature=0)
        assert greedy.completions() == [completion] and greedy.finished.all()  # it learnt to stop, too


def test_sft_splits_a_batch_without_changing_its_gradient():
    found = []
    for microbatch in (len(MICRO_DEMONSTRATIONS), 1):
        policy = micro()
        config = sft.Config(batch_size=len(MICRO_DEMONSTRATIONS), microbatch=microbatch, max_grad_norm=math.inf)
        loss = sft.train(policy, MICRO_DEMONSTRATIONS, config, quiet()).history[0]["loss"]
        found.append([torch.tensor(loss), *(p.grad for p in policy.lm.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
def test_a_reward_model_learns_rankings(loss):
    rankings = MICRO_RANKINGS if loss == "bradley_terry" else [r for r in MICRO_RANKINGS if len(r.texts) == 2]
    rm = load_reward_model("micro", device="cpu")
    config = reward_model.Config(epochs=20, batch_size=4, lr=1e-2, dropout=0.0, loss=loss)
    run = reward_model.train(rm, rankings, config, quiet())
    assert run.history[-1]["accuracy"] == 1 and run.history[-1]["loss"] < 0.2
    scores = rm.score_texts(["awful but great", "awful and bad", "awful"]).tolist()
    assert loss == "plackett_luce" or scores == sorted(scores, reverse=True)
    unlike = [*MICRO_RANKINGS, Ranking(("bad", "good"), (1, 0))]
    with pytest.raises(ValueError, match="one length"):
        reward_model.train(rm, unlike, reward_model.Config(loss="plackett_luce"), quiet())


def test_a_batch_of_rankings_is_every_decided_pair():
    rm = reward_model_of("llama")
    rankings = [
        Ranking(("a", "bad", "a bad"), (1, 0, 1)),
        Ranking(("a good movie", "movie"), (0, 1)),
        Ranking(("good", "a"), (0, 0)),
    ]
    pairs = [("bad", "a"), ("bad", "a bad"), ("a good movie", "movie")]
    gaps = torch.stack([rm.score_texts([better]) - rm.score_texts([worse]) for better, worse in pairs])
    run = reward_model.train(rm, rankings, reward_model.Config(batch_size=3, dropout=0.0), quiet())
    assert run.history[0]["loss"] == pytest.approx(torch.log1p((-gaps).exp()).mean().item(), rel=1e-4)
    assert run.history[0]["accuracy"] == pytest.approx((gaps > 0).float().mean().item())


@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
def test_rankings_of_the_same_texts_are_learnt_together(loss):
    texts, other = ("a", "bad", "a bad"), ("movie", "a movie", "good")
    first, second, third = Ranking(texts, (1, 0, 2)), Ranking(texts, (0, 2, 1)), Ranking(other, (0, 1, 0))
    config = reward_model.Config(batch_size=2, dropout=0.0, loss=loss)
    together = reward_model.train(reward_model_of("llama"), [first, third, second], config, quiet())
    losses = [
        reward_model.train(reward_model_of("llama"), [ranking], config, quiet()).history[0]["loss"]
        for ranking in (first, second, third)
    ]
    weights = [3, 3, 2] if loss == "bradley_terry" else [1, 1, 1]  # a mean over pairs, or over rankings
    wanted = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert together.history[0]["loss"] == pytest.approx(wanted, rel=1e-4) and len(together.history) == 1


def test_ties_teach_nothing_and_a_single_batch_teaches():
    rm = load_reward_model("micro", device="cpu")
    before = weights_of(rm)
    run = reward_model.train(rm, [Ranking(("good", "great"), (0, 0))], reward_model.Config(), quiet())
    assert same_weights(weights_of(rm), before) and run.history == []
    for warmup in (0.0, 0.1, 1.0):
        rm = load_reward_model("micro", device="cpu")
        config = reward_model.Config(warmup=warmup, weight_decay=0.0)
        reward_model.train(rm, [Ranking(("good", "bad"), (0, 1))], config, quiet())
        assert not torch.equal(rm.head.weight, before["head.weight"])


# --- the same twice, and no harm --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_seeded_twice_the_same_numbers(algorithm):
    model, run = train_micro(algorithm)
    torch.rand(3)  # the global generator has no part in it
    again, its_run = train_micro(algorithm)
    assert same_weights(weights_of(model), weights_of(again))
    assert json.dumps(run.history) == json.dumps(its_run.history)


def test_another_seed_gives_other_numbers():
    ends = []
    for seed in (0, 1):
        policy = micro()
        reinforce.train(policy, [MICRO_PROMPT], end_soon, reinforce.Config(steps=1, seed=seed, **SMALL), run=quiet())
        ends.append(weights_of(policy))
    assert not same_weights(*ends)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("algorithm", [reinforce, actor_critic, ppo])
def test_a_reward_that_is_not_finite_stops_before_the_update(algorithm, bad):
    policy = micro(value_head=True)
    before = weights_of(policy)

    def reward(rollout):
        return torch.where(torch.arange(len(rollout)) == 3, bad, end_soon(rollout))

    with pytest.raises(ValueError, match=r"rows \[3\]"):
        algorithm.train(policy, [MICRO_PROMPT], reward, algorithm.Config(**SMALL), micro(), quiet())
    assert same_weights(weights_of(policy), before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_gradient_that_is_not_finite_stops_before_the_update(algorithm, monkeypatch):
    broken = {}

    def load(original):
        def load_broken(*args, **options):
            model = original(*args, **options)
            parameter = next(model.parameters())
            parameter.register_hook(lambda grad: grad * math.nan)
            broken.setdefault("models", []).append((model, weights_of(model)))
            return model

        return load_broken

    monkeypatch.setattr("small_models.load_model", load(load_model))
    monkeypatch.setattr("small_models.load_reward_model", load(load_reward_model))
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 0"):
        train_micro(algorithm)
    for model, before in broken["models"]:
        assert same_weights(weights_of(model), before)


def test_calls_that_make_no_sense():
    policy, critic = micro(), micro(value_head=True)
    for algorithm, model in ((reinforce, policy), (actor_critic, critic), (ppo, critic)):
        with pytest.raises(ValueError, match="reference="):
            algorithm.train(model, [MICRO_PROMPT], end_soon, algorithm.Config(beta=0.1), run=quiet())
        with pytest.raises(ValueError, match="second time"):
            algorithm.train(model, [MICRO_PROMPT], end_soon, algorithm.Config(beta=0.1), model, quiet())
    for algorithm in (actor_critic, ppo):
        with pytest.raises(ValueError, match="value_head=True"):
            algorithm.train(policy, [MICRO_PROMPT], end_soon, algorithm.Config(beta=0.0), run=quiet())
    with pytest.raises(ValueError, match="empty"):
        dpo.train(policy, [], micro(), run=quiet())
    with pytest.raises(ValueError, match="empty"):
        sft.train(policy, [], run=quiet())
    with pytest.raises(ValueError, match="empty"):
        reward_model.train(load_reward_model("micro"), [], run=quiet())


def test_a_loop_is_short_enough_to_read():
    for path in Path(algorithms.__file__).parent.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150, path.name
