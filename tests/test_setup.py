"""Set-up: what course.py promises, and that its files of requirements agree with each other."""

import ast
import errno
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlhf_lib import paths

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = paths.project_root()
COURSE = ROOT / "course.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """course.py as a module, in a project folder of its own with nothing set up."""
    spec = importlib.util.spec_from_file_location("course", COURSE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    venv = tmp_path / ".venv"
    for name, value in {"ROOT": tmp_path, "VENV": venv, "STAMP": venv / module.STAMP.name}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "PYTHON", venv / module.PYTHON.relative_to(ROOT / ".venv"))
    monkeypatch.chdir(tmp_path)  # main changes into ROOT
    return module


def sentence(stopped) -> str:
    """The one sentence that a stop says."""
    text = str(stopped.value.code)
    assert text.startswith("course.py: ") and text.endswith(".") and "\n" not in text
    return text


# course.py itself


def test_course_py_is_small_and_needs_only_the_standard_library():
    source = COURSE.read_text(encoding="utf-8")
    assert source.count("\n") <= 120
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported <= sys.stdlib_module_names


def test_an_old_python_can_read_course_py_and_is_told_what_to_do(course, monkeypatch):
    ast.parse(COURSE.read_text(encoding="utf-8"), feature_version=(3, 6))
    monkeypatch.setattr(course, "sys", SimpleNamespace(version_info=(3, 8, 10), exit=sys.exit))
    with pytest.raises(SystemExit) as stopped:
        course.main(["lab"])
    assert "3.10" in sentence(stopped) and "3.8" in sentence(stopped)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["labb"]])
def test_any_other_command_shows_the_three(course, arguments):
    with pytest.raises(SystemExit) as stopped:
        course.main(arguments)
    assert all(f"course.py {command}" in stopped.value.code for command in ("lab", "run", "test"))


def test_a_full_disk_is_noticed_before_anything_is_made(course, monkeypatch):
    monkeypatch.setattr(course, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=1e9)))
    with pytest.raises(SystemExit) as stopped:
        course.main(["test"])
    assert "disk" in sentence(stopped) and not course.VENV.exists()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (PermissionError(errno.EACCES, "Permission denied", "a/file"), "a/file"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_stops_a_set_up_is_said_in_one_sentence(course, monkeypatch, error, word):
    def fail():
        raise error

    monkeypatch.setattr(course, "set_up", fail)
    with pytest.raises(SystemExit) as stopped:
        course.main(["test"])
    assert word in sentence(stopped)


NOT_FOUND = "ERROR: Could not find a version that satisfies the requirement {0} (from versions: {1})\n"
PIP_SAYS = {  # a word of our sentence -> as pip 23.2 said it
    "package index": "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('Failed to "
    "establish a new connection: [Errno -2] Name or service not known')': /simple/hatchling/\n"
    + NOT_FOUND.format("hatchling", "none")
    + "ERROR: No matching distribution found for hatchling\n",
    "Python 3.11": NOT_FOUND.format("torch==1.2.0", "2.14.1, 2.15.0")
    + "ERROR: No matching distribution found for torch==1.2.0\n",
    "disk": "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
}


@pytest.mark.parametrize("cause", PIP_SAYS)
def test_a_failure_of_pip_becomes_one_sentence(course, monkeypatch, cause):
    lines = PIP_SAYS[cause].encode().splitlines(keepends=True)
    monkeypatch.setattr(course, "Popen", lambda *_, **__: SimpleNamespace(stdout=lines, wait=lambda: 1))
    with pytest.raises(SystemExit) as stopped:
        course.pip_install()
    assert cause in sentence(stopped)


def test_an_unknown_failure_of_pip_shows_its_last_words(course, monkeypatch):
    lines = [b"ERROR: something nobody has seen\n"]
    monkeypatch.setattr(course, "Popen", lambda *_, **__: SimpleNamespace(stdout=lines, wait=lambda: 1))
    with pytest.raises(SystemExit, match="something nobody has seen"):
        course.pip_install()


@pytest.mark.parametrize("lacking", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_how_to_get_it(course, monkeypatch, lacking):
    find = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None if name == lacking else object()))
    monkeypatch.setattr(course, "importlib", find)
    with pytest.raises(SystemExit) as stopped:
        course.make_venv()
    assert "python3-venv" in sentence(stopped)


def test_a_venv_of_somebody_else_is_left_alone(course):
    course.VENV.mkdir()
    (course.VENV / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit) as stopped:
        course.make_venv()
    assert "move it away" in sentence(stopped)
    assert [path.name for path in course.VENV.iterdir()] == ["mine.txt"]


def test_an_interrupted_set_up_is_cleared_before_the_next(course, monkeypatch):
    (course.VENV / "lib" / "half").mkdir(parents=True)
    (course.VENV / "pyvenv.cfg").write_text("broken")
    course.STAMP.write_text("unfinished")
    commands = []
    monkeypatch.setattr(course, "call", lambda command: commands.append(command) or 0)
    course.make_venv()
    assert commands[0][1:] == ["-m", "venv", str(course.VENV)]
    assert [path.name for path in course.VENV.iterdir()] == [course.STAMP.name]
    assert course.STAMP.read_text() == "unfinished"


@pytest.fixture
def steps(course, monkeypatch):
    """The steps that a set-up takes, recorded and not taken."""
    taken = []
    course.VENV.mkdir()
    monkeypatch.setattr(course, "probe", lambda: "3.11 here")
    for step in ("make_venv", "pip_install"):
        monkeypatch.setattr(course, step, lambda step=step: taken.append(step))
    monkeypatch.setattr(course, "call", lambda command, **_: taken.append(" ".join(command[3:])) or 0)
    return taken


def test_a_finished_set_up_is_only_checked(course, steps):
    course.STAMP.write_text(course.fingerprint("3.11 here"))
    course.set_up()
    assert steps == ["fetch ratings"]


def test_a_venv_that_works_is_brought_up_to_date(course, steps):
    course.set_up()  # a .venv without a stamp: made by hand
    assert steps == ["pip_install", "fetch ratings"]
    (course.ROOT / "constraints.txt").write_text("torch==2.14.0\n")
    course.set_up()  # an update changed the pins
    course.set_up()
    assert steps == ["pip_install", "fetch ratings"] * 2 + ["fetch ratings"]


def test_a_set_up_that_was_killed_starts_afresh(course, steps, monkeypatch):
    def killed():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(course, "pip_install", killed)
        with pytest.raises(KeyboardInterrupt):
            course.set_up()
    course.set_up()
    assert steps == ["make_venv", "pip_install", "fetch ratings"]


def test_a_venv_that_lost_its_python_starts_afresh(course, steps, monkeypatch):
    course.STAMP.write_text(course.fingerprint("3.11 here"))
    said = iter(["", "3.12 here"])
    monkeypatch.setattr(course, "probe", lambda: next(said))
    course.set_up()
    assert steps == ["make_venv", "pip_install", "fetch ratings"]


def test_no_python_is_no_answer(course):
    assert course.probe() == ""


# Requirements


def requirements(*extras: str) -> list[Requirement]:
    """The project's own requirements, with those of the extras (none named: of all extras)."""
    optional = PROJECT["optional-dependencies"]
    names = PROJECT["dependencies"] + [name for extra in extras or optional for name in optional[extra]]
    return [Requirement(name) for name in names]


def constraints() -> list[Requirement]:
    """The pins, one for each platform where they differ."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, list[str]]:
    """Project -> its pinned versions."""
    found = {}
    for pin in constraints():
        (only,) = pin.specifier
        assert only.operator == "==" and not pin.url, str(pin)
        found.setdefault(canonicalize_name(pin.name), []).append(only.version)
    return found


def test_every_requirement_is_pinned_within_its_range():
    pinned = pins()
    for requirement in requirements():
        versions = pinned[canonicalize_name(requirement.name)]
        assert versions and all(requirement.specifier.contains(version) for version in versions), str(requirement)


def test_pins_name_no_place_and_no_build():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text and "+cpu" not in re.sub("#.*", "", text)
    assert pins()["torch"] == ["2.13.0"]


def closure(roots: list[Requirement]) -> set[str]:
    """The installed distributions that these requirements bring, themselves included."""
    seen, todo = set(), [(root, "") for root in roots]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                try:
                    needs = importlib.metadata.requires(name) or []
                except importlib.metadata.PackageNotFoundError:
                    continue
                todo += [(Requirement(need), wanted) for need in needs]
    return {name for name, _ in seen}


def test_everything_that_lessons_and_tests_bring_is_pinned():
    installed = {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    assert closure(requirements("lab", "test", "smol")) & installed <= set(pins())


def test_conda_installs_what_course_py_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert set(environment) == {"name", "channels", "dependencies"}
    *from_conda, from_pip = environment["dependencies"]
    assert [name.partition("=")[0] for name in from_conda] == ["python", "pip"]
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(from_conda[0].partition("=")[2])
    asked = re.search(r'"-c", "constraints.txt", "-e", "(.+?)"', COURSE.read_text(encoding="utf-8"))
    assert from_pip == {"pip": ["-c constraints.txt", f"-e {asked[1]}"]}
    assert set(re.findall(r"\w+", asked[1])) <= set(PROJECT["optional-dependencies"])


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("RLHF_TEST_INSTALL"), reason="minutes and gigabytes: set RLHF_TEST_INSTALL=1")
def test_the_pip_section_of_environment_yml_installs(tmp_path):
    shutil.copytree(ROOT, tmp_path / "project", ignore=shutil.ignore_patterns(".*", "build", "workspace"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = next(path for path in (tmp_path / "env").glob("*/python*") if path.stem == "python")
    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"]
    listed = tmp_path / "project" / "condaenv.requirements.txt"  # as conda does: a file beside environment.yml
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", listed], cwd=listed.parent, check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    shown = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    assert shown.stdout.startswith("2.13.0")


# The package


CORE_ONLY = """
import importlib.util, pkgutil, sys
from importlib.machinery import PathFinder

blocked = set(sys.argv[1].split(","))

find = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in blocked else find(name, path, target)

PathFinder.find_spec = find_spec
assert importlib.util.find_spec("pytest") is None
import rlhf_lib

for module in pkgutil.walk_packages(rlhf_lib.__path__, "rlhf_lib.", onerror=print):
    if module.name.split(".")[1] not in ("show", "course"):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_outside_show_and_course_the_core_requirements_are_enough():
    needed = closure([Requirement(name) for name in PROJECT["dependencies"]]) | {"rlhf-lib"}
    tops = importlib.metadata.packages_distributions().items()
    blocked = [top for top, owners in tops if not needed & {canonicalize_name(owner) for owner in owners}]
    assert {"matplotlib", "peft", "IPython", "pytest", "gguf"} <= set(blocked)
    command = [sys.executable, "-c", CORE_ONLY, ",".join(blocked)]
    ran = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "rlhf_lib.losses" in ran.stdout and "rlhf_lib.course" not in ran.stdout


def test_data_is_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "rlhf_lib"
    package.mkdir(parents=True)
    monkeypatch.setattr(paths, "PACKAGE", package)
    with pytest.raises(FileNotFoundError, match="install rlhf-lib again"):
        paths.data_dir()
    (package.parent / "data").mkdir()
    assert paths.data_dir() == package.parent / "data"
    (package / "data").mkdir()
    assert paths.data_dir() == package / "data"
    with pytest.raises(FileNotFoundError, match="checkout"):
        paths.project_root()


@pytest.mark.slow
def test_a_wheel_carries_the_data_and_the_editable_install_points_here(tmp_path):
    import zipfile

    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
    made = subprocess.run(command, capture_output=True, text=True)
    if "hatchling" in made.stderr and made.returncode:
        pytest.skip("no package index, and hatchling is not at hand")
    assert made.returncode == 0, made.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    shipped = [path.relative_to(ROOT).as_posix() for path in (ROOT / "data").rglob("*") if path.is_file()]
    assert {f"rlhf_lib/{name}" for name in shipped} <= set(names)
    assert any(name.endswith("share/jupyter/lab/settings/overrides.json") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "data/"))]
    assert Path(importlib.util.find_spec("rlhf_lib").origin).parent == ROOT / "rlhf_lib"


# The README


def code_blocks(language: str) -> list[str]:
    """The README's blocks of code in this language ("" for the commands)."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_opens_with_the_two_commands():
    commands = [line.partition("#")[0].split() for line in code_blocks("")[0].splitlines()]
    assert commands == [["python3", "course.py", "lab"], ["python3", "course.py", "test"]]


def test_the_readmes_experiment_runs(rated, capsys):
    (example,) = code_blocks("python")
    assert "steps=20" in example
    exec(example.replace("steps=20", "steps=1"), {})
    completions = ast.literal_eval(capsys.readouterr().out)
    assert len(completions) == 4 and all(isinstance(text, str) for text in completions)
