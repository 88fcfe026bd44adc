"""Features of the clean images, computed once for an attack, in pieces that fit the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from cmai_core.data.pair import Batch
from cmai_core.models.oom import is_out_of_memory, smaller

PIECE = 64


def clean_features(model: Any, batch: Batch, shared: dict | None = None) -> Any:
    """Return `model.image_features` of the clean pixels, without gradients; computed once for each memo `shared`."""
    shared = {} if shared is None else shared
    if "clean features" not in shared:
        shared["clean features"] = encode(model, batch.pixels)
    return shared["clean features"]


def encode(model: Any, pixels: torch.Tensor) -> Any:
    """Return the features of pixels N×3×H×W, detached, on the model's device; in pieces, halved when memory runs out.

    Raises:
        CmaiError: the device has too little memory for a single image.
    """
    device = getattr(model, "device", None)
    parts, start, size = [], 0, PIECE
    while start < len(pixels) or not parts:
        piece = pixels[start : start + size].detach()
        try:
            with torch.no_grad():
                parts.append(model.image_features(piece if device is None else piece.to(device)))
            start += size
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, so that the failed pass and its tensors are gone.
        size = smaller(len(piece))
    return parts[0] if len(parts) == 1 else joined(parts)


def joined(parts: list[Any]) -> Any:
    """Join feature records (tensor, dataclass, tuple, list or dict) of consecutive images."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in dataclasses.fields(first)]
        return dataclasses.replace(first, **{n: joined([getattr(p, n) for p in parts]) for n in names})
    if isinstance(first, tuple) and hasattr(first, "_replace"):
        return type(first)(*(joined(list(column)) for column in zip(*parts, strict=True)))
    if isinstance(first, (tuple, list)):
        return type(first)(joined(list(column)) for column in zip(*parts, strict=True))
    if isinstance(first, dict):
        return {key: joined([p[key] for p in parts]) for key in first}
    return first
