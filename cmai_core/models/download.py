"""Downloads of models in a process of their own: their size is known first, their progress is told, Cancel ends them.

A hub may be slow, lie, or offer more than the disk holds. Nothing of that can be stopped inside a library's call, so it
happens in a child: the parent holds no lock meanwhile, watches, and ends it. Afterwards everything lies in the caches
that `load_model` looks into without a network.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cmai_core.errors import CmaiError, ModelError
from cmai_core.models.hub import weight_files
from cmai_core.progress import CancelToken, Progress, ProgressCallback

MAX_BYTES = 5_000_000_000
RESERVE = 2_000_000_000
"""Bytes of the disk that a download leaves free."""
STALLED = 120.0
"""Seconds without a new byte after which a download is given up."""
LONGEST = 3600.0
_ROOT = Path(__file__).resolve().parents[2]
_CONFIG = "open_clip_config.json"
_TOKENIZER_FILES = frozenset(
    (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "config.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    )
)
_SMALL_FILES = _TOKENIZER_FILES | {_CONFIG}
_TOWER_FILES = frozenset(("config.json",))
_MOST_CONFIG = 1_000_000
_MORE_TOKENS = 50_000_000
"""Most bytes that the files beside weights may have: the largest vocabularies in use have 20 million."""


def is_here(spec: str) -> bool:
    """Whether a model's weights are on this machine, so that loading it asks no network."""
    if spec.startswith("hf-hub:"):
        repository = spec.removeprefix("hf-hub:")
        return _cached(repository, _CONFIG) and any(_cached(repository, name) for name in weight_files(""))
    if spec.startswith("local-dir:") or "/" not in spec or re.search(r"/random(-\d+)?$", spec):
        return True
    repository, filename, url = _tag(spec)
    if repository:
        return any(_cached(repository, name) for name in weight_files(filename))
    return not url or _url_file(url).is_file()


def download(
    spec: str,
    *,
    most_bytes: int = MAX_BYTES,
    progress: ProgressCallback = lambda _: None,
    cancel: CancelToken | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Fetches what a model needs into the caches, in a child process.

    Args:
        spec: as `load_model` takes it. most_bytes: largest download in all.
        progress: told the bytes that are here, of how many. cancel: ends the child within a moment.
        environment: the child's variables (None: this process's).

    Raises:
        ModelError: it cannot be had, is too large for the bound or the disk, or comes too slowly.
        Cancelled: by the token.
    """
    command = [sys.executable, "-m", "cmai_core.models.download", spec, str(int(most_bytes))]
    variables = dict(os.environ if environment is None else environment) | {"PYTHONPATH": str(_ROOT)}
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables,
        cwd=_ROOT,
    )  # fmt: skip
    folders: list[str] = []
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(child.stdout, lines), name="cmai-download", daemon=True)
    reader.start()
    try:
        _follow(lines, spec, progress, cancel, folders)
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        reader.join(timeout=10)  # until it has read what the child said last
        child.stdout.close()
        for folder in {*folders, *_folders_in(lines)}:
            _sweep(Path(folder), child.pid)


def _follow(
    lines: queue.SimpleQueue[str],
    spec: str,
    progress: ProgressCallback,
    cancel: CancelToken | None,
    folders: list[str],
) -> None:
    """Hears the child out, until it has finished, failed, stood still or been cancelled."""
    begun = moved = time.monotonic()
    last = -1
    while True:
        if cancel is not None:
            cancel.check()
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            now = time.monotonic()
            if now - moved > STALLED or now - begun > LONGEST:
                raise ModelError(f"{spec} comes too slowly: the download was given up.", "Try again later.") from None
            continue
        if not line:
            raise ModelError(f"The download of {spec} ended without a word.", "There may be too little disk or memory.")
        told: dict[str, Any] = json.loads(line)
        if "message" in told:
            raise ModelError(told["message"], told["hint"])
        if told.get("ok"):
            return
        folders += [name for name in told.get("folders", ()) if name not in folders]
        if told.get("done", last) != last:
            last, moved = told["done"], time.monotonic()
        if "done" in told:
            progress(Progress(told["done"], told["total"], f"Downloading {spec}", {"count": _words(told)}))


def _read(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed: the parent has ended the child
        pass
    lines.put("")


def _folders_in(lines: queue.SimpleQueue[str]) -> list[str]:
    """The folders named in what the child has said and nobody has heard."""
    found: list[str] = []
    while not lines.empty():
        try:
            found += json.loads(lines.get() or "{}").get("folders", ())
        except ValueError:  # a line that the child was ended in
            continue
    return found


def _words(told: Mapping[str, int]) -> str:
    return f"{told['done'] / 1e6:,.0f} of {told['total'] / 1e6:,.0f} MB"


def _mark(folder: Path, pid: int) -> Path:
    return folder / f".cmai-{pid}.json"


def _sweep(folder: Path, pid: int) -> None:
    """Removes what a child that was ended left half-written: all unfinished files that were not there before it."""
    mark = _mark(folder, pid)
    unfinished = list(folder.glob("*.incomplete"))
    try:
        before = set(json.loads(mark.read_text()))
    except (OSError, ValueError):  # no note, or half of one: it was ended before anything came in
        unfinished, before = [], set()
    with suppress(OSError):
        for path in (path for path in unfinished if path.name not in before):
            path.unlink(missing_ok=True)
        mark.unlink(missing_ok=True)


def _cached(repository: str, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, name), str)
    except HFValidationError:
        return False


def _tag(spec: str) -> tuple[str, str, str]:
    """(repository, file name, URL) of an open_clip architecture's tag; empty where there is none."""
    from open_clip.pretrained import get_pretrained_cfg

    architecture, tag = spec.rsplit("/", 1)
    found = get_pretrained_cfg(architecture.replace("/", "-"), tag) or {}
    repository, _, filename = (found.get("hf_hub") or "").rpartition("/")
    return repository, filename, str(found.get("url") or "")


def _url_file(url: str) -> Path:
    """Where open_clip keeps what it fetches by URL."""
    return Path("~/.cache/clip").expanduser() / url.rsplit("/", 1)[-1]


# --- in the child -----------------------------------------------------------------------------------------------------


class _Fetch:
    """Collects the files of a model with their sizes, then fetches them."""

    def __init__(self, most_bytes: int, tell: Callable[..., None]):
        from huggingface_hub import HfApi

        self.api, self.most_bytes, self.tell = HfApi(), most_bytes, tell
        self.wanted: list[tuple[str, str, int]] = []

    def repository(self, name: str, weights: list[str] | None, small: frozenset[str] = _SMALL_FILES) -> None:
        """Adds the small files of a repository (configuration and vocabulary), and the first of its weights."""
        info = self.api.model_info(name, files_metadata=True, timeout=30)
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        beside = [file for file in sizes if file in small]
        if sum(sizes[file] or 0 for file in beside) > _MORE_TOKENS:
            raise ModelError(f"The files beside the weights of {name} are too large.", "Choose another model.")
        chosen = next((file for file in weights or () if file in sizes), None)
        if weights is not None and chosen is None:
            raise ModelError(f"{name} has no weights that can be read.", "Choose another repository.")
        for file in [*beside, *([chosen] if chosen else [])]:
            if sizes[file] is None:
                raise ModelError(f"The hub does not say how large {file} of {name} is.", "Choose another model.")
            entry = (name, file, int(sizes[file]))
            if entry not in self.wanted and not _cached(name, file):
                self.wanted.append(entry)

    def run(self) -> None:
        """Fetches everything, the weights last: where they are, all else is."""
        from huggingface_hub import constants

        self.wanted.sort(key=lambda entry: (entry[1] not in _SMALL_FILES, entry[2]))
        total, done = sum(size for *_, size in self.wanted), 0
        _room(Path(constants.HF_HUB_CACHE), total, self.most_bytes)
        for repository, file, size in self.wanted:
            self._one(repository, file, size, done, total)
            done += size
            self.tell(done=done, total=total)

    def config(self, repository: str) -> Any:
        """The contents of a repository's configuration, fetched before the rest: it says what else is needed.

        Raises:
            ValueError: it is no JSON.
        """
        path = self._one(repository, _CONFIG, _MOST_CONFIG, 0, sum(size for *_, size in self.wanted))
        return json.loads(path.read_text(encoding="utf-8"))

    def _one(self, repository: str, file: str, size: int, done: int, total: int) -> Path:
        from huggingface_hub import constants, hf_hub_download

        blobs = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs"
        with _watched(blobs, done, total, self.tell):
            _bound(size)
            return Path(hf_hub_download(repository, file))


def _room(folder: Path, total: int, most_bytes: int) -> None:
    """Refuses what is over the bound, or more than the disk or the memory could hold."""
    if total > most_bytes:
        raise ModelError(
            f"The download has {total / 1e9:.1f} GB; the limit of this lab is {most_bytes / 1e9:g} GB.",
            "Choose a smaller model.",
        )
    if 2 * total > _memory():  # while it is loaded, weights lie there twice
        raise ModelError(
            f"The download has {total / 1e9:.1f} GB, more than this machine's memory can hold.",
            "Choose a smaller model.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if total + RESERVE > free:
        raise ModelError(
            f"The download has {total / 1e9:.1f} GB, and the disk has too little room for it.",
            "Choose a smaller model.",
        )


def _memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return float("inf")


@contextmanager
def _watched(folder: Path, done: int, total: int, tell: Callable[..., None]) -> Iterator[None]:
    """Tells how much of a file is there while it comes in; leaves a note of the unfinished files that were there."""
    folder.mkdir(parents=True, exist_ok=True)
    before = [path.name for path in folder.glob("*.incomplete")]
    tell(folders=[str(folder)])  # before there is anything to sweep
    _mark(folder, os.getpid()).write_text(json.dumps(before))
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            new = (path for path in folder.glob("*.incomplete") if path.name not in before)
            tell(done=min(total, done + sum(_size(path) for path in new)), total=total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _mark(folder, os.getpid()).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bound(size: int) -> None:
    """No file of this process grows beyond its announced size: a hub may send more than it said."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1_000_000, resource.RLIM_INFINITY))
    except (ImportError, ValueError, OSError):
        return


def _fetch_url(url: str, most_bytes: int, tell: Callable[..., None]) -> None:
    """Fetches weights that open_clip knows by a URL to where it looks for them."""
    import urllib.request

    target = _url_file(url)
    with urllib.request.urlopen(url, timeout=30) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        if not total:
            raise ModelError("The server does not say how large the weights are.", "Choose another model.")
        _room(target.parent, total, most_bytes)
        part = target.with_name(f"{target.name}.{os.getpid()}.incomplete")
        with _watched(target.parent, 0, total, tell), part.open("wb") as out:
            left = total
            while left and (piece := answer.read(min(left, 1 << 20))):
                out.write(piece)
                left -= len(piece)
        if left:
            part.unlink(missing_ok=True)
            raise ModelError("The weights came in only in part.", "Try again.")
        os.replace(part, target)


def _fetch(spec: str, most_bytes: int, tell: Callable[..., None]) -> None:
    fetch = _Fetch(most_bytes, tell)
    if spec.startswith("hf-hub:"):
        repository = spec.removeprefix("hf-hub:")
        if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is None:
            raise ModelError(f"{spec!r} names no repository.", "Write hf-hub:organisation/repository.")
        fetch.repository(repository, weight_files(""))
        _others_of(repository, fetch)
        fetch.run()
        return
    import open_clip

    repository, filename, url = _tag(spec)
    if not repository and not url:
        raise ModelError(f"open_clip has no weights for {spec}.", "Choose another model.")
    config = open_clip.get_model_config(spec.rsplit("/", 1)[0].replace("/", "-")) or {}
    name = (config.get("text_cfg") or {}).get("hf_tokenizer_name")
    if name:
        fetch.repository(str(name), None)
    if repository:
        fetch.repository(repository, weight_files(filename))
    fetch.run()
    if not repository:
        _fetch_url(url, most_bytes, tell)


def _others_of(repository: str, fetch: _Fetch) -> None:
    """Adds what the configuration says lies elsewhere: a vocabulary that is not beside the weights, and the
    configuration of a Hugging Face text tower. Only of repositories that `load_model` follows."""
    from cmai_core.models.configuration import known_repositories

    try:
        text = fetch.config(repository)["model_cfg"]["text_cfg"]
        vocabulary, tower = text.get("hf_tokenizer_name"), text.get("hf_model_name")
    except (KeyError, TypeError, AttributeError, ValueError):
        return  # `load_model` says what is wrong with it
    own = any(entry[:2] == (repository, "tokenizer.json") for entry in fetch.wanted)
    wanted = [] if own or _cached(repository, "tokenizer.json") else [(vocabulary, _SMALL_FILES)]
    for name, small in [*wanted, (tower, _TOWER_FILES)]:
        if isinstance(name, str) and name in known_repositories():
            fetch.repository(name, None, small)


def _child(spec: str, most_bytes: int) -> None:
    """Fetches a model; tells what happens in lines of JSON; ends with its parent."""
    lock = threading.Lock()

    def tell(**words: Any) -> None:
        with lock:
            print(json.dumps(words), flush=True)

    def end_with_the_parent() -> None:
        sys.stdin.read()  # until it is closed, however the parent ends
        os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    try:
        _fetch(spec, most_bytes, tell)
    except CmaiError as error:
        tell(message=error.message, hint=error.hint)
    except Exception as error:
        tell(message=f"{spec} could not be downloaded ({type(error).__name__}).", hint="Check its name, or try later.")
    else:
        tell(ok=True)


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]))
