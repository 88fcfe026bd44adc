"""One attack on one pair, read by up to two models: the lab's main computation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.data.pair import Batch, Pair, PairDataset
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.attacked import attack_batch
from cmai_core.evaluation.runs.predictor import Encoded, ScoredPrediction, encode, predict_images, predict_pairs
from cmai_core.lab.choices import FALSE_POSITIVE_RATE, SEARCHES
from cmai_core.lab.course import CourseRecorder, read_course
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.images import perturbation_numbers, round_trip
from cmai_core.lab.judgement import judge
from cmai_core.lab.pair_in_context import PairAmong
from cmai_core.lab.result import Answer, Course, CourseReading, Example, LabResult, PairPrediction, SecondPicture
from cmai_core.lab.target import Target, TargetReading, near_target, place_of, possible_target
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.tasks import TASKS, get_task
from cmai_core.versions import library_versions

if TYPE_CHECKING:
    import torch

    from cmai_core.defenses.basis import Basis
    from cmai_core.models.protocol import VisionLanguageModel

PREDICTION_STEPS = 20
"""What one model's answers count for in the progress, in attack steps: about as long on the bundled models."""
LEAST_UNITS = 4
"""What an attack counts for at least in the progress: one step, too, takes a while."""
COURSE_STEPS = 10
"""What one model's reading of the kept steps counts for, likewise."""
CANCELLED = "it was cancelled before this was asked."


def run_attack(
    experiment: Experiment,
    pair: Pair,
    models: Mapping[str, VisionLanguageModel],
    *,
    dataset: PairDataset,
    bases: Mapping[str, Basis] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LabResult:
    """Make the adversarial picture (or pictures), and ask both models everything about it.

    Args:
        pair: the picture; S_c is measured with `experiment.caption`. Where that is false of the pair's scene, the
            tasks go by the pair's own captions.
        models: role → model, for every role that the experiment names one for.
        dataset: where galleries, classes and second pictures come from.
        bases: role → the thresholds of that model, where the attack is on a detector around it
            (`evaluation.calibration.calibration_for`); τ is that at FALSE_POSITIVE_RATE.
        progress: told with `role`, `steps`, `objective` and `score` (traces so far), `image` (uint8) and `count` (words
            for how far the present stage is); of attacks on words also `sentence` (the best so far, or the one at this
            step) and `trying` (a few of the edited sentences that are being scored); while answers are read,
            picture and traces stay those of the attack.
        cancel: looked at before every step and before every task is asked; what was found until then is returned.

    Raises:
        OptionError: an objective on a task that does not apply to this pair or model; the message says why. Or an
            attack on a detector without a threshold for each model.
    """
    start = time.perf_counter()
    experiment.checked()
    bases = (bases or {}) if experiment.has_detector else {}
    taus = {role: basis.tau(FALSE_POSITIVE_RATE) for role, basis in bases.items()}
    if experiment.has_detector and any(taus.get(role) is None for role in models):
        raise OptionError("There is no threshold for every model.", "Calibrate each on clean pairs.")
    pair = with_sentence(pair, experiment.caption)
    among = PairAmong(pair, dataset)
    setting = Setting(pair, among, possible_target(experiment.target, pair, among) if experiment.target else None)
    report = _Report(progress, experiment, len(models))
    examples, courses = {}, {}
    for role in experiment.attacked_models():
        examples[role], courses[role] = _craft(experiment, setting, role, models[role], taus.get(role), report, cancel)
    predictions, readings = {}, {}
    for role, model in models.items():
        picture = role if role in examples else next(iter(examples))
        example = examples[picture]
        report.reading(role)
        if example.begun:
            course, caption = courses[picture], experiment.caption
            readings[role] = picture, read_course(course, example.clean, caption, setting, model, cancel)
        prediction = _read(setting, experiment.caption, role, model, picture, example, report, cancel)
        predictions[role] = _with_detector(prediction, bases.get(role))
    return LabResult(
        experiment,
        examples,
        predictions,
        round(time.perf_counter() - start, 3),
        str(next(iter(models.values())).device),
        datetime.now(UTC).isoformat(timespec="seconds"),
        library_versions(),
        _second(setting, {task for prediction in predictions.values() for task in prediction.answers}),
        _with_readings({role: course for role, course in courses.items() if examples[role].begun}, readings),
        setting.target,
    )


def _with_readings(
    courses: Mapping[str, Course], readings: Mapping[str, tuple[str, CourseReading]]
) -> dict[str, Course]:
    """Put to each course what the models that were shown it make of its steps (role → whose course, reading)."""
    return {
        picture: dataclasses.replace(
            course, readings={r: read for r, (own, read) in readings.items() if own == picture}
        )
        for picture, course in courses.items()
    }


def _second(setting: Setting, answered: set[str]) -> SecondPicture | None:
    """Return the other picture of the task that asks about two; None where no such task was answered."""
    for name, info in TASKS.items():
        if info.pictures == 2 and name in answered:
            found = get_task(name).second_picture(setting.pair, setting.dataset)
            if found is not None:
                return SecondPicture(found.pair.image, found.pair.id, found.left)
    return None


def with_sentence(pair: Pair, caption: str) -> Pair:
    """Return the pair as the tasks see it: a sentence that is false of the scene, or not understood, is no caption."""
    true = tuple(c for c in pair.captions if c != caption)
    if pair.scene is not None and true and not _is_true(caption, pair):
        return dataclasses.replace(pair, captions=true)
    return dataclasses.replace(pair, captions=(caption, *(c for c in pair.captions if c != caption)))


@dataclasses.dataclass(frozen=True)
class Setting:
    """The pair among its kind: tasks are prepared on it, with the dataset's classes and gallery.

    `target`: what a model shall see; its task offers it among the answers.
    """

    pair: Pair
    dataset: PairDataset
    target: Target | None = None

    def saying(self, caption: str) -> Setting:
        """Return the same pair with another sentence instead of its first one."""
        rest = self.pair.captions[1:]
        pair = dataclasses.replace(self.pair, captions=(caption, *(c for c in rest if c != caption)))
        return Setting(pair, PairAmong(pair, self.dataset.dataset), self.target)

    def asked(self, name: str, model: VisionLanguageModel, seen: Encoded) -> list[ScoredPrediction]:
        """Ask a task about pictures of this one pair.

        Raises:
            OptionError: it does not apply; the message says why.
        """
        count = len(seen.pixels)
        rows = Batch(tuple(map(str, range(count))), seen.pixels, (), (), (self.pair,) * count)
        return predict_images(model, self.task(name, model), self.dataset, rows, [seen])[0]

    def task(self, name: str, model: VisionLanguageModel) -> Any:
        """Find a task that applies to this pair and model.

        Raises:
            OptionError: it does not apply; the message says why.
        """
        task = self.target_task if self.target is not None and self.target.task == name else get_task(name)
        if reason := task.applies_to(self.dataset, model):
            raise OptionError(reason)
        return task

    @cached_property
    def target_task(self) -> Any:
        """The task of the target, which stands among its answers; None without a target."""
        return None if self.target is None else get_task(self.target.task).with_option(self.target.option)


def clean_pixels(model: VisionLanguageModel, images: Sequence[np.ndarray]) -> torch.Tensor:
    """N×3×S×S in [0, 1], rounded to 8 bits, so that the clean picture, too, is one that a file can hold."""
    return (model.preprocess(images) * 255).round() / 255


def _to_picture(pixels: torch.Tensor) -> np.ndarray:
    return (pixels[0].detach() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def _craft(
    experiment: Experiment,
    setting: Setting,
    role: str,
    model: VisionLanguageModel,
    tau: float | None,
    report: _Report,
    cancel: CancelToken | None,
) -> tuple[Example, Course]:
    pixels = clean_pixels(model, [setting.pair.image])
    if cancel is not None and cancel.cancelled:
        return Example(**_pictures(role, pixels, _to_picture(pixels)), cancelled=True, begun=False), Course((0,))
    batch = Batch((setting.pair.id,), pixels, (experiment.caption,), (0,), (setting.pair,))
    recorder = CourseRecorder(_to_picture(pixels), experiment.caption, _to_picture, report.attacking(role))
    aimed = setting.target
    name = aimed.task if aimed else experiment.task_of_attack
    task = setting.task(name, model) if name else None
    place = place_of(aimed, task, model, setting.pair, setting.dataset) if aimed else None
    spec = experiment.spec(_is_true(experiment.caption, setting.pair), place)
    attack = spec.build(task, setting.dataset, value_count=pixels[0].numel())
    attacked = model if tau is None else _guarded(model, tau)
    result, examples = attack_batch(
        attack, attacked, batch, seed=experiment.seed, progress=recorder, cancel=cancel, progress_interval=0.0
    )
    shown = _pictures(role, pixels, examples.images[0])
    if experiment.edits_words:
        example = _example_of_words(experiment, shown, result)
    else:
        example = _example_of_pixels(shown, result, judged=task is not None or experiment.has_detector)
    return example, recorder.course(example.adversarial, example.caption or experiment.caption, example.steps_done)


def _example_of_pixels(shown: dict[str, Any], result: Any, *, judged: bool) -> Example:
    """Make the example of an attack on the picture. `judged`: whether it had a success to reach."""
    return _begun(
        Example(
            **shown,
            **_traces_of(result),
            success=bool(result.success_8bit[0]) if judged else None,
            success_float=bool(result.success[0]) if judged else None,
            forwards=int(result.forwards[0]),
            backwards=int(result.backwards[0]),
        )
    )


def _begun(example: Example) -> Example:
    """Mark an example as none where the attack was cancelled before its first step had changed anything."""
    idle = example.cancelled and not example.steps_done and example.caption == "" and example.linf == 0
    return dataclasses.replace(example, begun=False, success=None, success_float=None) if idle else example


def _guarded(model: VisionLanguageModel, tau: float) -> Any:
    """Return the model as deployed with a detector: S_c of the given pair below τ is rejected."""
    from cmai_core.defenses.detector import ConsistencyDetector
    from cmai_core.defenses.system import System

    return System(model, detector=ConsistencyDetector(tau))


def _with_detector(prediction: PairPrediction, basis: Basis | None) -> PairPrediction:
    if basis is None:
        return prediction
    return dataclasses.replace(
        prediction,
        tau=basis.tau(FALSE_POSITIVE_RATE),
        false_positive_rate=FALSE_POSITIVE_RATE,
        calibration_pairs=basis.calibration.count,
        calibration=basis.origin,
    )


def _example_of_words(experiment: Experiment, shown: dict[str, Any], result: Any) -> Example:
    """Make the example of a text or joint attack from its pictures and its result."""
    joint = experiment.norm == "joint"
    changed = result.label_changed[0]
    idle = result.cancelled and not result.steps_done and result.texts[0] == experiment.caption
    return _begun(
        Example(
            **shown,
            **_traces_of(result),
            forwards=int(result.forwards[0]) if joint else 0,
            backwards=int(result.backwards_image[0] if joint else result.backwards[0]),
            queries=int(result.queries[0]),
            caption="" if idle else result.texts[0],
            true=None if idle or changed is None else not changed,
        )
    )


def _pictures(role: str, before: torch.Tensor, adversarial: np.ndarray) -> dict[str, Any]:
    """Put the clean and the attacked picture, with the size of the change, as an example holds them."""
    clean = _to_picture(before)
    sizes = perturbation_numbers(clean, adversarial)
    return {
        "role": role,
        "clean": clean,
        "adversarial": adversarial,
        "linf": round(sizes["linf"], 4),
        "l2": round(sizes["rms"], 4),
    }


def _traces_of(result: Any) -> dict[str, Any]:
    return {
        "objective_trace": _trace(result.objective_trace),
        "score_trace": _trace(result.consistency_trace),
        "score_float": float(result.consistency[0]),
        "steps_done": int(result.steps_done),
        "cancelled": bool(result.cancelled),
        "seconds": round(float(result.seconds), 3),
        "note": result.notes[0],
    }


def _is_true(caption: str, pair: Pair) -> bool:
    """Whether a sentence is known to be true of the pair's scene."""
    return pair.scene is not None and judge(caption, pair.scene)[0] is True


def _trace(values: torch.Tensor | None) -> tuple[float, ...]:
    """Return the scored part of the first sample's trace."""
    if values is None:
        return ()
    return tuple(round(float(v), 6) for v in values[:, 0].tolist() if v == v)


class _Report:
    """How far the whole run is, as plain data for drawing: every attack, then every model's answers."""

    def __init__(self, progress: ProgressCallback | None, experiment: Experiment, models: int):
        counts = SEARCHES[experiment.recipe].counts
        self._progress = progress
        self._steps = getattr(experiment, counts) if counts else 1
        self._each = max(experiment.units, LEAST_UNITS)
        self._total = self._each * len(experiment.attacked_models())
        self._total += (COURSE_STEPS + PREDICTION_STEPS) * models
        self._done = 0  # of parts that are finished
        self._shown: dict[str, Any] = {}

    def attacking(self, role: str) -> ProgressCallback | None:
        """Return the listener of the attack on a model; from then on what was before it counts as finished."""
        if self._progress is None:
            return None
        base, self._done = self._done, self._done + self._each

        def tell(update: Progress) -> None:
            data: dict[str, Any] = {"role": role, "steps": self._steps, "count": f"{update.done} of {update.total}"}
            if "pixels" in update.data:
                data["image"] = _to_picture(update.data["pixels"][:1])
            if "texts" in update.data:
                data |= {"sentence": update.data["texts"][0], "trying": update.data.get("trying", ())}
            if "objective" in update.data:
                data["objective"] = _trace(update.data["objective"])
                data["score"] = _trace(update.data["consistency"])
                data["steps"] = max(self._steps, len(data["score"]) - 1)
            part = "" if update.stage == "attacking" else f", {update.stage}"  # "restart 2 of 5"
            done = base + round(update.fraction * self._each)
            before = self._shown if self._shown.get("role") == role else {}
            self._shown = before | data  # the last message brings no picture: the one before stays
            self._progress(Progress(done, self._total, f"Attacking model {role}{part}", self._shown))

        return tell

    def reading(self, role: str) -> None:
        """Say that a model reads the kept steps now."""
        self._say(self._done, f"Reading the steps on model {role}")
        self._done += COURSE_STEPS

    def predicting(self, role: str, task: str, share: float) -> None:
        """Says which task a model is asked now ("": S_c is measured), and which share of its part is finished."""
        stage = f"Asking model {role}: {task}" if task else f"Measuring S_c on model {role}"
        self._say(self._done + round(share * PREDICTION_STEPS), stage)

    def read(self) -> None:
        """Count a model's part as finished."""
        self._done += PREDICTION_STEPS

    def _say(self, done: int, stage: str) -> None:
        if self._progress is not None:
            self._progress(Progress(done, self._total, stage, self._shown | {"count": ""}))


def _read(
    setting: Setting,
    caption: str,
    role: str,
    model: VisionLanguageModel,
    picture: str,
    example: Example,
    report: _Report,
    cancel: CancelToken | None,
) -> PairPrediction:
    """S_c and answers of a model on the clean and the adversarial 8-bit picture it is shown.

    Where the sentence was attacked, S_c after the attack is that with the attacked sentence, and tasks that read the
    pair's sentences (retrieval) find it in the place of the clean one.
    S_c is always read; after a cancellation no further task is asked. Where the attack was never begun, only S_c of the
    clean picture is read: there is nothing that the model has held out against.
    """
    import torch

    from cmai_core.models.truncation import unread_of

    after = setting if example.caption in ("", caption) else setting.saying(example.caption)
    with torch.no_grad():
        report.predicting(role, "", 0.0)
        shown = [example.clean]
        if example.begun:
            shown += [example.adversarial, round_trip(example.adversarial, "JPEG", 90)]
        seen = encode(model, shown)
        texts = [caption, *[example.caption or caption] * (len(shown) - 1)]
        rows = Batch(tuple(map(str, range(len(shown)))), seen.pixels, tuple(texts), tuple(range(len(shown))))
        (found,) = predict_pairs(model, None, None, rows, [(seen, texts)])
        scores = [prediction.consistency for prediction in found] + [None] * (3 - len(shown))
        answers, skipped = {}, {}
        for number, name in enumerate(TASKS):
            if cancel is not None and cancel.cancelled:
                skipped[name] = CANCELLED
                continue
            report.predicting(role, name, (number + 1) / (len(TASKS) + 1))
            try:
                if after is setting:
                    found = setting.asked(name, model, seen.rows(0, min(2, len(shown))))
                else:
                    found = [*setting.asked(name, model, seen.rows(0, 1)), *after.asked(name, model, seen.rows(1, 2))]
            except OptionError as error:
                skipped[name] = str(error)
                continue
            answers[name] = tuple(answer_of(prediction.prediction) for prediction in found)
        near = None
        if setting.target is not None and example.begun:
            near = _near(setting, model, seen.rows(0, 2))
        report.read()
    return PairPrediction(
        role=role,
        spec=model.spec,
        name=model.name,
        hash=model.hash,
        domain=model.domain,
        picture=picture,
        clean=scores[0],
        adversarial=scores[1],
        float_score=example.score_float if picture == role else None,
        jpeg_score=scores[2],
        answers=answers,
        skipped=skipped,
        cut=unread_of(model, caption),
        target=near,
    )


def _near(setting: Setting, model: VisionLanguageModel, seen: Encoded) -> TargetReading | None:
    """Say how near a model is to the target on the clean and the attacked picture; None where it is not asked that."""
    try:
        task = setting.task(setting.target.task, model)
    except OptionError:
        return None
    return near_target(setting.target, task, model, setting.pair, setting.dataset, seen.features)


def answer_of(prediction: Any) -> Answer:
    """Return a task's prediction as the lab shows it, with its five best options."""
    detail = dict(prediction.detail or {})
    ranking: Sequence = detail.get("top", ())
    return Answer(
        prediction.answer,
        prediction.correct,
        float(prediction.score),
        tuple((str(t), float(p), None if true is None else bool(true)) for t, p, true in list(ranking)[:5]),
        str(detail.get("question") or detail.get("statement") or ""),
    )
