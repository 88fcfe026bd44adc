"""The set-up of the probing checks: some samples, the attack under test on them, and what it came to."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.engine.evaluator import Evaluator
from cmai_core.attacks.result import AttackResult
from cmai_core.attacks.searches.external import take_batch
from cmai_core.data.pair import Batch
from cmai_core.evaluation.checks.attacker import Attacker
from cmai_core.evaluation.checks.check import levels
from cmai_core.evaluation.runs.predictor import predict_images
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.progress import CancelToken

# Passes over the same pictures, as AutoAttack's check makes (n=5).
PASSES = 5
# AutoAttack's bound on how far normalised outputs may differ; rounding on a GPU stays below 1e-5.
SAME = 1e-4


@dataclass
class Bench:
    """Samples under attack.

    Attributes:
        model, task, dataset: as given. everyone: all samples.
        attacker: the attack under test. surrogates: other models, by name. seed: of all random numbers.
        queries: budget of black-box searches.
        clean: what the harness reads of each clean sample. batch: the samples that it reads as right, the only ones an
            attack can win.
    """

    model: Any
    task: Any
    dataset: Any
    everyone: Batch
    attacker: Attacker
    surrogates: Mapping[str, Any]
    seed: int
    queries: int
    cancel: CancelToken | None = None

    def __post_init__(self) -> None:
        (self.clean,) = predict_images(self.model, self.task, self.dataset, self.everyone, [self.everyone.pixels])
        right = [row for row, prediction in enumerate(self.clean) if prediction.correct is True]
        rows = torch.tensor(right, dtype=torch.int64, device=self.everyone.pixels.device)
        self.batch = take_batch(self.everyone, rows, self.everyone.pixels[rows])

    @property
    def epsilon(self) -> float:
        """The largest ε, in the units of the threat model."""
        return float(torch.as_tensor(self.attacker.base.threat.epsilon, dtype=torch.float64).max())

    def words(self, epsilon: float | None = None) -> str:
        """Return a budget in words; the attack's own when None."""
        epsilon = self.epsilon if epsilon is None else epsilon
        return levels(epsilon) if self.attacker.norm == "linf" else f"{epsilon:.3g} ({self.attacker.norm})"

    @property
    def white_box(self) -> bool:
        """Whether the attacker may see gradients."""
        return getattr(self.model, "knowledge", "white-box") == "white-box"

    def run(self, attack: Attack, seed: int | None = None) -> AttackResult:
        """Return an attack on the samples.

        Raises:
            Cancelled: when cancelled. OptionError: the attack does not go with model or task.
        """
        result = attack(self.model, self.batch, seed=self.seed if seed is None else seed, cancel=self.cancel)
        if self.cancel is not None:
            self.cancel.check()
        return result

    @functools.cached_property
    def main(self) -> AttackResult:
        """The attack under test, as it was given."""
        return self.run(self.attacker.base)

    @property
    def fooled(self) -> torch.Tensor:
        """Whom the attack under test fools: bool N; with pictures of 8 bits.

        The nearest examples of a minimum-norm search lie on the decision boundary, where rounding decides by chance;
        they count as the evaluation counts them: by their distance.
        """
        return _fooled(self.main)

    def outcome(self, attack: Attack, seed: int | None = None) -> torch.Tensor:
        """Return whom another attack fools, counted as `fooled`."""
        return _fooled(self.run(attack, seed))

    @property
    def gradient_free(self) -> bool:
        """Whether the attack under test takes no gradients (an outside one may: they are not counted)."""
        return not self.attacker.external and not bool(self.main.backwards.any())

    @property
    def count(self) -> int:
        return len(self.batch.ids)

    def evaluator(self) -> Evaluator:
        """Return scores and gradients of the attack's objective, as its search sees them."""
        shared: dict = {}
        model, batch, attack = self.model, self.batch, self.attacker.base
        return Evaluator(
            model,
            attack.objective.bind(model, batch, shared),
            attack.success.bind(model, batch, shared),
            None,
            batch=batch,
            shared=shared,
            sampled=model.for_samples(batch, self.seed) if hasattr(model, "for_samples") else None,
        )

    @functools.cached_property
    def random(self) -> float:
        """Largest relative difference of the objective between two passes over the same clean pictures."""
        with evaluation_mode(self.model):
            evaluator = self.evaluator()
            values = torch.stack([evaluator.score(self.batch.pixels, success=False).value for _ in range(PASSES)])
        spread = values.amax(dim=0) - values.amin(dim=0)
        scale = values.abs().amax(dim=0).clamp(min=1.0)
        return float((spread / scale).nan_to_num(nan=0.0).max())


def _fooled(result: AttackResult) -> torch.Tensor:
    return result.success_8bit if result.minimum_norm is None else result.success
