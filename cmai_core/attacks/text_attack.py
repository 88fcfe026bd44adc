"""A text attack: text threat model × objective × text search, and what counts as success. Images stay as they are."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from cmai_core.attacks.compatibility import check_text_fit
from cmai_core.attacks.engine.evaluator import at_rest
from cmai_core.attacks.engine.pair_evaluator import PairEvaluator
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion, Raised
from cmai_core.attacks.objectives.text import PairConsistency, follows_text
from cmai_core.attacks.text_result import TextAttackResult
from cmai_core.attacks.text_searches.search import BeamSearch, TextOutcome, TextProblem
from cmai_core.attacks.threats.text import TextRegion, TextThreat
from cmai_core.data.pair import Batch
from cmai_core.errors import DataError, OptionError
from cmai_core.options import strict_options
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.reporting import Watch
from cmai_core.seeds import resolve_seed


@strict_options
@dataclass(frozen=True, kw_only=True)
class TextAttack:
    """Edits the texts of a batch, each against its own image. Calling it attacks a batch.

    Attributes:
        threat: what may change. objective: what is raised; it must follow the text (see `text_objectives`).
        search: how. success: when a pair counts as fooled (default: its objective rose). name: for reports.
    """

    threat: TextThreat = field(default_factory=TextThreat)
    objective: Objective = field(default_factory=lambda: -PairConsistency())
    search: Any = field(default_factory=BeamSearch)
    success: Criterion = field(default_factory=Raised)
    name: str = "text attack"

    def __post_init__(self) -> None:
        check_parts(self.objective, self.success, self.search, self.threat)

    def describe(self) -> dict:
        """Plain values that name the attack in reports."""
        parts = {"name": self.name, "objective": self.objective.describe(), "success": self.success.describe()}
        return parts | {"text_threat": self.threat.describe(), "text_search": self.search.describe()}

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
    ) -> TextAttackResult:
        """Attacks every text of the batch.

        The batch and the model are left as they were found, and the global random state is not touched. With one seed
        the result of a pair depends neither on the other pairs of the batch nor on their order (unless the objective
        makes it so: a gallery is made of the batch).

        Args:
            model: has `image_features(pixels)` and `encode_text(texts)`; gradient searches also need it to take
                distributions over tokens.
            batch: pixels in [0, 1] and texts; with truth="scene" its pairs need scenes.
            progress, cancel, generator, seed, progress_interval: as in `Attack`; progress data hold `texts` too.

        Raises:
            DataError: no texts, or no scenes where they are needed. OptionError: options that do not fit.
        """
        seed = resolve_seed(seed, generator)
        check_batch(batch)
        watch = Watch(progress, cancel, progress_interval)
        with at_rest(model):
            evaluator = PairEvaluator(model, batch, self.objective, self.success)
            region = region_of(self.threat, evaluator)
            start = time.perf_counter()
            images = evaluator.images(evaluator.pixels)
            rows = range(len(batch.texts))
            clean = evaluator.score(batch.texts, rows, images, pixels=evaluator.pixels)
            evaluator.clean_value = clean.value
            problem = TextProblem(
                region, evaluator.pairs.ids, evaluator, images, evaluator.pixels, list(batch.texts), clean
            )
            outcome = self.search.run(problem, seed=seed, watch=watch)
            seconds = time.perf_counter() - start
        return TextAttackResult(
            **text_fields(region, evaluator, clean, outcome),
            seconds=seconds,
            seed=seed,
            attack=self.describe(),
        )


def check_parts(objective: Any, success: Any, search: Any, threat: Any) -> None:
    """Raises `OptionError` for a part of the wrong kind, or an objective that texts cannot change."""
    kinds = {"threat": (threat, TextThreat), "objective": (objective, Objective), "success": (success, Criterion)}
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            raise OptionError(f"{name}={value!r} is not accepted.", f"Accepted: a {kind.__name__}.")
    if not callable(getattr(search, "run", None)):
        raise OptionError(f"search={search!r} is not accepted.", "Accepted: a text search, such as BeamSearch().")
    if not follows_text(objective):
        raise OptionError(
            f"The objective {objective.describe()} does not depend on the text as it is edited.",
            "Accepted: objectives of cmai_core.attacks.objectives.text, such as PairConsistency(), or sums with them.",
        )
    check_text_fit(getattr(search, "text", search), objective)  # a joint attack's schedule has a text search inside


def check_batch(batch: Batch) -> None:
    """Raises `DataError` for ids that are not unique."""
    if len(set(batch.ids)) != len(batch.ids):
        raise DataError("Two samples of the batch have the same id.", "Random numbers belong to ids: make them unique.")


def region_of(threat: TextThreat, evaluator: PairEvaluator) -> TextRegion:
    """The texts a threat allows around those of a batch (its scenes, where its pairs have them)."""
    pairs = evaluator.pairs.pairs
    scenes = [pair.scene for pair in pairs] if pairs else None
    return threat.around(evaluator.pairs.texts, scenes, evaluator.encode)


def text_fields(region: TextRegion, evaluator: PairEvaluator, clean: Any, outcome: TextOutcome) -> dict[str, Any]:
    """What text and joint results have in common."""
    notes = [
        "the objective of the clean pair is not a number" if value != value else "" for value in clean.value.tolist()
    ]
    tensors = {
        "clean_success": clean.success,
        "success": outcome.success,
        "clean_objective": clean.value,
        "objective": outcome.value,
        "clean_consistency": clean.consistency,
        "consistency": outcome.consistency,
        "objective_trace": torch.stack(outcome.objective_trace),
        "consistency_trace": torch.stack(outcome.consistency_trace),
        "queries": outcome.queries,
        "backwards": outcome.backwards,
    }
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()} | {
        "ids": tuple(evaluator.pairs.ids),
        "image_of_text": tuple(evaluator.batch.image_of_text),
        "clean_texts": tuple(region.clean),
        "texts": tuple(outcome.texts),
        "label_changed": tuple(region.label_changed(row, text) for row, text in enumerate(outcome.texts)),
        "notes": tuple(notes),
        "steps_done": outcome.steps_done,
        "cancelled": outcome.cancelled,
    }
