"""The exercises of every lesson: `lesson_NN.py` holds the list `EXERCISES` of lesson NN.

An exercise with `inputs` is answered by a function, which is called on freshly drawn inputs and compared with the
reference on the same ones. An exercise without is answered by a value. Known wrong answers are kept beside the right
one, each with the message a learner should read; `rlhf_lib.course.check` does the comparing.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

KINDS = ("implement", "predict", "find the bug", "experiment", "derive")


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer: the message it deserves, and the wrong function (or value) itself.

    The message says what the answer looks like and where to look next; it does not give the solution away.
    """

    message: str
    wrong: object


@dataclass(frozen=True)
class Exercise:
    """One exercise. `reference` is the right answer: a function, a value, or (value exercises) a function of nothing
    that computes the value when it is first needed."""

    id: str  # "04.1": lesson, then number
    title: str
    kind: str  # one of KINDS
    difficulty: int  # 1 to 5
    importance: int  # 1 to 5
    minutes: int
    reference: object
    inputs: Callable[[torch.Generator], tuple] | None = None  # draws the arguments; same generator, same arguments
    mistakes: Mapping[str, Mistake] = field(default_factory=dict)
    accept: Callable[[object], tuple[bool, str]] | None = None  # judges a value instead of comparing: (right, message)
    choices: tuple[str, ...] = ()  # the answers a multiple-choice question offers
    call: Callable | None = None  # call(answer, *inputs) -> what to compare; by default answer(*inputs)
    rtol: float | None = None  # None: 1e-4, and whole numbers exactly
    atol: float = 1e-5
    hint: str = ""  # said when the answer is wrong in no known way
    remark: str = ""  # said when it is right

    @property
    def header(self) -> str:
        """The line that opens the exercise in the lesson's text."""

        def dots(n):
            return "●" * n + "○" * (5 - n)

        return (
            f"**Exercise {self.id} · {self.title}** ({self.kind} · difficulty {dots(self.difficulty)} · "
            f"importance {dots(self.importance)} · {self.minutes} min)"
        )


def lesson_exercises(lesson: str) -> list[Exercise]:
    """The exercises of lesson "04"; an empty list where the lesson has none."""
    name = f"lesson_{lesson}"
    if name not in (module.name for module in pkgutil.iter_modules(__path__)):
        return []
    return importlib.import_module(f"{__name__}.{name}").EXERCISES


def all_exercises() -> list[Exercise]:
    """Every registered exercise, in the order of the course."""
    lessons = sorted(module.name.removeprefix("lesson_") for module in pkgutil.iter_modules(__path__))
    return [exercise for lesson in lessons for exercise in lesson_exercises(lesson)]


def get(exercise_id: str) -> Exercise:
    """The exercise called `exercise_id`. ValueError, listing the lesson's exercises, where there is none."""
    lesson = str(exercise_id).split(".")[0]
    found = lesson_exercises(lesson)
    for exercise in found:
        if exercise.id == exercise_id:
            return exercise
    there = ", ".join(f'"{exercise.id}" ({exercise.title})' for exercise in found) or "no exercises"
    raise ValueError(f'There is no exercise "{exercise_id}". Lesson {lesson} has: {there}.')


def header(exercise_id: str) -> str:
    """The line that opens an exercise in the lesson's text: title, kind, difficulty, importance, minutes."""
    return get(exercise_id).header


def draw_tensor(generator: torch.Generator, *shape: int, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
    """Uniform float32 numbers with one decimal, so that a printed input is easy to follow by hand."""
    values = low + (high - low) * torch.rand(shape, generator=generator)
    return (values * 10).round() / 10


def draw_number(generator: torch.Generator, low: float, high: float, decimals: int = 2) -> float:
    """One uniform number in [low, high], rounded."""
    return round(low + (high - low) * torch.rand((), generator=generator).item(), decimals)


def draw_mask(generator: torch.Generator, batch: int, time: int, shortest: int = 1) -> torch.Tensor:
    """A bool [batch, time] mask of right-padded episodes; the first is full, the last (if it may) shorter."""
    lengths = torch.randint(shortest, time + 1, (batch,), generator=generator)
    lengths[0] = time
    lengths[-1] = lengths[-1].clamp(max=max(shortest, time - 1))
    return torch.arange(time) < lengths[:, None]
