"""The inner problem of adversarial training: a perturbation of the images that raises an objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cmai_core.training import fast
from cmai_core.training.batches import TrainingBatch
from cmai_core.training.losses import Parts
from cmai_core.training.recipes import Inner

Objective = Callable[[Tensor], Tensor]
"""Pixels (N×3×S×S) → one value an image, larger = worse for the model."""


def perturb(
    pixels: Tensor, objective: Objective, inner: Inner, *, scale: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Projected sign-gradient ascent on the objective (Madry et al. 2018, arXiv 1706.06083, sec. 2.1), L∞.

    No parameter gets a gradient: only the pixels are differentiated.

    Args:
        pixels: N×3×S×S in [0, 1], left unchanged.
        objective: what to raise; samples must not depend on each other's pixels for the result to be per sample.
        inner: radius, steps, step size and start.
        scale: factor in [0, 1] on radius and step size (the warm-up of ε).
        generator: source of the random start, on the CPU; needed where `inner.random_start`.

    Returns:
        perturbed pixels in the ball and in [0, 1], detached.
    """
    radius, size = inner.epsilon * scale, inner.step_size * scale
    if radius <= 0 or inner.steps < 1:
        return pixels.detach()
    lower, upper = (pixels - radius).clamp_(min=0.0), (pixels + radius).clamp_(max=1.0)
    current = pixels.detach()
    if inner.random_start:
        noise = torch.rand(pixels.shape, generator=generator).to(pixels.device)
        current = torch.lerp(lower, upper, noise)
    for _ in range(inner.steps):
        current.requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(current).sum(), current)
        current = current.detach().add(gradient.sign_(), alpha=size).clamp_(lower, upper)
    return current


def inner_objective(name: str, parts: Parts, batch: TrainingBatch, rows: slice | Tensor) -> Objective:
    """The objective of a recipe on the batch's images `rows` (a slice or a bool mask).

    "contrastive": cross entropy of each image against the captions of the whole batch, false negatives left out. The
    texts are encoded once, without gradient.
    """
    if name != "contrastive":
        raise ValueError(name)
    with torch.no_grad():
        texts, _ = fast.text_embedding(parts.text, fast.trim(batch.caption_ids, parts.pad), parts.pad)
    scale, positions = parts.logit_scale.detach(), torch.arange(len(texts), device=texts.device)[rows]
    hidden = batch.truth[rows].clone()
    hidden[torch.arange(len(positions), device=texts.device), positions] = False

    def objective(pixels: Tensor) -> Tensor:
        pooled = parts.vision(pixels).pooled
        logits = scale.exp() * _unit(pooled) @ _unit(texts).T
        return torch.nn.functional.cross_entropy(logits.masked_fill(hidden, float("-inf")), positions, reduction="none")

    return objective


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.float(), dim=-1)
