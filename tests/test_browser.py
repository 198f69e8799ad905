"""The labelling widgets in a real JupyterLab, by mouse and by keyboard. tests/screenshot.py drives Lab."""

import shutil

import nbformat
import pytest
from screenshot import chromium, open_notebook

from rlhf_lib.course import stages
from rlhf_lib.labels import read_labels
from rlhf_lib.models import load_reward_model
from rlhf_lib.paths import data_dir, project_root
from rlhf_lib.preferences import text_pairs

pytestmark = [pytest.mark.slow, pytest.mark.browser]
LESSON = project_root() / "notebooks" / "08_human_preferences.ipynb"
WIDGETS = """# %%
from rlhf_lib import show
pairs = show.PairLabeler([(f"It was {i} dull", f"It was {i} fun") for i in range(8)], path="labels.jsonl")
pairs
# %%
show.RankingLabeler([("It was bad.", "It was good.", "It was fine.", "It was okay.")] * 2, path="rankings.jsonl")
"""


@pytest.fixture(autouse=True)
def browser():
    """Skips where there is no browser to drive, or nothing to drive it with."""
    pytest.importorskip("playwright", reason="needs playwright: pip install 'rlhf-lib[test]'")
    if chromium() is None:
        pytest.skip("needs Chromium on the PATH (Debian and Ubuntu: apt-get install chromium)")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A copy of the course whose package the kernels import, so that labels go to its workspace and not the user's."""
    copy = tmp_path / "course"
    shutil.copytree(project_root() / "rlhf_lib", copy / "rlhf_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(data_dir(), copy / "data")
    shutil.copy(project_root() / "course.py", copy)
    monkeypatch.setenv("PYTHONPATH", str(copy))
    return copy


@pytest.fixture
def lesson(tmp_path):
    """Lesson 08 as far as the cell that reads the labels back; the experiments after it take a minute."""
    notebook = nbformat.read(LESSON, as_version=4)
    last = next(i for i, cell in enumerate(notebook.cells) if "labels of yours" in cell.source)
    notebook.cells = notebook.cells[: last + 1]
    nbformat.write(notebook, tmp_path / LESSON.name)
    return tmp_path / LESSON.name


class Widget:
    """A labeller on the page: the cell with the button called `button`."""

    def __init__(self, page, button):
        self.page = page
        self.cell = page.locator(".jp-Cell").filter(has=page.get_by_role("button", name=button, exact=True))
        self.status, self.field = self.cell.get_by_role("status"), self.cell.locator("input[type=text]")

    def click(self, name):
        self.cell.get_by_role("button", name=name, exact=True).click()

    def says(self, text):
        """Wait until the status line begins with `text`."""
        self.cell.locator(f"[role=status]:has-text({text!r})").wait_for(timeout=20_000)


def kill_kernel(page):
    """No farewell: the process ends itself by signal 9."""
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    page.evaluate(f"() => {{ {kernel}.requestExecute({{code: 'import os; os.kill(os.getpid(), 9)'}}); }}")
    page.wait_for_function(f"['restarting', 'autorestarting', 'dead', 'unknown'].includes({kernel}.status)")


def test_keys_are_answers_and_never_commands_of_jupyterlab(tmp_path):
    notebook = tmp_path / "widgets.py"
    notebook.write_text(WIDGETS, encoding="utf-8")
    with open_notebook(notebook) as page:
        cells = page.locator(".jp-Cell").count()
        pair, ranking = Widget(page, "A is better"), Widget(page, "D")
        pair.click("A is better")
        pair.says("1 of 8 answered")
        page.keyboard.type("b=dx")  # to the field, after a click: b inserts no cell, d deletes none, x cuts none
        pair.says("3 of 8 answered")
        page.keyboard.press("Backspace")  # x and d were no answers, so they take none with them
        page.keyboard.press("Backspace")
        page.keyboard.press("Backspace")
        pair.says("2 of 8 answered")
        for key, count in (("Enter", 3), ("Space", 4)):  # without field and mouse
            pair.cell.get_by_role("button", name="Tie").focus()
            page.keyboard.press(key)
            pair.says(f"{count} of 8 answered")
        ranking.field.click()
        page.keyboard.type("bc=da")
        ranking.says("1 of 2 answered")
        for letter in "DA=B":
            ranking.click(letter)
        ranking.says("1 of 2 answered. So far: D > A = B.")
        assert page.locator(".jp-Cell").count() == cells
        assert ranking.cell.get_by_role("group", name="Text A").is_visible()
        assert ranking.cell.get_by_role("textbox", name="Keys").is_visible()


def test_nine_labels_survive_the_kernel_and_reach_a_reward_model(course, lesson, monkeypatch, tmp_path):
    labels = course / "workspace" / "labels.jsonl"
    with open_notebook(lesson) as page:
        pair = Widget(page, "A is better")
        pair.says("0 of 12 answered")
        for count, name in enumerate(("A is better", "B is better", "Tie", "A is better", "B is better"), 1):
            pair.click(name)
            pair.says(f"{count} of 12 answered")
        pair.field.click()
        page.keyboard.type("a=bbb")
        pair.says("10 of 12 answered")
        pair.click("Undo")
        pair.says("9 of 12 answered")
        kill_kernel(page)
    found, problems = read_labels(labels)
    expected = [(0, 1), (1, 0), (0, 0), (0, 1), (1, 0), (0, 1), (0, 0), (1, 0), (1, 0)]
    assert [ranking.ranks for ranking in found] == expected and problems == []

    with open_notebook(lesson) as page:
        Widget(page, "A is better").says("9 of 12 answered, 9 of them before (found in labels.jsonl)")
        assert page.get_by_text("labels of yours: 9; pairs that they decide: 7").is_visible()

    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stages, "panel_reward_model", lambda: load_reward_model("tiny"))  # its training takes minutes
    monkeypatch.setattr(stages, "_centre", lambda rm: None)
    before, after = load_reward_model("tiny"), stages.your_reward_model(labels)  # as lesson 09 and 10 do
    decided = text_pairs(found)
    margins = [
        sum(sign * rm.score_texts([pair[i] for pair in decided]).sum() for i, sign in ((0, 1), (1, -1)))
        for rm in (before, after)
    ]
    assert margins[1] > margins[0]
