"""What lessons measure on a language model: one seed's results of each experiment, and the policies they compare.

A lesson runs one seed live, or a part of it, and draws it over those of several that `results` keeps.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch

from rlhf_lib import metrics, preferences, reviews
from rlhf_lib.algorithms import best_of_n, dpo, group, nlpo, ppo, reinforce, reward_model, sft
from rlhf_lib.course import details, stages
from rlhf_lib.losses import kl_estimate
from rlhf_lib.models import Policy, RewardModel, load_model
from rlhf_lib.rewards import Reward, vader
from rlhf_lib.rollout import Rollout, from_texts, sample, score
from rlhf_lib.runs import Run, generator

RLHF = reinforce.Config(steps=20, prompts_per_step=16, samples_per_prompt=4, lr=3e-4, beta=0.1)
MEASURES = ("reward", "judge", "KL", "perplexity", "distinct-2", "length", "finished")


@torch.no_grad()
def examine(
    policy: Policy,
    prompts: Sequence[str],
    reward: Reward,
    judge: RewardModel,
    reference: Policy,
    seed: int = 0,
    action_mask: Callable | None = None,
    fluent: Policy | None = None,
) -> dict[str, float]:
    """The MEASURES of a policy: 4 samples of at most 24 tokens for each prompt, under an action mask if there is one.

    reward, judge: mean scores. KL: nats a completion to the (unmasked) reference (mean of k1). perplexity: under
    `fluent`, by default the reference. distinct-2: of the completions. length: tokens. finished: share that drew the
    end token.
    """
    options = {"max_new_tokens": 24, "samples_per_prompt": 4, "generator": generator(seed, 1_000_000)}
    rollout = sample(policy, prompts, action_mask=action_mask, **options)
    kl = kl_estimate(rollout.logprobs, score(reference, replace(rollout, allowed=None)).logprobs)
    values = (
        reward(rollout).mean().item(),
        judge(rollout).mean().item(),
        kl.sum(1).mean().item(),
        metrics.perplexity(fluent or reference, rollout),
        metrics.distinct_n(rollout.completions(), 2),
        rollout.lengths.float().mean().item(),
        rollout.finished.float().mean().item(),
    )
    return dict(zip(MEASURES, values, strict=True))


def rlhf(seed: int) -> dict:
    """RLHF against the panel's reward model: curves, and SFT and RLHF examined on test openings."""
    start, reward, judge = stages.sft_policy(), stages.panel_reward_model(), stages.judge()
    policy = stages.sft_policy()
    config = replace(RLHF, seed=seed)
    run = reinforce.train(policy, reviews.openings("train"), reward, config, reference=start, run=Run(progress=False))
    prompts = reviews.openings("test", limit=64)
    found = {
        name: examine(one, prompts, reward, judge, start, seed) for name, one in (("SFT", start), ("RLHF", policy))
    }
    return {"curve_reward": run.column("reward"), "curve_kl": run.column("kl"), **found}


@torch.no_grad()
def buttons(seed: int) -> dict[str, float]:
    """Lesson 01: exp(entropy) of SmolLM2's next-token distribution in the states along 50 random test sentences."""
    texts, policy = reviews.load().subset("test").texts, load_model("smol")
    drawn = torch.randperm(len(texts), generator=generator(seed))[:50].tolist()
    return {"actions": policy.vocabulary, **metrics.buttons_considered(policy, [texts[i] for i in drawn])}


LABELS = (100, 300, 1000, 2000)  # labelled pairs, one person each
PANELS = (30, 100, 300)  # labelled pairs, each by a whole panel
LEARNING = reward_model.Config(epochs=2, batch_size=8, lr=1e-3)


def learning_curve(seed: int) -> dict:
    """Lesson 09: test accuracy across blocks after a number of labels, each by one person or by a whole panel."""
    return {
        "one person": {str(n): learning_point(n, "random", seed) for n in LABELS},
        "the panel": {str(n): learning_point(n, "mean", seed) for n in PANELS},
    }


def learning_point(labels: int, rater: str, seed: int) -> float:
    """Pairwise accuracy on test blocks of a reward model trained on `labels` pairs of train sentences (ties included).

    rater: "random" for one person's number a sentence, "mean" for its panel's.
    """
    part, test = reviews.load().subset("train"), reviews.load().subset("test")
    pairs = preferences.rankings_from_ratings(part.texts, part.ratings, 2, generator(seed), rater=rater)[:labels]
    rm = stages.base_reward_model()
    reward_model.train(rm, pairs, replace(LEARNING, seed=seed), Run(progress=False))
    judged = preferences.cross_block_pairs(test.ratings, test.block, 20_000, generator(0))
    return preferences.pairwise_accuracy(rm.score_texts(test.texts), judged, resamples=2).value


FEEDBACK = 300  # labelled pairs


def writers(seed: int = 0) -> dict[str, Policy]:
    """Who may write the texts that people compare: the model with random weights, pre-trained, fine-tuned (SFT)."""
    base = load_model(stages.SCALE)
    torch.manual_seed(seed)
    fresh = Policy(type(base.lm)(base.lm.config), base.tokenizer, name=base.name).to(base.device)
    return {"random weights": fresh, "pre-trained": base, "SFT": stages.sft_policy()}


@torch.no_grad()
def compared(writer: Policy, prompts: Sequence[str], person: RewardModel, seed: int) -> tuple[Rollout, list[bool]]:
    """Two completions a prompt, and whether a simulated person prefers the first of them.

    With probability σ(gap of the scores), as a Bradley–Terry rater would.
    """
    rollout = sample(writer, prompts, max_new_tokens=24, samples_per_prompt=2, generator=generator(seed))
    first, second = person(rollout).view(-1, 2).unbind(1)
    return rollout, (torch.rand(len(first), generator=generator(seed, 1)) < (first - second).sigmoid().cpu()).tolist()


def labelled_pairs(writer: Policy, person: RewardModel, n: int, seed: int) -> list[preferences.Ranking]:
    """Pairs of texts for n train openings, as `compared` by a person. Equal texts are left out."""
    rollout, wins = compared(writer, reviews.openings("train", limit=n), person, seed)
    texts = [p + c for p, c in zip(rollout.prompts(), rollout.completions(), strict=True)]
    pairs = zip(texts[0::2], texts[1::2], wins, strict=True)
    return [preferences.Ranking((a, b), (0, 1) if won else (1, 0)) for a, b, won in pairs if a != b]


def feedback_point(writer: Policy, seed: int) -> dict[str, float]:
    """What a reward model learns from FEEDBACK pairs of a writer's texts, labelled by the held-out judge as a person.

    people: accuracy on real people's comparisons of real test sentences. SFT texts: share of pairs of the SFT policy's
    texts, for validation openings, that it orders as the judge does.
    """
    judge, rm = stages.judge(), stages.base_reward_model()
    labels = labelled_pairs(writer, judge, FEEDBACK, seed)
    reward_model.train(rm, labels, replace(LEARNING, seed=seed), Run(progress=False))
    test = reviews.load().subset("test")
    judged = preferences.cross_block_pairs(test.ratings, test.block, 20_000, generator(0))
    people = preferences.pairwise_accuracy(rm.score_texts(test.texts), judged, resamples=2).value
    prompts = reviews.openings("validation", limit=64)
    texts = sample(stages.sft_policy(), prompts, max_new_tokens=24, samples_per_prompt=4, generator=generator(seed, 2))
    one, other = torch.combinations(torch.arange(4)).T
    with torch.no_grad():
        scores = [model(texts).view(64, 4) for model in (rm, judge)]
    agree = torch.stack([s[:, one] - s[:, other] for s in scores]).prod(0) > 0
    return {"people": people, "SFT texts": agree.float().mean().item()}


def feedback(seed: int) -> dict:
    """Lesson 08: what labels teach, by who wrote the texts."""
    return {name: feedback_point(writer, seed) for name, writer in writers(seed).items()}


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


CURE = 0.05  # price of a nat of KL that keeps lesson 04's runs from gibberish


def without_brakes(seed: int) -> reinforce.Config:
    """Lesson 04's REINFORCE on text: a high learning rate, no KL."""
    return reinforce.Config(steps=30, lr=1e-3, seed=seed)


def gauges(diary: Sequence[tuple[Rollout, torch.Tensor]], start: Policy) -> dict[str, list[float]]:
    """What became of the texts (roll-out, scores) of each training step.

    Their mean score, their perplexity under the policy that training started from, the share of different word pairs.
    """
    return {
        "score": [scores.mean().item() for _, scores in diary],
        "perplexity": [metrics.perplexity(start, texts[::2]) for texts, _ in diary],  # every other text, for speed
        "distinct-2": [metrics.distinct_n(texts.completions(), 2) for texts, _ in diary],
    }


def gibberish(seed: int, beta: float = 0.0) -> dict:
    """Lesson 04: REINFORCE without a baseline on VADER's score; the gauges at every step. At beta = 0 it has no KL."""
    policy, start, lexicon, diary = stages.sft_policy(), stages.sft_policy(), vader(), []

    def reward(texts: Rollout) -> torch.Tensor:
        diary.append((texts, lexicon(texts)))
        return diary[-1][1]

    reinforce.train(
        policy,
        reviews.openings("train"),
        reward,
        replace(without_brakes(seed), beta=beta),
        reference=start if beta else None,
        run=Run(progress=False),
        baseline=reinforce.no_baseline,
    )
    return gauges(diary, start)


def rlhf_and_gibberish_cured(seed: int) -> dict:
    """Lesson 10: RLHF, and lesson 04's runs once more with a price on the KL."""
    return rlhf(seed) | {"cured": gibberish(seed, CURE)}


PPO = ppo.Config(steps=10, prompts_per_step=8, samples_per_prompt=4, lr=3e-4, beta=0.1, minibatches=1)


def ppo_and_its_details(seed: int) -> dict:
    """Lesson 11: PPO from the pre-trained model and from the SFT policy; and, in the micro language, two seeds of PPO
    without each of its details. Both policies are examined with the pre-trained model as reference.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models of the micro size only wait for a second one
    taken_away = {}
    for variant in details.VARIANTS:
        first, second = (details.measure(variant, 2 * seed + k) for k in (0, 1))
        taken_away[variant] = {key: [first[key], second[key]] for key in first}
    torch.set_num_threads(threads)
    reward, judge, base = stages.panel_reward_model(), stages.judge(), stages.base_model()
    openings, prompts = reviews.openings("train"), reviews.openings("test", limit=48)
    starts = {"pre-trained": stages.base_model, "SFT": stages.sft_policy}
    found, curves = {}, {}
    for name, start in starts.items():
        policy, run = start(value_head=True), Run(progress=False)
        ppo.train(policy, openings, reward, replace(PPO, seed=seed), start(), run)
        found[name] = examine(start(), prompts, reward, judge, base, seed)
        found[f"{name} → PPO"] = examine(policy, prompts, reward, judge, base, seed)
        curves[f"{name} → PPO"] = {key: run.column(key) for key in ("reward", "kl", "approx_kl")}
    return {"details": taken_away, "curves": curves, **found}


BUDGET = 480  # completions that each of lesson 13's methods may sample
PRICE = 0.1  # of a nat of KL, for all of them
ROLLOUTS = {"steps": 15, "prompts_per_step": 8, "samples_per_prompt": 4, "beta": PRICE, "lr": 3e-4}
RIVALS = {
    "RLOO": replace(group.RLOO, **ROLLOUTS),
    "GRPO": replace(group.GRPO, **ROLLOUTS),
    "PPO": ppo.Config(**ROLLOUTS, epochs=2, minibatches=1),
}
DPO = dpo.Config(batch_size=16, lr=3e-4, beta=PRICE)


def equal_budget(seed: int) -> dict:
    """Lesson 13: what BUDGET completions buy by each method, on 48 test openings; curves of the training.

    Beside the MEASURES of `examine` (of the best of 10: reward, judge, and the most that its KL can be) objective:
    reward − PRICE · KL; tokens: sampled from BUDGET completions; seconds: of the processor, without examining.
    """
    reward, judge, start = stages.panel_reward_model(), stages.judge(), stages.sft_policy()
    prompts = reviews.openings("test", limit=48)
    found = {"SFT": examine(start, prompts, reward, judge, start, seed) | {"tokens": 0, "seconds": 0.0}}
    curves = {}
    for name in (*RIVALS, "DPO"):
        began = time.process_time()
        policy, run, tokens = rival(name, seed)
        spent = {"tokens": tokens, "seconds": time.process_time() - began}
        found[name] = examine(policy, prompts, reward, judge, start, seed) | spent
        kept = ("chosen", "rejected", "accuracy") if name == "DPO" else ("reward", "kl")
        curves[name] = {key: run.column(key) for key in kept}
    found["best of 10"] = best_of_ten(prompts, seed)
    for measures in found.values():
        measures["objective"] = measures["reward"] - PRICE * measures["KL"]
    return {"table": found, "curves": curves}


def rival(name: str, seed: int) -> tuple[Policy, Run, int]:
    """One of RIVALS, or "DPO", trained from the SFT policy: the policy, its run, and how many tokens were sampled."""
    policy, reference = stages.sft_policy(value_head=name == "PPO"), stages.sft_policy()
    reward, run = stages.panel_reward_model(), Run(progress=False)
    if name == "DPO":
        pairs, tokens = preference_pairs(reference, reward, BUDGET // 2, seed)
        dpo.train(policy, pairs, reference, replace(DPO, seed=seed), run)
        return policy, run, tokens
    config = replace(RIVALS[name], seed=seed)
    train = ppo.train if name == "PPO" else group.train
    train(policy, reviews.openings("train"), reward, config, reference=reference, run=run)
    return policy, run, round(sum(run.column("length")) * config.prompts_per_step * config.samples_per_prompt)


def preference_pairs(writer: Policy, person: RewardModel, n: int, seed: int) -> tuple[list[tuple[str, str, str]], int]:
    """(prompt, chosen, rejected) for `dpo`, as `compared` by a person; and how many tokens were sampled."""
    prompts = reviews.openings("train", limit=n)
    rollout, wins = compared(writer, prompts, person, seed)
    texts = rollout.completions()
    pairs = zip(prompts, texts[0::2], texts[1::2], wins, strict=True)
    return [(prompt, *((a, b) if won else (b, a))) for prompt, a, b, won in pairs if a != b], int(rollout.mask.sum())


@torch.no_grad()
def best_of_ten(prompts: Sequence[str], seed: int) -> dict[str, float]:
    """The SFT policy's best of ten for each prompt, in the form of `equal_budget`."""
    reward, began, tokens = stages.panel_reward_model(), time.process_time(), []

    def counted(rollout: Rollout) -> torch.Tensor:
        tokens.append(int(rollout.mask.sum()))
        return reward(rollout)

    options = {"max_new_tokens": 24, "generator": generator(seed, 1_000_001)}
    best = best_of_n.best_of_n(stages.sft_policy(), prompts, counted, 10, **options)
    spent = {"tokens": sum(tokens), "seconds": time.process_time() - began}
    scores = {"reward": reward(best).mean().item(), "judge": stages.judge()(best).mean().item()}
    return scores | {"KL": best_of_n.kl_bound(10)} | spent


HACK = reinforce.Config(steps=32, prompts_per_step=8, samples_per_prompt=4, lr=5e-4, beta=0.01)
FEW, MORE = 25, 200  # labelled pairs
TRIES = (1, 2, 4, 8, 16, 32)  # texts among which best-of-n chooses


@torch.no_grad()
def texts_to_choose_from(seed: int) -> Rollout:
    """TRIES[-1] completions by the SFT policy of each of 24 test openings."""
    how = {"max_new_tokens": 24, "samples_per_prompt": TRIES[-1], "generator": generator(seed, 3)}
    return sample(stages.sft_policy(), reviews.openings("test", limit=24), **how)


def in_own_units(model: RewardModel, texts: Rollout) -> Reward:
    """A model's score in standard deviations from its mean over `texts`, so that several can be compared."""
    with torch.no_grad():
        scores = model(texts)
    return lambda rollout: (model(rollout) - scores.mean()) / scores.std()


def small_proxy(pairs: int, seed: int) -> RewardModel:
    """A reward model of `pairs` pairs of SFT texts, spread over MORE openings, that the panel's model labelled."""
    labels = labelled_pairs(stages.sft_policy(), stages.panel_reward_model(), MORE, seed)
    rm = stages.base_reward_model()
    reward_model.train(rm, labels[:: MORE // pairs], replace(LEARNING, seed=seed), Run(progress=False))
    return rm


def best_of(scores: torch.Tensor, values: torch.Tensor, n: int) -> float:
    """The expected value of the best-scored of n texts, from N >= n texts of each prompt; scores and values [P, N].

    The mean over all ways to choose n of the N: no bias, and little noise (Nakano et al. 2021, arXiv 2112.09332).
    """
    size = scores.shape[1]
    ways = torch.tensor([math.comb(i, n - 1) / math.comb(size, n) for i in range(size)])
    return (values.gather(1, scores.argsort(1)).double().cpu() @ ways.double()).mean().item()


def overoptimise(
    policy: Policy, rewards: dict[str, Reward], reference: Policy, config: reinforce.Config, run: Run | None = None
) -> dict[str, list[float]]:
    """RL of `policy`, in place, against rewards["proxy"]: the mean of every reward, and the KL, at each step."""
    curves: dict[str, list[float]] = {name: [] for name in rewards}

    def reward(texts: Rollout) -> torch.Tensor:
        scores = {name: one(texts) for name, one in rewards.items()}
        for name, found in scores.items():
            curves[name].append(found.mean().item())
        return scores["proxy"]

    run = run or Run(progress=False)
    reinforce.train(policy, reviews.openings("train"), reward, config, reference=reference, run=run)
    return curves | {"KL": run.column("kl")}


@torch.no_grad()
def what_it_writes(policy: Policy, seed: int) -> list[str]:
    """A completion of the lecture's opening and of three test openings, at temperature 1."""
    prompts = [reviews.LECTURE_OPENING, *reviews.openings("test", limit=3)]
    return sample(policy, prompts, max_new_tokens=24, generator=generator(seed, 4)).completions()


def hacking(seed: int) -> dict:
    """Lesson 14: proxies of FEW and of MORE pairs, optimised by RL and by best-of-n. Gold, the panel's model, labelled
    the pairs; the judge labelled nothing. Scores are in standard deviations of the SFT policy's.
    """
    start, texts, found = stages.sft_policy(), texts_to_choose_from(seed), {}
    others = {
        "gold": in_own_units(stages.panel_reward_model(), texts),
        "judge": in_own_units(stages.judge(), texts),
    }
    for pairs in (FEW, MORE):
        rewards = {"proxy": in_own_units(small_proxy(pairs, seed), texts), **others}
        with torch.no_grad():
            scores = {name: reward(texts).view(-1, TRIES[-1]) for name, reward in rewards.items()}
        filtered = {name: [best_of(scores["proxy"], one, n) for n in TRIES] for name, one in scores.items()}
        correlation = torch.corrcoef(torch.stack([scores[name].flatten() for name in ("proxy", "gold")]))[0, 1].item()
        policy = stages.sft_policy()
        curves = overoptimise(policy, rewards, start, replace(HACK, seed=seed))
        found[f"{pairs} pairs"] = {
            "RL": curves,
            "best of n": filtered,
            "correlation": correlation,
            "texts": what_it_writes(policy, seed),
        }
    return found | {"SFT": {"texts": what_it_writes(start, seed)}}
