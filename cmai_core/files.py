"""The one writer: files appear whole or not at all, links stay links, and devices are written into, never replaced."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cmai_core.errors import DataError

STDOUT = Path("-")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK = 4096


@contextmanager
def explained(path: str | os.PathLike[str], verb: str = "written") -> Iterator[None]:
    """Turn the system's errors into one that names the file and says what to do.

    Raises:
        DataError: in place of any OSError of the block.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of our own output has gone: no mistake of anybody
        raise
    except OSError as error:
        hint = "Name a file in an existing folder you may write to."
        if error.errno in _FULL:
            hint = "Free space there, or name another place."
        elif verb == "read":
            path, hint = error.filename or path, "Check the path and its permissions."
        raise DataError(f"{path} cannot be {verb}: {error.strerror or error}.", hint) from error


def is_stdout(path: Path | None) -> bool:
    """Whether a path is this program's standard output: "-", or another name of it (/dev/stdout, a link to that)."""
    if path is None or path == STDOUT:
        return path is not None
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path that replaces `path` when all went well: readers see the old file or the new one.

    A link stays, and what it leads to is replaced. What cannot be replaced (devices, pipes, files with several names or
    in folders that cannot be written) is written into instead, once its contents are complete.

    Raises:
        DataError: it cannot be written; nothing is left behind.
    """
    with explained(path):
        target = Path(os.path.realpath(path))
        if is_stdout(path) or _stays(path, target):
            with tempfile.TemporaryDirectory(prefix="cmai-") as scratch:
                temporary = Path(scratch) / "contents"
                yield temporary
                _pour(temporary, path)
            return
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
        try:
            yield temporary
            with temporary.open("r+b") as file:  # a full disk may speak only now
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        finally:
            with suppress(OSError):  # there is none, or never could be
                temporary.unlink()


def check_writable(path: Path) -> None:
    """Find out before the work, not after it; leave everything as it is.

    Raises:
        DataError: nothing can be written there, or there is no space.
    """
    if is_stdout(path):
        return
    with explained(path):
        target = Path(os.path.realpath(path))
        if _stays(path, target):
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with tempfile.TemporaryFile(dir=target.parent, prefix=".cmai-") as probe:
            probe.write(bytes(_BLOCK))
            probe.flush()
            os.fsync(probe.fileno())


def check_folder(path: Path) -> None:
    """Check that files can be written into a folder, which is made where it is missing.

    Raises:
        DataError: it cannot be made, or nothing can be written into it.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    check_writable(path / "cmai")


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, line ends as they are (-: to stdout).

    Raises:
        DataError: it cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))  # a file's name may hold what is no character


def write_json(path: Path, data: Any) -> None:
    """Write strict JSON (-: to stdout).

    Raises:
        DataError: it cannot be written.
    """
    write_text(path, json.dumps(data, allow_nan=False, indent=1) + "\n")


def reserve(path: Path) -> None:
    """Take the space that an existing file of holes needs, so that a full disk is an error now, not a crash later.

    A mapped file that finds no space ends its process.

    Raises:
        DataError: there is not enough space.
    """
    with explained(path), path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            if shutil.disk_usage(path.parent).free < size:  # where it cannot be taken: as near as it gets
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None


def _stays(path: Path, target: Path) -> bool:
    """Whether a file must be written into, because nothing else may take its place.

    Raises:
        OSError: it may not be written at all.
    """
    try:
        found = target.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        return True
    if os.path.abspath(path).startswith(("/dev/fd/", "/proc/")):  # a file that somebody holds open
        return True
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return not os.access(target.parent, os.W_OK)


def _pour(source: Path, path: Path) -> None:
    with source.open("rb") as contents:
        if not is_stdout(path):
            try:
                with open(path, "wb") as out:
                    shutil.copyfileobj(contents, out)
            except BrokenPipeError as error:
                raise OSError(errno.EIO, "its reader has gone") from error
            return
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.flush()
        raw = getattr(sys.stdout, "buffer", None)
        if raw is None:  # a notebook's, or a test's
            sys.stdout.write(contents.read().decode("utf-8"))
        else:
            shutil.copyfileobj(contents, raw)
            raw.flush()
