"""Files of weights: which one of a folder is read, and the checks before that."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from cmai_core.errors import ModelError

HEADS_FILE = "consistency_heads.safetensors"
"""Beside the weights, where a model has consistency heads (see `sidecar`)."""
_PICKLES = (".bin", ".pth", ".pt")
_MOST_ENTRIES = 10_000
_SLACK = 1 << 20


def weights_in(folder: Path) -> Path:
    """Return the file in a folder that open_clip would read.

    Raises:
        ModelError: there is none.
    """
    from open_clip.factory import _find_checkpoint_in_dir

    found = _find_checkpoint_in_dir(folder)
    if found is None or Path(found).name == HEADS_FILE:
        raise ModelError(f"{folder} holds no weights.", "Expected open_clip_model.safetensors beside the config.")
    return checked_weights(Path(found))


def checked_weights(path: Path) -> Path:
    """Check that a file can be read without running code, in no more memory than its size; return its path.

    Raises:
        ModelError: not an ordinary file, not to be read, or a PyTorch file of a kind that is not read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelError(f"{path} is not an ordinary file.", "Save or fetch the model again.")
        with path.open("rb"):
            pass
        if path.suffix in _PICKLES:
            _check_pickle(path)
        elif path.suffix != ".safetensors":
            raise ModelError(f"Weights in the form {path.suffix} are not read.", "Convert them to safetensors.")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from error
    return path


def _check_pickle(path: Path) -> None:
    """Accept only PyTorch's zip form, stored without compression, whose tensors are no larger than the file."""
    import torch

    from cmai_core.models.guard import guarded

    if not zipfile.is_zipfile(path):
        # The form of before PyTorch 1.6 (and whatever else pickles write): sizes in it are promises only.
        raise ModelError(
            f"Refused to read {path.name} of {path.parent}: it is a Python pickle that is not in PyTorch's zip form.",
            "Convert it to safetensors on a machine you trust it on.",
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = sum(entry.file_size for entry in entries) > path.stat().st_size + _SLACK
    if len(entries) > _MOST_ENTRIES or packed or any(entry.compress_type for entry in entries):
        raise ModelError(f"{path} unpacks to more than its size.", "Convert it to safetensors.")
    # Mapped, not read: only names and shapes. A tensor can repeat one number and claim any size.
    content = guarded(
        lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=True), f"{path.name} of {path.parent}"
    )
    tensors, pending, seen = 0, [content], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:  # a pickle can hold itself
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            tensors += value.numel() * value.element_size()
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, (list, tuple)):
            pending += value
    if tensors > 4 * path.stat().st_size + _SLACK:  # tied weights are there once and count twice
        raise ModelError(f"{path} claims tensors larger than itself.", "Convert it to safetensors.")
