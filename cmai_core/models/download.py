"""Downloads of models in a process of their own: their size is known first, their progress is told, Cancel ends them.

A hub may be slow, lie, or offer more than the disk holds. Nothing of that can be stopped inside a library's call, so it
happens in a child: the parent holds no lock meanwhile, watches, and ends it. Afterwards everything lies in the caches
that `load_model` looks into without a network.
"""

from __future__ import annotations

import json
import os
import queue
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
from cmai_core.models.families.family import family_of
from cmai_core.models.hub import cached
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
SMALL_FILES = _TOKENIZER_FILES | {_CONFIG}
TOWER_FILES = frozenset(("config.json",))
_MOST_CONFIG = 1_000_000
_MORE_TOKENS = 50_000_000
"""Most bytes that the files beside weights may have: the largest vocabularies in use have 20 million."""


def is_here(spec: str) -> bool:
    """Return whether a model's weights are on this machine, so that loading it asks no network."""
    return family_of(spec).is_here(spec)


def download(
    spec: str,
    *,
    most_bytes: int = MAX_BYTES,
    progress: ProgressCallback = lambda _: None,
    cancel: CancelToken | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Fetch what a model needs into the caches, in a child process.

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
    """Read what the child says until it has finished, failed, stood still or been cancelled."""
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
    """Return the folders named in lines of the child that have not been read yet."""
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
    """Remove what a child that was ended left half-written: all unfinished files that were not there before it."""
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


# --- in the child -----------------------------------------------------------------------------------------------------


class Fetch:
    """A download: collects the files of a model with their sizes, then fetches them."""

    def __init__(self, most_bytes: int, tell: Callable[..., None]):
        from huggingface_hub import HfApi

        self.api, self.most_bytes, self.tell = HfApi(), most_bytes, tell
        self.wanted: list[tuple[str, str, int]] = []

    def repository(self, name: str, weights: list[str] | None, small: frozenset[str] = SMALL_FILES) -> None:
        """Add the small files of a repository (configuration and vocabulary), and the first of its weights."""
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
            if entry not in self.wanted and cached(name, file) is None:
                self.wanted.append(entry)

    def run(self) -> None:
        """Fetch everything, the weights last: where they are, all else is."""
        from huggingface_hub import constants

        self.wanted.sort(key=lambda entry: (entry[1] not in SMALL_FILES, entry[2]))
        total, done = sum(size for *_, size in self.wanted), 0
        _room(Path(constants.HF_HUB_CACHE), total, self.most_bytes)
        for repository, file, size in self.wanted:
            self._one(repository, file, size, done, total)
            done += size
            self.tell(done=done, total=total)

    def config(self, repository: str) -> Any:
        """Return the contents of a repository's configuration, fetched before the rest: it says what else is needed.

        Raises:
            ValueError: it is no JSON.
        """
        path = self._one(repository, _CONFIG, _MOST_CONFIG, 0, sum(size for *_, size in self.wanted))
        return json.loads(path.read_text(encoding="utf-8"))

    def url(self, url: str, target: Path) -> None:
        """Fetch a file by its URL to where it is looked for."""
        import urllib.request

        with urllib.request.urlopen(url, timeout=30) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            if not total:
                raise ModelError("The server does not say how large the weights are.", "Choose another model.")
            _room(target.parent, total, self.most_bytes)
            part = target.with_name(f"{target.name}.{os.getpid()}.incomplete")
            with _watched(target.parent, 0, total, self.tell), part.open("wb") as out:
                left = total
                while left and (piece := answer.read(min(left, 1 << 20))):
                    out.write(piece)
                    left -= len(piece)
            if left:
                part.unlink(missing_ok=True)
                raise ModelError("The weights came in only in part.", "Try again.")
            os.replace(part, target)

    def _one(self, repository: str, file: str, size: int, done: int, total: int) -> Path:
        from huggingface_hub import constants, hf_hub_download

        blobs = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs"
        with _watched(blobs, done, total, self.tell):
            _bound(size)
            return Path(hf_hub_download(repository, file))


def _room(folder: Path, total: int, most_bytes: int) -> None:
    """Refuse what is over the bound, or more than the disk or the memory could hold."""
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
    """Return the bytes of this machine's memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return float("inf")


@contextmanager
def _watched(folder: Path, done: int, total: int, tell: Callable[..., None]) -> Iterator[None]:
    """Tell how much of a file is there while it comes in; leave a note of the unfinished files that were there."""
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
    """Keep files of this process from growing beyond their announced size: a hub may send more than it said."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1_000_000, resource.RLIM_INFINITY))
    except (ImportError, ValueError, OSError):
        return


def _child(spec: str, most_bytes: int) -> None:
    """Fetch a model; tell what happens in lines of JSON; end with the parent."""
    lock = threading.Lock()

    def tell(**words: Any) -> None:
        with lock:
            print(json.dumps(words), flush=True)

    def end_with_the_parent() -> None:
        sys.stdin.read()  # until it is closed, however the parent ends
        os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    try:
        family_of(spec).fetch(spec, Fetch(most_bytes, tell))
    except CmaiError as error:
        tell(message=error.message, hint=error.hint)
    except Exception as error:
        tell(message=f"{spec} could not be downloaded ({type(error).__name__}).", hint="Check its name, or try later.")
    else:
        tell(ok=True)


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]))
