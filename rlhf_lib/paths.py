"""Where the project's own files are, in a checkout and in an installed wheel.

`data/` stands beside the package in a checkout and inside it in a wheel. Lessons, `workspace/` and `build/` exist in a
checkout only. What is fetched lives in the user's cache: see `rlhf_lib.assets`.
"""

from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_dir() -> Path:
    """The folder of the files that travel with the course: the tiny language model, stored results, data cards."""
    for folder in (PACKAGE / "data", PACKAGE.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no data/ in or beside {PACKAGE}: install rlhf-lib again, or use a complete checkout.")


def project_root() -> Path:
    """The checkout that this package is imported from. Raises FileNotFoundError for an installed wheel."""
    root = PACKAGE.parent
    if not (root / "course.py").is_file():
        raise FileNotFoundError("the lessons live in a checkout of the course: clone it, and use its course.py.")
    return root


def workspace_dir() -> Path:
    """Where learners work on their copies of the lessons; git ignores it, and it may not exist yet."""
    return project_root() / "workspace"


def lesson_files(numbers: Iterable[str] = (), folder: Path | None = None) -> list[Path]:
    """The lessons' notebooks in order: all of them, or those with the given numbers ("4" and "04" are both lesson 04).

    `folder` is notebooks/ unless given. Raises ValueError, naming what exists, for a number without a lesson.
    """
    folder = folder or project_root() / "notebooks"
    by_number = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    wanted = [number.zfill(2) for number in numbers] or list(by_number)
    for number in wanted:
        if number not in by_number:
            raise ValueError(f"there is no lesson {number}; there are {', '.join(by_number) or 'none yet'}.")
    return [by_number[number] for number in wanted]
