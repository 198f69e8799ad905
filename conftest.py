"""What every test and every lesson under test runs with: no model hub, a fixed hash seed, two threads, or one where
they run side by side. In a lesson, cells after the first failure are skipped: they fail for no reason of their own."""

import os
from collections import defaultdict

import pytest

# Kernels that nbval starts inherit these. The user's own sessions stay free to name a model on a hub.
os.environ.update(HF_HUB_OFFLINE="1", PYTHONHASHSEED="0", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"

FAILED_CELL = pytest.StashKey[str]()
LESSON_SECONDS = defaultdict(float)


def is_cell(item):
    return item.path.suffix == ".ipynb"


def pytest_runtest_setup(item):
    if is_cell(item) and FAILED_CELL in item.parent.stash:
        pytest.skip(f"{item.parent.stash[FAILED_CELL]} of this lesson failed")


def pytest_runtest_makereport(item, call):
    if is_cell(item) and call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        item.parent.stash.setdefault(FAILED_CELL, item.name)


def pytest_runtest_logreport(report):  # also where the lesson ran in a process beside this one
    lesson = report.nodeid.partition("::")[0].rpartition("/")[2]
    if lesson.endswith(".ipynb"):
        LESSON_SECONDS[lesson] += report.duration


def pytest_terminal_summary(terminalreporter, config):
    if LESSON_SECONDS:
        beside = ", on one core, beside another" if config.getoption("numprocesses", None) else ""
        terminalreporter.section(f"seconds per lesson{beside}")
        for lesson, seconds in sorted(LESSON_SECONDS.items()):
            terminalreporter.line(f"{seconds:7.1f}s  {lesson}")
