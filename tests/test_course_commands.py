"""What course.py hands over to: the learners' copies, JupyterLab's arguments, running and testing lessons."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from rlhf_lib.course import lab, run, test, workspace
from rlhf_lib.paths import lesson_files, project_root


def make_lesson(path, *sources, content="1"):
    """A notebook with these code cells, as if built from a source whose hash is `content`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "rlhf_course": {"content": content * 64},
    }
    nbformat.write(notebook, path)
    return path


# workspace/


def test_missing_lessons_are_copied_and_nothing_is_ever_written_over(tmp_path):
    lesson, mine = make_lesson(tmp_path / "03_sums.ipynb", "1"), tmp_path / "workspace" / "03_sums.ipynb"
    assert workspace.refresh([lesson], tmp_path / "workspace") == []
    assert mine.read_bytes() == lesson.read_bytes()

    make_lesson(mine, "my work", content="1")  # saved by JupyterLab: other cells, the metadata kept
    kept = mine.read_bytes()
    assert workspace.refresh([lesson], tmp_path / "workspace") == []
    assert mine.read_bytes() == kept

    make_lesson(lesson, "2", content="2")  # an update
    for _ in range(2):
        (news,) = workspace.refresh([lesson], tmp_path / "workspace")
        assert "03_sums.new-22222222.ipynb" in news
    new = tmp_path / "workspace" / "03_sums.new-22222222.ipynb"
    assert new.read_bytes() == lesson.read_bytes() and mine.read_bytes() == kept

    make_lesson(new, "work in the new one", content="2")
    make_lesson(lesson, "3", content="3")  # another update
    workspace.refresh([lesson], tmp_path / "workspace")
    assert mine.read_bytes() == kept and "work in the new one" in new.read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "workspace").iterdir()) == [
        "03_sums.ipynb",
        "03_sums.new-22222222.ipynb",
        "03_sums.new-33333333.ipynb",
    ]


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"metadata": {}}'])
def test_a_copy_that_cannot_be_read_is_kept_too(tmp_path, damaged):
    lesson = make_lesson(tmp_path / "03_sums.ipynb", "1")
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / lesson.name).write_text(damaged)
    assert len(workspace.refresh([lesson], tmp_path / "workspace")) == 1
    assert (tmp_path / "workspace" / lesson.name).read_text() == damaged


def test_lessons_are_found_by_number_in_order(tmp_path):
    for name in ("10_b.ipynb", "04_a.ipynb", "notes.ipynb"):
        make_lesson(tmp_path / name)
    assert [path.name for path in lesson_files(folder=tmp_path)] == ["04_a.ipynb", "10_b.ipynb"]
    assert [path.name for path in lesson_files(["10", "4"], folder=tmp_path)] == ["10_b.ipynb", "04_a.ipynb"]
    with pytest.raises(ValueError, match="no lesson 05; there are 04, 10"):
        lesson_files(["5"], folder=tmp_path)


# JupyterLab


def test_jupyterlab_serves_this_machine_only_and_opens_the_first_lesson():
    assert lab.command_line(["--no-browser", "--port", "9999"], "00_welcome.ipynb") == [
        f"--ServerApp.root_dir={project_root()}",
        "--ServerApp.ip=127.0.0.1",
        "--LabApp.default_url=/lab/tree/workspace/00_welcome.ipynb",
        "--no-browser",
        "--port",
        "9999",
    ]


def test_what_the_user_asks_of_jupyterlab_wins():
    ours = lab.command_line(["--ip=0.0.0.0", "--notebook-dir", "/elsewhere"], None)
    assert ours == ["--ip=0.0.0.0", "--notebook-dir", "/elsewhere"]


def test_the_news_pop_up_is_off_and_nothing_weakens_the_token():
    assert not any(
        "token" in argument.lower() or "password" in argument.lower() for argument in lab.command_line([], "x")
    )
    installed = list((project_root() / "share/jupyter/lab/settings").glob("overrides.json"))
    assert '"fetchNews": "false"' in installed[0].read_text(encoding="utf-8")


# Running


def test_a_lesson_is_run_in_its_folder_and_written_even_when_it_fails(tmp_path):
    labeler = "from rlhf_lib.show import PairLabeler; PairLabeler([('a fine film', 'a dull film')])"
    good = make_lesson(
        tmp_path / "03_good.ipynb", "import os; print('in', os.path.basename(os.getcwd()))", "6 * 7", labeler
    )
    result = run.run_lesson(good, tmp_path / "build")
    assert result.lesson == "03_good" and result.error == "" and 0 < result.seconds < 60
    executed = nbformat.read(tmp_path / "build" / "executed" / "03_good.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == f"in {tmp_path.name}\n"
    assert executed.cells[1].outputs[0].data["text/plain"] == "42"
    page = (tmp_path / "build" / "html" / "03_good.html").read_text(encoding="utf-8")
    assert ">42<" in page.replace("\n", "")
    assert "a dull film" in page and "jupyter.widget" not in page  # the static form, which needs no network

    bad = make_lesson(tmp_path / "04_bad.ipynb", "print('before')", "1 / 0", "print('after')")
    result = run.run_lesson(bad, tmp_path / "build")
    assert "ZeroDivisionError" in result.error
    page = (tmp_path / "build" / "html" / "04_bad.html").read_text(encoding="utf-8")
    assert "before" in page and "ZeroDivisionError" in page


def test_a_lesson_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["77"])
    assert "there is no lesson 77" in capsys.readouterr().err


# Testing


def test_arguments_reach_every_stage(monkeypatch, tmp_path):
    lesson = make_lesson(tmp_path / "03_sums.ipynb")
    monkeypatch.setattr(test, "lesson_files", lambda: [lesson])
    assert test.stages(["-x"]) == [
        ("unit tests", [*test.SIDE_BY_SIDE, "-x"]),
        ("lessons", [*test.SIDE_BY_SIDE, *test.LESSONS, str(lesson), "-x"]),
        ("slow tests", [*test.SIDE_BY_SIDE, "-m", "slow", "-x"]),
    ]
    monkeypatch.setattr(test, "lesson_files", list)
    assert [title for title, _ in test.stages(["-k", "no such path"])] == ["unit tests", "slow tests"]


def test_a_named_test_is_all_that_runs():
    (stage,) = test.stages([f"{__file__}::test_x", "-x"])
    assert stage[1] == [*test.LESSONS, f"{__file__}::test_x", "-x"]


@pytest.mark.parametrize(("statuses", "expected"), [((0, 0), 0), ((0, 5), 0), ((5, 5), 1), ((0, 1), 1), ((2, 0), 1)])
def test_the_exit_status_is_bad_if_any_stage_fails_or_nothing_was_tested(monkeypatch, capsys, statuses, expected):
    answers = iter((status, f"closing line {status}") for status in statuses)
    monkeypatch.setattr(test, "stages", lambda arguments: [("unit tests", []), ("lessons", [])])
    monkeypatch.setattr(test, "PREPARATIONS", {"lessons": [["this"]]})
    monkeypatch.setattr(test, "run_pytest", lambda arguments: next(answers))
    monkeypatch.chdir(project_root())
    assert test.main([]) == expected
    shown = capsys.readouterr().out.splitlines()[-2:]
    assert all(f"closing line {status}" in line for status, line in zip(statuses, shown, strict=True))


@pytest.mark.parametrize("beside", [[], test.SIDE_BY_SIDE], ids=["alone", "side by side"])
def test_after_the_first_failure_the_rest_of_a_lesson_is_skipped(tmp_path, beside):
    shutil.copy(project_root() / "conftest.py", tmp_path)
    bad = "import os; assert os.environ['HF_HUB_OFFLINE'] == '1'", "1 / 0", "never = 1", "never"
    make_lesson(tmp_path / "03_bad.ipynb", *bad)
    make_lesson(tmp_path / "04_good.ipynb", "'never' in globals()")
    command = [sys.executable, "-m", "pytest", "-rs", "--color=no", "-p", "no:cacheprovider", *beside, *test.LESSONS]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1
    assert "1 failed, 2 passed, 2 skipped" in done.stdout.splitlines()[-1]
    assert "Cell 1 of this lesson failed" in done.stdout
    assert "seconds per lesson" in done.stdout and "04_good.ipynb" in done.stdout
