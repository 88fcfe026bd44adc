"""One attack on one pair, read by up to two models: the lab's main computation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.data.pair import Batch, Pair, PairDataset
from cmai_core.errors import OptionError
from cmai_core.lab.among import PairAmong
from cmai_core.lab.experiment import TASKS, Experiment
from cmai_core.lab.images import perturbation_numbers, round_trip
from cmai_core.lab.result import Answer, Craft, LabResult, Reading
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.versions import library_versions

if TYPE_CHECKING:
    import torch

    from cmai_core.models.wrapper import VisionLanguageModel


def run_attack(
    experiment: Experiment,
    pair: Pair,
    models: Mapping[str, VisionLanguageModel],
    *,
    dataset: PairDataset,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LabResult:
    """Crafts the adversarial picture (or pictures) and reads everything both models make of it.

    Args:
        pair: the picture; S_c is measured with `experiment.caption`. Where that is false of the pair's scene, the
            tasks go by the pair's own captions.
        models: role → model, for "undefended" and, where the experiment names one, "defended".
        dataset: where galleries, classes and second pictures come from.
        progress: told with `role`, `steps`, `objective` and `score` (traces so far), `image` (uint8), `clean_score`.
        cancel: looked at before every step and every reading; what was found until then is returned.

    Raises:
        OptionError: an objective on a task that does not apply to this pair or model; the message says why.
    """
    start = time.perf_counter()
    experiment.checked()
    pair = _with_sentence(pair, experiment.caption)
    setting = _Setting(pair, PairAmong(pair, dataset))
    crafts = {
        role: _craft(experiment, setting, role, models[role], progress, cancel) for role in experiment.crafted_models()
    }
    readings = {}
    for role, model in models.items():
        if progress:
            progress(Progress(0, 0, f"reading what the {role} model makes of it", {}))
        picture = role if role in crafts else next(iter(crafts))
        readings[role] = _read(setting, experiment.caption, role, model, picture, crafts[picture], cancel)
    return LabResult(
        experiment,
        crafts,
        readings,
        round(time.perf_counter() - start, 3),
        str(next(iter(models.values())).device),
        datetime.now(UTC).isoformat(timespec="seconds"),
        library_versions(),
    )


def _with_sentence(pair: Pair, caption: str) -> Pair:
    """The pair as the tasks see it: a sentence that is false of the scene (or not understood) is no caption of it."""
    if pair.scene is not None:
        from cmai_core.lab.compose import judge

        true = tuple(c for c in pair.captions if c != caption)
        if judge(caption, pair.scene)[0] is not True and true:
            return dataclasses.replace(pair, captions=true)
    return dataclasses.replace(pair, captions=(caption, *(c for c in pair.captions if c != caption)))


@dataclasses.dataclass(frozen=True)
class _Setting:
    """The pair among its kind: tasks are prepared on it, with the dataset's classes and gallery."""

    pair: Pair
    dataset: PairDataset

    def tasks(
        self, model: VisionLanguageModel, cancel: CancelToken | None
    ) -> tuple[dict[str, tuple[Any, Any]], dict[str, str]]:
        """(task name → (task, prepared for two pictures), task name → why it does not apply).

        After a cancellation nothing slow is begun: captions, written word by word, are left out.
        """
        usable, skipped = {}, {}
        for name in TASKS:
            if name == "captioning" and cancel is not None and cancel.cancelled:
                skipped[name] = "the attack was cancelled, and writing captions takes time."
                continue
            try:
                usable[name] = self.prepare(name, model, rows=2)
            except OptionError as error:
                skipped[name] = str(error)
        return usable, skipped

    def prepare(self, name: str, model: VisionLanguageModel, rows: int = 1) -> tuple[Any, Any]:
        """A task, and what it prepared for `rows` pictures of this one pair.

        Raises:
            OptionError: it does not apply; the message says why.
        """
        import torch

        from cmai_core.tasks import get_task

        task = get_task(name)
        reason = task.applies_to(self.dataset, model)
        if reason:
            raise OptionError(reason)
        with torch.no_grad():
            return task, task.prepare(model, [self.pair] * rows, self.dataset)


def clean_pixels(model: VisionLanguageModel, images: Sequence[np.ndarray]) -> torch.Tensor:
    """N×3×S×S in [0, 1], rounded to 8 bits, so that the clean picture, too, is one that a file can hold."""
    return (model.preprocess(images) * 255).round() / 255


def attack_for(experiment: Experiment, objective: Any, success: Any, value_count: int) -> Any:
    """The experiment's PGD on an objective; `value_count`: 3·H·W of the pictures (L2 budgets are per value)."""
    from cmai_core.attacks import pgd

    scale = 1.0 if experiment.norm == "linf" else value_count**0.5
    return pgd(
        objective,
        norm=experiment.norm,
        epsilon=experiment.epsilon / 255 * scale,
        success=success,
        steps=experiment.steps,
        step_size=experiment.step_size / 255 * scale or None,
        restarts=experiment.restarts,
        random_start=True,
    )


def _to_picture(pixels: torch.Tensor) -> np.ndarray:
    return (pixels[0].detach() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def _craft(
    experiment: Experiment,
    setting: _Setting,
    role: str,
    model: VisionLanguageModel,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Craft:
    from cmai_core.attacks import Consistency, TaskObjective, Untargeted

    pixels = clean_pixels(model, [setting.pair.image])
    task = prepared = None
    if experiment.objective != "consistency":
        task, prepared = setting.prepare(experiment.task, model)
    consistency = Consistency([experiment.caption])
    objective = {
        "consistency": lambda: -consistency,
        "task": lambda: TaskObjective(task, prepared),
        "both": lambda: experiment.alpha * TaskObjective(task, prepared) - experiment.beta * consistency,
    }[experiment.objective]()
    success = None if task is None else Untargeted(task, prepared)
    attack = attack_for(experiment, objective, success, pixels[0].numel())
    batch = Batch((setting.pair.id,), pixels, (experiment.caption,), (0,), (setting.pair,))
    result = attack(
        model,
        batch,
        progress=None if progress is None else _Listener(progress, role, experiment.steps),
        cancel=cancel,
        seed=experiment.seed,
    )
    clean, adversarial = _to_picture(pixels), _to_picture(result.pixels)
    sizes = perturbation_numbers(clean, adversarial)
    return Craft(
        role=role,
        clean=clean,
        adversarial=adversarial,
        objective_trace=_trace(result.objective_trace),
        score_trace=_trace(result.consistency_trace),
        score_float=float(result.consistency[0]),
        steps_done=int(result.steps_done),
        cancelled=bool(result.cancelled),
        success=None if task is None else bool(result.success_8bit[0]),
        success_float=None if task is None else bool(result.success[0]),
        linf=round(sizes["linf"], 4),
        l2=round(sizes["rms"], 4),
        forwards=int(result.forwards[0]),
        backwards=int(result.backwards[0]),
        seconds=round(float(result.seconds), 3),
    )


def _trace(values: torch.Tensor | None) -> tuple[float, ...]:
    """The scored part of the first sample's trace."""
    if values is None:
        return ()
    return tuple(round(float(v), 6) for v in values[:, 0].tolist() if v == v)


class _Listener:
    """Turns an attack's progress (tensors) into plain data for drawing."""

    def __init__(self, progress: ProgressCallback, role: str, steps: int):
        self._progress, self._role, self._steps = progress, role, steps

    def __call__(self, update: Progress) -> None:
        data: dict[str, Any] = {"role": self._role, "steps": self._steps}
        if "pixels" in update.data:
            data["image"] = _to_picture(update.data["pixels"][:1])
            data["objective"] = _trace(update.data["objective"])
            data["score"] = _trace(update.data["consistency"])
        stage = f"{update.stage}, on the {self._role} model" if update.stage == "attacking" else update.stage
        self._progress(Progress(update.done, update.total, stage.capitalize(), data))


def _read(
    setting: _Setting,
    caption: str,
    role: str,
    model: VisionLanguageModel,
    picture: str,
    craft: Craft,
    cancel: CancelToken | None,
) -> Reading:
    """S_c and answers of a model on the clean and the adversarial 8-bit picture it is shown."""
    import torch

    with torch.no_grad():
        jpeg = round_trip(craft.adversarial, "JPEG", 90)
        pixels = model.preprocess([craft.clean, craft.adversarial, jpeg])
        features = model.image_features(pixels)
        text = model.encode_text([caption])
        scores = (features.embedding @ text[0]).tolist()
        usable, skipped = setting.tasks(model, cancel)
        answers = {}
        for name, (task, prepared) in usable.items():
            both = task.predict(model, features[:2], prepared)
            answers[name] = tuple(_answer(p) for p in both)
    return Reading(
        role=role,
        spec=model.spec,
        name=model.name,
        hash=model.hash,
        domain=model.domain,
        picture=picture,
        clean=scores[0],
        adversarial=scores[1],
        float_score=craft.score_float if picture == role else None,
        jpeg_score=scores[2],
        answers=answers,
        skipped=skipped,
    )


def _answer(prediction: Any) -> Answer:
    detail = dict(prediction.detail or {})
    ranking: Sequence = detail.get("top", ())
    return Answer(
        prediction.answer,
        prediction.correct,
        float(prediction.score),
        tuple((str(t), float(p), None if true is None else bool(true)) for t, p, true in list(ranking)[:5]),
        str(detail.get("question") or detail.get("statement") or ""),
    )
