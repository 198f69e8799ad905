"""What every test and every lesson under test runs with: no model hub, a fixed hash seed, two threads; and in a lesson,
the cells after the first failure are skipped, because they fail for no reason of their own."""

import os
from collections import defaultdict

import pytest

# Kernels that nbval starts inherit these. The user's own sessions stay free to name a model on a hub.
os.environ.update(HF_HUB_OFFLINE="1", PYTHONHASHSEED="0", OMP_NUM_THREADS="2", TOKENIZERS_PARALLELISM="false")

FAILED_CELL = pytest.StashKey[str]()
LESSON_SECONDS = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[LESSON_SECONDS] = defaultdict(float)


def is_cell(item):
    return item.path.suffix == ".ipynb"


def pytest_runtest_setup(item):
    if is_cell(item) and FAILED_CELL in item.parent.stash:
        pytest.skip(f"{item.parent.stash[FAILED_CELL]} of this lesson failed")


def pytest_runtest_makereport(item, call):
    if not is_cell(item):
        return
    item.config.stash[LESSON_SECONDS][item.path.name] += call.duration
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        item.parent.stash.setdefault(FAILED_CELL, item.name)


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[LESSON_SECONDS]:
        terminalreporter.section("seconds per lesson")
        for lesson, seconds in config.stash[LESSON_SECONDS].items():
            terminalreporter.line(f"{seconds:7.1f}s  {lesson}")
