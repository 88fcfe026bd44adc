"""Evaluation mode for the length of a block, restored exactly afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluation_mode(*models: Any) -> Iterator[None]:
    """Put models into evaluation mode and freeze their parameters within the block; both are restored exactly.

    With `requires_grad` off, a forward pass keeps nothing for parameter gradients, which nobody asks for.

    Args:
        models: whatever answers `modules()`: models, defended systems, `nn.Module`s. Others have no mode and are left.
    """
    modules = [module for model in models if hasattr(model, "modules") for module in model.modules()]
    training = [module for module in modules if module.training]
    parameters = (parameter for module in modules for parameter in module.parameters(recurse=False))
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)
