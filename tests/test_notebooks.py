"""The lessons' notebooks: generated, up to date, and in the shape that every lesson promises."""

import ast
import json
import textwrap

import nbformat
import pytest

from rlhf_lib.course import build
from rlhf_lib.paths import lesson_files, project_root

LESSONS = lesson_files()

SOURCE = '''\
# %% [markdown]
# # A lesson
# $\\sum_t r_t$

# %%
from somewhere import check

# %% tags=["exercise"]
def add(a, b):
    """Their sum."""
    if b is None:
        ### BEGIN SOLUTION
        total = a
        return total
        ### END SOLUTION
    ### BEGIN SOLUTION
    return a + b
    ### END SOLUTION


# %% [markdown]
# Words may stand between.

# %%
print("looking")
add = check("03.1", add)
add(1, 2)

# %% tags=["exercise"]
guess = ...
### BEGIN SOLUTION
guess = 4
### END SOLUTION

# %%
guess = check("03.2", guess)
'''


@pytest.fixture
def write(tmp_path):
    """Write a source as lesson 03 and return its path."""

    def write(text=SOURCE):
        path = tmp_path / "03_sums.py"
        path.write_text(text, encoding="utf-8", newline="\n")
        return path

    return write


def cells(source, edition):
    return nbformat.reads(build.build(source, edition), as_version=4).cells


# The notebooks that are there


def test_the_notebooks_are_what_their_sources_give():
    assert build.stale(project_root()) == [], "run: python -m rlhf_lib.course.build"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_the_promised_shape(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert notebook["cells"][0]["cell_type"] == "markdown"
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        assert source.strip(), f"cell {number} is empty"
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None, f"cell {number} has outputs"
            assert source.count("\n") < 40, f"cell {number} is too long to read at a glance"
            assert "plt.show" not in source, f"cell {number} shows a figure without alt text"
            ast.parse(source)  # stubs too are Python


# How they are built


def test_the_learners_edition_has_stubs_in_place_of_solutions(write):
    source = [cell.source for cell in cells(write(), "learner")]
    assert source[2] == textwrap.dedent('''
        def add(a, b):
            """Their sum."""
            if b is None:
                ...
            ...''').lstrip("\n")
    assert source[5] == "guess = ...\n..."
    assert source[4] == 'print("looking")\nadd = check("03.1", add)\nadd(1, 2)'
    assert not any(mark in text for text in source for mark in ("SOLUTION", "HIDDEN", "total", "a + b"))


def test_the_solutions_edition_runs_the_solutions(write):
    source = [cell.source for cell in cells(write(), "solutions")]
    assert "SOLUTION" not in "".join(source)
    scope = {"check": lambda exercise, answer: answer}
    for text in (source[2], source[4], source[5]):
        exec(text, scope)
    assert scope["add"](2, 3) == 5 and scope["add"](2, None) == 2 and scope["guess"] == 4


def test_the_grading_edition_checks_the_learners_own_object_first(write):
    source = [cell.source for cell in cells(write(), "grading")]
    assert source[2].count("### BEGIN SOLUTION") == 2
    assert source[4].split("\n") == [
        'print("looking")',
        "### BEGIN HIDDEN TESTS",
        'check("03.1", add, strict=True)',
        "### END HIDDEN TESTS",
        'add = check("03.1", add)',
        "add(1, 2)",
    ]


def equations():
    """(lesson, first section named, code) of each row of the equations' table in the lessons' README."""
    rows = (project_root() / "notebooks" / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [row.strip("| ").split(" | ") for row in rows if row.startswith("|")]
    return [(row[-3], row[-2].split(",")[0], row[-1].strip("`")) for row in cells[2:]]


@pytest.mark.parametrize(("lesson", "section", "code"), equations(), ids=lambda value: value[:40])
def test_the_cell_that_settles_an_equation_stands_where_the_table_says(lesson, section, code):
    (path,) = (path for path in LESSONS if path.name.startswith(f"{lesson}_"))
    heading, found = None, []
    for cell in nbformat.read(path, as_version=4).cells:
        titles = [line[3:] for line in cell.source.splitlines() if line.startswith("## ")]
        if cell.cell_type == "markdown" and titles:
            heading = titles[-1].split(" ·")[0]
        elif cell.cell_type == "code" and code in cell.source:
            found.append(heading)
    assert found == [section]


@pytest.mark.parametrize("edition", build.EDITIONS)
def test_every_edition_says_to_nbgrader_what_is_graded(write, edition):
    marked = [cell.metadata.get("nbgrader") for cell in cells(write(), edition)]
    assert [data and (data["grade_id"], data["solution"], data["grade"], data.get("points")) for data in marked] == [
        None,
        None,
        ("exercise-03-1", True, False, None),
        None,
        ("check-03-1", False, True, 1),
        ("exercise-03-2", True, False, None),
        ("check-03-2", False, True, 1),
    ]


def test_the_same_source_gives_the_same_bytes_and_a_new_cell_changes_no_other_id(write):
    once, again = build.build(write()), build.build(write())
    assert once == again and once.endswith("}\n") and '"outputs": []' in once
    before = [cell.id for cell in cells(write(), "learner")]
    longer = SOURCE.replace("# %%\nfrom", "# %%\n1 + 1\n\n# %%\n1 + 1\n\n# %%\nfrom")
    after = [cell.id for cell in cells(write(longer), "learner")]
    assert after[:1] + after[3:] == before and len(set(after)) == len(after)
    assert [cell.id for cell in cells(write(), "grading")] == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('# %% tags=["exercise"]\ndef', "# %%\ndef", "must begin with"),
        ("### BEGIN SOLUTION\nguess = 4", "guess = 4", "between"),
        ("### BEGIN SOLUTION\nguess = 4\n### END SOLUTION\n", "", "between"),
        ('guess = check("03.2", guess)', "print(guess)", "next code cell must check"),
        ('guess = check("03.2", guess)', 'check("03.2", guess)', "next code cell must check"),
        ('\n# %%\nguess = check("03.2", guess)', "", "next code cell must check"),
        ('"03.2"', '"04.2"', "no exercise of this lesson"),
        ('"03.2"', '"03.1"', "checked twice"),
    ],
)
def test_a_broken_rule_is_named_with_its_file_and_cell(write, old, new, words):
    assert SOURCE.count(old) == 1
    with pytest.raises(build.SourceError, match=rf"03_sums\.py, cell \d+: .*{words}"):
        build.build(write(SOURCE.replace(old, new)))


def test_a_stale_a_missing_and_an_orphaned_notebook_are_found(tmp_path):
    folder = tmp_path / "notebooks"
    (folder / "src").mkdir(parents=True)
    for name in ("03_sums", "04_more", "05_fresh"):
        text = SOURCE.replace("03.", f"{name[:2]}.")
        (folder / "src" / f"{name}.py").write_text(text, encoding="utf-8")
    fresh = build.build(folder / "src" / "05_fresh.py")
    (folder / "05_fresh.ipynb").write_text(fresh, encoding="utf-8", newline="\n")
    (folder / "03_sums.ipynb").write_text(fresh, encoding="utf-8", newline="\n")
    (folder / "06_gone.ipynb").write_text(fresh, encoding="utf-8", newline="\n")
    problems = build.stale(tmp_path)
    assert [problem.split()[0] for problem in problems] == ["03_sums.ipynb", "04_more.ipynb", "06_gone.ipynb"]
