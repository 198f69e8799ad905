"""`check`: is an answer right, wrong (and which mistake is it) or not attempted?"""

import contextlib
import functools
import inspect
import io
import os
import warnings
from dataclasses import dataclass

import torch

from rlhf_lib.course.compare import describe, difference
from rlhf_lib.course.exercises import Exercise, get

FEWEST_DRAWS, MOST_DRAWS = 3, 30  # inputs that a function is tried on


def check(exercise_id: str, answer, strict: bool = False, *, seed: int | None = None):
    """Say whether `answer` is right, and which known mistake it looks like if it is not.

    Returns the answer where it is right, else the reference, so that a lesson goes on either way. An answer of None or
    `...` (or a function that still returns one) counts as not attempted. Functions are tried on inputs drawn afresh at
    each call; `seed` repeats the draws of a message. `strict`: AssertionError unless the answer is right.
    """
    exercise = get(exercise_id)
    verdict = judge(exercise, answer, seed)
    text = f"{exercise.id} · {verdict.message}"
    if strict and verdict.status != "right":
        raise AssertionError(text)
    print(text)
    if verdict.status == "right":
        return answer
    return _value(exercise.reference) if exercise.inputs is None else exercise.reference


@dataclass(frozen=True)
class Verdict:
    """What `check` found: status "right", "wrong" or "not attempted", the words, and the known mistake's name."""

    status: str
    message: str
    mistake: str | None = None


def judge(exercise: Exercise, answer, seed: int | None = None) -> Verdict:
    """Judge an answer without printing. Functions are called on inputs drawn from `seed`."""
    if _blank(answer):
        return _not_attempted()
    if exercise.inputs is None:
        return _judge_value(exercise, answer)
    if not callable(answer):
        return Verdict("wrong", f"hand in the function itself, without calling it; this is {describe(answer)}.")
    return _judge_function(exercise, answer, int.from_bytes(os.urandom(3), "big") if seed is None else seed)


def _judge_value(exercise: Exercise, answer) -> Verdict:
    if callable(answer) and not callable(_value(exercise.reference)):
        return Verdict("wrong", "the answer here is a value, and this is a function: call it and hand in its result.")
    if exercise.choices and all(difference(answer, choice) for choice in exercise.choices):
        return Verdict("wrong", f"answer with one of {', '.join(map(repr, exercise.choices))}.")
    right, words = _accepted(exercise, answer)
    if right:
        return _right(exercise, words)
    for name, mistake in exercise.mistakes.items():
        if difference(answer, _value(mistake.wrong), exercise.rtol, exercise.atol) is None:
            return Verdict("wrong", f"not yet. {mistake.message}", name)
    return Verdict("wrong", " ".join(filter(None, ["not yet.", words, exercise.hint])))


def _accepted(exercise: Exercise, answer) -> tuple[bool, str]:
    if exercise.accept is None:
        found = difference(answer, _value(exercise.reference), exercise.rtol, exercise.atol)
        return found is None, "" if found is None else found[0].upper() + found[1:] + "."
    try:
        with _quiet():
            return exercise.accept(answer)
    except Exception as error:
        return False, f"Judging {describe(answer)} raised {_named(error)}."


def _judge_function(exercise: Exercise, answer, seed: int) -> Verdict:
    """Draw until at most one of the reference and the known mistakes still gives what the answer gives.

    A few draws can be kind to a mistake: where γ is 1 by chance, nobody sees that it was forgotten.
    """
    repeat = f'(The same inputs again: check("{exercise.id}", ..., seed={seed}) with your answer.)'
    like = {None: exercise.reference} | {name: mistake.wrong for name, mistake in exercise.mistakes.items()}
    failed = None
    for draw in range(seed, seed + MOST_DRAWS):
        got, error, blank = _run(exercise, answer, draw)
        if blank:
            return _not_attempted()
        if error:
            return Verdict("wrong", f"it raised {_named(error)}\n  inputs:\n{_show_inputs(exercise, draw)}\n  {repeat}")
        like = {name: function for name, function in like.items() if _gives(exercise, function, draw, got)}
        if failed is None and None not in like:
            failed = draw, got
        if draw - seed + 1 >= FEWEST_DRAWS and len(like) < 2:
            break
    if None in like:
        return _right(exercise)
    if like:
        name = next(iter(like))
        return Verdict("wrong", f"not yet. {exercise.mistakes[name].message}\n  {repeat}", name)
    draw, got = failed
    expected = _call(exercise, exercise.reference, draw)
    lines = [f"not yet: {difference(got, expected, exercise.rtol, exercise.atol)}."]
    lines += ["  inputs:", _show_inputs(exercise, draw), f"  expected: {describe(expected)}"]
    lines += [f"  got:      {describe(got)}", f"  {_relation(got, expected)}{exercise.hint}".rstrip(), f"  {repeat}"]
    return Verdict("wrong", "\n".join(line for line in lines if line.strip()))


def _run(exercise: Exercise, function, seed: int):
    """Call a function on the inputs of one seed: (result, the exception or None, was the function a stub?)."""
    returned = []

    def watched(*args, **kwargs):
        returned.append(function(*args, **kwargs))
        return returned[-1]

    with contextlib.suppress(TypeError, ValueError, AttributeError):
        functools.update_wrapper(watched, function)
    try:
        result = _call(exercise, watched, seed)
    except Exception as error:
        stub = (bool(returned) and _blank(returned[-1])) or "ellipsis" in str(error).lower()
        return None, error, stub
    return result, None, _blank(result)


def _call(exercise: Exercise, function, seed: int):
    # The inputs are drawn again for each function, so one that changes them in place cannot disturb the next.
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = exercise.inputs(torch.Generator().manual_seed(seed))
        return function(*inputs) if exercise.call is None else exercise.call(function, *inputs)


def _gives(exercise: Exercise, function, seed: int, got) -> bool:
    """Does the reference, or a known wrong function, give on this draw what the learner's gave?"""
    result, error, _ = _run(exercise, function, seed)
    return error is None and difference(got, result, exercise.rtol, exercise.atol) is None


def _relation(got, expected) -> str:
    """A pattern that a reader would look for next: the sign, or one constant factor."""
    if not (isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor) and got.shape == expected.shape):
        return ""
    got, expected = got.detach().double(), expected.detach().double()
    size = (expected * expected).sum()
    if size == 0 or not got.isfinite().all():
        return ""
    factor = ((got * expected).sum() / size).item()
    if abs(factor) < 1e-6 or difference(got, factor * expected):
        return ""
    return "It is right but for the sign. " if abs(factor + 1) < 1e-4 else f"It is {factor:.4g} times the expected. "


def _show_inputs(exercise: Exercise, seed: int) -> str:
    """The inputs of one draw, a line each, by the names of the reference's parameters."""
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = exercise.inputs(torch.Generator().manual_seed(seed))
    names = list(inspect.signature(exercise.reference).parameters)
    names += [f"argument {i + 1}" for i in range(len(names), len(inputs))]
    return "\n".join(f"    {name} = {describe(value)}" for name, value in zip(names, inputs, strict=False))


def _blank(answer) -> bool:
    """None, `...`, or a tuple or list that still holds a `...`."""
    if isinstance(answer, tuple | list):
        return any(item is ... for item in answer)
    return answer is None or answer is ...


def _value(answer):
    """A value, computed now where it is given as a function of nothing."""
    if not callable(answer):
        return answer
    with _quiet():
        return answer()


def _right(exercise: Exercise, words: str = "") -> Verdict:
    return Verdict("right", " ".join(filter(None, ["right.", words, exercise.remark])))


def _not_attempted() -> Verdict:
    return Verdict("not attempted", "not attempted yet. Fill in the `...` and run the cell again.")


def _named(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@contextlib.contextmanager
def _quiet():
    """Keep warnings and stderr away: any stderr in a graded cell scores 0."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
