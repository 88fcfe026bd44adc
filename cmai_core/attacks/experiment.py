"""An attack on a dataset, fully specified in plain values, and its report: what `cmai attack` runs and writes.

Clean images are rounded to 8 bits after preprocessing, and adversarial ones count as rounded to 8 bits: both are what a
picture file can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cmai_core.attacks.options import number, one_of, strict_options, whole
from cmai_core.errors import OptionError
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.versions import library_versions

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.attacks.attack import Attack
    from cmai_core.attacks.result import AttackResult
    from cmai_core.data.pair import Batch, Pair, PairDataset

FORMAT = "cmai-attack/1"
OBJECTIVES = ("task", "consistency", "both")
NORMS = ("linf", "l2")


@strict_options
@dataclass(frozen=True, kw_only=True)
class AttackExperiment:
    """PGD on the first `limit` pairs of a dataset.

    Attributes:
        model: specification of the model the examples are crafted on.
        targets: specifications of models that are then shown the same pictures (transfer).
        dataset, split, limit: which pairs; limit None: all.
        task: the task whose predictions are judged, and whose loss the objective raises.
        objective: "task": the task's loss; "consistency": −S_c; "both": alpha·loss − beta·S_c.
        norm: "linf": every pixel value changes by at most epsilon/255. "l2": the root mean square change of the pixel
            values is at most epsilon/255 (a ball of radius epsilon/255·√(3·H·W)), so that one ladder serves both norms.
        epsilon, step_size: in units of 1/255; step_size None: 2.5·epsilon/steps.
        momentum, restarts, random_start, stop_on_success: as in `GradientSearch`.
        batch_size: pairs attacked together; it does not change the result.

    Raises:
        OptionError: a value outside its range; the message lists what is accepted.
    """

    model: str = "tabletop"
    targets: tuple[str, ...] = ()
    dataset: str = "tabletop"
    split: str = "test"
    limit: int | None = 64
    task: str = "retrieval"
    objective: str = "task"
    alpha: float = 1.0
    beta: float = 1.0
    norm: str = "linf"
    epsilon: float = 4.0
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    momentum: float = 0.0
    stop_on_success: bool = False
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        one_of("norm", self.norm, NORMS)
        number("epsilon", self.epsilon, 0.0, 255.0)
        number("alpha", self.alpha, 0.0)
        number("beta", self.beta, 0.0)
        for name in ("steps", "restarts", "batch_size"):
            whole(name, getattr(self, name), 1)
        whole("seed", self.seed, 0)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, 255.0, above_low=True)
        if self.limit is not None:
            whole("limit", self.limit, 1)
        if self.objective == "both" and self.alpha == 0 and self.beta == 0:
            raise OptionError("alpha and beta are both 0.", "At least one part of the objective needs a weight.")
        if self.restarts > 1 and not self.random_start:
            raise OptionError(
                f"restarts={self.restarts} without a random start would repeat one and the same run.",
                "Accepted: restarts=1, or a random start.",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"targets": list(self.targets)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> AttackExperiment:
        """From JSON values; unknown names raise `OptionError`."""
        known = {f.name for f in fields(AttackExperiment)}
        values = {k: tuple(v) if k == "targets" and k in known else v for k, v in values.items()}
        return AttackExperiment(**values)

    def build(self, task: Any, dataset: Any, value_count: int) -> Attack:
        """The attack itself. `value_count`: 3·H·W of the model's pixels (L2 budgets are per value)."""
        from cmai_core.attacks.objectives import Consistency, TaskObjective
        from cmai_core.attacks.presets import pgd
        from cmai_core.attacks.success import Untargeted

        loss, consistency = TaskObjective(task, dataset=dataset), Consistency()
        objective = {
            "task": lambda: loss,
            "consistency": lambda: -consistency,
            "both": lambda: self.alpha * loss - self.beta * consistency,
        }[self.objective]()
        unit = (1.0 if self.norm == "linf" else math.sqrt(value_count)) / 255
        return pgd(
            objective,
            norm=self.norm,
            epsilon=self.epsilon * unit,
            success=Untargeted(task, dataset=dataset),
            steps=self.steps,
            step_size=None if self.step_size is None else self.step_size * unit,
            restarts=self.restarts,
            random_start=self.random_start,
            momentum=self.momentum,
            stop_on_success=self.stop_on_success,
        )


@dataclass
class AttackReport:
    """What an experiment came to.

    Attributes:
        data: everything but pixels, as JSON values (see `run_experiment`).
        result: the crafting model's outcome over all pairs, with the adversarial images.
    """

    data: dict[str, Any]
    result: AttackResult = field(repr=False)


def run_experiment(
    experiment: AttackExperiment,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    device: str | None = None,
) -> AttackReport:
    """Loads models and data, attacks batch by batch, and shows the rounded pictures to every model.

    The report's `data` holds: format, experiment, attack, models (spec, hash, …), versions, device, created, seconds,
    cancelled, `summary` by model (accuracy clean and robust, ASR with its denominator, S_c) and `samples`, one a pair.

    Args:
        progress: the whole run's gradient steps, finished and in all.
        cancel: looked at before every step; what was attacked until then is reported.
        device: for example "cpu" or "cuda"; the best there is when None.

    Raises:
        CmaiError: a model, dataset or task that cannot be used, or does not fit the others.
    """
    from cmai_core.attacks.result import AttackResult
    from cmai_core.data import load_dataset
    from cmai_core.models import load_model
    from cmai_core.tasks import get_task

    task = get_task(experiment.task)
    dataset = load_dataset(experiment.dataset, split=experiment.split, limit=experiment.limit)
    models = {spec: load_model(spec, device=device) for spec in (experiment.model, *experiment.targets)}
    for spec, model in models.items():
        if reason := task.applies_to(dataset, model):
            raise OptionError(f"The task {experiment.task} does not apply to {spec} on {experiment.dataset}.", reason)
    source = models[experiment.model]
    attack = experiment.build(task, dataset, 3 * source.image_size**2)
    token = cancel or CancelToken()
    results, samples = [], []
    count = math.ceil(len(dataset) / experiment.batch_size)
    for index, batch in enumerate(_batches(dataset, source, experiment.batch_size)):
        if token.cancelled and results:
            break
        listener = None if progress is None else _Offset(progress, index, count, experiment.steps * experiment.restarts)
        result = attack(source, batch, progress=listener, cancel=token, seed=experiment.seed)
        results.append(result)
        records = result.records()
        clean, adversarial = _pictures(batch.pixels), result.images()
        for spec, model in models.items():
            for record, reading in zip(records, _read(model, task, dataset, batch, clean, adversarial), strict=True):
                record.setdefault("models", {})[spec] = reading
        samples += records
    result = AttackResult.concatenate(results)
    data = {
        "format": FORMAT,
        "experiment": experiment.to_dict(),
        "attack": attack.describe(),
        "models": {spec: _identity(model) for spec, model in models.items()},
        "versions": library_versions(),
        "device": str(source.device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 3),
        "cancelled": token.cancelled,
        "summary": {spec: summarise(samples, spec) for spec in models},
        "samples": samples,
    }
    return AttackReport(data, result)


def summarise(samples: Sequence[Mapping[str, Any]], spec: str) -> dict[str, Any]:
    """Totals of one model over the samples whose truth is known; every share beside its count and denominator.

    ASR: among the samples right when clean, those wrong on the rounded adversarial picture. Robust accuracy: among all,
    those right when clean and after the attack.
    """
    readings = [sample["models"][spec] for sample in samples]
    judged = [r for r in readings if r["clean_correct"] is not None and r["correct"] is not None]
    intact = [r for r in judged if r["clean_correct"]]
    scored = [r for r in readings if r["clean_consistency"] is not None]
    return {
        "samples": len(readings),
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


def _batches(dataset: PairDataset, model: Any, size: int) -> Iterator[Batch]:
    from cmai_core.attacks.result import round_to_8bit
    from cmai_core.data.pair import Batch

    for start in range(0, len(dataset), size):
        pairs: list[Pair] = [dataset[i] for i in range(start, min(start + size, len(dataset)))]
        pixels = round_to_8bit(model.preprocess([pair.image for pair in pairs]))
        texts = tuple(pair.captions[0] for pair in pairs)
        yield Batch(tuple(pair.id for pair in pairs), pixels, texts, tuple(range(len(pairs))), tuple(pairs))


def _pictures(pixels: Any) -> np.ndarray:
    from cmai_core.attacks.result import to_uint8

    return to_uint8(pixels)


def _read(
    model: Any, task: Any, dataset: PairDataset, batch: Batch, clean: np.ndarray, adversarial: np.ndarray
) -> list[dict[str, Any]]:
    """What a model answers on the clean and on the adversarial pictures, and S_c with the pairs' captions."""
    import torch

    from cmai_core.attacks.evaluator import at_rest

    with torch.no_grad(), at_rest(model):
        prepared = task.prepare(model, list(batch.pairs), dataset)
        text = model.encode_text(list(batch.texts))
        both = []
        for images in (clean, adversarial):
            features = model.image_features(model.preprocess(list(images)))
            both.append((task.predict(model, features, prepared), (features.embedding * text).sum(dim=1).tolist()))
    (before, score_before), (after, score_after) = both
    return [
        {
            "clean_answer": b.answer,
            "answer": a.answer,
            "clean_correct": b.correct,
            "correct": a.correct,
            "clean_consistency": sb,
            "consistency": sa,
        }
        for b, a, sb, sa in zip(before, after, score_before, score_after, strict=True)
    ]


class _Offset:
    """Turns the progress of one batch into that of the whole run."""

    def __init__(self, progress: ProgressCallback, index: int, count: int, steps: int):
        self._progress, self._index, self._count, self._steps = progress, index, count, steps

    def __call__(self, update: Progress) -> None:
        done = self._index * self._steps + round(update.fraction * self._steps)
        stage = f"batch {self._index + 1} of {self._count}"
        self._progress(Progress(done, self._count * self._steps, stage, update.data))
