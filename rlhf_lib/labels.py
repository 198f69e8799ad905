"""Durable storage of preference labels: a text file to which lines are only ever added.

Each line is one JSON record: a label, or the undoing of one. A record is on the disk when the call that wrote it
returns, and carries a checksum, so that after a crash or a careless edit every undamaged label is still there and every
damaged line is reported rather than believed. Several people or notebooks can write to one file.
"""

import json
import os
import uuid
import zlib
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock

from rlhf_lib.preferences import Ranking


def append_label(path: str | Path, ranking: Ranking, *, session: str = "", **meta: object) -> str:
    """Add a label to the file (created if need be) and return its id. It survives a crash right after.

    Args:
        session: who or what labelled; `undo_label` takes back the last label of one session.
        meta: anything else worth keeping that JSON can hold, such as seconds taken or the model that wrote the texts.
    """
    if not isinstance(ranking, Ranking):
        raise TypeError(f"a label is a Ranking, not {type(ranking).__name__}")
    record = {
        "id": uuid.uuid4().hex[:12],
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "session": session,
        "texts": list(ranking.texts),
        "ranks": list(ranking.ranks),
        "meta": meta,
    }
    path = Path(path)
    with _only_writer(path):
        _append(path, record)
    return record["id"]


def undo_label(path: str | Path, session: str = "") -> Ranking | None:
    """Take back the last label of a session; call again for the one before. Returns it, or None if there is none left.

    The label stays in the file, followed by a record that undoes it.
    """
    path = Path(path)
    with _only_writer(path):
        labels, _ = _replay(path)
        own = [(key, ranking) for key, (whose, ranking) in labels.items() if whose == session]
        if not own:
            return None
        key, ranking = own[-1]
        _append(path, {"undo": key, "session": session})
    return ranking


def read_labels(path: str | Path) -> tuple[list[Ranking], list[str]]:
    """The labels in the file that were not undone, oldest first, and a sentence for each line that had to be skipped.

    A file that does not exist holds no labels.
    """
    labels, problems = _replay(Path(path))
    return [ranking for _, ranking in labels.values()], problems


def _replay(path: Path) -> tuple[dict[str, tuple[str, Ranking]], list[str]]:
    """Labels by id, as (session, ranking) in the order written, and the problems met."""
    labels: dict[str, tuple[str, Ranking]] = {}
    problems = []
    if not path.exists():
        return labels, problems
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))  # line by line, so that one bad byte costs one line
            if not isinstance(record, dict):
                raise ValueError("not a record")
            if record.pop("crc", None) != _checksum(record):
                raise ValueError("its checksum does not match: the line was changed or cut")
            if "undo" in record:
                labels.pop(record["undo"], None)
            else:
                ranking = Ranking(tuple(record["texts"]), tuple(record["ranks"]))
                labels[record["id"]] = (record["session"], ranking)
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{path.name}, line {number} is damaged and was skipped ({error})")
    return labels, problems


def _append(path: Path, record: Mapping[str, object]) -> None:
    """Write one line in one go and wait until it is on the disk."""
    record = json.loads(json.dumps(record))  # as it will be read back, or the checksum of, say, {1: 2} would not match
    line = json.dumps({**record, "crc": _checksum(record)}, ensure_ascii=False).encode() + b"\n"
    new = not path.exists()
    with path.open("ab") as file:
        if file.tell() > 0 and not _ends_a_line(path):
            line = b"\n" + line  # a crash cut the last line short; ours must not be joined to it
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if new and os.name == "posix":  # the directory entry of a new file has to reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _checksum(record: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True, ensure_ascii=False).encode())


def _only_writer(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")
