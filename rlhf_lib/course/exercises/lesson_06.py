"""Lesson 06: actor-critic."""

import functools

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 06.1 TD errors, 06.4 GAE
def _episodes(generator):
    shape = 3, int(torch.randint(4, 6, (), generator=generator))
    gamma = draw_number(generator, 0.5, 0.9)
    mask = draw_mask(generator, *shape)
    return draw_tensor(generator, *shape), draw_tensor(generator, *shape, low=0.5, high=2.5), mask, gamma


def _episodes_and_dial(generator):
    return *_episodes(generator), draw_number(generator, 0.3, 0.8)


def _td_errors(rewards, values, mask, gamma):
    from rlhf_lib.estimators import gae

    return gae(rewards, values, mask, gamma, 0.0)[0]


def _next(values):
    return torch.nn.functional.pad(values[:, 1:], (0, 1))


def _td_with(following, gamma_power=1):
    """The TD error with another value in the place of the next state's."""

    def td(rewards, values, mask, gamma):
        return torch.where(mask, rewards + gamma**gamma_power * following(values, mask) - values, 0.0)

    return td


def _alive_next(values, mask):
    return _next(torch.where(mask, values, 0.0))


def _gae(rewards, values, mask, gamma, lam):
    from rlhf_lib.estimators import gae

    return gae(rewards, values, mask, gamma, lam)[0]


def _accumulated(factor, td=_td_errors, forward=False):
    """Add up TD errors, each step back (or forward) multiplying by factor(gamma, lam)."""

    def advantages(rewards, values, mask, gamma, lam):
        errors, out = td(rewards, values, mask, gamma), torch.zeros_like(rewards)
        running, steps = torch.zeros(len(rewards)), range(rewards.shape[1])
        for t in steps if forward else reversed(steps):
            running = errors[:, t] + factor(gamma, lam) * running
            out[:, t] = running
        return torch.where(mask, out, 0.0)

    return advantages


def _both(gamma, lam):
    return gamma * lam


# 06.3 derive: the critic that always says c
def _one_text(generator):
    length = int(torch.randint(3, 7, (), generator=generator))
    return (
        draw_number(generator, 1.0, 4.0),
        draw_number(generator, -2.0, -0.5),
        length,
        draw_number(generator, 0.3, 0.9),
    )


def _constant_critic(score, c, length, lam):
    return torch.tensor([lam ** (length - 1 - t) * (score - c) for t in range(length)])


# 06.5 experiment: the dial of a fresh critic
@functools.cache
def _world():
    """Lesson 06's 820 texts: their rewards, mask, probabilities p, and ∇log π [820, 3, 910], with the exact ∇J."""
    from rlhf_lib import mdp, models, reviews

    task = reviews.micro_mdp(horizon=3)
    words, mask = mdp.enumerate_episodes(task)
    policy = models.TablePolicy(task).double()
    for _ in range(10):
        policy.logits.data += torch.autograd.grad(mdp.exact_objective(task, policy), policy.logits)[0]
    (slope,) = torch.autograd.grad(mdp.exact_objective(task, policy), policy.logits)
    states = mdp.exact_values(task, policy).states
    number = {state: i for i, state in enumerate(states)}
    row = torch.tensor([[number.get(tuple(text[:t]), 0) for t in range(3)] for text in words.tolist()])
    g = torch.zeros(len(words), 3, len(states), 10, dtype=torch.float64)
    push = (torch.nn.functional.one_hot(words, 10) - policy(words).detach().exp()) * mask[..., None]
    g[torch.arange(len(words))[:, None], torch.arange(3), row] = push
    p = mdp.action_logprobs(task, policy, words, mask).sum(1).exp().detach()
    return mdp.episode_rewards(task, words, mask, torch.float64), mask, p, g.flatten(2), slope.flatten()


def squared_error_ratio(lam: float, texts: int = 64, seeds=range(8), batches: int = 400) -> list[float]:
    """Mean squared error of the gradient with a fresh critic (V = 0) at `lam`, over that at 1; a number a seed."""
    from rlhf_lib.estimators import gae

    rewards, mask, p, g, slope = _world()
    pushes = [(gae(rewards, 0 * rewards, mask, 1.0, dial)[0][..., None] * g).sum(1) for dial in (lam, 1.0)]
    ratios = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(p, texts * batches, replacement=True, generator=generator).view(batches, texts)
        share = torch.zeros(batches, len(p), dtype=torch.float64)
        share.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64) / texts)
        errors = [(share @ push - slope).square().sum(1).mean().item() for push in pushes]
        ratios.append(errors[0] / errors[1])
    return ratios


def _better_dial(lam) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    lam = float(lam)
    if not 0 <= lam <= 1:
        return False, "λ lies between 0 and 1."
    mean, low, high = mean_interval(squared_error_ratio(lam, seeds=range(100, 108)))
    return high < 0.92, (
        f"On 8 new seeds the squared error is {mean:.3f} times that at λ = 1, 95 % interval {low:.3f} to {high:.3f}; "
        "the whole interval must lie below 0.92."
    )


# 06.6 find the bug: one loss for two
def _steps(generator):
    return tuple(draw_tensor(generator, 5, low=low, high=2.0) for low in (-3.0, -2.0, -2.0, -2.0))


def _gradients(loss, logprobs, values, next_values, rewards):
    """What is compared: the gradients that an answer's loss has at log π, V(s) and V(s')."""
    free = [x.clone().requires_grad_() for x in (logprobs, values, next_values)]
    result = loss(*free, rewards)
    if result is None or result is ...:
        return result
    found = torch.autograd.grad(result, free, allow_unused=True)
    return torch.stack([torch.zeros_like(x) if d is None else d for d, x in zip(found, free, strict=True)])


def _losses(actor_detached=True, target_detached=True, value_detached=False, sign=-1.0):
    def loss(logprobs, values, next_values, rewards):
        target = rewards + (next_values.detach() if target_detached else next_values)
        delta = rewards + next_values - values
        weight = delta.detach() if actor_detached else delta
        actor = sign * (weight * logprobs).mean()
        return actor + 0.5 * (target - (values.detach() if value_detached else values)).square().mean()

    return loss


EXERCISES = [
    Exercise(
        id="06.1",
        title="TD errors",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_td_errors,
        inputs=_episodes,
        mistakes={
            "leak through pads": Mistake(
                "It looks as if the last word's next value were read from a pad. What is expected once the text is "
                "over?",
                _td_with(lambda values, mask: _next(values)),
            ),
            "wrapped round": Mistake(
                "The last column's next value looks like the row's first one: `roll` wraps round.",
                _td_with(lambda values, mask: torch.where(mask, values, 0.0).roll(-1, 1)),
            ),
            "bootstrap past the end": Mistake(
                "After the last word its own value is put in once more. Once the text is over, nothing more can be "
                "earned.",
                _td_with(
                    lambda values, mask: torch.where(
                        torch.nn.functional.pad(mask[:, 1:], (0, 1)), _next(values), values
                    )
                ),
            ),
            "V shifted by one": Mistake(
                "V is shifted by one: it looks like r + γV(s) − V(s'). Which state was the word written in, and which "
                "one did it lead to?",
                lambda rewards, values, mask, gamma: torch.where(
                    mask, rewards + gamma * values - _alive_next(values, mask), 0.0
                ),
            ),
            "γ left out": Mistake("γ is missing in front of the next value.", _td_with(_alive_next, 0)),
            "V(s) left out": Mistake(
                "That is the target r + γV(s'), what was found. What was expected before is still to come off.",
                lambda rewards, values, mask, gamma: torch.where(
                    mask, rewards + gamma * _alive_next(values, mask), 0.0
                ),
            ),
            "sign": Mistake(
                "The sign: a pleasant surprise should come out positive.", lambda *inputs: -_td_errors(*inputs)
            ),
        },
        hint="Set the values to 0 where the mask is False, then move them one place to the left.",
        remark="This is GAE with λ = 0.",
    ),
    Exercise(
        id="06.2",
        title="An optimist",
        kind="predict",
        difficulty=3,
        importance=4,
        minutes=5,
        reference="to write longer texts",
        choices=(
            "to write longer texts",
            "to write shorter texts",
            "nothing new, a constant is a baseline",
            "the same as before, in larger steps",
        ),
        mistakes={
            "shorter": Mistake(
                "Write down δ for a word that goes on, and for a full stop. Which of the two still gets a next value?",
                "to write shorter texts",
            ),
            "a baseline": Mistake(
                "In −V(s) it is a baseline and does no harm. But V appears twice in δ: does γV(s') depend on the word?",
                "nothing new, a constant is a baseline",
            ),
            "larger steps": Mistake(
                "Nothing is multiplied here. Which words gain 1 and which do not?",
                "the same as before, in larger steps",
            ),
        },
        remark="While the text goes on, +1 and −1 cancel; a word that ends it gets only the −1.",
    ),
    Exercise(
        id="06.3",
        title="A critic that always says c",
        kind="derive",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=_constant_critic,
        inputs=_one_text,
        mistakes={
            "c forgotten": Mistake(
                "That is the answer for c = 0. What does the last word's TD error compare the score with?",
                lambda score, c, length, lam: _constant_critic(score, 0.0, length, lam),
            ),
            "from the left edge": Mistake(
                "The powers of λ run from the first word. Which word's TD error is the only one that is not 0, and how "
                "far is it from there?",
                lambda score, c, length, lam: _constant_critic(score, c, length, lam).flip(0),
            ),
            "one power too many": Mistake(
                "One factor λ too many: the last word's own TD error comes with λ⁰.",
                lambda score, c, length, lam: lam * _constant_critic(score, c, length, lam),
            ),
            "λ left out": Mistake(
                "That is λ = 1: every word gets the same.",
                lambda score, c, length, lam: torch.full((length,), score - c),
            ),
            "c discounted too": Mistake(
                "Only the score fades with λ there. The whole TD error of the last word does.",
                lambda score, c, length, lam: _constant_critic(score, 0.0, length, lam) - c,
            ),
            "last word only": Mistake(
                "That is λ = 0: only the last word hears of the score.",
                lambda score, c, length, lam: torch.tensor([0.0] * (length - 1) + [score - c]),
            ),
        },
        hint="At γ = 1 all TD errors but the last are c − c.",
        remark="To a critic without opinions λ is a discount, counted back from the end of the text.",
    ),
    Exercise(
        id="06.4",
        title="The dial",
        kind="implement",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_gae,
        inputs=_episodes_and_dial,
        mistakes={
            "λ without γ": Mistake(
                "TD errors are passed back with λ alone. A surprise one word later is worth γ times as much, too.",
                _accumulated(lambda gamma, lam: lam),
            ),
            "γ without λ": Mistake(
                "TD errors are passed back with γ alone: that is λ = 1, whatever λ says.",
                _accumulated(lambda gamma, lam: gamma),
            ),
            "forward recursion": Mistake(
                "It runs forward: each word is given the surprises *before* it. Go through the words from the last one "
                "back.",
                _accumulated(_both, forward=True),
            ),
            "λ once only": Mistake(
                "It looks like δ_t + γλ δ_{t+1} and no further. Pass on what has been added up, not the next TD error.",
                lambda rewards, values, mask, gamma, lam: torch.where(
                    mask,
                    _td_errors(rewards, values, mask, gamma)
                    + gamma * lam * _next(_td_errors(rewards, values, mask, gamma)),
                    0.0,
                ),
            ),
            "leak through pads": Mistake(
                "The last word's next value is read from a pad. What is expected once the text is over?",
                _accumulated(_both, _td_with(lambda values, mask: _next(values))),
            ),
            "V shifted by one": Mistake(
                "V is shifted by one: V(s) and V(s') are exchanged in the TD error.",
                _accumulated(
                    _both,
                    lambda rewards, values, mask, gamma: torch.where(
                        mask, rewards + gamma * values - _alive_next(values, mask), 0.0
                    ),
                ),
            ),
            "TD errors only": Mistake(
                "Those are the TD errors: λ does nothing in it.",
                lambda rewards, values, mask, gamma, lam: _td_errors(rewards, values, mask, gamma),
            ),
            "the critic's target": Mistake(
                "That is the advantage plus V(s), the critic's target. The actor's weight is the advantage alone.",
                lambda rewards, values, mask, gamma, lam: torch.where(
                    mask, _gae(rewards, values, mask, gamma, lam) + values, 0.0
                ),
            ),
        },
        hint="running = δ_t + γλ · running, from the last word to the first.",
        remark="The library's is estimators.gae; it returns the critic's targets as well.",
    ),
    Exercise(
        id="06.5",
        title="Where to set it",
        kind="experiment",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=0.84,
        accept=_better_dial,
        mistakes={
            "no critic": Mistake("At λ = 1 you are compared with yourself.", 1.0),
            "no score": Mistake(
                "At λ = 0 a fresh critic lets nobody but the last word hear of the score: the bias stays, however many "
                "texts you draw.",
                0.0,
            ),
            "for fewer texts": Mistake(
                "0.5 is about right for 16 texts a step. With 64 there is less noise to trade for bias. Which way does "
                "the best λ move?",
                0.5,
            ),
        },
        hint="Move the slider above to 64 texts and read the fresh critic's curve.",
        remark="The gain is real but small: the better the critic, the more there is to win.",
    ),
    Exercise(
        id="06.6",
        title="One loss for two",
        kind="find the bug",
        difficulty=4,
        importance=5,
        minutes=12,
        reference=_losses(),
        inputs=_steps,
        call=_gradients,
        mistakes={
            "as given": Mistake(
                "Gradients still flow everywhere: the actor's through V, and the critic's into its own target. List "
                "what is a number to whom.",
                _losses(actor_detached=False, target_detached=False),
            ),
            "target not detached": Mistake(
                "The actor is repaired. But the critic still moves its target V(s') towards V(s): it makes peace with "
                "itself instead of learning what follows.",
                _losses(target_detached=False),
            ),
            "actor through V": Mistake(
                "The critic is repaired. But the actor's loss still has a gradient in V: it teaches the critic to call "
                "likely words a surprise.",
                _losses(actor_detached=False),
            ),
            "critic does not learn": Mistake(
                "V(s) is detached in the critic's loss: nothing is left for it to learn with.",
                _losses(value_detached=True),
            ),
            "sign": Mistake("The sign of the actor's part: an optimiser goes downhill.", _losses(sign=1.0)),
        },
        hint="Compute the TD error once; what does each of the two losses take from it as a number?",
        remark="Three numbers to detach or not: the weight (yes), the target (yes), V(s) in the critic's loss (no).",
    ),
]
