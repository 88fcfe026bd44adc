"""An attack on images: threat model × objective × search, and what counts as success."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from cmai_core.attacks.base_attack import BaseAttack, check_kinds, check_search, scores_before_and_after, sizes
from cmai_core.attacks.compatibility import check_fit
from cmai_core.attacks.engine.evaluator import Evaluation, Evaluator
from cmai_core.attacks.engine.problem import Outcome, Problem, Search
from cmai_core.attacks.objectives.detectors import Decided
from cmai_core.attacks.objectives.objective import Consistency, Objective
from cmai_core.attacks.objectives.success import Criterion, Raised
from cmai_core.attacks.result import AttackResult
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.regions.region import Region
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import strict_options
from cmai_core.reporting import Watch

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


@dataclass
class ImageSetting:
    """What an attack on images works on; `clean` is set when the search begins."""

    ids: tuple[str, ...]
    pixels: torch.Tensor
    region: Region
    evaluator: Evaluator
    clean: Evaluation | None = None


@strict_options
@dataclass(frozen=True, kw_only=True)
class Attack(BaseAttack[AttackResult]):
    """Threat model × objective × search on images. Calling it attacks a batch (`BaseAttack`).

    Attributes:
        threat: what may change, and by how much.
        objective: what is raised.
        search: how.
        success: when a sample counts as fooled; by default, when its objective is higher than on the clean image.
        name: for reports.
    """

    result_type: ClassVar[type] = AttackResult

    threat: ThreatModel
    objective: Objective
    search: Search
    success: Criterion = field(default_factory=Raised)
    name: str = "attack"

    def __post_init__(self) -> None:
        check_kinds(self, {"threat": ThreatModel, "objective": Objective, "success": Criterion})
        check_search("search", self.search, "GradientSearch()")
        check_fit(self.search, self.threat, self.objective)

    def describe(self) -> dict:
        return self._described() | self.threat.describe() | self.search.describe()

    def _prepare(self, model: VisionLanguageModel, batch: Batch, seed: int) -> ImageSetting:
        pixels = batch.pixels.detach()
        device = getattr(model, "device", None)
        pixels = pixels if device is None else pixels.to(device)
        return ImageSetting(batch.ids, pixels, self.threat.around(pixels), self._evaluator(model, batch, seed))

    def _search(self, setting: ImageSetting, seed: int, watch: Watch) -> Outcome:
        evaluator = setting.evaluator
        setting.clean = evaluator.score(setting.pixels)
        evaluator.clean_value = setting.clean.value
        problem = Problem(setting.region, setting.ids, evaluator, setting.clean)
        return self.search.run(problem, seed=seed, watch=watch)

    def _measure(self, setting: ImageSetting, outcome: Outcome, watch: Watch) -> dict[str, Any]:
        clean, total = setting.clean, max(1, outcome.steps_done)
        assert clean is not None  # scored before the search
        watch.report(total, total, "checking the rounded image", dict, force=True)
        final = setting.evaluator.score(outcome.pixels)
        rounded = setting.region.round(outcome.pixels)
        final_8bit = setting.evaluator.score(rounded)
        if outcome.last_unscored:
            outcome.objective_trace[-1] = final.value
            if outcome.consistency_trace is not None and final.consistency is not None:
                outcome.consistency_trace[-1] = final.consistency
        names: tuple[str, ...] = (
            "objective_trace",
            "consistency_trace",
            "minimum",
            "minimum_norm",
            "universal",
            "forwards",
        )
        names += ("backwards", "steps_done", "cancelled")
        return {
            "ids": tuple(setting.ids),
            "pixels": outcome.pixels,
            "rounded": rounded,
            "notes": _notes(outcome, clean),
            **scores_before_and_after(clean, final, final_8bit),
            **sizes(setting.region, outcome.pixels),
            **sizes(setting.region, rounded, "_8bit"),
            **{name: getattr(outcome, name) for name in names},
        }

    def _evaluator(self, model: VisionLanguageModel, batch: Batch, seed: int) -> Evaluator:
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


def _notes(outcome: Outcome, clean: Evaluation) -> tuple[str, ...]:
    notes = []
    for step, value in zip(outcome.bad_step.tolist(), clean.value.tolist(), strict=True):
        parts = [] if value == value else ["the objective of the clean image is not a number"]
        if step >= 0:
            parts.append(f"the gradient was not finite at step {step}; the best before it is returned")
        notes.append("; ".join(parts))
    return tuple(notes)
