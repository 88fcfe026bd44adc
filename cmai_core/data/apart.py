"""Decoding in a process of its own: what a stranger's file can cost is bounded in seconds and in memory.

`uploads.decode_image` refuses the files that are known to be costly. What nobody has thought of yet ends here with its
process, and so does what makes a decoder crash.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from cmai_core.errors import DataError

SECONDS = 10
"""Of processor time, of which the largest ordinary picture takes two."""
PATIENCE = 30.0
"""Seconds on the clock, for a machine that is busy."""
MEMORY = 2 * 1024**3
"""Bytes of address space; the largest accepted picture takes a quarter of it."""
TOGETHER = 8
"""Files that one process decodes, one after another."""
SIDE = 1024
"""Longest side of what is handed back, in pixels: several times what a model sees."""
_ROOT = Path(__file__).resolve().parents[2]
_ANEW = "Open it in an image program, make it smaller and save it anew."


def decode_apart(data: bytes, *, side: int = SIDE, seconds: int = SECONDS, name: str = "The picture") -> np.ndarray:
    """Decode a picture as `uploads.decode_image` does, in a child process, and makes it smaller where it is large.

    Args:
        data: the bytes of a JPEG, PNG or WebP file.
        side: a longer side is shrunk to so many pixels (Lanczos); smaller pictures keep their pixels exactly.
        seconds: of processor time that it may take (`PATIENCE` seconds in all).
        name: what to call the file in messages.

    Returns:
        uint8 H×W×3, RGB.

    Raises:
        DataError: as from `decode_image`, or it took too long or too much memory.
    """
    found = decode_all_apart([data], [name], side=side, seconds=seconds)[0]
    if isinstance(found, DataError):
        raise found
    return found


def decode_all_apart(
    files: Sequence[bytes], names: Sequence[str], *, side: int = SIDE, seconds: int = SECONDS
) -> list[np.ndarray | DataError]:
    """Decode several pictures as `decode_apart` does, `TOGETHER` of them in one process.

    One that ends its process, or takes too long, is refused; those after it go on in a new one.

    Returns:
        One picture or error a file.
    """
    found: list[np.ndarray | DataError] = []
    while len(found) < len(files):
        part = slice(len(found), len(found) + TOGETHER)
        found += _in_one_process(files[part], names[part], side, seconds)
    return found


def _in_one_process(
    files: Sequence[bytes], names: Sequence[str], side: int, seconds: int
) -> list[np.ndarray | DataError]:
    """Return what became of the files up to the first one that the process did not outlive."""
    command = [sys.executable, "-m", "cmai_core.data.apart", str(side), str(seconds), str(len(files))]
    variables = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    patience = PATIENCE + seconds * (len(files) - 1)
    given = b"".join(len(data).to_bytes(8, "big") + data for data in files)
    reason = "cannot be decoded: it takes too much time or memory."
    try:
        told = subprocess.run(
            command, input=given, capture_output=True, timeout=patience, env=variables, cwd=_ROOT, check=False
        ).stdout
    except subprocess.TimeoutExpired as error:
        told, reason = error.stdout or b"", f"takes more than {PATIENCE:g} s to decode."
    found: list[np.ndarray | DataError] = []
    for name in names:
        outcome, told = _next(told, name)
        if outcome is None:
            return [*found, DataError(f"{name} {reason}", _ANEW)]
        found.append(outcome)
    return found


def _next(told: bytes, name: str) -> tuple[np.ndarray | DataError | None, bytes]:
    """Return the first of what a process has said, and the rest; None where it did not finish it."""
    head, _, rest = told.partition(b"\n")
    try:
        said = json.loads(head)
    except ValueError:
        return None, b""
    if "message" in said:
        return DataError(said["message"].replace("The picture", name, 1), said["hint"]), rest
    size = int(np.prod(said["shape"]))
    if len(rest) < size:
        return None, b""
    return np.frombuffer(rest[:size], dtype=np.uint8).reshape(said["shape"]).copy(), rest[size:]


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture (uint8 H×W×3) with no side longer than `side` pixels; the same where it has none."""
    from PIL import Image

    height, width = picture.shape[:2]
    if max(height, width) <= side:
        return picture
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _child(side: int, seconds: int, count: int) -> None:
    """Read files from stdin, each after its length; write for each a line of JSON and, where it is one, the pixels."""
    from cmai_core.data.uploads import decode_image

    _limit(seconds, count)
    for _ in range(count):
        data = sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "big"))
        _allow(seconds)
        try:
            picture = np.ascontiguousarray(shrunk(decode_image(data), side))
        except DataError as error:
            sys.stdout.buffer.write(json.dumps({"message": error.message, "hint": error.hint}).encode() + b"\n")
        else:
            sys.stdout.buffer.write(json.dumps({"shape": picture.shape}).encode() + b"\n")
            sys.stdout.buffer.write(picture.data)
        sys.stdout.buffer.flush()


def _limit(seconds: int, count: int = 1) -> None:
    """Bounds this process, where the system can: processor time, address space, no files."""
    try:
        import resource
    except ImportError:  # Windows: the time limit of the parent remains
        return
    bounds = {"CPU": (seconds, seconds * count), "AS": (MEMORY, MEMORY), "FSIZE": (0, 0), "CORE": (0, 0)}
    for what, most in bounds.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), most)
        except (AttributeError, ValueError, OSError):
            continue


def _allow(seconds: int) -> None:
    """Give the next file its own processor time."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (min(most, math.ceil(time.process_time()) + seconds), most))


if __name__ == "__main__":
    _child(*map(int, sys.argv[1:]))
