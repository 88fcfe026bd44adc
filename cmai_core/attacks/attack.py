"""An attack: threat model × objective × search, and what counts as success."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from cmai_core.attacks.compatibility import check_fit
from cmai_core.attacks.engine.evaluator import Evaluation, Evaluator, at_rest
from cmai_core.attacks.engine.problem import Outcome, Problem, Search
from cmai_core.attacks.objectives.detectors import Decided
from cmai_core.attacks.objectives.objective import Consistency, Objective
from cmai_core.attacks.objectives.success import Criterion, Raised
from cmai_core.attacks.result import AttackResult
from cmai_core.attacks.threats.image import ThreatModel, changed_positions
from cmai_core.data.pair import Batch
from cmai_core.errors import DataError, OptionError
from cmai_core.options import strict_options
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.reporting import Watch
from cmai_core.seeds import resolve_seed


@strict_options
@dataclass(frozen=True, kw_only=True)
class Attack:
    """Threat model × objective × search. Calling it attacks a batch.

    Attributes:
        threat: what may change, and by how much.
        objective: what is raised.
        search: how.
        success: when a sample counts as fooled; by default, when its objective is higher than on the clean image.
        name: for reports.
    """

    threat: ThreatModel
    objective: Objective
    search: Search
    success: Criterion = field(default_factory=Raised)
    name: str = "attack"

    def __post_init__(self) -> None:
        kinds = {"threat": ThreatModel, "objective": Objective, "success": Criterion}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise OptionError(f"{name}={getattr(self, name)!r} is not accepted.", f"Accepted: a {kind.__name__}.")
        if not callable(getattr(self.search, "run", None)):
            raise OptionError(
                f"search={self.search!r} is not accepted.", "Accepted: a search, such as GradientSearch()."
            )
        check_fit(self.search, self.threat, self.objective)

    def describe(self) -> dict:
        """Plain values that name the attack in reports."""
        parts = {"name": self.name, "objective": self.objective.describe(), "success": self.success.describe()}
        return parts | self.threat.describe() | self.search.describe()

    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        progress_interval: float = 0.05,
    ) -> AttackResult:
        """Attacks every image of the batch.

        The batch and the model are left as they were found (evaluation mode, `requires_grad` and gradients included),
        and the global random state is not touched. With one seed the result of a sample depends neither on the other
        samples of the batch nor on their order (up to the rounding of differently shaped matrix products).

        Args:
            model: has `image_features(pixels)` and, where texts are used, `encode_text(texts)`; or a `System`.
            batch: pixels in [0, 1]; its texts are what S_c is traced with (no texts: no S_c).
            progress: told at least every `progress_interval` seconds (0: every step), with data `step`, `restart`,
                `objective` (traces so far, (k+1)×N), `consistency` (the same, or None) and `pixels` (the current
                images): references to tensors on the device that nobody changes afterwards.
            cancel: looked at before every step; a cancelled attack returns the best it has found.
            generator, seed: at most one of them; where the random starts come from (seed 0 when neither is given).

        Raises:
            DataError: pixels outside [0, 1].
            OptionError: options that contradict each other or do not fit the batch.
            CmaiError: the device has too little memory for a single image.
        """
        seed = resolve_seed(seed, generator)
        if len(set(batch.ids)) != len(batch.ids):
            raise DataError(
                "Two samples of the batch have the same id.", "Random numbers belong to ids: make them unique."
            )
        pixels = batch.pixels.detach()
        device = getattr(model, "device", None)
        pixels = pixels if device is None else pixels.to(device)
        region = self.threat.around(pixels)
        watch = Watch(progress, cancel, progress_interval)
        with at_rest(model):
            evaluator = self._evaluator(model, batch, seed)
            start = time.perf_counter()
            clean = evaluator.score(pixels)
            evaluator.clean_value = clean.value
            outcome = self.search.run(Problem(region, batch.ids, evaluator, clean), seed=seed, watch=watch)
            seconds = _seconds_since(start, pixels.device)
            total = max(1, outcome.steps_done)
            watch.report(total, total, "checking the rounded image", dict, force=True)
            final = evaluator.score(outcome.pixels)
            rounded = region.rounded(outcome.pixels)
            final_8bit = evaluator.score(rounded)
            if outcome.last_unscored:
                outcome.objective_trace[-1] = final.value
                if outcome.consistency_trace is not None:
                    outcome.consistency_trace[-1] = final.consistency
        return self._result(batch, pixels, clean, outcome, final, rounded, final_8bit, seconds, seed)

    def _evaluator(self, model: Any, batch: Batch, seed: int) -> Evaluator:
        shared: dict = {}
        covered = set(batch.image_of_text) == set(range(len(batch.ids)))
        if getattr(model, "knowledge", None) == "decisions":
            covered = False  # S_c is not theirs to see
            if not isinstance(self.objective, Decided):
                raise OptionError(
                    f"The objective {self.objective.describe()} needs more than decisions.",
                    "Accepted: Decided(success), with a search that goes by decisions.",
                )
        consistency = Consistency().bind(model, batch, shared) if covered and hasattr(model, "encode_text") else None
        return Evaluator(
            model,
            self.objective.bind(model, batch, shared),
            self.success.bind(model, batch, shared),
            consistency,
            getattr(self.search, "micro_batch", None),
            batch=batch,
            shared=shared,
            sampled=model.for_samples(batch, seed) if hasattr(model, "for_samples") else None,
        )

    def _result(
        self,
        batch: Batch,
        pixels: torch.Tensor,
        clean: Evaluation,
        outcome: Outcome,
        final: Evaluation,
        rounded: torch.Tensor,
        final_8bit: Evaluation,
        seconds: float,
        seed: int,
    ) -> AttackResult:
        delta, delta_8bit = (outcome.pixels - pixels).flatten(1), (rounded - pixels).flatten(1)
        tensors = {
            "pixels": outcome.pixels,
            "clean_success": clean.success,
            "success": final.success,
            "success_8bit": final_8bit.success,
            "clean_objective": clean.value,
            "objective": final.value,
            "objective_8bit": final_8bit.value,
            "clean_consistency": clean.consistency,
            "consistency": final.consistency,
            "consistency_8bit": final_8bit.consistency,
            "objective_trace": outcome.objective_trace,
            "consistency_trace": outcome.consistency_trace,
            "linf": delta.abs().amax(dim=1),
            "l2": delta.norm(dim=1),
            "linf_8bit": delta_8bit.abs().amax(dim=1),
            "l2_8bit": delta_8bit.norm(dim=1),
            "l0": changed_positions(outcome.pixels, pixels),
            "l0_8bit": changed_positions(rounded, pixels),
            "minimum": outcome.minimum,
            "minimum_norm": outcome.minimum_norm,
            "universal": outcome.universal,
            "forwards": outcome.forwards,
            "backwards": outcome.backwards,
            "rounded": rounded,
        }
        return AttackResult(
            ids=tuple(batch.ids),
            **{name: None if tensor is None else tensor.detach().cpu() for name, tensor in tensors.items()},
            notes=_notes(outcome, clean),
            steps_done=outcome.steps_done,
            cancelled=outcome.cancelled,
            seconds=seconds,
            seed=seed,
            attack=self.describe(),
        )


def _notes(outcome: Outcome, clean: Evaluation) -> tuple[str, ...]:
    notes = []
    for step, value in zip(outcome.bad_step.tolist(), clean.value.tolist(), strict=True):
        parts = [] if value == value else ["the objective of the clean image is not a number"]
        if step >= 0:
            parts.append(f"the gradient was not finite at step {step}; the best before it is returned")
        notes.append("; ".join(parts))
    return tuple(notes)


def _seconds_since(start: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
