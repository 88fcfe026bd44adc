"""Attacks on texts: text threat model × objective × text search, and what counts as success. Images stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from cmai_core.attacks.base_attack import BaseAttack, Result, check_kinds, check_search, scores_before_and_after
from cmai_core.attacks.compatibility import check_text_fit
from cmai_core.attacks.engine.pair_evaluator import Images, PairEvaluator, PairScores
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion, Raised
from cmai_core.attacks.objectives.text import PairConsistency, follows_text
from cmai_core.attacks.text_result import TextAttackResult
from cmai_core.attacks.text_searches.search import BeamSearch, TextOutcome, TextProblem, TextSearch
from cmai_core.attacks.threats.text import TextRegion, TextThreat
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import strict_options
from cmai_core.reporting import Watch


@dataclass
class PairSetting:
    """What an attack on pairs works on. `images` and `clean` are set when the search begins."""

    evaluator: PairEvaluator
    texts: TextRegion
    images: Images | None = None
    clean: PairScores | None = None

    @property
    def pixels(self) -> torch.Tensor:
        """The clean images on the device, N×3×H×W."""
        return self.evaluator.pixels

    def score_clean(self) -> PairScores:
        """Encode the clean images and score the clean pairs; criteria compare with them from then on."""
        evaluator, texts = self.evaluator, self.texts.clean
        self.images = evaluator.images(self.pixels)
        self.clean = evaluator.score(texts, range(len(texts)), self.images, pixels=self.pixels)
        evaluator.clean_value = self.clean.value
        return self.clean

    def fields(self, texts: list[str]) -> dict[str, Any]:
        """Return what results say of the pairs; `texts`: as attacked."""
        notes = ("the objective of the clean pair is not a number", "")
        return {
            "ids": tuple(self.evaluator.pairs.ids),
            "image_of_text": tuple(self.evaluator.batch.image_of_text),
            "clean_texts": tuple(self.texts.clean),
            "texts": tuple(texts),
            "label_changed": tuple(self.texts.label_changed(row, text) for row, text in enumerate(texts)),
            "notes": tuple(notes[value == value] for value in self.clean.value.tolist()),
        }


class PairAttack(BaseAttack[Result]):
    """What attacks on texts, and on texts and images together, have in common."""

    def _check(self, text_threat: str, search_name: str, search: Any) -> None:
        """Check the parts; `text_threat` is the name of its attribute, `search_name` that of the search.

        Raises:
            OptionError: a part of the wrong kind, or an objective that texts cannot change.
        """
        check_kinds(self, {text_threat: TextThreat, "objective": Objective, "success": Criterion})
        check_search(search_name, search, "BeamSearch()")
        if not follows_text(self.objective):
            raise OptionError(
                f"The objective {self.objective.describe()} does not depend on the text as it is edited.",
                "Accepted: objectives of cmai_core.attacks.objectives.text, such as PairConsistency(), or sums with "
                "them.",
            )
        check_text_fit(getattr(search, "text", search), self.objective)  # a schedule has a text search inside

    def _pairs(self, model: Any, batch: Batch, threat: TextThreat) -> PairSetting:
        evaluator = PairEvaluator(model, batch, self.objective, self.success)
        pairs = evaluator.pairs
        scenes = [pair.scene for pair in pairs.pairs] if pairs.pairs else None
        return PairSetting(evaluator, threat.around(pairs.texts, scenes, evaluator.encode))


@strict_options
@dataclass(frozen=True, kw_only=True)
class TextAttack(PairAttack[TextAttackResult]):
    """Text threat model × objective × text search: edits texts, each against its own image (`BaseAttack`).

    Attributes:
        threat: what may change; with truth="scene" the pairs of the batch need scenes.
        objective: what is raised; it must follow the text (see `cmai_core.attacks.objectives.text`).
        search: how; searches by gradients need a model that takes distributions over tokens.
        success: when a pair counts as fooled (default: its objective rose). name: for reports.
    """

    result_type: ClassVar[type] = TextAttackResult

    threat: TextThreat = field(default_factory=TextThreat)
    objective: Objective = field(default_factory=lambda: -PairConsistency())
    search: TextSearch = field(default_factory=BeamSearch)
    success: Criterion = field(default_factory=Raised)
    name: str = "text attack"

    def __post_init__(self) -> None:
        self._check("threat", "search", self.search)

    def describe(self) -> dict:
        return self._described() | {"text_threat": self.threat.describe(), "text_search": self.search.describe()}

    def _prepare(self, model: Any, batch: Batch, seed: int) -> PairSetting:
        return self._pairs(model, batch, self.threat)

    def _search(self, setting: PairSetting, seed: int, watch: Watch) -> TextOutcome:
        clean, evaluator, texts = setting.score_clean(), setting.evaluator, list(setting.texts.clean)
        names = evaluator.pairs.ids
        problem = TextProblem(setting.texts, names, evaluator, setting.images, setting.pixels, texts, clean)
        return self.search.run(problem, seed=seed, watch=watch)

    def _measure(self, setting: PairSetting, outcome: TextOutcome, watch: Watch) -> dict[str, Any]:
        found = PairScores(outcome.value, outcome.consistency, outcome.success)
        return {
            **setting.fields(outcome.texts),
            **scores_before_and_after(setting.clean, found),
            "objective_trace": torch.stack(outcome.objective_trace),
            "consistency_trace": torch.stack(outcome.consistency_trace),
            **{name: getattr(outcome, name) for name in ("queries", "backwards", "steps_done", "cancelled")},
        }
