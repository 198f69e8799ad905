"""`course.py run [NN ...]`: execute lessons without a browser; executed notebooks and pages go to build/.

Each lesson runs from top to bottom in a kernel of its own, as Run All would, with nothing attempted and nothing clicked
(`--edition solutions` runs it solved, `--edition grading` with the strict checks too).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_lib.course.build import EDITIONS
from rlhf_lib.course.build import main as build_editions
from rlhf_lib.paths import lesson_files, project_root

CELL_SECONDS = 600  # a cell that takes longer is stuck
STATIC_FIRST = ["text/html", "image/svg+xml", "image/png", "text/latex", "text/markdown", "text/plain"]


class Result(NamedTuple):
    """How a lesson went."""

    lesson: str
    seconds: float
    error: str  # empty when every cell ran


def run_lesson(lesson: Path, build_dir: Path) -> Result:
    """Execute one notebook with a progress bar; write it to build_dir/executed and as a page to build_dir/html.

    Both are written after an error too, with the traceback in them. The kernel's working folder is the notebook's.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbconvert import HTMLExporter
    from tqdm import tqdm
    from traitlets.config import Config

    notebook = nbformat.read(lesson, as_version=4)
    error, start = "", time.perf_counter()
    with tqdm(total=len(notebook.cells), desc=lesson.stem, unit="cell", leave=False, disable=None) as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            resources={"metadata": {"path": str(lesson.parent)}},
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        try:
            client.execute(stderr=subprocess.DEVNULL)  # the kernel's own log; what cells print comes as messages
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
            error = str(problem).strip()
    seconds = time.perf_counter() - start

    executed = nbformat.writes(notebook)
    notebook.metadata.pop("widgets", None)  # on a page without a kernel, widgets show as their static form
    page = HTMLExporter(config=Config({"NbConvertBase": {"display_data_priority": STATIC_FIRST}}))
    for folder, text in (("executed", executed), ("html", page.from_notebook_node(notebook)[0])):
        path = build_dir / folder / lesson.with_suffix(".html" if folder == "html" else ".ipynb").name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return Result(lesson.stem, seconds, error)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a lesson failed."""
    parser = argparse.ArgumentParser(prog="course.py run", description="Run lessons without a browser.")
    parser.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)")
    parser.add_argument("--edition", choices=EDITIONS, default="learner", help="which edition (default: learner)")
    options = parser.parse_args(arguments)
    build_dir, folder = project_root() / "build", None
    if options.edition != "learner":
        folder = build_dir / options.edition
        if build_editions([*options.lessons, "--edition", options.edition]):
            return 1
    try:
        lessons = lesson_files(options.lessons, folder)
    except ValueError as error:
        parser.error(str(error))
    results = []
    for lesson in lessons:
        results.append(run_lesson(lesson, build_dir))
        print(
            f"{results[-1].lesson:32} {results[-1].seconds:6.1f} s  {'FAILED' if results[-1].error else ''}", flush=True
        )
    for result in results:
        if result.error:
            print(f"\n{result.lesson} stopped at an error:\n{result.error}")
    print(f"all {len(results)} in {sum(result.seconds for result in results):.1f} s; pages in {build_dir / 'html'}")
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
