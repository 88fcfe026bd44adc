"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Averages a module's parameters: average ← d·average + (1−d)·parameters, d = min(decay, (1+t)/(10+t)) at step t.

    Args:
        module: its parameters are averaged, in their order; buffers are not (a CoCa has none that change).
        decay: in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float):
        self._parameters = list(module.parameters())
        self.decay = decay
        self.average: list[Tensor] = [p.detach().clone() for p in self._parameters]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(self.average, [p.detach() for p in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the module the averaged weights within, its own again after it (the same tensors)."""
        own = [p.data for p in self._parameters]
        for parameter, average in zip(self._parameters, self.average, strict=True):
            parameter.data = average
        try:
            yield
        finally:
            for parameter, data in zip(self._parameters, own, strict=True):
                parameter.data = data

    def state_dict(self) -> dict:
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)
        self.steps = int(state["steps"])
