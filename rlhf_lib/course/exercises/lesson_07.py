"""Exercises of lesson 07: pre-training and supervised fine-tuning."""

import functools

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_tensor


# 07.1 the cloning loss
def _rows(generator):
    """Logits and ids of three rows; what stands behind a row's length is rubbish."""
    pick = functools.partial(torch.randint, generator=generator)
    prompt_length = pick(1, 3, (3,))
    length = torch.tensor([6, 4, int(pick(4, 6, ()))])
    return draw_tensor(generator, 3, 6, 4), pick(0, 4, (3, 6)), prompt_length, length


def _logprobs(logits, ids):
    """log π of ids[:, 1:], each from the logits one place earlier."""
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def _places(ids, first, end):
    place = torch.arange(1, ids.shape[1])
    return (place >= first[:, None]) & (place < end[:, None])


def _cloning_loss(logits, ids, prompt_length, length):
    return -_logprobs(logits, ids)[_places(ids, prompt_length, length)].mean()


def _not_shifted(logits, ids, prompt_length, length):
    place = torch.arange(ids.shape[1])
    mask = (place >= prompt_length[:, None]) & (place < length[:, None])
    return -logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)[mask].mean()


def _shifted_twice(logits, ids, prompt_length, length):
    return -_logprobs(logits, ids)[_places(ids, prompt_length - 1, length - 1)].mean()


def _per_sequence(logits, ids, prompt_length, length):
    mask = _places(ids, prompt_length, length)
    return -((_logprobs(logits, ids) * mask).sum(1) / mask.sum(1)).mean()


def _summed(logits, ids, prompt_length, length):
    return -_logprobs(logits, ids)[_places(ids, prompt_length, length)].sum()


def _per_row(logits, ids, prompt_length, length):
    return _summed(logits, ids, prompt_length, length) / len(ids)


def _pads_in_the_count(logits, ids, prompt_length, length):
    return _summed(logits, ids, prompt_length, length) / (len(ids) * (ids.shape[1] - 1))


# 07.2 the clone that never stops
def _pairs(generator):
    def words(fewest, most):
        return torch.randint(
            3, 10, (int(torch.randint(fewest, most + 1, (), generator=generator)),), generator=generator
        )

    prompts = [words(1, 2).tolist() for _ in range(3)]
    return prompts, [words(5, 6).tolist(), words(1, 2).tolist(), words(1, 2).tolist()], 2


def _padded(prompts, completions, end):
    rows = [p + c + [end] for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    place = torch.arange(width)[None]
    ids = torch.tensor([row + [end] * (width - len(row)) for row in rows])
    return ids, place, torch.tensor([[len(p)] for p in prompts]), torch.tensor([[len(row)] for row in rows])


def _batch(prompts, completions, end):
    ids, place, begin, length = _padded(prompts, completions, end)
    return ids, (place >= begin) & (place < length)


def batch_as_given(prompts, completions, end):
    ids, place, begin, _ = _padded(prompts, completions, end)
    return ids, (place >= begin) & (ids != end)


def _pads_in(prompts, completions, end):
    ids, place, begin, _ = _padded(prompts, completions, end)
    return ids, place >= begin


def _prompt_in(prompts, completions, end):
    ids, place, _, length = _padded(prompts, completions, end)
    return ids, place < length


def _one_pad_in(prompts, completions, end):
    ids, place, begin, length = _padded(prompts, completions, end)
    return ids, (place >= begin) & (place <= length)


def _one_too_early(prompts, completions, end):
    ids, place, begin, length = _padded(prompts, completions, end)
    return ids, (place >= begin - 1) & (place < length - 1)


def _without_end(prompts, completions, end):
    rows = [p + c for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    mask = [[len(p) <= t < len(row) for t in range(width)] for p, row in zip(prompts, rows, strict=True)]
    return torch.tensor([row + [end] * (width - len(row)) for row in rows]), torch.tensor(mask)


# 07.4 what the clone of several demonstrators does in one state
def _several(generator):
    pi = draw_tensor(generator, 3, 4, low=0.1, high=2.0)
    weights, reach = draw_tensor(generator, 3, low=0.2, high=2.0), draw_tensor(generator, 3, low=0.1, high=1.0)
    return weights / weights.sum(), reach, pi / pi.sum(1, keepdim=True)


def _posterior(weights, reach, pi):
    share = weights * reach
    return (share / share.sum()) @ pi


def _geometric(weights, reach, pi):
    share = weights * reach
    return ((share / share.sum()) @ pi.log()).softmax(-1)


# 07.5 filtered demonstrations: half of them good, half bad
THRESHOLDS = tuple(x / 2 for x in range(-4, 5))


@functools.cache
def _world():
    """Scores [820] of all texts, and how often the two demonstrators write each."""
    from rlhf_lib import mdp, reviews
    from rlhf_lib.models import TablePolicy

    task = reviews.micro_mdp(horizon=3)
    words, mask = mdp.enumerate_episodes(task)
    scores = mdp.episode_returns(task, words, mask, torch.float64)
    chance = mdp.action_logprobs(task, TablePolicy(task).double(), words, mask).sum(1).detach()
    return scores, (chance + scores).softmax(0), (chance - scores).softmax(0)


def good_demonstrators_score() -> float:
    """J of the good demonstrator."""
    scores, good, _ = _world()
    return (good @ scores).item()


def filtered(threshold: float, seed: int, count: int = 400) -> tuple[float, int]:
    """Buy demonstrations, half of each demonstrator, keep those that score at least `threshold`, clone them.

    Returns J of the clone, which is the mean score of what it cloned, and how many were kept.
    """
    scores, good, bad = _world()
    drawn = torch.multinomial(
        (good + bad) / 2, count, replacement=True, generator=torch.Generator().manual_seed(1000 + seed)
    )
    kept = scores[drawn][scores[drawn] >= threshold]
    return kept.mean().item(), len(kept)


LOWEST = -1.5  # of THRESHOLDS, the lowest that is enough


def _enough(threshold) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if threshold not in THRESHOLDS:
        return False, f"Answer with one of {', '.join(f'{x:g}' for x in THRESHOLDS)}."
    bar = good_demonstrators_score()
    mean, low, high = mean_interval([filtered(threshold, seed)[0] for seed in range(100, 108)])
    told = f"On 8 new purchases the clone reaches {mean:.3f}, 95 % interval {low:.3f} to {high:.3f} (bar: {bar:.3f})."
    if low > bar and threshold > LOWEST:
        return (
            False,
            told + " Safely above it; but every demonstration thrown away was paid for. Is a lower one enough?",
        )
    return low > bar, told


# 07.6 what a real set of demonstrations costs
DEMONSTRATIONS, TURN = 13_000, 200


EXERCISES = [
    Exercise(
        id="07.1",
        title="The cloning loss",
        kind="implement",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_cloning_loss,
        inputs=_rows,
        mistakes={
            "prompt tokens in the loss": Mistake(
                "It looks as if the prompt's tokens were in the loss. Whose words are to be imitated?",
                lambda logits, ids, prompt_length, length: _cloning_loss(
                    logits, ids, torch.ones_like(prompt_length), length
                ),
            ),
            "not shifted": Mistake(
                "Each token is scored by the logits at its own place: they have already seen it. A causal model "
                "predicts it one place earlier.",
                _not_shifted,
            ),
            "shifted once too often": Mistake(
                "The logits are shifted, but the mask is not shifted along: the last word of the prompt is in, the end "
                "token is out.",
                _shifted_twice,
            ),
            "end token left out": Mistake(
                "The last token of each row, the end token, is not in the loss. Who never sees an end never learns to "
                "stop.",
                lambda logits, ids, prompt_length, length: _cloning_loss(logits, ids, prompt_length, length - 1),
            ),
            "first word left out": Mistake(
                "The first word of the completion is not in the loss. It is predicted by the logits at the prompt's "
                "last word.",
                lambda logits, ids, prompt_length, length: _cloning_loss(logits, ids, prompt_length + 1, length),
            ),
            "pads counted": Mistake(
                "What stands behind a row's length is in the loss: the policy is taught rubbish.",
                lambda logits, ids, prompt_length, length: _cloning_loss(
                    logits, ids, prompt_length, torch.full_like(length, ids.shape[1])
                ),
            ),
            "mean per sequence": Mistake(
                "It looks like the mean of the rows' means: the words of a short answer then weigh more than those of "
                "a long one. Here every token counts the same.",
                _per_sequence,
            ),
            "pads in the count": Mistake(
                "The sum is right, but it is divided by all places, prompts and pads included.", _pads_in_the_count
            ),
            "divided by rows": Mistake(
                "The sum over tokens, divided by the number of rows. Here it is to be divided by the number of tokens.",
                _per_row,
            ),
            "sum": Mistake("The sum over the tokens in place of their mean.", _summed),
            "sign": Mistake(
                "The sign: a loss is minimised, and the demonstrations should become likelier.",
                lambda *inputs: -_cloning_loss(*inputs),
            ),
        },
        hint="log_softmax of logits[:, :-1], the entries of ids[:, 1:], and a mask over the places 1 … T − 1.",
        remark="rollout.score does the shifting and losses.sft_loss the rest.",
    ),
    Exercise(
        id="07.2",
        title="The clone that never stops",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=10,
        reference=_batch,
        inputs=_pairs,
        mistakes={
            "as given": Mistake(
                "As given: which of the positions that hold the end token are in the mask? One of them in each row is "
                "not padding.",
                batch_as_given,
            ),
            "pads counted": Mistake(
                "Now all end tokens are in, the padding too: short answers teach the policy to say end again and again "
                "after the end.",
                _pads_in,
            ),
            "one pad counted": Mistake(
                "One position too many: in short rows the first pad is in the mask as well.", _one_pad_in
            ),
            "prompt in the loss": Mistake("The mask begins at 0: the prompt's tokens are imitated too.", _prompt_in),
            "one too early": Mistake(
                "The mask is one position too early: the prompt's last token is in, the end token out.", _one_too_early
            ),
            "end left out": Mistake(
                "The end token is no longer in the row at all: nothing can teach the policy to stop.", _without_end
            ),
        },
        hint="Build the mask from lengths, never from comparing ids with the padding's.",
        remark="Many tokenizers have no padding token, and the end token is taken for it: this bug has shipped often.",
    ),
    Exercise(
        id="07.3",
        title="Cloning yourself",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=3,
        reference="nowhere",
        choices=("nowhere", "to its favourite texts", "to a uniform policy"),
        mistakes={
            "favourites": Mistake(
                "Likely texts are drawn more often, but each push on them is weaker: ∇log π is 1 − π for a drawn word. "
                "Take the mean over all words.",
                "to its favourite texts",
            ),
            "uniform": Mistake(
                "A rare word gets the stronger push when it is drawn, but it is drawn rarely. Take the mean over all "
                "words.",
                "to a uniform policy",
            ),
        },
        remark="E[∇log π] = 0: lesson 05's baseline of 1. With few samples a step it wanders, and what has once died "
        "out does not come back.",
    ),
    Exercise(
        id="07.4",
        title="The next word of a clone",
        kind="derive",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_posterior,
        inputs=_several,
        mistakes={
            "prior only": Mistake(
                "These are the demonstrators' policies weighted by how many demonstrations each gave. But not all of "
                "them come through this state equally often.",
                lambda weights, reach, pi: weights @ pi,
            ),
            "reach only": Mistake(
                "Weighted by how often each comes through here, but not by how many demonstrations each gave.",
                lambda weights, reach, pi: (reach / reach.sum()) @ pi,
            ),
            "not normalised": Mistake(
                "The weights do not add up to 1: this is how often a demonstration comes through here *and* goes on "
                "so. Divide by how often one comes through here.",
                lambda weights, reach, pi: (weights * reach) @ pi,
            ),
            "plain average": Mistake(
                "All demonstrators count the same here.",
                lambda weights, reach, pi: pi.mean(0),
            ),
            "likeliest demonstrator": Mistake(
                "This follows the one demonstrator who is likeliest here. Cross-entropy is least for all of them "
                "together, by their shares.",
                lambda weights, reach, pi: pi[(weights * reach).argmax()],
            ),
            "logs averaged": Mistake(
                "Log-probabilities are averaged (a geometric mean). That minimises the KL the other way round.",
                _geometric,
            ),
        },
        hint="Among all demonstrations through this state, whose are they, and what do they say next? Count.",
        remark="Bayes: P(demonstrator | words so far), times what that demonstrator says next.",
    ),
    Exercise(
        id="07.5",
        title="Better than the good one",
        kind="experiment",
        difficulty=3,
        importance=4,
        minutes=8,
        reference=LOWEST,
        accept=_enough,
        mistakes={
            "keeps nearly all": Mistake(
                "At −2 too much of the bad half is kept: the interval lies below the bar.", -2.0
            ),
            "only the best": Mistake(
                "At 2 only a handful of 400 is kept. Far better than asked for, and far dearer.", 2.0
            ),
        },
        hint="Try every threshold with several seeds, and look at the lower end of the interval.",
        remark="A score on each demonstration is what cloning lacks; with one, filtering is a policy gradient "
        "(lesson 10).",
    ),
    Exercise(
        id="07.6",
        title="The price of InstructGPT's demonstrations",
        kind="predict",
        difficulty=1,
        importance=4,
        minutes=3,
        reference=float(DEMONSTRATIONS * TURN),
        mistakes={
            "a preference's price": Mistake(
                "$20 is the price of a judgement (lesson 08). Here somebody has to *write* the answer.",
                float(DEMONSTRATIONS * 20),
            ),
            "the lecture's sum": Mistake("That is the price of the lecture's 10,000 turns.", 2e6),
            "thousands": Mistake("A factor of 1,000 too small. Write the product out.", DEMONSTRATIONS * TURN / 1000),
        },
        rtol=0.05,
        remark="For one model, once. And the answers are only as good as those who wrote them.",
    ),
]
