"""Joint attacks: an image and its texts attacked together. Threat on pixels × threat on text × objective × schedule.

The unit is the pair (an image with one text). An image with several texts moves along the mean of its pairs' gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from cmai_core.attacks.base_attack import check_kinds, scores_before_and_after, sizes
from cmai_core.attacks.joint_schedules.schedules import SGA, Schedule
from cmai_core.attacks.joint_schedules.state import JointState
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion, Raised
from cmai_core.attacks.objectives.text import PairConsistency
from cmai_core.attacks.text_attack import PairAttack, PairSetting
from cmai_core.attacks.text_result import JointResult
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.regions.region import Region
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.data.pair import Batch
from cmai_core.options import one_of, strict_options
from cmai_core.reporting import Watch

KEEP = ("best", "last")


@dataclass
class JointSetting(PairSetting):
    """What an attack on pictures and texts works on."""

    region: Region | None = None


@strict_options
@dataclass(frozen=True, kw_only=True)
class JointAttack(PairAttack[JointResult]):
    """Threats on pixels and on texts × objective × schedule: attacks images with their texts (`BaseAttack`).

    Progress counts image steps.

    Attributes:
        threat: on pixels. text_threat: on texts. objective: what both raise; it must follow the text.
        schedule: in which order they move. success: when a pair counts as fooled (default: its objective rose).
        keep: "best": for each image with its texts the best met (most pairs won, then the mean objective; the
            schedule's own end and the clean pair among them); "last": what the schedule ends with, as published code
            returns it.
        name: for reports.
    """

    result_type: ClassVar[type] = JointResult

    threat: ThreatModel = field(default_factory=ThreatModel)
    text_threat: TextThreat = field(default_factory=TextThreat)
    objective: Objective = field(default_factory=lambda: -PairConsistency())
    schedule: Schedule = field(default_factory=SGA)
    success: Criterion = field(default_factory=Raised)
    keep: str = "best"
    name: str = "joint attack"

    def __post_init__(self) -> None:
        check_kinds(self, {"threat": ThreatModel})
        self._check("text_threat", "schedule", self.schedule)
        one_of("keep", self.keep, KEEP)

    def describe(self) -> dict:
        parts = self._described() | self.threat.describe()
        return parts | {"text_threat": self.text_threat.describe(), "keep": self.keep} | self.schedule.describe()

    def _prepare(self, model: Any, batch: Batch, seed: int) -> JointSetting:
        setting = self._pairs(model, batch, self.text_threat)
        return JointSetting(setting.evaluator, setting.texts, region=self.threat.around(setting.pixels))

    def _search(self, setting: JointSetting, seed: int, watch: Watch) -> JointState:
        clean, evaluator, total = setting.score_clean(), setting.evaluator, self.schedule.image_steps
        state = JointState(evaluator, setting.region, setting.texts, clean, evaluator.batch.ids, seed, watch, total)
        watch.report(0, total, "attacking both", state.data, force=True)
        if not state.stopped:
            self.schedule.run(state)
        if self.keep == "best":
            state.judge(state.pixels, state.texts)
            state.pixels, state.texts = state.best.examples, state.best_texts
        return state

    def _measure(self, setting: JointSetting, outcome: JointState, watch: Watch) -> dict[str, Any]:
        evaluator, pixels, texts = setting.evaluator, outcome.pixels, list(outcome.texts)
        rounded = setting.region.round(pixels)
        final, final_8bit = (
            evaluator.score(texts, range(len(texts)), evaluator.images(p), pixels=p) for p in (pixels, rounded)
        )
        return {
            **setting.fields(texts),
            **scores_before_and_after(setting.clean, final, final_8bit),
            "objective_trace": torch.stack([*outcome.objective_trace, final.value]),
            "consistency_trace": torch.stack([*outcome.consistency_trace, final.consistency]),
            "pixels": pixels,
            "rounded": rounded,
            **sizes(setting.region, pixels),
            **sizes(setting.region, rounded, "_8bit"),
            **{name: getattr(outcome, name) for name in ("queries", "backwards", "forwards", "backwards_image")},
            "steps_done": outcome.done,
            "cancelled": outcome.cancelled,
        }
