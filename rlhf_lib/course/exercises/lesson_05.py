"""Exercises of lesson 05: baselines."""

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_tensor


# 05.2 derive: the best constant for one word
def _one_choice(generator):
    weights = draw_tensor(generator, 4, low=0.2, high=3.0)
    return weights / weights.sum(), draw_tensor(generator, 4, low=-3.0, high=3.0)


def _length_squared(p):
    """‖∇log π(a)‖² with respect to the logits, for each word a."""
    return (torch.eye(len(p)) - p).square().sum(1)


def _weighted(weights, r):
    return (weights * r).sum() / weights.sum()


# 05.3 leave one out
def _groups(generator):
    size, groups = (int(torch.randint(low, low + 2, (), generator=generator)) for low in (3, 2))
    return draw_tensor(generator, size * groups), size


def _leave_one_out(scores, group_size):
    from rlhf_lib.estimators import leave_one_out

    return leave_one_out(scores, group_size)


def _own_in_it(scores, group_size):
    groups = scores.view(-1, group_size)
    return (groups - groups.mean(1, keepdim=True)).flatten()


def _others_sum(scores, group_size):
    groups = scores.view(-1, group_size)
    return (groups - (groups.sum(1, keepdim=True) - groups)).flatten()


def _own_taken_out_but_counted(scores, group_size):
    groups = scores.view(-1, group_size)
    return (groups - (groups.sum(1, keepdim=True) - groups) / group_size).flatten()


def _interleaved(scores, group_size):
    columns = scores.view(group_size, -1).T.flatten()  # as if a group's texts were len(scores) / group_size apart
    return _leave_one_out(columns, group_size).view(-1, group_size).T.flatten()


def _next_prompts(scores, group_size):
    groups = scores.view(-1, group_size)
    return (groups - groups.roll(-1, 0).mean(1, keepdim=True)).flatten()


def _divided_by_std(scores, group_size):
    groups = scores.view(-1, group_size)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()


# 05.5 experiment: V(s) against no baseline, five words of which one is worth 1
def variance_ratio(p: float, seeds=range(8), draws: int = 4000) -> list[float]:
    """Sampled variance of REINFORCE with baseline V = p over that with none, one number a seed."""
    chance, worth, ratios = torch.tensor([p, *[(1 - p) / 4] * 4]), torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]), []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        word = torch.multinomial(chance, draws, replacement=True, generator=generator)
        toward = torch.nn.functional.one_hot(word, 5) - chance  # ∇ log π
        with_v, with_none = (worth[word, None] - p) * toward, worth[word, None] * toward
        ratios.append((with_v.var(0).sum() / with_none.var(0).sum()).item())
    return ratios


def _even(p) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    p = float(p)
    if not 0 < p < 1:
        return False, "Answer with a probability, between 0 and 1."
    mean, low, high = mean_interval(variance_ratio(p, seeds=range(100, 108)))
    return 0.9 < low and high < 1.1, (
        f"On 8 new seeds V's variance is {mean:.2f} times that of no baseline, 95 % interval {low:.2f} to {high:.2f}; "
        "it must lie within 0.9 to 1.1."
    )


# 05.6 find the bug: the value learns along
def _drawn(generator):
    weights = draw_tensor(generator, 4, low=-1.5, high=1.5)
    return weights, draw_tensor(generator, 4), torch.randint(0, 4, (5,), generator=generator)


def _gradient(loss, logits, worth, drawn):
    """What is compared: the gradient of the loss that an answer gives."""
    free = logits.clone().requires_grad_()
    value = loss(free, worth, drawn)
    return value if value is None or value is ... else torch.autograd.grad(value, free)[0]


def _parts(logits, worth, drawn):
    log_pi = logits.log_softmax(-1)
    return log_pi[drawn], worth[drawn], log_pi.exp() @ worth


def _loss(logits, worth, drawn):
    log_pi, score, value = _parts(logits, worth, drawn)
    return -((score - value.detach()) * log_pi).mean()


def _not_detached(logits, worth, drawn):
    log_pi, score, value = _parts(logits, worth, drawn)
    return -((score - value) * log_pi).mean()


def _added(logits, worth, drawn):
    log_pi, score, value = _parts(logits, worth, drawn)
    return -((score + value.detach()) * log_pi).mean()


def _left_out(logits, worth, drawn):
    log_pi, score, _ = _parts(logits, worth, drawn)
    return -(score * log_pi).mean()


def _log_pi_detached(logits, worth, drawn):
    log_pi, score, value = _parts(logits, worth, drawn)
    return -((score - value) * log_pi.detach()).mean()


def _batch_mean(logits, worth, drawn):
    log_pi, score, _ = _parts(logits, worth, drawn)
    return -((score - score.mean()) * log_pi).mean()


def _divided(logits, worth, drawn):
    log_pi, score, value = _parts(logits, worth, drawn)
    advantage = (score - value).detach()
    return -(advantage / (advantage.std() + 1e-4) * log_pi).mean()


EXERCISES = [
    Exercise(
        id="05.1",
        title="What may be subtracted?",
        kind="predict",
        difficulty=2,
        importance=5,
        minutes=4,
        reference="the score of the greedy text",
        choices=(
            "the score of the greedy text",
            "the best score in the batch",
            "1 if the text ends with a full stop, else 0",
            "the score so far, this word included",
        ),
        mistakes={
            "best in batch": Mistake(
                "The best text in the batch may be the very text it is subtracted from: then the number depends on "
                "what was drawn.",
                "the best score in the batch",
            ),
            "future": Mistake(
                "At an early word, whether the text ends with a full stop is still to come, and the word has a say in "
                "it. Whose mean would you climb down?",
                "1 if the text ends with a full stop, else 0",
            ),
            "action": Mistake(
                "It contains the word just drawn. Which sum in the proof does it then no longer come out of?",
                "the score so far, this word included",
            ),
        },
        remark="It depends on the policy, but not on the text that was drawn: for one prompt it is a constant.",
    ),
    Exercise(
        id="05.2",
        title="The best constant",
        kind="derive",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=lambda p, r: _weighted(p * _length_squared(p), r),
        inputs=_one_choice,
        mistakes={
            "mean score": Mistake(
                "That is the mean score, V. It minimises E[(G − b)²]; what stands in front of (G − b)² in the variance "
                "of the gradient?",
                lambda p, r: (p * r).sum(),
            ),
            "probabilities forgotten": Mistake(
                "Each word is weighted by its ‖∇log π‖² alone. The expectation is over words drawn from the policy.",
                lambda p, r: _weighted(_length_squared(p), r),
            ),
            "not squared": Mistake(
                "The weights hold the length of ∇log π; in the variance it comes squared.",
                lambda p, r: _weighted(p * _length_squared(p).sqrt(), r),
            ),
            "own logit only": Mistake(
                "Only the drawn word's own logit is in the weights, (1 − p_a)². Drawing it moves the other logits too.",
                lambda p, r: _weighted(p * (1 - p) ** 2, r),
            ),
            "not divided": Mistake(
                "That is the numerator, E[‖∇log π‖² G]. Set the derivative of the parabola to zero once more.",
                lambda p, r: (p * _length_squared(p) * r).sum(),
            ),
            "divided by the score": Mistake(
                "It looks divided by the mean score. A weighted mean is divided by the mean of its weights.",
                lambda p, r: (p * _length_squared(p) * r).sum() / (p * r).sum(),
            ),
        },
        hint="Draw word a: its own logit gets 1 − p_a, logit c gets −p_c. Square, add up, average over a.",
        remark="An unlikely word has a longer ∇log π, so b* leans towards the worth of unlikely words.",
    ),
    Exercise(
        id="05.3",
        title="Leave one out",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_leave_one_out,
        inputs=_groups,
        mistakes={
            "own sample in the mean": Mistake(
                "It looks like the mean of the whole group, each text's own score included: the gradient would shrink "
                "to (N − 1)/N. Whose scores belong in the baseline?",
                _own_in_it,
            ),
            "sum for mean": Mistake(
                "It looks like the sum of the others in place of their mean.",
                _others_sum,
            ),
            "divided by N": Mistake(
                "The own score is out of the sum, but the sum is still divided as if it were in. How many others are "
                "there?",
                _own_taken_out_but_counted,
            ),
            "added": Mistake(
                "The sign: the mean of the others is added. Above-average texts should come out positive.",
                lambda scores, group_size: 2 * scores - _leave_one_out(scores, group_size),
            ),
            "interleaved groups": Mistake(
                "The groups are interleaved: texts of different prompts are compared. A prompt's texts stand next to "
                "each other; look at the order in which the scores are reshaped.",
                _interleaved,
            ),
            "whole batch": Mistake(
                "The others are all the other texts of the batch, whatever their prompt. An easy prompt's texts would "
                "all look good.",
                lambda scores, group_size: _leave_one_out(scores, len(scores)),
            ),
            "another prompt's": Mistake(
                "The baseline is the mean of the next group: another prompt's. It has no bias, but it knows nothing "
                "about this prompt.",
                _next_prompts,
            ),
            "divided by std": Mistake(
                "It looks divided by the group's standard deviation (and with the own score in the mean). That is no "
                "baseline: it changes what is climbed. Lesson 13 comes back to it.",
                _divided_by_std,
            ),
            "the baseline itself": Mistake(
                "That is the mean of the others. What is wanted is each score minus it.",
                lambda scores, group_size: scores - _leave_one_out(scores, group_size),
            ),
        },
        hint="Reshape to one row a prompt; the others' sum is the row's sum minus the own score.",
        remark="The results of a group add up to 0: some texts go up, others down, whatever the scale.",
    ),
    Exercise(
        id="05.4",
        title="With itself in the mean",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=4,
        reference=(0.875, 0.5),
        mistakes={
            "no bias": Mistake(
                "That is leave-one-out's answer. Here the text's own score is in its baseline, with what weight?",
                (1.0, 1.0),
            ),
            "what is lost": Mistake("That is the part that gets lost, 1/N. What is left?", (0.125, 0.5)),
            "exchanged": Mistake("Exchanged: in which group does the own score weigh more?", (0.5, 0.875)),
            "upside down": Mistake(
                "That is N/(N − 1), what you would have to multiply by to mend it.", (1.1428571, 2.0)
            ),
        },
        hint="Give two numbers: (with 8, with 2).",
        remark="(N − 1)/N: from 0.875 to 0.5, as if the learning rate had been cut to four sevenths.",
    ),
    Exercise(
        id="05.5",
        title="No better than nothing",
        kind="experiment",
        difficulty=3,
        importance=3,
        minutes=10,
        reference=7 / 15,
        accept=_even,
        mistakes={
            "two words": Mistake(
                "2/3 is where they cross with two words. Four other words share what is left here, and each of them is "
                "rarer, with a longer ∇log π.",
                2 / 3,
            ),
            "uniform": Mistake("At 0.2 all five words are equally likely: there V is the best baseline of all.", 0.2),
            "half": Mistake("A good guess, but at 0.5 V is clearly the noisier one already.", 0.5),
        },
        hint="From 0.4 on the ratio grows with p: halve the interval in which it passes 1.",
        remark="Exactly 7/15, where V = 2b*. With ever more worthless words the crossing falls to 1/3.",
    ),
    Exercise(
        id="05.6",
        title="A value that learns along",
        kind="find the bug",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=_loss,
        inputs=_drawn,
        call=_gradient,
        mistakes={
            "as given": Mistake(
                "The gradient still flows into the baseline: V is computed from the logits, and the optimiser moves "
                "them to change V too. To REINFORCE the baseline is a number.",
                _not_detached,
            ),
            "added": Mistake(
                "The baseline is added: no bias, but the noise grows. Which sign had it on the slide?", _added
            ),
            "left out": Mistake(
                "The baseline is gone. No bias, but the noise is back: keep V, and repair it.", _left_out
            ),
            "log π detached": Mistake(
                "Now log π is held fixed, and only the baseline has a gradient. Which of the two is to be a number?",
                _log_pi_detached,
            ),
            "own sample in the mean": Mistake(
                "The baseline is the batch's mean, each word's own score included: too short by (N − 1)/N. V itself "
                "was a good baseline, only not in this form.",
                _batch_mean,
            ),
            "divided by std": Mistake(
                "The advantages are divided by their standard deviation: every batch is then scaled by another number.",
                _divided,
            ),
            "sign": Mistake(
                "The sign of the loss: optimisers go downhill, and J should go up.", lambda *inputs: -_loss(*inputs)
            ),
            "sum": Mistake(
                "Summed over the words drawn: twice the batch would be twice the step.",
                lambda logits, worth, drawn: len(drawn) * _loss(logits, worth, drawn),
            ),
        },
        hint="Compare the mean gradient with ∇J, over all words weighted by their probabilities.",
        remark="With the gradient through V the expected step is (1 + entropy) · ∇J: here right in direction, so that "
        "nobody notices; with several states not even that.",
    ),
]
