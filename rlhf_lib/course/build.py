"""Make the notebooks from their sources: `python -m rlhf_lib.course.build [NN ...] [--check] [--edition NAME]`.

A lesson is written as py:percent text in notebooks/src/NN_name.py. Three editions come from it:

    learner    notebooks/NN_name.ipynb        the solutions cut out; the one that is committed
    solutions  build/solutions/NN_name.ipynb  the solutions left in, their markers cut out
    grading    build/grading/NN_name.ipynb    nbgrader's source: solutions marked, hidden strict checks added

An exercise is a code cell tagged `exercise` whose solution stands between nbgrader's markers; the next code cell
checks it in an assignment of its own, `x = check("NN.k", x)` (which is what nbgrader will grade, one point each):

    # %% tags=["exercise"]
    def reward_to_go(rewards, gamma):
        '''Σ_{k≥t} γ^{k−t} r_k'''
        ### BEGIN SOLUTION
        ...
        ### END SOLUTION

    # %%
    reward_to_go = check("04.1", reward_to_go)

In the learner's edition each marked region becomes one `...` at the marker's indentation. The same source always gives
the same bytes: there are no outputs, and a cell's id is a hash of what the source says in it.
"""

import argparse
import ast
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_lib.paths import project_root

EDITIONS = ("learner", "solutions", "grading")
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HIDDEN = "### BEGIN HIDDEN TESTS\n{}\n### END HIDDEN TESTS"
JUPYTEXT_ONLY = ("lines_to_next_cell", "lines_to_end_of_cell_marker")  # layout of the source, of no use in a notebook


class SourceError(ValueError):
    """A lesson's source breaks a rule of this module; the message names the file, the cell and what to do."""


class Check(NamedTuple):
    """The statement that checks an exercise."""

    exercise: str  # "04.1"
    answer: str  # the checked expression, as written
    line: int  # of the statement in its cell, from 0


def build(source: Path, edition: str = "learner") -> str:
    """Return the text of one edition's notebook of the lesson in `source` (…/NN_name.py). Raises SourceError."""
    import jupytext
    import nbformat

    if edition not in EDITIONS:
        raise ValueError(f"there is no edition {edition!r}; choose from {', '.join(EDITIONS)}.")
    cells = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent").cells
    try:
        exercises = pair_exercises(cells, lesson=source.name[:2])
    except SourceError as error:
        raise SourceError(f"{source.name}, {error}") from None

    ids = _stable_ids(cells)
    for index, cell in enumerate(cells):
        cell.id = ids[index]
        cell.metadata = {key: value for key, value in cell.metadata.items() if key not in JUPYTEXT_ONLY}
    for solution, (tested, check) in exercises.items():
        number = check.exercise.replace(".", "-")
        cells[solution].metadata |= {"deletable": False, "nbgrader": _nbgrader(f"exercise-{number}", solution=True)}
        cells[tested].metadata |= {"deletable": False, "nbgrader": _nbgrader(f"check-{number}", solution=False)}
        if edition == "learner":
            cells[solution].source = cut_solutions(cells[solution].source, "...")
        elif edition == "solutions":
            cells[solution].source = cut_markers(cells[solution].source)
        else:
            cells[tested].source = hide_strict_check(cells[tested].source, check)

    notebook = nbformat.v4.new_notebook(cells=cells)
    content = hashlib.sha256(nbformat.writes(notebook).encode()).hexdigest()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "rlhf_course": {"lesson": source.stem, "edition": edition, "content": content},  # workspace.py compares it
    }
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def pair_exercises(cells: Sequence, lesson: str) -> dict[int, tuple[int, Check]]:
    """Find each exercise: index of its cell -> (index of the cell that checks it, the check). Raises SourceError.

    Refused: an exercise without a marked solution or without a check in the next code cell, markers elsewhere or out of
    order, a number that is not of this lesson ("04.1" in lesson 04) or is used twice.
    """
    found: dict[int, tuple[int, Check]] = {}
    for index, cell in enumerate(cells):
        marks = [line.strip() for line in cell.source.split("\n") if line.strip() in (BEGIN, END)]
        tagged = cell.cell_type == "code" and "exercise" in cell.metadata.get("tags", [])
        if marks and not tagged:
            raise SourceError(f'cell {index}: a solution is marked; the cell must begin with `# %% tags=["exercise"]`.')
        if not tagged:
            continue
        if not marks or marks != [BEGIN, END] * (len(marks) // 2):
            raise SourceError(f"cell {index}: an exercise needs its solution between {BEGIN!r} and {END!r}.")
        following = next((k for k in range(index + 1, len(cells)) if cells[k].cell_type == "code"), None)
        check = None if following is None else find_check(cells[following].source)
        if following is None or check is None:
            raise SourceError(f'cell {index}: the next code cell must check the exercise: x = check("{lesson}.1", x).')
        if not re.fullmatch(rf"{lesson}\.[0-9]+", check.exercise):
            raise SourceError(f"cell {following}: {check.exercise!r} is no exercise of this lesson ({lesson}.1, ...).")
        if any(check.exercise == other.exercise for _, other in found.values()):
            raise SourceError(f"cell {following}: {check.exercise!r} is checked twice.")
        found[index] = (following, check)
    return found


def find_check(source: str) -> Check | None:
    """The first top-level statement `x = check("NN.k", answer)` of a cell, or None.

    It must be an assignment: nbgrader takes a number that a cell ends in for its points.
    """
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            continue
        call = statement.value
        if isinstance(call.func, ast.Name) and call.func.id == "check" and len(call.args) == 2:
            return Check(ast.literal_eval(call.args[0]), ast.unparse(call.args[1]), statement.lineno - 1)
    return None


def cut_solutions(source: str, stub: str) -> str:
    """Replace each marked region by `stub`, indented as its first marker."""
    kept, inside = [], False
    for line in source.split("\n"):
        if line.strip() == BEGIN:
            kept.append(line.replace(BEGIN, stub))
            inside = True
        elif line.strip() == END:
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def cut_markers(source: str) -> str:
    """Leave the solutions, without the lines that mark them."""
    return "\n".join(line for line in source.split("\n") if line.strip() not in (BEGIN, END))


def hide_strict_check(source: str, check: Check) -> str:
    """Put the strict check of the learner's own object before the visible one, which falls back to the reference."""
    lines = source.split("\n")
    lines.insert(check.line, HIDDEN.format(f'check("{check.exercise}", {check.answer}, strict=True)'))
    return "\n".join(lines)


def _nbgrader(grade_id: str, solution: bool) -> dict:
    """nbgrader's metadata (schema 3): learners fill in a solution; a check is locked and earns one point."""
    metadata = {"schema_version": 3, "grade_id": grade_id, "task": False}
    if solution:
        return metadata | {"solution": True, "grade": False, "locked": False}
    return metadata | {"solution": False, "grade": True, "locked": True, "points": 1}


def _stable_ids(cells: Sequence) -> list[str]:
    """An id for each cell from its text alone, so that a new cell changes no other's; equal texts are counted."""
    seen: Counter[str] = Counter()
    ids = []
    for cell in cells:
        text = f"{cell.cell_type}\n{cell.source}"
        ids.append(hashlib.sha256(f"{text}\n{seen[text]}".encode()).hexdigest()[:12])
        seen[text] += 1
    return ids


def output_path(source: Path, edition: str, root: Path) -> Path:
    """Where an edition of a lesson goes."""
    folder = root / "notebooks" if edition == "learner" else root / "build" / edition
    return folder / f"{source.stem}.ipynb"


def stale(root: Path) -> list[str]:
    """What `notebooks/` lacks, has in an older version, or has without a source; empty when all is in order."""
    sources = sorted((root / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
    expected = {output_path(source, "learner", root): source for source in sources}
    problems = [
        f"{path.name} is not what {source.name} gives"
        for path, source in expected.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != build(source)
    ]
    extra = sorted(set((root / "notebooks").glob("*.ipynb")) - set(expected))
    return problems + [f"{path.name} has no source in notebooks/src" for path in extra]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_lib.course.build", description="Make notebooks from sources.")
    parser.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)")
    parser.add_argument("--edition", choices=EDITIONS, default="learner", help="which edition (default: learner)")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if notebooks/ is not up to date")
    arguments = parser.parse_args(argv)
    root = project_root()
    try:
        if arguments.check:
            problems = stale(root)
            print("\n".join(problems) or "The notebooks are up to date.")
            return 1 if problems else 0
        for source in sorted((root / "notebooks" / "src").glob("[0-9][0-9]_*.py")):
            if arguments.lessons and source.name[:2] not in [number.zfill(2) for number in arguments.lessons]:
                continue
            path = output_path(source, arguments.edition, root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(build(source, arguments.edition), encoding="utf-8", newline="\n")
            print(path.relative_to(root))
    except SourceError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
