"""What the inner and outer problem use at each step: fixed, steered by ARM, or replayed from a recorded schedule."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmai_core.defenses.constraint import Constraint, ConstraintSettings
from cmai_core.defenses.controller import Controller, ControllerSettings, Level
from cmai_core.errors import OptionError
from cmai_core.training.batches import Arrays, TrainingBatch, draw, to_pixels
from cmai_core.training.inner import reference_consistency
from cmai_core.training.losses import Parts
from cmai_core.training.one_step import OneStepGuard
from cmai_core.training.settings import Inner, Recipe
from cmai_core.training.validation import clean_accuracy

_REFERENCE_SEED = 0
PAIRS_WATCHED = 32


@dataclass
class Steering:
    """The level in force, and what moves it.

    Attributes:
        recipe: fixed values, where nothing moves them. parts, heads: measured by ARM's reference attack.
        controller: ARM, if the recipe has it; batch: its reference pairs; reference: where its clean pairs come from.
        schedule: (step from which on, level) to replay, rising.
        guard: of a training with single-step perturbations, where there are validation pairs to watch it on.
        history: (step, state) of every measurement since the start, for the log and for replays.
    """

    recipe: Recipe
    parts: Parts
    heads: nn.Module | None
    controller: Controller | Constraint | None = None
    batch: TrainingBatch | None = None
    reference: Arrays | None = None
    schedule: tuple[tuple[int, Level], ...] = ()
    guard: OneStepGuard | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    _level: Level | None = None

    @staticmethod
    def of(recipe: Recipe, parts: Parts, heads: nn.Module | None, reference: Arrays | None) -> Steering:
        """Make the steering of a recipe.

        Raises:
            OptionError: ARM without reference data, or a replay of a model that recorded no schedule.
        """
        guard = None
        if recipe.inner is not None and recipe.inner.steps == 1 and reference is not None:
            guard = OneStepGuard(reference_batch(recipe, reference, PAIRS_WATCHED).to(parts.mean.device))
        if recipe.replay:
            return Steering(recipe, parts, heads, schedule=recorded(recipe.replay), guard=guard)
        if recipe.controller is None:
            return Steering(recipe, parts, heads, guard=guard)
        if reference is None:
            raise OptionError("ARM measures S_c on validation pairs, and none were given.", "Give validation arrays.")
        batch = reference_batch(recipe, reference, recipe.controller.pairs).to(parts.mean.device)
        settings = recipe.controller
        begun = Constraint.begin(settings) if isinstance(settings, ConstraintSettings) else Controller.start(settings)
        return Steering(recipe, parts, heads, begun, batch, reference, guard=guard)

    @property
    def level(self) -> Level:
        """β, ε and λ in force."""
        if self.controller is not None:
            return self.controller.level
        if self._level is not None:
            return self._level
        inner = self.recipe.inner
        return Level(inner.beta, inner.epsilon, self.recipe.adversarial_share) if inner is not None else Level(0, 0, 0)

    @property
    def share(self) -> float:
        return self.level.share

    @property
    def inner(self) -> Inner | None:
        """The inner problem with the β and ε in force; the step size goes with ε."""
        inner = self.recipe.inner
        if inner is None:
            return None
        level = self.level
        size = inner.step_size * level.epsilon / inner.epsilon if inner.epsilon else inner.step_size
        inner = replace(inner, beta=level.beta, epsilon=level.epsilon, step_size=size)
        return inner if self.guard is None else self.guard.guarded(inner)

    def measure(self, step: int) -> None:
        """Move the level before a step, where it is due."""
        if self.schedule:
            past = [level for start, level in self.schedule if start <= step]
            self._level = past[-1] if past else None  # ARM had not looked yet
        if self.guard is not None:
            self.guard.measure(step, self.parts, self.heads, self.inner)
        if self.controller is None or not self.controller.settings.due(step):
            return
        scores = reference_scores(self.parts, self.heads, self.batch, self.controller.settings)
        measured = {"measured": round(float(scores.mean()), 5)}
        if isinstance(self.controller, Constraint):
            clean = clean_accuracy(self.parts, self.reference, self.controller.settings.clean_pairs)
            measured["measured_clean"] = clean
            self.controller = self.controller.updated(float(scores.mean()), clean)
        else:
            self.controller = self.controller.updated(float(scores.mean()), float(scores.var()))
        self.history.append({"step": step, **measured, **self.controller.state()})

    def shown(self) -> dict[str, float]:
        """Say for the log which level is in force and, under ARM, what it goes by."""
        if self.recipe.inner is None:
            return {}
        level = {"beta": self.level.beta, "epsilon": self.level.epsilon, "share": self.level.share}
        if self.controller is not None:
            level |= self.controller.shown()
        if self.guard is not None and self.guard.history:
            last = self.guard.history[-1]
            level |= {name: float(last[name]) for name in ("one_step", "several_steps", "fallen")}
        return {name: round(value, 5) for name, value in level.items()}

    def state(self) -> dict[str, Any]:
        parts = {"controller": self.controller, "guard": self.guard}
        return {name: part and part.state() for name, part in parts.items()} | {"history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        if self.controller is not None:
            self.controller = self.controller.restored(state["controller"])
        if self.guard is not None:
            self.guard.restore(state["guard"])
        self.history = list(state["history"])


def reference_batch(recipe: Recipe, reference: Arrays, pairs: int) -> TrainingBatch:
    """Return the pairs of the reference attack: the same in every training."""
    count = min(pairs, len(reference))
    weights = replace(recipe.weights, agreement=0.0)  # which needs two views
    plain = replace(recipe, batch=max(4, count), views=1, captions=1, nlvr_share=0.0, questions=0, weights=weights)
    return draw(reference, plain, _REFERENCE_SEED, 0)


def reference_scores(
    parts: Parts, heads: nn.Module | None, batch: TrainingBatch, settings: ControllerSettings | ConstraintSettings
) -> Tensor:
    """Return S_c of the reference pairs after the reference attack, PGD on −S_c: float N."""
    inner = Inner(
        losses={"contrastive": 1.0},
        alpha=0.0,
        beta=1.0,
        epsilon=settings.reference_epsilon,
        steps=settings.reference_steps,
        step_size=2.5 * settings.reference_epsilon / settings.reference_steps,
        warmup=0.0,
    )
    generator = torch.Generator().manual_seed(_REFERENCE_SEED)
    return reference_consistency(parts, heads, batch, to_pixels(batch.images), inner, generator)


def recorded(name: str) -> tuple[tuple[int, Level], ...]:
    """Return the schedule that ARM left in a model's card, as (step, level).

    Args:
        name: of a bundled model, or `local-dir:` and the folder of one.

    Raises:
        OptionError: no such model, or it was not trained with ARM.
    """
    from cmai_core.models.cards import card_of
    from cmai_core.models.families.bundled import bundled_dir

    kind, given, folder = name.partition("local-dir:")
    history = card_of(Path(folder) if given else bundled_dir() / kind).training.get("steering")
    if not history:
        raise OptionError(f"There is no recorded schedule of {name}.", "Train (and bundle) that model first.")
    return tuple((h["step"], Level(h["beta"], h["epsilon"], h["share"])) for h in history)
