"""`course.py test [arguments for pytest]`: unit tests, then every lesson, then the slow tests.

Before the lessons SmolLM2 is fetched and the models that they share are trained, unless they are there. Files of tests,
and lessons, run side by side, a core each: with two, models this small are 1.4 times as fast, not twice. With the path
of a test among the arguments, only that is run, alone. The closing lines of pytest are repeated at the end.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_lib.paths import lesson_files, project_root

SIDE_BY_SIDE = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]
LESSONS = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"]
PREPARATIONS = {  # modules to run before a stage; where one fails, what needs it says so, or does without
    "lessons": [["rlhf_lib.cli", "fetch", "smollm2"], ["rlhf_lib.course.stages"]],
}
NOTHING_COLLECTED = 5  # pytest's exit status, fine for a stage when -k selects tests of another


def stages(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What to run, in order: (title, arguments for pytest)."""
    given = list(arguments)
    if any(Path(argument.partition("::")[0]).exists() for argument in given if not argument.startswith("-")):
        return [("the tests you named", [*LESSONS, *given])]
    lessons = [str(path) for path in lesson_files()]
    return [
        ("unit tests", [*SIDE_BY_SIDE, *given]),
        *([("lessons", [*SIDE_BY_SIDE, *LESSONS, *lessons, *given])] if lessons else []),
        ("slow tests", [*SIDE_BY_SIDE, "-m", "slow", *given]),
    ]


def run_pytest(arguments: Sequence[str]) -> tuple[int, str]:
    """Run pytest, showing what it says as it says it; return its exit status and its closing line."""
    colour = "yes" if sys.stdout.isatty() else "no"
    command = [sys.executable, "-m", "pytest", f"--color={colour}", *arguments]
    env = dict(os.environ, PYTHONUNBUFFERED="1")  # or its dots would wait for a full buffer
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = b""
    while chunk := os.read(child.stdout.fileno(), 4096):
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
        said = (said + chunk)[-4096:]
    lines = said.decode("utf-8", "replace").strip().splitlines() or ["pytest said nothing"]
    return child.wait(), lines[-1].strip("= ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; return 0 only if none failed and something was tested."""
    os.chdir(project_root())
    results = []
    for title, options in stages(sys.argv[1:] if arguments is None else arguments):
        print(f"\n{title}", flush=True)
        for preparation in PREPARATIONS.get(title, []):
            subprocess.call([sys.executable, "-m", *preparation])
        results.append((title, *run_pytest(options)))
    print()
    for title, status, closing_line in results:
        print(f"{title:12} {'passed' if status in (0, NOTHING_COLLECTED) else 'FAILED'}   {closing_line}")
    failed = [status for _, status, _ in results if status not in (0, NOTHING_COLLECTED)]
    tested = any(status == 0 for _, status, _ in results)
    return 1 if failed or not tested else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
