"""Exercises of lesson 03: the policy gradient and one-step MDPs."""

import functools
import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 03.1 derive: the score of a softmax
def _logits_and_action(generator):
    return draw_tensor(generator, 4), torch.randint(4, (), generator=generator).item()


def _score(logits, action):
    """∇ log π(action) by automatic differentiation."""
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(logits.log_softmax(-1)[action], logits)[0]


def _one_hot(action, like):
    return torch.nn.functional.one_hot(torch.as_tensor(action), like.shape[-1]).to(like.dtype)


# 03.2 implement: the gradient of a bandit from samples
def _sampled_bandit(generator):
    contexts = torch.tensor([0, 1, 0, 1, 0])
    actions = torch.randint(3, (5,), generator=generator)
    return draw_tensor(generator, 2, 3), contexts, actions, draw_tensor(generator, 5)


def _bandit_gradient(logits, contexts, actions, rewards):
    """mean of r ∇ log π(a|s), [S, A]."""
    logits = logits.clone().requires_grad_()
    mean = (rewards * logits.log_softmax(-1)[contexts, actions]).mean()
    return torch.autograd.grad(mean, logits)[0]


def _scattered(logits, contexts, rows):
    """The mean over samples of `rows` [N, A], each added to the row of its context."""
    return torch.zeros_like(logits).index_add(0, contexts, rows) / len(rows)


def _chances(logits, contexts, actions):
    return logits.softmax(-1)[contexts, actions]


def _in_every_context(logits, contexts, actions, rewards):
    chosen = torch.zeros_like(logits).index_put((contexts, actions), rewards, accumulate=True) / len(rewards)
    return chosen - rewards.mean() * logits.softmax(-1)


def _mean_in_each_context(logits, contexts, actions, rewards):
    seen = torch.bincount(contexts, minlength=len(logits))[:, None]
    return _bandit_gradient(logits, contexts, actions, rewards) * len(rewards) / seen


def _diagonal_rows(logits, contexts, actions, rewards):
    return rewards[:, None] * _one_hot(actions, logits) * (1 - logits.softmax(-1)[contexts])


# 03.3 find the bug: the surrogate loss
def _drawn(generator):
    return draw_tensor(generator, 5, low=-3.0, high=-0.1), draw_tensor(generator, 5)


def _surrogate(logprobs, rewards):
    return -(logprobs * rewards).mean()


def _gradient_of(loss, logprobs, rewards):
    """What is compared: ∂loss/∂logprobs."""
    logprobs = logprobs.clone().requires_grad_()
    value = loss(logprobs, rewards)
    return torch.autograd.grad(value, logprobs)[0]


# 03.4 implement: a whole text as one action
def _texts(generator):
    logits = draw_tensor(generator, 3, 4, 3)
    return logits, torch.randint(3, (3, 4), generator=generator), draw_mask(generator, batch=3, time=4)


def _taken(logits, tokens):
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def _text_logprob(logits, tokens, mask):
    return torch.where(mask, _taken(logits, tokens), 0.0).sum(1)


def _shifted(logits, tokens, mask):
    return torch.where(mask[:, 1:], _taken(logits[:, :-1], tokens[:, 1:]), 0.0).sum(1)


def _unnormalised(logits, tokens, mask):
    return torch.where(mask, logits.gather(-1, tokens[..., None]).squeeze(-1), 0.0).sum(1)


# 03.5 predict: which discounts matter
CASES = ("both of them", "only the one with an end token", "only the one of fixed length", "neither")


# 03.6 derive: where the gradient turns round
def _two_endings(generator):
    r_short = draw_number(generator, 0.5, 2.0)
    t_short = torch.randint(1, 4, (), generator=generator).item()
    return (
        round(r_short + draw_number(generator, 0.3, 2.0), 2),
        t_short + torch.randint(2, 5, (), generator=generator).item(),
        r_short,
        t_short,
    )


def _turning_point(r_long, t_long, r_short, t_short):
    """γ at which γ^(t_long − 1) r_long = γ^(t_short − 1) r_short."""
    return (r_short / r_long) ** (1 / (t_long - t_short))


# 03.7 experiment: how many texts for a step that points the right way
BAR = 0.9  # the cosine between the sampled and the exact gradient
BUDGET = 2_000  # texts
SEEDS = range(700, 720)


@functools.cache
def _task():
    """The micro task, its blind policy, ∇J, and the variance of one text's gradient (the sum over all weights)."""
    from rlhf_lib import mdp, models, reviews

    task = reviews.micro_mdp(horizon=4)
    table = models.TablePolicy(task).double()
    texts, mask = mdp.enumerate_episodes(task)
    logp = mdp.action_logprobs(task, table, texts, mask).detach()
    chance, returns = logp.sum(1).exp(), mdp.episode_returns(task, texts, mask, torch.float64)
    squares = (0.9 * mask).sum(1)  # ‖one-hot − 1/10‖² = 0.9 for each word; the words' rows are different ones
    (exact,) = torch.autograd.grad(mdp.exact_objective(task, table), table.logits)
    return task, table, exact, (chance @ (returns.square() * squares) - exact.square().sum()).item()


def _texts_needed(cosine: float = BAR) -> int:
    """N at which the error, at right angles to ∇J, typically makes this cosine: e = tan(angle), e² = σ²/(N‖∇J‖²)."""
    _, _, exact, variance = _task()
    return math.ceil(variance / exact.square().sum().item() / (1 / cosine**2 - 1))


def _points_right(texts) -> tuple[bool, str]:
    from rlhf_lib import mdp

    if texts < 2:
        return False, "That is hardly a sample."
    if texts > BUDGET:
        return False, f"That would do, but the budget is {BUDGET:,} texts."
    task, table, exact, _ = _task()
    cosines = []
    for seed in SEEDS:
        drawn = mdp.sample_episodes(task, table, int(texts), torch.Generator().manual_seed(seed))
        logp = mdp.action_logprobs(task, table, *drawn).sum(1)
        surrogate = (mdp.episode_returns(task, *drawn, torch.float64) * logp).mean()
        (g,) = torch.autograd.grad(surrogate, table.logits)
        cosines.append(torch.nn.functional.cosine_similarity(g.flatten(), exact.flatten(), dim=0).item())
    good = sum(cosine >= BAR for cosine in cosines)
    return good >= 19, (
        f"On {len(SEEDS)} new seeds the cosine is {min(cosines):.3f} to {max(cosines):.3f}, at least {BAR} on {good} "
        "of them."
    )


EXERCISES = [
    Exercise(
        id="03.1",
        title="The score of a softmax",
        kind="derive",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_score,
        inputs=_logits_and_action,
        mistakes={
            "gradient of π": Mistake(
                "That is ∇π(a), the gradient of the probability itself. By how much do ∇π and ∇log π differ?",
                lambda logits, action: logits.softmax(-1)[action] * _score(logits, action),
            ),
            "the other words": Mistake(
                "Right for the word that was drawn, and 0 for all others. Raising another word's logit makes this one "
                "less likely: the logits meet in the sum below the fraction.",
                lambda logits, action: _one_hot(action, logits) * (1 - logits.softmax(-1)),
            ),
            "one-hot": Mistake(
                "That is the gradient of θ_a alone. log π(a) = θ_a − log Σ_b e^{θ_b}: differentiate the second term "
                "too.",
                lambda logits, action: _one_hot(action, logits),
            ),
            "no one-hot": Mistake(
                "That is the gradient of the second term, −log Σ_b e^{θ_b}, alone. What does θ_a itself give?",
                lambda logits, action: -logits.softmax(-1),
            ),
            "sign": Mistake(
                "The sign: a larger logit makes its own word likelier.",
                lambda logits, action: -_score(logits, action),
            ),
            "log for π": Mistake(
                "Where a probability should stand it looks as if there were its logarithm.",
                lambda logits, action: _one_hot(action, logits) - logits.log_softmax(-1),
            ),
            "by probabilities": Mistake(
                "That is 1/π(a): the derivative by the probability π(a). The weights are the logits.",
                lambda logits, action: _one_hot(action, logits) / logits.softmax(-1),
            ),
        },
        hint="Write log π(a) = θ_a − log Σ_b e^{θ_b} and differentiate by θ_b, once for b = a and once for b ≠ a.",
        remark="What happened, minus what was expected to: it is large for surprises and averages to 0.",
    ),
    Exercise(
        id="03.2",
        title="A gradient from samples",
        kind="implement",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_bandit_gradient,
        inputs=_sampled_bandit,
        mistakes={
            "weighted twice": Mistake(
                "Each sample is weighted with the probability of its word. Likely words are drawn more often already: "
                "the sampling does the weighting.",
                lambda logits, contexts, actions, rewards: _bandit_gradient(
                    logits, contexts, actions, rewards * _chances(logits, contexts, actions)
                ),
            ),
            "sum for mean": Mistake(
                "It is a sum over samples; twice the samples would be twice the gradient.",
                lambda logits, contexts, actions, rewards: (
                    len(rewards) * _bandit_gradient(logits, contexts, actions, rewards)
                ),
            ),
            "sign": Mistake(
                "The sign: this is the direction in which J falls. It is J that should go up.",
                lambda logits, contexts, actions, rewards: -_bandit_gradient(logits, contexts, actions, rewards),
            ),
            "one-hot only": Mistake(
                "The reward is added to the logit of the word that was drawn, and that is all. ∇log π has a second "
                "term (exercise 03.1).",
                lambda logits, contexts, actions, rewards: _scattered(
                    logits, contexts, rewards[:, None] * _one_hot(actions, logits)
                ),
            ),
            "the other words": Mistake(
                "Only the drawn word's logit moves. ∇log π has an entry for every word of the context (exercise 03.1).",
                lambda logits, contexts, actions, rewards: _scattered(
                    logits, contexts, _diagonal_rows(logits, contexts, actions, rewards)
                ),
            ),
            "every context": Mistake(
                "The second term of ∇log π is subtracted in every context. log π(a|s) depends on the row of its own "
                "context s only.",
                _in_every_context,
            ),
            "mean in each context": Mistake(
                "Each context's row is divided by how often the context was drawn. Then a rare context moves as much "
                "as a common one: where has d(s) gone? The mean is over all N samples.",
                _mean_in_each_context,
            ),
            "garbled": Mistake(
                "There is a factor log π(a|s) too many, as in the slide's garbled line. The trick leaves r ∇log π.",
                lambda logits, contexts, actions, rewards: _bandit_gradient(
                    logits, contexts, actions, rewards * _chances(logits, contexts, actions).log()
                ),
            ),
            "by probabilities": Mistake(
                "It looks like the derivative by the probabilities, r/π(a|s). The weights are the logits.",
                lambda logits, contexts, actions, rewards: _scattered(
                    logits,
                    contexts,
                    rewards[:, None] * _one_hot(actions, logits) / logits.softmax(-1)[contexts],
                ),
            ),
        },
        hint="Take one sample: its reward times the score of 03.1, in the row of its context. Then the mean.",
        remark="No derivative of the reward in it, and no list of all words' rewards: samples are enough.",
    ),
    Exercise(
        id="03.3",
        title="A surrogate that likes favourites",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=8,
        reference=_surrogate,
        inputs=_drawn,
        call=_gradient_of,
        mistakes={
            "as given": Mistake(
                "Each word is still pushed in proportion to its own probability. It is drawn in that proportion "
                "already; what must be differentiated, so that the sampling can do the weighting?",
                lambda logprobs, rewards: -(logprobs.exp() * rewards).mean(),
            ),
            "sign": Mistake(
                "The sign: an optimiser goes downhill on the loss, and J should go up.",
                lambda logprobs, rewards: (logprobs * rewards).mean(),
            ),
            "sum": Mistake(
                "Summed over the samples: twice the batch would be twice the step.",
                lambda logprobs, rewards: -(logprobs * rewards).sum(),
            ),
            "ratio of itself": Mistake(
                "The gradient is 0 everywhere. It looks like π/π with both of them differentiated: the one below must "
                "be a constant (detach).",
                lambda logprobs, rewards: -((logprobs - logprobs).exp() * rewards).mean(),
            ),
            "mean times mean": Mistake(
                "The mean reward times the mean log-probability: every word gets the same push, whatever it earned.",
                lambda logprobs, rewards: -logprobs.mean() * rewards.mean(),
            ),
            "divided twice": Mistake(
                "Now each word is pushed by r/π: that has divided by the probability once too often.",
                lambda logprobs, rewards: -(logprobs * rewards / logprobs.detach().exp()).mean(),
            ),
        },
        hint="Draw a word very often and look at the mean of the gradient: what does it lack, or have too much of?",
        remark="Any loss with this gradient will do; the ratio π/π.detach() times r is another (PPO's, lesson 11).",
    ),
    Exercise(
        id="03.4",
        title="One big action",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_text_logprob,
        inputs=_texts,
        mistakes={
            "length mean": Mistake(
                "Each text's sum is divided by its number of words. The probability of a text is the product over its "
                "words; what is the logarithm of a product?",
                lambda logits, tokens, mask: _text_logprob(logits, tokens, mask) / mask.sum(1),
            ),
            "pads counted": Mistake(
                "What stands after the end of a text counts. Nothing was chosen there.",
                lambda logits, tokens, mask: _taken(logits, tokens).sum(1),
            ),
            "not normalised": Mistake(
                "The logits are added up as they are; they are no log-probabilities yet.", _unnormalised
            ),
            "shifted": Mistake(
                "Row t of the logits is compared with word t + 1. These rows are aligned already: row t is the "
                "prediction of word t.",
                _shifted,
            ),
            "no log": Mistake(
                "Those are the texts' probabilities. Stay with logarithms: the product over a long text underflows.",
                lambda logits, tokens, mask: _text_logprob(logits, tokens, mask).exp(),
            ),
            "probabilities added": Mistake(
                "The probabilities of the words are added up. Probabilities of a sequence multiply; their logarithms "
                "add.",
                lambda logits, tokens, mask: torch.where(mask, _taken(logits, tokens).exp(), 0.0).sum(1),
            ),
            "last word": Mistake(
                "That is the last word's log-probability. The big action is all the words.",
                lambda logits, tokens, mask: _taken(logits, tokens).gather(1, mask.sum(1, keepdim=True) - 1)[:, 0],
            ),
            "every word": Mistake(
                "Those are the words' log-probabilities, [B, T]. The text is one action: one number each, [B].",
                lambda logits, tokens, mask: torch.where(mask, _taken(logits, tokens), 0.0),
            ),
        },
        hint="log_softmax, pick each token's own entry, leave out the pads, add up over time.",
        remark="The library's rlhf_lib.mdp.action_logprobs gives the words' terms; their sum is this.",
    ),
    Exercise(
        id="03.5",
        title="Where a discount matters",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=4,
        choices=CASES,
        reference=CASES[1],
        mistakes={
            CASES[0]: Mistake(
                "With a fixed length every score is paid at the same step, so every return has the same factor "
                "γ^(K−1). Can one common factor change a direction?",
                CASES[0],
            ),
            CASES[2]: Mistake(
                "The other way round: with a fixed length every score is paid at the same step. And with an end token?",
                CASES[2],
            ),
            CASES[3]: Mistake(
                "Each single text's gradient keeps its direction, true: it is multiplied by γ^(T−1). But ∇J is a mean "
                "over texts. Do all of them have the same T?",
                CASES[3],
            ),
        },
        remark="What matters is whether the payday depends on what was written.",
    ),
    Exercise(
        id="03.6",
        title="Where the gradient turns round",
        kind="derive",
        difficulty=3,
        importance=3,
        minutes=10,
        reference=_turning_point,
        inputs=_two_endings,
        mistakes={
            "ratio upside down": Mistake(
                "Larger than 1? Put your γ into the two returns: which one has the higher power of γ?",
                lambda r_long, t_long, r_short, t_short: 1 / _turning_point(r_long, t_long, r_short, t_short),
            ),
            "the long text's power": Mistake(
                "It looks as if only the long text were discounted. The short one's score comes with a power of γ "
                "too; divide the two.",
                lambda r_long, t_long, r_short, t_short: (r_short / r_long) ** (1 / (t_long - 1)),
            ),
            "a ratio of lengths": Mistake(
                "The exponent is a ratio of lengths. γ^a / γ^b is γ to which power?",
                lambda r_long, t_long, r_short, t_short: (r_short / r_long) ** (t_short / t_long),
            ),
            "per word": Mistake(
                "That compares scores per word. A discount multiplies; it does not divide by a length.",
                lambda r_long, t_long, r_short, t_short: (r_short / t_short) / (r_long / t_long),
            ),
            "no root": Mistake(
                "Almost: that is γ to the power of the difference in length.",
                lambda r_long, t_long, r_short, t_short: r_short / r_long,
            ),
            "one word too many": Mistake(
                "The difference in length is off by one. Both texts lose the same −1 in γ^(T−1).",
                lambda r_long, t_long, r_short, t_short: (r_short / r_long) ** (1 / (t_long - t_short - 1)),
            ),
        },
        hint="dJ_γ/dθ = p(1 − p)(G_long − G_short). When are the two discounted returns equal?",
    ),
    Exercise(
        id="03.7",
        title="Texts for a step",
        kind="experiment",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=lambda: 2 * _texts_needed(),
        accept=_points_right,
        rtol=0.02,
        mistakes={
            "error as long as the gradient": Mistake(
                "There the error is as long as the gradient itself, and nearly at right angles to it: an angle of "
                "45°, a cosine of 0.7. How long may it be for 0.9?",
                lambda: _texts_needed(math.sqrt(0.5)),
            ),
            "on average": Mistake(
                "With that many the cosine is about 0.9 on average, so on half of the seeds it is less. Some more are "
                "needed for 19 of 20.",
                _texts_needed,
            ),
            "a tenth of the gradient": Mistake(
                "That makes the error a tenth of the gradient, a cosine of 0.995. It costs more than ten times what "
                "is needed.",
                lambda: 100 * _texts_needed(math.sqrt(0.5)),
            ),
            "in proportion": Mistake(
                "That is what it would take if the error fell as 1/N. It falls as 1/√N.",
                lambda: round(_texts_needed(math.sqrt(0.5)) / math.sqrt(1 / BAR**2 - 1)),
            ),
        },
        hint="Read the relative error e off the figure: an error at right angles to ∇J gives the cosine 1/√(1 + e²).",
        remark="All that for one step, with ten words and four places to put them.",
    ),
]
