"""Detector-aware objectives: raise the task's loss while the detector's score stays above its threshold.

A success is wrong *and* accepted, so neither loss alone will do. Three ways to weigh them, all per sample:

- "lagrangian": unit gradient of the loss plus λ times the unit gradient of the score; λ belongs to the sample and grows
  at each gradient while the picture would be flagged, and shrinks while it would not (dual ascent).
- "selective" and "orthogonal" (Bryniarski et al. 2022, arXiv 2106.15023): the loss while the answer is still
  right, the score once it is wrong; "orthogonal" removes from each gradient its part along the other, so that a step
  for one does not undo the other.

They work with every gradient search, through `Objective.value_and_grad`. The value is the same for all: the loss where
the picture is accepted, less a penalty where it is not. So searches rank iterates alike, and black-box searches can
raise it too; in a sum with other objectives, the value's own gradient is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.objectives.detectors import Detector, Slack, detectors_of
from cmai_core.attacks.objectives.objective import Objective, needs_gradient
from cmai_core.attacks.objectives.success import Criterion, Scored
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import number, one_of

FORMS = ("lagrangian", "selective", "orthogonal")
MULTIPLIER_RANGE = (1e-3, 1e3)


@dataclass(frozen=True, eq=False)
class DetectorAware(Objective):
    """A loss raised while every detector's score stays at or above its threshold.

    Attributes:
        loss: what is raised. wrong: when the answer is wrong (for the selective forms).
        detectors: none: the attacked system's own; where that has none, this is the loss alone.
        form: "lagrangian", "selective" or "orthogonal".
        margin: by how much scores are kept above the thresholds, so that rounding to 8 bits does not flag the picture.
        penalty: the value's loss per unit of violation.
        rate: of the multiplier: λ changes by a factor of e^±rate at most in one gradient.
        scale: violation (in units of the score) at which it changes that much.
    """

    loss: Objective
    wrong: Criterion
    detectors: tuple[Detector, ...] = ()
    form: str = "lagrangian"
    margin: float = 0.005
    penalty: float = 10.0
    rate: float = 0.5
    scale: float = 0.05

    def __post_init__(self) -> None:
        one_of("form", self.form, FORMS)
        number("margin", self.margin, 0.0)
        number("penalty", self.penalty, 0.0)
        number("rate", self.rate, 0.0)
        number("scale", self.scale, 0.0, above_low=True)

    @property
    def extra_forwards(self) -> int:
        return self.loss.extra_forwards

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        found = detectors_of(model, self.detectors)
        loss = self.loss.bind(model, batch, shared)
        if not found:
            return loss
        multiplier = torch.ones(len(batch.ids), dtype=batch.pixels.dtype, device=getattr(model, "device", None))
        slack = Slack(found).bind(model, batch, shared)
        return _BoundAware(self, loss, slack, self.wrong.bind(model, batch, shared), multiplier)

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"{self.loss.describe()} while accepted ({self.form})"


@dataclass(frozen=True, eq=False)
class _BoundAware(Objective):
    """`multiplier`: λ of every sample of the batch, shared by all selections; `rows`: which of them these are."""

    kind: DetectorAware
    loss: Objective
    slack: Objective
    wrong: Criterion
    multiplier: torch.Tensor
    rows: torch.Tensor | None = None

    @property
    def extra_forwards(self) -> int:
        return self.loss.extra_forwards

    @property
    def backward_passes(self) -> int:
        return 1 if self.kind.form == "selective" else 2

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        parts = (self.loss.select(rows), self.slack.select(rows), self.wrong.select(rows))
        chosen = rows if self.rows is None else self.rows[rows]
        return _BoundAware(self.kind, *parts, self.multiplier, chosen)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return self._value(self.loss(model, pixels, features), self.slack(model, pixels, features))

    def value_and_grad(self, model: Any, pixels: torch.Tensor, features: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss = needs_gradient(self.loss, self.loss(model, pixels, features))
        slack = needs_gradient(self.slack, self.slack(model, pixels, features))
        value = self._value(loss, slack).detach()
        if self.kind.form == "lagrangian":
            along_loss, along_slack = _both(loss, slack, pixels)
            at = slice(None) if self.rows is None else self.rows
            weight = self.multiplier[at].to(pixels)
            gradient = _unit(along_loss) + _column(weight, pixels) * _unit(along_slack)
            self.multiplier[at] = self._next(weight, slack.detach()).to(self.multiplier)
            return value, gradient
        with torch.no_grad():
            wrong = self.wrong(Scored(model, pixels, features, loss.detach()))
        if self.kind.form == "selective":
            return value, torch.autograd.grad(torch.where(wrong, slack, loss).sum(), pixels)[0]
        along_loss, along_slack = _both(loss, slack, pixels)
        chosen = torch.where(
            _column(wrong, pixels), _without(along_slack, along_loss), _without(along_loss, along_slack)
        )
        return value, chosen

    def _value(self, loss: torch.Tensor, slack: torch.Tensor) -> torch.Tensor:
        return loss - self.kind.penalty * (-slack).clamp(min=0)

    def _next(self, multiplier: torch.Tensor, slack: torch.Tensor) -> torch.Tensor:
        """Return the next λ: dual ascent in the logarithm, so that it stays positive and finds its scale soon."""
        kind = self.kind
        push = ((kind.margin - slack) / kind.scale).clamp(-1, 1).nan_to_num(nan=0.0)
        return (multiplier * (kind.rate * push).exp()).clamp(*MULTIPLIER_RANGE)

    def describe(self) -> str:
        return self.kind.describe()


def _both(loss: torch.Tensor, slack: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of both."""
    along_loss = torch.autograd.grad(loss.sum(), pixels, retain_graph=True)[0]
    return along_loss, torch.autograd.grad(slack.sum(), pixels)[0]


def _unit(gradient: torch.Tensor) -> torch.Tensor:
    length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny ** 0.5)
    return gradient / _column(length, gradient)


def _without(gradient: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a gradient less its part along another."""
    direction = _unit(other)
    along = (gradient * direction).flatten(1).sum(dim=1)
    return gradient - _column(along, gradient) * direction


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
