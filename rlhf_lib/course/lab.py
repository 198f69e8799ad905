"""`course.py lab`: JupyterLab on lesson 00 of the learner's copies. Further arguments go to JupyterLab."""

import sys
from collections.abc import Sequence

from rlhf_lib.course.workspace import refresh
from rlhf_lib.paths import lesson_files, project_root, workspace_dir


def command_line(arguments: Sequence[str], first_page: str | None) -> list[str]:
    """JupyterLab's arguments: the project's folder as its root, this machine only, and what the user gave instead."""
    ours = {"--ServerApp.root_dir": str(project_root()), "--ServerApp.ip": "127.0.0.1"}
    if first_page:
        ours["--LabApp.default_url"] = f"/lab/tree/workspace/{first_page}"
    aliases = {"--ip": "--ServerApp.ip", "--notebook-dir": "--ServerApp.root_dir"}
    given = {aliases.get(name, name) for name in (argument.partition("=")[0] for argument in arguments)}
    return [f"{name}={value}" for name, value in ours.items() if name not in given] + list(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring the copies up to date and serve until stopped."""
    from jupyterlab.labapp import LabApp

    lessons = lesson_files()
    for sentence in refresh(lessons, workspace_dir()):
        print(sentence, flush=True)
    first_page = lessons[0].name if lessons else None
    LabApp.launch_instance(command_line(sys.argv[1:] if arguments is None else arguments, first_page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
