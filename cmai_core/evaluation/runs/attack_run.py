"""Runs an attack on a dataset and reports it: what `cmai attack` does.

Clean images are rounded to 8 bits after preprocessing, and adversarial ones count as rounded to 8 bits: both are what a
picture file can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.attacked import Examples, attack_batch, predict
from cmai_core.evaluation.runs.experiment import AttackExperiment
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.versions import library_versions

if TYPE_CHECKING:
    from cmai_core.data.pair import Batch, Pair, PairDataset
    from cmai_core.evaluation.runs.predictor import ScoredPrediction

FORMAT = "cmai-attack/1"


@dataclass
class AttackReport:
    """The outcome of an experiment.

    Attributes:
        data: everything but pixels, as JSON values (see `run_experiment`).
        result: the crafting model's outcome over all pairs, with the adversarial images and texts: an `AttackResult`,
            `TextAttackResult` or `JointResult`.
    """

    data: dict[str, Any]
    result: Any = field(repr=False)

    def __str__(self) -> str:
        from cmai_core.evaluation.runs.summary import summary

        return "\n".join(summary(self.data))


def run_experiment(
    experiment: AttackExperiment,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    device: str | None = None,
    models: Mapping[str, Any] | None = None,
    dataset: PairDataset | None = None,
) -> AttackReport:
    """Load models and data, attack batch by batch, and show the rounded pictures and the texts to every model.

    The report's `data` holds: format, experiment, attack, recipe (its card, or None), models (spec, hash, …), versions,
    device, created, seconds, cancelled, `rates` (success on the crafting model by the attack's own criterion; of texts
    also how many became false), `summary` by model (accuracy clean and robust, ASR with its denominator, S_c) and
    `samples`: one a picture, or one a pair of picture and text where texts are attacked.

    Args:
        progress: the whole run's steps, finished and in all.
        cancel: looked at before every step; what was attacked until then is reported.
        device: for example "cpu" or "cuda"; the best there is when None.
        models: specification → model, for those that are loaded already. dataset: the pairs, where they are at hand.

    Raises:
        CmaiError: a model, dataset or task that cannot be used, or does not fit the others.
    """
    from cmai_core.data import load_dataset
    from cmai_core.data.subset import first
    from cmai_core.models import load_model
    from cmai_core.models.scoring import has_heads
    from cmai_core.models.truncation import warn_truncated
    from cmai_core.tasks import get_task

    given = dict(models or {})
    task = get_task(experiment.task)
    if dataset is None:
        dataset = load_dataset(experiment.dataset, split=experiment.split, limit=experiment.limit)
    else:
        dataset = first(dataset, experiment.limit)

    def load(spec: str) -> Any:
        model = given.get(spec)
        surrogates[spec] = model if model is not None else load_model(spec, device=device)
        return surrogates[spec]

    surrogates: dict[str, Any] = {}
    models = {spec: load(spec) for spec in (experiment.model, *experiment.targets)}
    source = models[experiment.model]
    for model in models.values():
        warn_truncated(model, dataset)
    attack = experiment.build(task, dataset, 3 * source.image_size**2, load)
    modality = experiment.modality
    if experiment.spec.needs_detector and not getattr(source, "rejects", False):
        raise OptionError(
            f"The attack is on a detector, and {experiment.model} has none.",
            "Give the recipe's option tau, or attack a defended system.",
        )
    if "heads" in experiment.spec.description.needs and not has_heads(source):
        raise OptionError(
            f"The attack is on verified answering, and {experiment.model} has no consistency heads.",
            "Choose a model trained with CMCV.",
        )
    for spec, model in (models | surrogates).items():
        if modality != "text" and (reason := task.applies_to(dataset, model)):
            raise OptionError(f"The task {experiment.task} does not apply to {spec} on {experiment.dataset}.", reason)
    token = cancel or CancelToken()
    results, samples = [], []
    count = math.ceil(len(dataset) / experiment.batch_size)
    for index, batch in enumerate(_batches(dataset, source, experiment.batch_size, experiment.captions)):
        if token.cancelled and results:
            break
        listener = None if progress is None else _Offset(progress, index, count)
        result, examples = attack_batch(attack, source, batch, seed=experiment.seed, progress=listener, cancel=token)
        results.append(result)
        records = result.records()
        for spec, model in models.items():
            versions = [Examples.clean(batch), examples]
            asked = None if modality == "text" else task
            predictions = _record(*predict(model, asked, dataset, batch, versions, modality))
            for record, prediction in zip(records, predictions, strict=True):
                record.setdefault("models", {})[spec] = prediction
        samples += records
    result = _concatenate(modality, results)
    data = {
        "format": FORMAT,
        "experiment": experiment.to_dict(),
        "attack": attack.describe(),
        "recipe": _card(experiment.recipe),
        "models": {spec: _identity(model) for spec, model in (models | surrogates).items()},
        "versions": library_versions(),
        "device": str(source.device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 3),
        "cancelled": token.cancelled,
        "rates": _rates(modality, result),
        "summary": {spec: summarise(samples, spec) for spec in models},
        "samples": samples,
    }
    return AttackReport(data, result)


def _concatenate(modality: str, results: list[Any]) -> Any:
    if modality == "image":
        from cmai_core.attacks.result import AttackResult

        return AttackResult.concatenate(results)
    from cmai_core.attacks.text_result import concatenate

    return concatenate(results)


def _card(slug: str) -> dict[str, Any] | None:
    if not slug:
        return None
    from cmai_core.attacks.recipes.registry import get_recipe

    return {name: value for name, value in get_recipe(slug).describe().items() if name != "options"}


def _rates(modality: str, result: Any) -> dict[str, Any]:
    rates = {"success": result.success_rate().to_dict()}
    if modality != "image":
        true = result.success_rate(truthful=True).to_dict()
        if not result.truth_is_known:
            true |= {"hits": None, "share": None}  # of photographs nobody knows it: not the same as none
        rates["success_text_still_true"] = true
        rates["text_became_false"] = result.label_change_rate().to_dict()
    return rates


def summarise(samples: Sequence[Mapping[str, Any]], spec: str) -> dict[str, Any]:
    """Totals of one model over the samples whose truth is known; every share beside its count and denominator.

    ASR: among the samples right when clean, those wrong on the rounded adversarial picture. Robust accuracy: among all,
    those right when clean and after the attack.
    """
    predictions = [sample["models"][spec] for sample in samples]
    judged = [r for r in predictions if r["clean_correct"] is not None and r["correct"] is not None]
    intact = [r for r in judged if r["clean_correct"]]
    scored = [r for r in predictions if r["clean_consistency"] is not None]
    return {
        "samples": len(predictions),
        "accuracy_clean": _share(len(intact), len(judged)),
        "accuracy_robust": _share(sum(r["correct"] for r in intact), len(judged)),
        "asr": _share(sum(not r["correct"] for r in intact), len(intact)),
        "consistency_clean": _mean([r["clean_consistency"] for r in scored]),
        "consistency_attacked": _mean([r["consistency"] for r in scored]),
    }


def _share(hits: int, total: int) -> dict[str, Any]:
    return {"hits": hits, "total": total, "share": hits / total if total else None}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _identity(model: Any) -> dict[str, Any]:
    return {"spec": model.spec, "name": model.name, "hash": model.hash, "defended": bool(model.defended)}


def _batches(dataset: PairDataset, model: Any, size: int, captions: int) -> Iterator[Batch]:
    from cmai_core.evaluation.runs.predictor import make_batch

    for start in range(0, len(dataset), size):
        pairs: list[Pair] = [dataset[i] for i in range(start, min(start + size, len(dataset)))]
        yield make_batch(model, pairs, captions)


def _record(before: Sequence[ScoredPrediction], after: Sequence[ScoredPrediction]) -> list[dict[str, Any]]:
    """Put what a model says before and after the attack as a report holds it, by the rows of the result."""
    return [
        {
            "clean_answer": b.answer,
            "answer": a.answer,
            "clean_correct": b.correct,
            "correct": a.correct,
            "clean_consistency": b.consistency,
            "consistency": a.consistency,
        }
        for b, a in zip(before, after, strict=True)
    ]


class _Offset:
    """Turns the progress of one batch into that of the whole run, in thousandths of a batch."""

    UNITS = 1000

    def __init__(self, progress: ProgressCallback, index: int, count: int):
        self._progress, self._index, self._count = progress, index, count

    def __call__(self, update: Progress) -> None:
        done = self._index * self.UNITS + round(update.fraction * self.UNITS)
        stage = f"batch {self._index + 1} of {self._count}"
        self._progress(Progress(done, self._count * self.UNITS, stage, update.data))
