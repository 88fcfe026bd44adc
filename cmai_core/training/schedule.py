"""The learning rate over a training."""

from __future__ import annotations

import math

from cmai_core.training.settings import Recipe


def learning_rate(recipe: Recipe, step: int, total_steps: int | None) -> float:
    """Return the rate of a step: linear warm-up, then a cosine down to `final_share` of the peak.

    Args:
        step: counted from 0. total_steps: None where the length is not known yet.
    """
    warmup = recipe.warmup_steps if total_steps is None else min(recipe.warmup_steps, max(1, total_steps // 5))
    if step < warmup or total_steps is None:
        return recipe.learning_rate * min(1.0, (step + 1) / max(1, warmup))
    phase = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return recipe.learning_rate * (recipe.final_share + (1 - recipe.final_share) * (1 + math.cos(math.pi * phase)) / 2)
