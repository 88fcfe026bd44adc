"""What commands share: how they end, files written whole or not at all, JSON with clear errors, progress, Ctrl+C."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cmai_core.errors import Cancelled, CmaiError, DataError
from cmai_core.progress import CancelToken, Progress

SHARE_AND_TIME = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
SHARE_AND_WORDS = "{percentage:3.0f}%|{bar}| {desc}"
"""Forms of a progress bar."""


def exit_status(command: Callable[[], int | None], interrupted: str = "Interrupted.") -> int:
    """Runs a command: what it returns (None: 0), 2 after a mistake that a person can mend, 130 when it was interrupted.

    Args:
        interrupted: what is said then.
    """
    try:
        return command() or 0
    except CmaiError as error:
        print(f"{error.message}\n{error.hint}".rstrip(), file=sys.stderr)
        return 2
    except (Cancelled, KeyboardInterrupt):
        print(interrupted, file=sys.stderr)
        return 130


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when all went well: readers see the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.", "Check folder and rights.") from error
    finally:
        with suppress(OSError):  # there is none, or never could be
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Finds out before the work, not after it."""
    folder = path.parent
    if path != Path("-") and (path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
        raise DataError(f"{path} cannot be written.", "Name a file in an existing folder you may write to.")


def write_json(path: Path, data: Any) -> None:
    """Writes strict JSON (-: to stdout)."""
    text = json.dumps(data, allow_nan=False, indent=1)
    if path == Path("-"):
        print(text)
        return
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_object(path: Path, name: str, hint: str) -> dict[str, Any]:
    """The JSON object of a file, or what stands under `name` in it.

    Raises:
        DataError: it cannot be read, is not JSON, or holds no object; `hint` says what to give instead.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}.", hint) from error
    values = data.get(name, data) if isinstance(data, dict) else None
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no {name}.", hint)
    return dict(values)


@contextmanager
def progress_bar(
    quiet: bool, *, form: str | None = None, unit: str = "", words: Callable[[Progress], str] | None = None
) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on stderr.

    Args:
        form: of the bar; None: counts of `unit`. words: what it says of a progress; None: its stage.
    """
    if quiet:
        yield lambda progress: None
        return
    from tqdm import tqdm

    shape = {} if form is None else {"bar_format": form}
    bar = tqdm(unit=f" {unit}", file=sys.stderr, mininterval=0.2, leave=False, **shape)

    def show(progress: Progress) -> None:
        bar.total = progress.total or None
        bar.set_description_str(progress.stage if words is None else words(progress), refresh=False)
        bar.update(progress.done - bar.n)

    try:
        yield show
    finally:
        bar.close()


@contextmanager
def interruptible() -> Iterator[CancelToken]:
    """The first Ctrl+C cancels (what was found is still reported), the second one ends the program."""
    token = CancelToken()

    def handle(number: int, frame: Any) -> None:
        token.cancel()
        signal.signal(signal.SIGINT, before)

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread
        yield token
        return
    try:
        yield token
    finally:
        signal.signal(signal.SIGINT, before)
