"""Check that a bundled model is as it was bundled: SHA-256 of its files, in a list beside the models.

`training/bundle.py` writes the list. It covers what decides a model's answers (configuration, weights, consistency
heads, vocabulary) and not the card, whose figures are written later. It tells damage, a flipped bit or a half copied
file; it is no signature: who can change the models can change the list.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cmai_core.errors import ModelError
from cmai_core.files import write_text
from cmai_core.models.jsonfile import read_object

HASHES_FILE = "hashes.json"
_MOST_BYTES = 1 << 20
_LEFT_OUT = ("card.json",)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(folder: Path) -> None:
    """Write the hashes of a model's files into the list beside its folder; the other models' entries stay.

    Raises:
        DataError: the list cannot be written. ModelError: it is damaged.
    """
    listed = folder.parent / HASHES_FILE
    entries = read_object(listed, _MOST_BYTES) if listed.is_file() else {}
    entries[folder.name] = {path.name: file_hash(path) for path in sorted(folder.iterdir()) if _counts(path)}
    write_text(listed, json.dumps(entries, indent=1, sort_keys=True) + "\n")


def verify(folder: Path) -> dict[str, str]:
    """Compare a model's files with the list beside its folder.

    Returns:
        File name → hash, of the files that were compared; empty where the list has no entry for the folder.

    Raises:
        ModelError: a file that is missing, changed, or not in the list.
    """
    listed = folder.parent / HASHES_FILE
    known = read_object(listed, _MOST_BYTES).get(folder.name) if listed.is_file() else None
    if known is None:
        return {}
    if not isinstance(known, dict):
        raise ModelError(f"{listed} is damaged: the entry of {folder.name} is no object.", _AGAIN)
    try:
        found = {path.name: file_hash(path) for path in folder.iterdir() if _counts(path)}
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}.", _AGAIN) from error
    for name in sorted({*known, *found}):
        if name not in found:
            raise ModelError(f"The bundled model {folder.name} is damaged: {name} is missing.", _AGAIN)
        if found[name] != known.get(name):
            what = "has been changed since it was bundled" if name in known else "does not belong to it"
            raise ModelError(f"The bundled model {folder.name} is damaged: {name} {what}.", _AGAIN)
    return found


_AGAIN = "Install CMAI again, or bundle the model again (python -m cmai_core.training.bundle)."


def _counts(path: Path) -> bool:
    return path.is_file() and path.name not in _LEFT_OUT and not path.name.startswith(".")
