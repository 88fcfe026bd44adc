"""The device to compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.errors import ModelError

if TYPE_CHECKING:
    import torch


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device to compute on: as asked for, else the first CUDA device, else the CPU.

    Raises:
        ModelError: no such device, or none that computes here.
    """
    import torch

    asked = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        chosen = torch.device(asked)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"Unknown device {asked!r}.", _known()) from error
    try:
        # One element there and back: what only has a name (meta), is not built in, or is not plugged in fails here.
        torch.zeros(1, device=chosen).cpu()
    except Exception as error:  # each backend has errors of its own, AssertionError among them
        raise ModelError(f"The device {asked} is not available here.", _known()) from error
    return chosen


def _known() -> str:
    import torch

    found = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return f"Use {' or '.join(found)}."
