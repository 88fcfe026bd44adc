"""When a device runs out of memory: take fewer images at a time."""

from __future__ import annotations

import gc

import torch

from cmai_core.errors import CmaiError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on any kind of device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def smaller(size: int) -> int:
    """Return half of a number of images that was too many; frees what the failed pass left.

    Raises:
        CmaiError: it was a single image.
    """
    if size <= 1:
        raise CmaiError("The device has too little memory for a single image.", "Choose a smaller model, or the CPU.")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2
