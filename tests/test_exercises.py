"""Every registered exercise: its known wrong answers get their own messages, its lesson shows and checks it."""

import re
from pathlib import Path

import pytest
import torch

from rlhf_lib.course.check import check, judge
from rlhf_lib.course.compare import difference
from rlhf_lib.course.exercises import KINDS, all_exercises, lesson_exercises

SOURCES = sorted((Path(__file__).parents[1] / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
EXERCISES = all_exercises()
FUNCTIONS = [exercise for exercise in EXERCISES if exercise.inputs]
MISTAKES = [
    pytest.param(exercise, name, id=f"{exercise.id}-{name.replace(' ', '-')}")
    for exercise in EXERCISES
    for name in exercise.mistakes
]
SEED = 20


def _named(exercise):
    return exercise.id


def _value(answer):
    return answer() if callable(answer) else answer


@pytest.mark.parametrize("exercise", EXERCISES, ids=_named)
def test_card(exercise):
    assert re.fullmatch(r"\d\d\.\d+", exercise.id)
    assert exercise.kind in KINDS
    assert exercise.difficulty in range(1, 6) and exercise.importance in range(1, 6) and 1 <= exercise.minutes <= 60
    assert len(exercise.mistakes) >= (3 if exercise.kind == "implement" else 1)
    messages = [mistake.message for mistake in exercise.mistakes.values()]
    assert len(set(messages)) == len(messages) and all(len(message) > 20 for message in messages)
    if exercise.choices:
        wrong = {mistake.wrong for mistake in exercise.mistakes.values()}
        assert wrong == set(exercise.choices) - {exercise.reference}, "each wrong choice needs its own explanation"


def test_ids_are_unique_and_belong_to_their_lesson():
    ids = [exercise.id for exercise in EXERCISES]
    assert len(set(ids)) == len(ids)
    for lesson in {exercise_id[:2] for exercise_id in ids}:
        assert {exercise.id[:2] for exercise in lesson_exercises(lesson)} == {lesson}


@pytest.mark.parametrize("exercise", EXERCISES, ids=_named)
def test_reference_is_right(exercise, capsys):
    reference = exercise.reference if exercise.inputs else _value(exercise.reference)
    assert check(exercise.id, reference, strict=True) is reference
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{exercise.id} · right.") and printed.err == ""


@pytest.mark.parametrize(("exercise", "name"), MISTAKES)
def test_known_mistake_gets_its_own_message(exercise, name):
    mistake = exercise.mistakes[name]
    wrong = mistake.wrong if exercise.inputs else _value(mistake.wrong)
    for seed in (SEED, SEED + 100) if exercise.inputs else (SEED,):
        verdict = judge(exercise, wrong, seed)
        assert (verdict.status, verdict.mistake) == ("wrong", name), verdict.message
    with pytest.raises(AssertionError, match=re.escape(mistake.message)):
        check(exercise.id, wrong, strict=True)


@pytest.mark.parametrize("exercise", EXERCISES, ids=_named)
def test_blank_is_not_attempted(exercise):
    stubs = [lambda *args, **kwargs: None, lambda *args, **kwargs: ...] if exercise.inputs else []
    for blank in (None, ..., *stubs):
        assert judge(exercise, blank, SEED).status == "not attempted"
    fallback = check(exercise.id, ...)
    assert fallback is exercise.reference or difference(fallback, _value(exercise.reference)) is None


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=_named)
def test_inputs_are_drawn_afresh_and_repeat_with_their_seed(exercise):
    def drawn(seed):
        torch.manual_seed(seed)
        return exercise.inputs(torch.Generator().manual_seed(seed))

    first, again, other = drawn(SEED), drawn(SEED), drawn(SEED + 1)
    assert isinstance(first, tuple)
    comparable = [i for i, value in enumerate(first) if not callable(value) and not isinstance(value, torch.Generator)]
    assert all(difference(first[i], again[i]) is None for i in comparable)
    assert any(difference(first[i], other[i]) for i in comparable), "the inputs do not depend on the seed"


def _lesson(source):
    return lesson_exercises(source.name[:2])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_lesson_shows_each_exercise_once_and_checks_it_once(source):
    text = source.read_text(encoding="utf-8")
    headers = re.findall(r"^# (\*\*Exercise .*)$", text, flags=re.MULTILINE)
    assert headers == [exercise.header for exercise in _lesson(source)], "paste what exercises.header(id) gives"
    checked = re.findall(r"""^(?:[^#\n]*\W)?check\(\s*["']([\d.]+)["']""", text, flags=re.MULTILINE)
    assert checked == [exercise.id for exercise in _lesson(source)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_lesson_has_four_exercises_of_three_kinds(source):
    assert len(_lesson(source)) >= 4
    assert len({exercise.kind for exercise in _lesson(source)}) >= 3
