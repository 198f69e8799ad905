"""Learners' copies of the lessons. A file in workspace/ is written once; then it is the learner's."""

import json
from pathlib import Path


def refresh(lessons: list[Path], workspace: Path) -> list[str]:
    """Copy into `workspace` the lessons it lacks; return a sentence for each that has changed since it was copied.

    The new version of such a lesson is put beside the learner's copy, as NN_name.new-XXXXXXXX.ipynb (a hash of what it
    says), so that several updates never meet in one file. Copies appear whole or not at all.
    """
    workspace.mkdir(exist_ok=True)
    news = []
    for lesson in lessons:
        copy = workspace / lesson.name
        if not copy.exists():
            _copy(lesson, copy)
        elif _content(copy) != _content(lesson):
            new = copy.with_suffix(f".new-{_content(lesson)[:8]}.ipynb")
            if not new.exists():
                _copy(lesson, new)
            news.append(f"{lesson.name} has a new version, {new.name}; your copy stays as you left it.")
    return news


def _copy(source: Path, target: Path) -> None:
    partial = target.with_suffix(".part")
    partial.write_bytes(source.read_bytes())
    partial.replace(target)


def _content(notebook: Path) -> str:
    """The hash that `build` wrote into a notebook's metadata, which JupyterLab keeps; "" where it cannot be read."""
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["rlhf_course"]["content"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
