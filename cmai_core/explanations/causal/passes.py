"""Recorded and patched passes of one pair: explicit steps of `models.streams`, many patches as one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.explanations.recording import batches
from cmai_core.models.streams import Stream
from cmai_core.progress import CancelToken

Choose = torch.Tensor
"""bool B×L, which tokens each of B passes takes from the other run; for "heads" bool B×H."""


@dataclass(frozen=True)
class Run:
    """One pass with every state on its way.

    Attributes:
        stream: of one input. states: (layer, part) → the value, 1×….
    """

    stream: Stream
    states: dict[tuple[int, str], torch.Tensor]

    @staticmethod
    def of(stream: Stream) -> Run:
        """Run a stream of one input and keep its states."""
        states: dict[tuple[int, str], torch.Tensor] = {}

        def keep(layer: int, part: str, value: torch.Tensor) -> torch.Tensor:
            states[layer, part] = value
            return value

        with torch.no_grad():
            stream.run(tap=keep)
        return Run(stream, states)

    @property
    def features(self) -> Any:
        """What the tower gives of this run."""
        with torch.no_grad():
            return self.stream.finish(self.states[self.stream.depth, "residual"])


@dataclass
class Patching:
    """Passes of a pair with states of one run in the other.

    Attributes:
        clean, attacked: the two runs. measure: features → m.
        batch_size: passes at a time. cancel: looked at before each batch.
        passes: how many were made. norms: least and largest length of a patched pass's last states, in the mean of its
            tokens, as a multiple of the longer or shorter of the two runs': far from 1, a pass has left what the model
            knows.
    """

    clean: Run
    attacked: Run
    measure: Callable[[Any], torch.Tensor]
    batch_size: int = 128
    cancel: CancelToken | None = None
    passes: int = 0
    norms: tuple[float, float] = (1.0, 1.0)

    def denoised(self, part: str, layer: int, choose: Choose) -> torch.Tensor:
        """Return m of the attacked run with the chosen states of the clean one, B values on the CPU."""
        return self._patched(self.attacked, self.clean, part, layer, choose)

    def noised(self, part: str, layer: int, choose: Choose) -> torch.Tensor:
        """Return m of the clean run with the chosen states of the attacked one, B values on the CPU."""
        return self._patched(self.clean, self.attacked, part, layer, choose)

    @torch.no_grad()
    def _patched(self, base: Run, source: Run, part: str, layer: int, choose: Choose) -> torch.Tensor:
        found = []
        for rows in batches(len(choose), self.batch_size):
            if self.cancel is not None:
                self.cancel.check()
            end = _pass(base, source, part, layer, choose[rows].to(base.stream.start.device))
            self._watch(end)
            found.append(self.measure(base.stream.finish(end)).double().cpu())
            self.passes += len(end)
        return torch.cat(found)

    def _watch(self, end: torch.Tensor) -> None:
        own = [
            float(run.states[run.stream.depth, "residual"].norm(dim=-1).mean()) for run in (self.clean, self.attacked)
        ]
        sizes = end.norm(dim=-1).mean(dim=-1)
        least, most = self.norms
        self.norms = min(least, float(sizes.min()) / min(own)), max(most, float(sizes.max()) / max(own))


def _pass(base: Run, source: Run, part: str, layer: int, choose: Choose) -> torch.Tensor:
    """Run `base` from a layer on with the chosen states of `source` there; return the stream after the last layer."""
    chosen = choose[:, None, :, None] if part == "heads" else choose[:, :, None]
    there = source.states[layer, part]
    state = base.states[layer, "residual"].expand(len(choose), -1, -1)
    if part == "residual":
        return base.stream.run(torch.where(chosen, there, state), layer)

    def patch(at: int, which: str, value: torch.Tensor) -> torch.Tensor:
        return torch.where(chosen, there, value) if (at, which) == (layer, part) else value

    return base.stream.run(state, layer, patch)
