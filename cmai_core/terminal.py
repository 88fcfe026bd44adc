"""What commands share: how they end, what they print and write, JSON with clear errors, progress, Ctrl+C."""

from __future__ import annotations

import codecs
import io
import json
import os
import signal
import sys
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmai_core.errors import Cancelled, CmaiError, CmaiWarning, DataError, OptionError
from cmai_core.files import check_writable, is_stdout
from cmai_core.progress import CancelToken, Progress

SHARE_AND_TIME = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
SHARE_AND_WORDS = "{percentage:3.0f}%|{bar}| {desc}"
"""Forms of a progress bar."""


class Interrupted(Cancelled):
    """A command that was interrupted, with what is said then."""


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command: what it returns (None: 0), 2 after a mistake that a person can mend, 130 when it was interrupted.

    Where the reader of the output has gone (`cmai models | head`), it ends quietly.
    """
    printable()
    try:
        with _warnings_said():
            status = command() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        _abandon_stdout()
        return 0
    except CmaiError as error:
        _complain(f"{shown(error.message)}\n{shown(error.hint)}".rstrip())
        return 2
    except OSError as error:  # what the system refuses is no fault of the program
        if error.filename is None:
            _abandon_stdout()
        where = "The output" if error.filename is None else shown(str(error.filename))
        reason = error.strerror or str(error)
        _complain(f"{where} cannot be used: {reason}.\nCheck the path, its rights, and that there is space.")
        return 2
    except MemoryError:
        _complain("There is not enough memory.\nTake fewer pairs, a smaller batch or a smaller model.")
        return 2
    except (Cancelled, KeyboardInterrupt) as stopped:
        _complain(str(stopped) if isinstance(stopped, Interrupted) else "Interrupted.")
        return 130


def shown(text: str, *, lines: bool = False) -> str:
    """Return a text from a file or a name, safe for a terminal: what would move the cursor or hide words is spelt out.

    Args:
        lines: keep line ends and tabs.
    """
    kept = "\u200c\u200d" + ("\n\t" if lines else "")  # joiners shape letters in several scripts
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        sign if sign in kept or unicodedata.category(sign) not in hidden else sign.encode("unicode_escape").decode()
        for sign in text
    )


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Say the library's own warnings in one line on stderr each, every time; those of others as Python shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CmaiWarning)
        others = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, CmaiWarning):
                _complain(f"note: {shown(str(message))}")
            else:
                others(message, category, *where, **more)

        warnings.showwarning = say
        yield


def printable() -> None:
    """Make output that the terminal's encoding lacks a sign for readable instead of an error (→ becomes ->)."""
    codecs.register_error("cmai", _plain_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cmai")


_PLAIN = {
    "→": "->", "–": "-", "−": "-", "×": "x", "…": "...", "≤": "<=", "≥": ">=", "ε": "eps", "τ": "tau", "α": "alpha",
    "β": "beta", "λ": "lambda", "δ": "delta", "Δ": "Delta", "²": "2", "₂": "2", "∞": "inf", "√": "sqrt", "·": "*",
}  # fmt: skip


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _complain(text: str) -> None:
    with suppress(OSError, AttributeError):  # no stderr, or nobody reads it
        print(text, file=sys.stderr, flush=True)


def _abandon_stdout() -> None:
    """Send what is still to be printed nowhere: it would fail again when Python ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@dataclass(frozen=True)
class Table:
    """Rows of texts, the first of which are the columns' names where `head` is true.

    In a pipe or a file they are aligned plain text; on a terminal Rich draws them.
    """

    rows: Sequence[Sequence[str]]
    head: bool = True

    def __str__(self) -> str:
        rows = [[shown(text) for text in row] for row in self.rows]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = ("  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def drawn(self) -> Any:
        """Return the table as Rich draws it; what could move the cursor is spelt out."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as Drawn
        from rich.text import Text

        rows = [[Text(shown(text)) for text in row] for row in self.rows]
        names = rows.pop(0) if self.head else [""] * len(rows[0])
        drawn = Drawn(box=SIMPLE_HEAD if self.head else None, show_header=self.head, pad_edge=False)
        for name in names:
            drawn.add_column(name)
        for row in rows:
            drawn.add_row(*row)
        return drawn


Text = str | Table


def deliver(text: Text | Sequence[Text] = "", files: Sequence[tuple[Path | None, Callable[[Path], None]]] = ()) -> None:
    """Print what a command found, then write its files. Nothing that fails keeps the rest back.

    Args:
        text: goes to stderr where a file is stdout, so that stdout holds the file alone.
        files: paths (None: not asked for) with what writes each.

    Raises:
        DataError: a file could not be written; of several, the first.
        BrokenPipeError, OSError: standard output could not be written.
    """
    wanted = [(path, write) for path, write in files if path is not None]
    first: Exception | None = None
    try:
        _say(text, sys.stderr if any(is_stdout(path) for path, _ in wanted) else sys.stdout)
    except OSError as error:
        first = error
    for path, write in wanted:
        try:
            write(path)
        except (CmaiError, OSError) as error:
            if first is None or isinstance(first, BrokenPipeError):
                first = error if isinstance(error, BrokenPipeError) else _kept_elsewhere(path, write, error)
    if first is not None:
        raise first


def _say(text: Text | Sequence[Text], stream: Any) -> None:
    for part in [text] if isinstance(text, (str, Table)) else text:
        if isinstance(part, Table) and stream is not None and stream.isatty():
            from rich.console import Console

            Console(file=stream).print(part.drawn())
        else:
            print(shown(str(part), lines=True), end="\n" if str(part) else "", file=stream)
    if stream is not None:
        stream.flush()


def _kept_elsewhere(path: Path, write: Callable[[Path], None], error: Exception) -> Exception:
    """Work is not lost to a full disk: the file goes to the system's temporary folder, where that has space."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix="cmai-", suffix=path.suffix)
        os.close(handle)
        write(Path(name))
    except (CmaiError, OSError):
        with suppress(OSError):
            os.unlink(name)
        return error
    message = error.message if isinstance(error, CmaiError) else f"{path} cannot be written: {error}."
    return DataError(message, f"It was written to {name} instead: move it from there.")


def check_outputs(options: Mapping[str, Path | None]) -> None:
    """Check, before the work, that each of a command's files can be written, and that one at most is stdout.

    Args:
        options: an option's name → its path, None where it was not given.

    Raises:
        DataError, OptionError: they cannot.
    """
    given = {name: path for name, path in options.items() if path is not None}
    if len(shared := [name for name, path in given.items() if is_stdout(path)]) > 1:
        raise OptionError(f"{' and '.join(shared)} are both standard output.", "Give one of them a file.")
    for path in given.values():
        check_writable(path)


def read_object(path: Path, name: str, hint: str) -> dict[str, Any]:
    """Return the JSON object of a file, or what stands under `name` in it.

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
    """Show a progress bar on stderr.

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
def resumable(words: str) -> Iterator[None]:
    """Say what an interrupted command can do next: "Interrupted; the same command goes on from here."."""
    try:
        yield
    except (Cancelled, KeyboardInterrupt):
        raise Interrupted(f"Interrupted; {words}") from None


@contextmanager
def interruptible() -> Iterator[CancelToken]:
    """Let the first Ctrl+C cancel (what was found is still reported) and the second one end the program."""
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
