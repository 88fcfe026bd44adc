"""Decoding in a process of its own: what a stranger's file can cost is bounded in seconds and in memory.

`uploads.decode_image` refuses the files that are known to be costly. What nobody has thought of yet ends here with its
process, and so does what makes a decoder crash.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from cmai_core.errors import DataError

SECONDS = 10
"""Of processor time, of which the largest ordinary picture takes two."""
PATIENCE = 30.0
"""Seconds on the clock, for a machine that is busy."""
MEMORY = 2 * 1024**3
"""Bytes of address space; the largest accepted picture takes a quarter of it."""
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
    command = [sys.executable, "-m", "cmai_core.data.apart", str(side), str(seconds)]
    variables = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=PATIENCE, env=variables, cwd=_ROOT, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{name} takes more than {PATIENCE:g} s to decode.", _ANEW) from None
    head, _, pixels = done.stdout.partition(b"\n")
    try:
        told = json.loads(head)
    except ValueError:
        raise DataError(f"{name} cannot be decoded: it takes too much time or memory.", _ANEW) from None
    if "message" in told:
        raise DataError(told["message"].replace("The picture", name, 1), told["hint"])
    return np.frombuffer(pixels, dtype=np.uint8).reshape(told["shape"]).copy()


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture (uint8 H×W×3) with no side longer than `side` pixels; the same where it has none."""
    from PIL import Image

    height, width = picture.shape[:2]
    if max(height, width) <= side:
        return picture
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _child(side: int, seconds: int) -> None:
    """Read a file from stdin; write a line of JSON and, where it could be decoded, the pixels."""
    from cmai_core.data.uploads import decode_image

    _limit(seconds)
    try:
        picture = shrunk(decode_image(sys.stdin.buffer.read()), side)
    except DataError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
        return
    sys.stdout.buffer.write(json.dumps({"shape": picture.shape}).encode() + b"\n")
    sys.stdout.buffer.write(np.ascontiguousarray(picture).data)


def _limit(seconds: int) -> None:
    """Bounds this process, where the system can: processor time, address space, no files."""
    try:
        import resource
    except ImportError:  # Windows: the time limit of the parent remains
        return
    for what, most in (("RLIMIT_CPU", seconds), ("RLIMIT_AS", MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, what), (most, most))
        except (AttributeError, ValueError, OSError):
            continue


if __name__ == "__main__":
    _child(int(sys.argv[1]), int(sys.argv[2]))
