"""JSON that came with a model: read within bounds, and turned away with a clear error where it is damaged."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from cmai_core.errors import ModelError

_DEPTH = 64
_INTEGER = 10**40
_AGAIN = "Save or fetch the model again."


def read_bytes(path: Path, most: int) -> bytes:
    """Read an ordinary file of at most `most` bytes; pipes and devices, which can block, are not opened.

    Raises:
        ModelError: no such file, no right to read it, not an ordinary one, or a larger one.
    """
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise ModelError(f"{path} is not an ordinary file.", _AGAIN)
        if info.st_size <= most:
            with path.open("rb") as file:
                content = file.read(most + 1)
            if len(content) <= most:
                return content
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", _AGAIN) from error
    raise ModelError(f"{path} is too large: at most {most:,} bytes are read of such a file.", _AGAIN)


def read_object(path: Path, most: int, *, strict: bool = True) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
        path: the file. most: its largest size in bytes.
        strict: also refuse what JSON readers disagree about or cannot print again: NaN and infinity, integers of more
            than 40 digits, halves of surrogate pairs, and more than 64 levels of nesting.

    Raises:
        ModelError: it cannot be read, is too large, is not JSON, or is not an object.
    """
    content = read_bytes(path, most)
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_refuse if strict else None)
        if strict:
            _check(found)
    except (ValueError, RecursionError) as error:  # both of json's and unicode's errors are ValueErrors
        raise ModelError(f"{path} is not valid JSON: {_reason(error)}.", _AGAIN) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds {_kind(found)} where an object is expected.", _AGAIN)
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _check(value: Any) -> None:
    level = [value]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                item.encode("utf-8")
            elif isinstance(item, int) and abs(item) >= _INTEGER:
                raise ValueError("an integer of more than 40 digits")
            elif isinstance(item, float) and item in (float("inf"), float("-inf")):
                raise ValueError("a number that is too large")
        if not below:
            return
        level = below
    raise ValueError(f"more than {_DEPTH} levels of nesting")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    return str(error)[:200]


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
