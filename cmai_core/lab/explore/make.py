"""Make a run: attack many pairs on each model (white box) at each ε, ask them, and keep what can be looked through."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.attacks.attack_spec import AttackSpec
from cmai_core.data.pair import Pair, PairDataset
from cmai_core.errors import OptionError
from cmai_core.lab.experiment import ROLES, Experiment
from cmai_core.lab.explore.attributes import attributes_of
from cmai_core.lab.explore.run import UNKNOWN, ExploreRun, ModelRun, Reading
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.versions import library_versions

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

BATCH = 32
MOST_PAIRS, MOST_EPSILONS = 4000, 3
"""A map holds 20,000 points: pictures, clean and at each ε, and texts."""


def make_run(
    models: Mapping[str, VisionLanguageModel],
    dataset: PairDataset,
    *,
    count: int,
    experiment: Experiment,
    epsilons: Sequence[float],
    precision: str = "float32",
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ExploreRun:
    """Attack the first `count` pairs with their first caption.

    The task is asked as in a measurement: retrieval searches a gallery of all pairs. A cancelled run keeps the pairs
    that every model has finished.

    Args:
        models: role → model. experiment: the attack; pair, sentence and ε are replaced, `craft_on` becomes "each".
        epsilons: one to MOST_EPSILONS budgets in the units of the experiment's norm.
        precision: "bfloat16": gradients in half precision, where the search has that option; answers never are.

    Raises:
        OptionError: too many pairs or budgets, an attack on words, a task that does not apply to a model or dataset.
    """
    start = time.perf_counter()
    count, levels = min(count, len(dataset)), tuple(sorted(set(map(float, epsilons))))
    if not 1 <= count <= MOST_PAIRS or not 1 <= len(levels) <= MOST_EPSILONS:
        raise OptionError(
            f"{count} pairs at {len(levels)} ε.", f"1 to {MOST_PAIRS} pairs, 1 to {MOST_EPSILONS} different ε."
        )
    if experiment.edits_words or experiment.has_detector:
        raise OptionError("A run attacks pictures only, without a detector.", "Choose another attack.")
    base = replace(experiment, pair=f"{dataset.name}/{dataset.split}/0", caption="any", craft_on="each")
    specs = [_spec(replace(base, epsilon=level).checked(), precision) for level in levels]
    task = _task(base.task, models, dataset, count)
    course = _Course(progress, cancel, count, models, len(levels))
    pairs: list[Pair] = []
    found: dict[str, list[_Part]] = {role: [] for role in models}
    for first in range(0, count, BATCH):
        some = [dataset[k] for k in range(first, min(first + BATCH, count))]
        parts: dict[str, _Part] = {}
        for role, model in models.items():
            part = _read(model, some, dataset, task, base, specs, course.of(role))
            if part is None:
                break
            parts[role] = part
        if len(parts) < len(models):
            break
        pairs += some
        for role, part in parts.items():
            found[role].append(part)
    if not pairs:
        raise OptionError("Cancelled before the first pairs were finished.", "Start again.")
    return _joined(models, base, levels, pairs, found, count, round(time.perf_counter() - start, 2))


@dataclass(frozen=True, eq=False)
class _Part:
    """A model's part of a batch: text vectors, and for each version (clean, then each ε) scores, answers, vectors."""

    text: np.ndarray
    versions: list[tuple[list[Any], list[bool | None], list[str], np.ndarray]]


def _spec(experiment: Experiment, precision: str) -> AttackSpec:
    spec = experiment.spec()
    return spec if precision == "float32" else replace(spec, options={**spec.options, "precision": precision})


def _task(name: str, models: Mapping[str, VisionLanguageModel], dataset: PairDataset, count: int) -> Any:
    from cmai_core.tasks import get_task

    task = get_task(name).for_items(count)
    for model in models.values():
        if reason := task.applies_to(dataset, model):
            raise OptionError(reason)
    return task


def _read(
    model: VisionLanguageModel,
    pairs: Sequence[Pair],
    dataset: PairDataset,
    task: Any,
    base: Experiment,
    specs: Sequence[AttackSpec],
    course: _Course,
) -> _Part | None:
    """Attack a batch at each ε and read everything; None where it was cancelled."""
    import torch

    from cmai_core.evaluation.runs.attacked import attack_batch
    from cmai_core.evaluation.runs.predictor import encode, make_batch, predict_images

    batch = make_batch(model, pairs, captions=1)
    shown: list[Any] = [batch.pixels]
    for spec in specs:
        attack = spec.build(task, dataset, value_count=batch.pixels[0].numel())
        result, examples = attack_batch(
            attack, model, batch, seed=base.seed, progress=course.within(len(pairs)), cancel=course.cancel
        )
        if result.cancelled:
            return None
        course.done(len(pairs))
        shown.append(examples.images)
    with torch.no_grad():
        seen = [encode(model, images) for images in shown]
        text = model.encode_text(list(batch.texts)).float().cpu().numpy()
    versions = predict_images(model, task, dataset, batch, seen)
    vectors = [encoded.features.embedding.float().cpu().numpy() for encoded in seen]
    return _Part(
        text,
        [
            ([p.consistency for p in rows], [p.correct for p in rows], [p.answer or "" for p in rows], image)
            for rows, image in zip(versions, vectors, strict=True)
        ],
    )


def _joined(
    models: Mapping[str, VisionLanguageModel],
    base: Experiment,
    levels: tuple[float, ...],
    pairs: Sequence[Pair],
    found: Mapping[str, Sequence[_Part]],
    asked: int,
    seconds: float,
) -> ExploreRun:
    places: dict[str, int] = {}

    def reading(parts: Sequence[_Part], version: int) -> Reading:
        scores = [v for p in parts for v in p.versions[version][0]]
        right = [v for p in parts for v in p.versions[version][1]]
        said = [v for p in parts for v in p.versions[version][2]]
        answers = [places.setdefault(text, len(places)) if text else UNKNOWN for text in said]
        return Reading(
            np.array(scores, np.float32),
            np.array([UNKNOWN if r is None else int(r) for r in right], np.int8),
            np.array(answers, np.int32),
            np.concatenate([p.versions[version][3] for p in parts]).astype(np.float16),
        )

    read = {
        role: ModelRun(
            model.spec, model.name, model.hash,
            np.concatenate([p.text for p in found[role]]).astype(np.float16),
            reading(found[role], 0),
            tuple(reading(found[role], 1 + level) for level in range(len(levels))),
        )
        for role, model in models.items()
    }  # fmt: skip
    names: dict[str, Any] = {role.lower(): "" for role in ROLES}
    names |= {role.lower(): model.spec for role, model in models.items()}
    return ExploreRun(
        experiment=replace(base, **names, epsilon=levels[-1]),
        epsilons=levels,
        ids=tuple(pair.id for pair in pairs),
        captions=tuple(pair.captions[0] for pair in pairs),
        rows=tuple(range(len(pairs))),
        attributes=attributes_of(pairs),
        answers=tuple(places),
        parts=read,
        asked=asked,
        seconds=seconds,
        versions=library_versions(),
    )


class _Course:
    """How far the run is, over all pairs, models and budgets."""

    def __init__(
        self,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
        count: int,
        models: Mapping[str, Any],
        levels: int,
    ):
        self.cancel = cancel
        self._progress, self._total, self._finished, self._role = progress, count * len(models) * levels, 0, ""

    def of(self, role: str) -> _Course:
        """Return itself, from now on speaking of this model."""
        self._role = role
        return self

    def done(self, pairs: int) -> None:
        """Count pairs attacked on one model at one ε."""
        self._finished += pairs

    def within(self, size: int) -> ProgressCallback | None:
        """Return a listener for the attack on the next batch."""
        if self._progress is None:
            return None
        tell, before = self._progress, self._finished
        stage = f"Attacking pairs, model {self._role}"
        return lambda update: tell(Progress(before + int(update.fraction * size), self._total, stage, {}))
