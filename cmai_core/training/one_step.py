"""The safeguard of single-step training: it sees catastrophic overfitting and goes over to two steps.

A model trained on one step of the gradient may learn to bend that step only: it stays right on single-step examples
while a search of several steps finds everything (Wong et al. 2020, arXiv 2001.03994, sec. 4). So, every so often, the
same validation pairs are attacked in one step and in ten.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from cmai_core.training.batches import TrainingBatch, to_pixels
from cmai_core.training.inner import InnerProblem, perturb
from cmai_core.training.losses import Parts, contrastive_logits
from cmai_core.training.settings import Inner

EVERY, STEPS = 25, 10
FALLEN = 0.5
"""Several steps leave less than this share of the pairs that one step leaves right."""


@dataclass
class OneStepGuard:
    """Watches a training with `inner.steps == 1`.

    Attributes:
        batch: validation pairs. fallen: whether overfitting was seen; it stays so. history: every measurement.
    """

    batch: TrainingBatch
    fallen: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def measure(self, step: int, parts: Parts, heads: nn.Module | None, inner: Inner) -> None:
        """Look, where it is due; `inner`: the one in force."""
        if self.fallen or step == 0 or step % EVERY:
            return
        plain = replace(inner, losses={"contrastive": 1.0}, alpha=1.0, beta=0.0, targeted=0.0, warmup=0.0, words=0)
        once = replace(plain, start="clean", step_size=plain.epsilon)
        often = replace(plain, start="clean", steps=STEPS, step_size=plain.epsilon / 4)
        one, several = (_right(parts, heads, self.batch, tried) for tried in (once, often))
        self.fallen = several < FALLEN * one
        self.history.append({"step": step, "one_step": one, "several_steps": several, "fallen": self.fallen})

    def guarded(self, inner: Inner) -> Inner:
        """Return the inner problem that is safe to train on."""
        if not self.fallen:
            return inner
        return replace(inner, steps=2, start="uniform", step_size=0.75 * inner.epsilon)

    def state(self) -> dict[str, Any]:
        return {"fallen": self.fallen, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        self.fallen, self.history = bool(state["fallen"]), list(state["history"])


def _right(parts: Parts, heads: nn.Module | None, batch: TrainingBatch, inner: Inner) -> float:
    """Return share of the pairs whose picture, attacked, is nearer to its caption than to any that is false of it."""
    pixels = to_pixels(batch.images)
    problem = InnerProblem(inner, parts, batch, torch.arange(len(pixels), device=pixels.device), heads)
    attacked = perturb(pixels, problem.objective, inner, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = parts.vision(attacked).pooled
        logits = contrastive_logits(images, problem.texts, parts.logit_scale, batch.truth)
        own = torch.arange(len(images), device=images.device)
        return float((logits.argmax(dim=1) == own).float().mean())
