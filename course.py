#!/usr/bin/env python3
"""The course in three commands that need nothing but Python 3.10 or newer:

    python3 course.py lab  [arguments for JupyterLab]   open the lessons in your browser
    python3 course.py run  [NN ...]                     run all lessons, or some, without one; the pages go to build/
    python3 course.py test [arguments for pytest]       check the library, then every lesson

The first call makes .venv/ beside this file, with the versions of constraints.txt, and fetches the movie-review
ratings. Later calls find both ready. A set-up that was interrupted, or that an update made stale, is repaired.
"""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, call, run

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "course-setup.txt"  # inside .venv, so that it cannot outlive what it vouches for
DISK_FULL = f"the disk is too full: the set-up needs about 4 GB free in {ROOT} (more where pip brings CUDA)."
NO_INDEX = "pip reaches no package index: connect this machine (or set PIP_INDEX_URL, or a proxy), then try again."
NO_BUILD = "a package has no build for this machine's Python: try Python 3.11, which the course was tried with."
PIP_ERRORS = {  # a pattern in what pip says -> what to do
    "No space left|Errno 28|not enough space": DISK_FULL,
    "NewConnection|Max retries|timed out|resolution|unreachable|ProxyError|SSLError|versions: none": NO_INDEX,
    "No matching distribution": NO_BUILD,
    "": "pip failed, as shown here; the next call starts afresh.",
}


def stop(sentence):
    """End here, with one sentence that says what to do next."""
    sys.exit("course.py: " + sentence)


def probe():
    """What .venv's Python says of itself; empty where there is none, or where it has no pip."""
    words = [str(PYTHON), "-c", "import sys, pip; print(sys.version, sys.prefix)"]
    return run(words, stdout=PIPE, stderr=DEVNULL).stdout.decode() if PYTHON.exists() else ""


def fingerprint(python):
    """A finished set-up is right for these requirements, this Python and this folder."""
    files = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()
    return hashlib.sha256(python.encode() + files).hexdigest()


def make_venv():
    """An empty .venv with pip, whatever an interrupted set-up left behind."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        stop("this Python makes no virtual environments: on Debian or Ubuntu, `sudo apt install python3-venv` first.")
    if VENV.exists() and not STAMP.exists():
        stop("the folder .venv here is not the course's and has no working pip: move it away, then try again.")
    VENV.mkdir(exist_ok=True)
    STAMP.write_text("unfinished")
    for old in set(VENV.iterdir()) - {STAMP}:
        shutil.rmtree(str(old)) if old.is_dir() and not old.is_symlink() else old.unlink()
    base = getattr(sys, "_base_executable", sys.executable)  # not the one just removed, should .venv be active
    if call([base, "-m", "venv", str(VENV)]):
        stop("Python could not make .venv, as shown above; the next call starts afresh.")


def pip_install():
    """Install the course and its tools with one moving line of progress; a failure ends in one sentence."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", "-c", "constraints.txt", "-e", ".[lab,test,smol]"]
    env = dict(os.environ, PIP_USER="0", PIP_TARGET="", PIP_PREFIX="", PIP_DISABLE_PIP_VERSION_CHECK="1")
    child, said = Popen(command, env=env, stdout=PIPE, stderr=STDOUT), []
    for line in child.stdout:
        said.append(line.decode("utf-8", "replace").strip())
        if sys.stdout.isatty() and re.match("(Collecting|Downloading|Building|Installing)", said[-1]):
            print(f"\r  {said[-1][:76]:76}", end="\r", flush=True)
    if child.wait():
        tail = "\n".join(said[-25:])
        pattern = next(pattern for pattern in PIP_ERRORS if re.search(pattern, tail))
        stop(PIP_ERRORS[pattern] + ("" if pattern else "\n" + tail))


def set_up():
    """Bring .venv to the state that pyproject.toml and constraints.txt ask for; a moment's work when it is there."""
    python, state = probe(), STAMP.read_text() if STAMP.exists() else ""
    if not python or state != fingerprint(python):
        if shutil.disk_usage(str(ROOT)).free < 4e9:
            stop(DISK_FULL)
        print("Setting up .venv: a few minutes, once ...", flush=True)
        if not python or state == "unfinished":
            make_venv()
        STAMP.write_text("unfinished")
        pip_install()
        STAMP.write_text(fingerprint(probe()))
        print("Set up.".ljust(78), flush=True)
    if call([str(PYTHON), "-m", "rlhf_lib.cli", "fetch", "ratings"], stdout=DEVNULL):
        sys.exit(1)  # the fetch has said why


def main(arguments):
    if sys.version_info < (3, 10):
        stop("needs Python 3.10 or newer, this is {}.{}: install one and call it by name.".format(*sys.version_info))
    if not arguments or arguments[0] not in ("lab", "run", "test"):
        sys.exit(__doc__)
    command = [str(PYTHON), "-m", "rlhf_lib.course." + arguments[0]] + arguments[1:]
    os.chdir(str(ROOT))
    try:
        set_up()
        if os.name == "nt":
            return call(command)
        os.execv(command[0], command)  # signals and the exit status are then the command's own
    except KeyboardInterrupt:
        stop("interrupted; the next call repairs what is half done.")
    except OSError as error:
        stop(DISK_FULL if error.errno == errno.ENOSPC else f"{error}: close what uses it, or make it yours, and retry.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
