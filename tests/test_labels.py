"""The file of labels: what was written is read back, whatever happens to other lines."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rlhf_lib
from rlhf_lib import labels
from rlhf_lib.labels import append_label, read_labels, undo_label
from rlhf_lib.preferences import Ranking

A = Ranking(("It was good.", "It was bad."), (0, 1))
B = Ranking(("Über alles — a\nline", "b\u2028c", "d"), (1, 0, 1))
C = Ranking(("Fine.", "Fine!"), (0, 0))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "new folder" / "labels.jsonl"


def test_labels_come_back_in_order(path):
    assert read_labels(path) == ([], [])
    assert undo_label(path) is None
    keys = [append_label(path, A), append_label(path, B, session="ann", seconds=2.5, models={1: "x", 10: None})]
    append_label(path, C, session="ben")
    assert len(set(keys)) == 2
    assert read_labels(path) == ([A, B, C], [])
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4 and lines[-1] == ""  # one line a label
    assert json.loads(lines[1])["meta"] == {"seconds": 2.5, "models": {"1": "x", "10": None}}


def test_a_label_is_on_the_disk_when_the_call_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(labels.os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
    append_label(path, A)
    assert synced and synced[0] == path.read_bytes() != b""


def test_undo_takes_back_the_last_label_of_its_session_only(path):
    append_label(path, A, session="ann")
    append_label(path, B, session="ann")
    append_label(path, C, session="ben")
    size = path.stat().st_size
    assert undo_label(path, "ann") == B
    assert path.stat().st_size > size  # nothing was removed from the file
    assert read_labels(path) == ([A, C], [])
    append_label(path, B, session="ann")
    assert undo_label(path, "ann") == B
    assert undo_label(path, "ann") == A
    assert undo_label(path, "ann") is None
    assert read_labels(path) == ([C], [])


def damage(path: Path, line: int, change) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[line] = change(lines[line])
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line[: len(line) // 2],
        lambda line: line.replace(b"good", b"grim"),  # still a valid record, but not what was written
        lambda line: line.replace(b"good", b"g\xffod"),
        lambda line: b"\x00" * len(line),
        lambda line: b'{"texts": ["a", "b"], "ranks": [0, 1]}',
        lambda line: b"[1, 2]",
        lambda line: line + b"}",
    ],
)
def test_a_damaged_line_is_reported_and_costs_one_label(path, change):
    for ranking in (C, A, B):
        append_label(path, ranking)
    damage(path, 1, change)
    found, problems = read_labels(path)
    assert found == [C, B]
    assert len(problems) == 1 and "labels.jsonl, line 2 is damaged and was skipped" in problems[0]
    append_label(path, A)
    assert read_labels(path)[0] == [C, B, A]


def test_a_line_cut_by_a_crash_does_not_take_the_next_with_it(path):
    append_label(path, A)
    append_label(path, B)
    path.write_bytes(path.read_bytes()[:-20])
    append_label(path, C)
    found, problems = read_labels(path)
    assert found == [A, C] and len(problems) == 1
    assert undo_label(path) == C


def test_an_undo_of_a_damaged_label_takes_no_other(path):
    append_label(path, A)
    append_label(path, B)
    undo_label(path)
    damage(path, 1, lambda line: line[:-9])
    assert read_labels(path)[0] == [A]


def test_only_rankings_are_labels(path):
    with pytest.raises(TypeError, match="a label is a Ranking"):
        append_label(path, (("a", "b"), (0, 1)))
    assert not path.exists()


WRITER = """
import sys
from pathlib import Path
from rlhf_lib.labels import append_label
from rlhf_lib.preferences import Ranking
path = Path(sys.argv[1])
path.with_name("ready").touch()
for i in range(40):
    append_label(path, Ranking(("other", str(i)), (0, 1)))
"""


def test_two_processes_write_to_one_file(path):
    path.parent.mkdir()
    other = subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=Path(rlhf_lib.__file__).parents[1])
    while not path.with_name("ready").exists() and other.poll() is None:
        time.sleep(0.01)
    for i in range(40):
        append_label(path, Ranking(("own", str(i)), (0, 1)))
    assert other.wait(timeout=300) == 0
    found, problems = read_labels(path)
    assert problems == [] and len(found) == 80
    for name in ("own", "other"):
        assert [int(ranking.texts[1]) for ranking in found if ranking.texts[0] == name] == list(range(40))
