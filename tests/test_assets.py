"""Fetching: from a small package index made here, with every way that it can go wrong."""

import dataclasses
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest

from rlhf_lib import assets, cli

WORDS = b"not bad at all\n"


def make_archive(path: Path, words: bytes = WORDS) -> Path:
    """A source archive of the made-up project demo-words; its set-up script must never be run."""
    files = {"PKG-INFO": b"Name: demo-words\nVersion: 1.0\n", "setup.py": b"raise SystemExit('set-up ran')\n"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**files, "words.txt": words}.items():
            entry = tarfile.TarInfo(f"demo_words-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def build(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        (folder / "words.txt").write_bytes(opened.extractfile("demo_words-1.0/words.txt").read())
    (folder / "made.txt").write_text("made here", encoding="utf-8")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a pip that knows no index but the folder `index`."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def demo(cache, tmp_path, monkeypatch) -> assets.Asset:
    """A small asset that the index has. `fetch` knows it by name."""
    archive = make_archive(tmp_path / "index" / "demo_words-1.0.tar.gz")
    asset = assets.Asset(
        name="demo",
        title="Demo words",
        requirement="demo-words==1.0",
        archive=archive.name,
        sha256=assets.sha256(archive),
        files={"words.txt": assets.sha256(_file(tmp_path / "words.txt", WORDS)), "made.txt": None},
        build=build,
        download_mb=1,
        free_mb=1,
    )
    monkeypatch.setitem(assets.ASSETS, "demo", asset)
    return asset


@pytest.fixture
def by_copy(demo, tmp_path, monkeypatch) -> assets.Asset:
    """The same, but pip's part is played by a copy, which is quicker; counts its downloads in `downloads.txt`."""

    def download(asset, temporary):
        with (tmp_path / "downloads.txt").open("a") as log:
            log.write("x")
        return Path(shutil.copy(tmp_path / "index" / asset.archive, temporary))

    monkeypatch.setattr(assets, "_download", download)
    return demo


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def downloads(tmp_path: Path) -> int:
    return len((tmp_path / "downloads.txt").read_text())


def visible(cache: Path) -> list[str]:
    """What is in the cache apart from lock files."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.exists() else []


class FakePip:
    """Stands in for the pip process: prints `output`, and leaves `archive` where pip would."""

    output, archive, returncode = b"", b"", 1

    def __init__(self, command, **_):
        if self.archive:
            Path(command[command.index("-d") + 1], "demo_words-1.0.tar.gz").write_bytes(self.archive)

    def communicate(self, timeout):
        return self.output, None

    def poll(self):
        return self.returncode


def fake_pip(monkeypatch, **attributes) -> None:
    monkeypatch.setattr(assets.subprocess, "Popen", type("Pip", (FakePip,), attributes))


# --- where the cache is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "~/.cache/rlhf-course"),
        ("linux", {"XDG_CACHE_HOME": "/quick/disk"}, "/quick/disk/rlhf-course"),
        ("darwin", {}, "~/Library/Caches/rlhf-course"),
        ("win32", {"LOCALAPPDATA": "/users/me/local"}, "/users/me/local/rlhf-course"),
        ("win32", {}, "~/AppData/Local/rlhf-course"),
        ("linux", {"RLHF_CACHE": "~/elsewhere", "XDG_CACHE_HOME": "/quick/disk"}, "~/elsewhere"),
    ],
)
def test_cache_folder_of_each_platform(monkeypatch, platform, variables, expected):
    for name in ("RLHF_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert assets.cache_dir() == Path(expected).expanduser()


# --- what goes right -------------------------------------------------------------------------------------------------


def test_pip_fetches_once_and_runs_no_code_of_the_archive(demo, cache, monkeypatch, capfd):
    assert not assets.is_cached(demo)
    folder = assets.fetch("demo")
    assert (folder / "words.txt").read_bytes() == WORDS
    assert visible(cache) == ["demo-1.0"]  # no half-made folder beside it
    said = capfd.readouterr()
    assert said.out == "" and "downloading" in said.err and "set-up ran" not in said.err
    fake_pip(monkeypatch, output=b"a second download")
    assert assets.is_cached(demo)
    assert assets.fetch("demo", verify=True) == folder
    assert capfd.readouterr().err == ""


def test_what_a_killed_process_left_is_cleaned_up(by_copy, cache):
    left = cache / ".demo-1.0.part-abc"
    left.mkdir(parents=True)
    (left / "half.bin").write_bytes(b"0" * 100)
    assets.fetch(by_copy)
    assert visible(cache) == ["demo-1.0"]


def test_a_read_only_cache_can_be_used(by_copy, cache, monkeypatch):
    folder = assets.fetch(by_copy)
    monkeypatch.setattr(assets, "FileLock", None)  # a lock would have to be written
    assert assets.fetch(by_copy) == folder


PROCESS = """
import sys, time
from pathlib import Path
from rlhf_lib import assets

def build(archive, folder):
    with open({log!r}, "a") as log:
        log.write("built ")
    time.sleep(0.5)
    (folder / "words.txt").write_bytes(b"not bad at all\\n")

files = {{"words.txt": None}}
asset = assets.Asset("demo", "Demo words", "demo-words==1.0", "demo_words-1.0.tar.gz", {sha256!r}, files, build, 1, 1)
assets._download = lambda asset, temporary: Path({archive!r})
print(assets.fetch(asset))
"""


def test_of_two_processes_one_downloads_and_the_other_waits(demo, cache, tmp_path):
    log, archive = tmp_path / "log.txt", tmp_path / "index" / demo.archive
    script = PROCESS.format(log=str(log), sha256=demo.sha256, archive=str(archive))
    command = [sys.executable, "-c", script]
    root = Path(assets.__file__).parents[1]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0] and (cache / "demo-1.0" / "words.txt").read_bytes() == WORDS
    assert log.read_text() == "built "
    assert sum(b"waiting" in err for _, err in said) <= 1  # none if the first had finished before the second looked


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def forge(folder: Path) -> None:
    """Change a file and make the manifest agree: only the pinned digest can tell."""
    flip(folder / "words.txt")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["words.txt"]["sha256"] = assets.sha256(folder / "words.txt")
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGE = {
    "a changed byte": lambda folder: flip(folder / "words.txt"),
    "a changed byte in what was made here": lambda folder: flip(folder / "made.txt"),
    "a cut file": lambda folder: (folder / "words.txt").write_bytes(WORDS[:5]),
    "a missing file": lambda folder: (folder / "made.txt").unlink(),
    "a forged manifest": forge,
    "a broken manifest": lambda folder: (folder / "manifest.json").write_text("{"),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a manifest of something else": lambda folder: (folder / "manifest.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_fetched_again(by_copy, cache, tmp_path, capfd, damage):
    folder = assets.fetch(by_copy)
    DAMAGE[damage](folder)
    assert not assets.is_cached(by_copy)
    assets.fetch(by_copy)
    assert "is refused" in capfd.readouterr().err
    assert (folder / "words.txt").read_bytes() == WORDS
    assert downloads(tmp_path) == 2
    assert assets.is_cached(by_copy)


def test_an_old_archive_does_not_pass_for_a_new_one(by_copy, tmp_path):
    assets.fetch(by_copy)
    archive = make_archive(tmp_path / "index" / by_copy.archive, WORDS + b"more")
    newer = dataclasses.replace(by_copy, sha256=assets.sha256(archive), files={"words.txt": None})
    assert (assets.fetch(newer) / "words.txt").read_bytes() == WORDS + b"more"


def test_large_files_are_hashed_on_request_only(by_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ALWAYS_HASHED", 4)
    folder = assets.fetch(by_copy)
    flip(folder / "words.txt")
    assert assets.is_cached(by_copy) and assets.fetch(by_copy) == folder and downloads(tmp_path) == 1
    assets.fetch(by_copy, verify=True)
    assert (folder / "words.txt").read_bytes() == WORDS and downloads(tmp_path) == 2


def test_a_damaged_copy_is_gone_even_if_it_cannot_be_replaced(by_copy, cache, monkeypatch):
    folder = assets.fetch(by_copy)
    flip(folder / "words.txt")
    monkeypatch.undo()
    monkeypatch.setenv("RLHF_CACHE", str(cache))
    fake_pip(monkeypatch, output=b"WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError")
    with pytest.raises(assets.AssetError, match="cannot be reached"):
        assets.fetch(by_copy)
    assert visible(cache) == []


# --- what goes wrong on the way --------------------------------------------------------------------------------------


def test_pip_refuses_a_wrong_archive(demo, cache, tmp_path):
    make_archive(tmp_path / "index" / demo.archive, b"something else\n")
    with pytest.raises(assets.AssetError, match="pinned SHA-256 and was refused") as error:
        assets.fetch(demo)
    assert one_sentence(error.value)
    assert visible(cache) == []


def test_a_wrong_archive_is_refused_even_if_pip_takes_it(demo, cache, monkeypatch):
    fake_pip(monkeypatch, archive=b"something else", returncode=0)
    with pytest.raises(assets.AssetError, match="pinned SHA-256 and was refused"):
        assets.fetch(demo)
    assert visible(cache) == []


def test_an_archive_with_other_contents_is_refused(by_copy, cache):
    expecting = dataclasses.replace(by_copy, files={"words.txt": "0" * 64})
    with pytest.raises(assets.AssetError, match=r"does not hold .* \(words.txt is not the pinned file\)"):
        assets.fetch(expecting)
    assert visible(cache) == []


def test_an_index_without_the_package(demo, tmp_path):
    (tmp_path / "index" / demo.archive).unlink()
    with pytest.raises(assets.AssetError, match="your package index has no demo_words-1.0.tar.gz") as error:
        assets.fetch(demo)
    assert one_sentence(error.value)


def test_no_network(demo, cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(assets.AssetError, match="connect to the network and run `rlhf fetch demo`") as error:
        assets.fetch(demo)
    assert one_sentence(error.value)
    assert visible(cache) == []


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"OSError: [Errno 28] No space left on device", "the disk of .* is full"),
        (b"ERROR: Could not install packages: [Errno 122] Disk quota exceeded", "the disk of .* is full"),
        (b"WARNING: something\nERROR: no luck today\n", "it said: ERROR: no luck today"),
        (b"ERROR: Exception:\nTraceback (most recent call last):\nValueError: odd\n", "it said: ValueError: odd"),
        (b"", "it said: nothing"),
    ],
)
def test_what_pip_said_in_one_sentence(demo, cache, monkeypatch, output, expected):
    fake_pip(monkeypatch, output=output)
    with pytest.raises(assets.AssetError, match=expected) as error:
        assets.fetch(demo)
    assert one_sentence(error.value)
    assert visible(cache) == []


def one_sentence(error: Exception) -> bool:
    text = str(error)
    return "\n" not in text and "Traceback" not in text and len(text) < 400


def test_no_pip(demo, monkeypatch):
    find = assets.importlib.util.find_spec
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    with pytest.raises(assets.AssetError, match="ensurepip.*uv pip install pip.*rlhf fetch demo"):
        assets.fetch(demo)


def test_what_building_needs_is_asked_for_before_the_download(by_copy, tmp_path):
    with pytest.raises(assets.AssetError, match=r'package no_such_module: pip install "rlhf-lib\[smol\]"'):
        assets.fetch(dataclasses.replace(by_copy, needs=("no_such_module", "smol")))
    assert not (tmp_path / "downloads.txt").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),  # as safetensors has it
    ],
)
def test_a_full_disk_leaves_nothing_half_written(by_copy, cache, error):
    def full(archive, folder):
        (folder / "words.txt").write_bytes(WORDS[:3])
        raise error

    with pytest.raises(assets.AssetError, match="disk of .* is full; free 1 MB") as raised:
        assets.fetch(dataclasses.replace(by_copy, build=full))
    assert one_sentence(raised.value)
    assert visible(cache) == []


def test_too_little_space_is_noticed_before_the_download(by_copy, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10, 10))
    with pytest.raises(assets.AssetError, match="is full"):
        assets.fetch(by_copy)
    assert not (tmp_path / "downloads.txt").exists()


def test_a_cache_that_cannot_be_written(by_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_CACHE", str(_file(tmp_path / "file", b"")))
    with pytest.raises(assets.AssetError, match="cannot be used.*set RLHF_CACHE"):
        assets.fetch(by_copy)


def test_an_interrupt_leaves_nothing_half_written(by_copy, cache):
    def interrupted(archive, folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assets.fetch(dataclasses.replace(by_copy, build=interrupted))
    assert visible(cache) == []


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_prints_where_things_are(by_copy, cache, capsys):
    assert cli.main(["fetch", "demo", "--verify"]) == 0
    assert capsys.readouterr().out == f"demo: {cache / 'demo-1.0'}\n"


def test_command_fetches_the_ratings_by_default(by_copy, cache, monkeypatch, capsys):
    monkeypatch.setitem(assets.ASSETS, "ratings", dataclasses.replace(by_copy, name="ratings"))
    assert cli.main(["fetch"]) == 0
    assert capsys.readouterr().out == f"ratings: {cache / 'ratings-1.0'}\n"


def test_command_fails_in_one_line(demo, monkeypatch, capsys):
    fake_pip(monkeypatch, output=b"ERROR: No matching distribution found for demo-words==1.0")
    assert cli.main(["fetch", "demo"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith("rlhf: Demo words: your package index has no")


def test_command_names_what_there_is(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fetch", "ratngs"])
    assert stopped.value.code == 2
    assert "choose from ratings, smollm2" in capsys.readouterr().err


# --- the real ones ---------------------------------------------------------------------------------------------------


def test_real_ratings_are_the_pinned_ones(rated):
    files = assets.ratings_files(verify=True)
    assert set(files) == {name + kind for name in ("movie", "amazon", "nyt", "tweets") for kind in ("", "_ratings")}
    for path in files.values():
        assert assets.sha256(path) == assets.RATINGS.files[path.name]


@pytest.mark.slow
def test_real_smollm2_loads_as_an_ordinary_float32_model():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        folder = assets.smollm2_dir()
    except assets.AssetError as error:
        pytest.skip(str(error))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.num_parameters() == 134_515_008
    assert tokenizer.tokenize("in  1999") == ["in", "ĠĠ", "1", "9", "9", "9"]
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model(**ids).logits[0, -1].argmax()) == " Paris"
