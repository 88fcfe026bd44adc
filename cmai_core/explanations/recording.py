"""What all explanations share: the mode in which a model is recorded, and slices of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.models.recording import LOCK


@contextmanager
def recording_mode(*models: Any) -> Iterator[None]:
    """Switch dropout, patch dropout, parameter gradients and gradient checkpointing off; all is restored afterwards.

    Only one thread records at a time.

    Args:
        models: whatever answers `modules()`; others have nothing to switch off.
    """
    with LOCK, evaluation_mode(*models):
        modules = [module for model in models if hasattr(model, "modules") for module in model.modules()]
        checkpointing = [module for module in modules if getattr(module, "grad_checkpointing", False) is True]
        try:
            for module in checkpointing:
                module.grad_checkpointing = False
            yield
        finally:
            for module in checkpointing:
                module.grad_checkpointing = True


def batches(count: int, size: int) -> Sequence[slice]:
    """Return slices of at most `size` rows that cover `count` rows."""
    return [slice(first, min(first + size, count)) for first in range(0, count, max(1, size))]
