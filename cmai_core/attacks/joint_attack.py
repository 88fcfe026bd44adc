"""Joint attacks: an image and its texts attacked together. Threat on pixels × threat on text × objective × schedule.

The unit is the pair (an image with one text). An image with several texts moves along the mean of its pairs' gradients.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from cmai_core.attacks.engine.evaluator import at_rest
from cmai_core.attacks.engine.pair_evaluator import PairEvaluator
from cmai_core.attacks.joint_schedules.schedules import SGA
from cmai_core.attacks.joint_schedules.state import JointState
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion, Raised
from cmai_core.attacks.objectives.text import PairConsistency
from cmai_core.attacks.text_attack import check_batch, check_parts, region_of, text_fields
from cmai_core.attacks.text_result import JointResult
from cmai_core.attacks.text_searches.search import TextOutcome
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import strict_options
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.reporting import Watch
from cmai_core.seeds import resolve_seed


@strict_options
@dataclass(frozen=True, kw_only=True)
class JointAttack:
    """Attacks images and their texts together. Calling it attacks a batch.

    Attributes:
        threat: on pixels. text_threat: on texts. objective: what both raise; it must follow the text.
        schedule: in which order they move. success: when a pair counts as fooled (default: its objective rose).
        keep: "best": for each image with its texts the best met (most pairs won, then the mean objective; the
            schedule's own end and the clean pair among them); "last": what the schedule ends with, as published code
            returns it.
        name: for reports.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    text_threat: TextThreat = field(default_factory=TextThreat)
    objective: Objective = field(default_factory=lambda: -PairConsistency())
    schedule: Any = field(default_factory=SGA)
    success: Criterion = field(default_factory=Raised)
    keep: str = "best"
    name: str = "joint attack"

    def __post_init__(self) -> None:
        check_parts(self.objective, self.success, self.schedule, self.text_threat)
        if not isinstance(self.threat, ThreatModel):
            raise OptionError(f"threat={self.threat!r} is not accepted.", "Accepted: a ThreatModel.")
        if self.keep not in ("best", "last"):
            raise OptionError(f"keep={self.keep!r} is not known.", "Accepted: best, last.")

    def describe(self) -> dict:
        """Plain values that name the attack in reports."""
        parts = {"name": self.name, "objective": self.objective.describe(), "success": self.success.describe()}
        parts |= self.threat.describe() | {"text_threat": self.text_threat.describe(), "keep": self.keep}
        return parts | self.schedule.describe()

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
    ) -> JointResult:
        """Attacks every image and every text of the batch; arguments and promises as in `TextAttack` and `Attack`.

        Progress counts image steps; its data hold `pixels` and `texts` as they are.
        """
        seed = resolve_seed(seed, generator)
        check_batch(batch)
        watch = Watch(progress, cancel, progress_interval)
        with at_rest(model):
            evaluator = PairEvaluator(model, batch, self.objective, self.success)
            region, texts = self.threat.around(evaluator.pixels), region_of(self.text_threat, evaluator)
            start = time.perf_counter()
            images, rows = evaluator.images(evaluator.pixels), range(len(batch.texts))
            clean = evaluator.score(batch.texts, rows, images, pixels=evaluator.pixels)
            evaluator.clean_value = clean.value
            clean = evaluator.score(batch.texts, rows, images, pixels=evaluator.pixels)
            total = self.schedule.image_steps
            state = JointState(evaluator, region, texts, clean, batch.ids, seed, watch, total)
            watch.report(0, total, "attacking both", state.data, force=True)
            if not state.stopped:
                self.schedule.run(state)
            pixels, edited = state.pixels, state.texts
            if self.keep == "best":
                state.judge(pixels, edited)
                pixels, edited = state.best_pixels, state.best_texts
            if evaluator.pixels.device.type == "cuda":
                torch.cuda.synchronize(evaluator.pixels.device)
            seconds = time.perf_counter() - start
            rounded = region.rounded(pixels)
            final, final_8bit = (
                evaluator.score(edited, rows, evaluator.images(p), pixels=p) for p in (pixels, rounded)
            )
        state.objective_trace.append(final.value)
        state.consistency_trace.append(final.consistency)
        outcome = TextOutcome(
            list(edited),
            final.value,
            final.consistency,
            final.success,
            state.objective_trace,
            state.consistency_trace,
            state.queries,
            state.backwards,
            state.done,
            state.cancelled,
        )
        delta, delta_8bit = ((p - region.centre).flatten(1) for p in (pixels, rounded))
        tensors = {
            "pixels": pixels,
            "rounded": rounded,
            "success_8bit": final_8bit.success,
            "objective_8bit": final_8bit.value,
            "consistency_8bit": final_8bit.consistency,
            "linf": delta.abs().amax(dim=1),
            "l2": delta.norm(dim=1),
            "linf_8bit": delta_8bit.abs().amax(dim=1),
            "l2_8bit": delta_8bit.norm(dim=1),
            "forwards": state.forwards,
            "backwards_image": state.backwards_image,
        }
        return JointResult(
            **text_fields(texts, evaluator, clean, outcome),
            **{name: tensor.detach().cpu() for name, tensor in tensors.items()},
            seconds=seconds,
            seed=seed,
            attack=self.describe(),
        )
