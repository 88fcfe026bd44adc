"""What explanations share: recording (`models.recording`), evaluation mode for the length of a call, slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from cmai_core.models.recording import LOCK


@contextmanager
def evaluation(*modules: nn.Module) -> Iterator[None]:
    """Dropout, patch dropout and gradient checkpointing off within the block; every submodule's mode restored."""
    with LOCK:
        inner = [m for module in modules for m in module.modules()]
        training = [m for m in inner if m.training]
        checkpointing = [m for m in inner if getattr(m, "grad_checkpointing", False) is True]
        try:
            for m in training:
                m.training = False
            for m in checkpointing:
                m.grad_checkpointing = False
            yield
        finally:
            for m in training:
                m.training = True
            for m in checkpointing:
                m.grad_checkpointing = True


def batches(count: int, size: int) -> Sequence[slice]:
    """Slices of at most `size` rows that cover `count` rows."""
    return [slice(first, min(first + size, count)) for first in range(0, count, max(1, size))]
