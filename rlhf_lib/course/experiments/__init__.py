"""What lessons measure on a language model: one seed's results of each experiment, and the policies they compare.

A module a lesson, and what they share. A lesson runs one seed live, or a part of it, and draws it over those of several
that `results` keeps.
"""

from rlhf_lib.course.experiments import (
    lesson_01,
    lesson_04,
    lesson_07,
    lesson_08,
    lesson_09,
    lesson_10,
    lesson_11,
    lesson_12,
    lesson_13,
    lesson_14,
    lesson_15,
    lesson_16,
    shared,
)

__all__ = [
    "lesson_01",
    "lesson_04",
    "lesson_07",
    "lesson_08",
    "lesson_09",
    "lesson_10",
    "lesson_11",
    "lesson_12",
    "lesson_13",
    "lesson_14",
    "lesson_15",
    "lesson_16",
    "shared",
]
