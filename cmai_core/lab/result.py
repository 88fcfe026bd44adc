"""What an attack in the lab came to: plain numbers, words and 8-bit pictures. Written to JSON, read back, drawn."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cmai_core.lab.experiment import Experiment, present_role
from cmai_core.lab.images import perturbation_numbers
from cmai_core.lab.target import Target, TargetReading


@dataclass(frozen=True)
class Answer:
    """What a model says for one task.

    Attributes:
        text: the answer in words.
        correct: against the ground truth; None where it is unknown.
        score: the task's own score (probability or log-likelihood).
        ranking: up to five (text, probability, is it true or None), best first; empty where the task has none.
        prompt: what was asked (a question, a statement), "" where the task asks nothing.
    """

    text: str
    correct: bool | None = None
    score: float = 0.0
    ranking: tuple[tuple[str, float, bool | None], ...] = ()
    prompt: str = ""


@dataclass(frozen=True)
class Example:
    """One adversarial picture and how it was made.

    Attributes:
        role: of the model it was crafted on (`experiment.ROLES`).
        clean, adversarial: uint8 H×W×3, what the model sees before and after; the attack counts only as rounded here.
        objective_trace, score_trace: per step, the objective the attacker raises and S_c (best restart).
        success: the attacked task's answer is wrong, and accepted where there is a detector; or the pair is accepted or
            rejected, as was wanted (None where an objective is only raised). Measured on the 8-bit picture;
            success_float the same before rounding.
        score_float: S_c on this model before rounding to 8 bits.
        linf, l2: size of the 8-bit perturbation, in units of 1/255 (l2: root mean square).
        queries: texts scored by an attack on words.
        caption: the attacked sentence, "" where the sentence was not attacked. true: whether it is true of the scene,
            None where nobody can say.
        note: what the attack said of this pair ("" where all is as expected).
        begun: whether anything was done at all. Where not (cancelled before its turn), `adversarial` is the clean
            picture, and stands for no attack.
    """

    role: str
    clean: np.ndarray
    adversarial: np.ndarray
    objective_trace: tuple[float, ...] = ()
    score_trace: tuple[float, ...] = ()
    score_float: float | None = None
    steps_done: int = 0
    cancelled: bool = False
    success: bool | None = None
    success_float: bool | None = None
    linf: float = 0.0
    l2: float = 0.0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    queries: int = 0
    caption: str = ""
    true: bool | None = None
    note: str = ""
    begun: bool = True


@dataclass(frozen=True)
class PairPrediction:
    """What one model makes of the clean and of the adversarial picture.

    Attributes:
        role, spec, name, hash: which model; `domain` the kind of pictures it was trained on (`data.registry.kinds`).
        picture: the role whose example it was shown. Equal to `role`: a white-box attack; else a transferred one.
        clean, adversarial: S_c of picture and sentence in [-1, 1], the adversarial one after rounding to 8 bits; None
            where the model was shown no attack, as that was cancelled before its turn.
        float_score: S_c before rounding; jpeg_score: after JPEG at quality 90.
        answers: task → (clean, adversarial); skipped: task → why it has no answers.
        tau: threshold of the detector around the model, None where the attack knew of none. false_positive_rate: what
            it is calibrated to, on calibration_pairs clean pairs; calibration: where it comes from, in words.
        cut: the end of the sentence that the model never reads, as it is longer than its context; "" where all is read.
        target: how near it is to what it was to see; None without a target, or where its task does not apply.
    """

    role: str
    spec: str
    name: str
    hash: str
    domain: str
    picture: str
    clean: float
    adversarial: float | None
    float_score: float | None = None
    jpeg_score: float | None = None
    answers: Mapping[str, tuple[Answer, Answer]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    tau: float | None = None
    false_positive_rate: float = 0.0
    calibration_pairs: int = 0
    calibration: str = ""
    cut: str = ""
    target: TargetReading | None = None

    @property
    def accepted(self) -> tuple[bool, bool] | None:
        """Whether the detector accepts the (clean, adversarial) pair; None without a detector, or without an attack."""
        if self.tau is None or self.adversarial is None:
            return None
        return self.clean >= self.tau, self.adversarial >= self.tau

    @property
    def attacked(self) -> bool:
        """Whether the model was shown an attacked pair at all."""
        return self.adversarial is not None

    @property
    def transferred(self) -> bool:
        return self.picture != self.role

    @property
    def change(self) -> float | None:
        return None if self.adversarial is None else self.adversarial - self.clean

    def broken_tasks(self) -> tuple[int, int]:
        """(tasks right when clean and wrong after the attack, tasks right when clean)."""
        judged = [(c, a) for c, a in self.answers.values() if c.correct]
        return sum(a.correct is False for _, a in judged), len(judged)


@dataclass(frozen=True)
class CourseReading:
    """What one model makes of every kept step of an attack; both empty where it was cancelled before.

    Attributes:
        scores: S_c of each step's picture and sentence. answers: task → its answer at each step, without ranking.
    """

    scores: tuple[float, ...] = ()
    answers: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Course:
    """The steps of one attack that were kept: the clean pair first, and last the pair that the attack handed back.

    Attributes:
        steps: the number of each as the search's progress counts them, rising from 0.
        packed: each picture minus the clean one, modulo 256, deflated (`lab.course`); () where they were not kept.
        sentences: the sentence at each step; () where it stayed as it was.
        readings: role of a model → what it makes of them.
    """

    steps: tuple[int, ...]
    packed: tuple[bytes, ...] = ()
    sentences: tuple[str, ...] = ()
    readings: Mapping[str, CourseReading] = field(default_factory=dict)

    def frame(self, place: int, clean: np.ndarray) -> np.ndarray:
        """Return the picture at a place of `steps`: uint8 H×W×3; `clean`: the picture that the attack began with."""
        change = np.frombuffer(zlib.decompress(self.packed[place]), np.uint8)
        return clean + change.reshape(clean.shape)  # uint8 wraps around

    @property
    def bytes(self) -> int:
        """Size of its pictures in memory."""
        return sum(map(len, self.packed))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON values."""
        readings = {role: asdict(reading) for role, reading in self.readings.items()}
        return {"steps": list(self.steps), "sentences": list(self.sentences), "readings": readings}

    @staticmethod
    def from_dict(raw: Mapping[str, Any], packed: Sequence[bytes] = ()) -> Course:
        """Inverse of `to_dict`; `packed`: the pictures, where they were kept beside it."""
        readings = {
            role: CourseReading(
                tuple(reading["scores"]),
                {task: tuple(map(_answer, said)) for task, said in reading["answers"].items()},
            )
            for role, reading in raw["readings"].items()
        }
        return Course(tuple(raw["steps"]), tuple(packed), tuple(raw["sentences"]), readings)


def _answer(raw: Mapping[str, Any]) -> Answer:
    return Answer(**{**raw, "ranking": tuple(tuple(row) for row in raw["ranking"])})


@dataclass(frozen=True, eq=False)
class SecondPicture:
    """The other picture of the statement about two: which one, and whether it stands on the left. It is never attacked.

    Attributes:
        image: uint8 H×W×3; None where only the record was kept. id: its id in its dataset.
    """

    image: np.ndarray | None
    id: str
    left: bool


@dataclass(frozen=True)
class LabResult:
    """An experiment and everything it showed. Maps are keyed by role; `second`: where a task asked about two.

    `courses`: how each example came about, by the role it was crafted on. `target`: what the experiment's is read as.
    """

    experiment: Experiment
    examples: Mapping[str, Example]
    predictions: Mapping[str, PairPrediction]
    seconds: float = 0.0
    device: str = "cpu"
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    second: SecondPicture | None = None
    courses: Mapping[str, Course] = field(default_factory=dict)
    target: Target | None = None

    @property
    def first_example(self) -> Example:
        """The first picture that was worked on; where none was, the first that would have been."""
        return next(
            (example for example in self.examples.values() if example.begun), next(iter(self.examples.values()))
        )

    @property
    def bytes(self) -> int:
        """Size of its pictures in memory."""
        whole = sum(example.clean.nbytes + example.adversarial.nbytes for example in self.examples.values())
        return whole + sum(course.bytes for course in self.courses.values())

    @property
    def attacked(self) -> dict[str, PairPrediction]:
        """The predictions of models that were shown an attack, by role."""
        return {role: prediction for role, prediction in self.predictions.items() if prediction.attacked}

    def evaded(self, role: str) -> bool | None:
        """Whether the attack had its way with a model and the detector around it; None without one, or unasked.

        Objective "aware": the answer is wrong and accepted; None where it was that already when clean. "accept",
        "reject": the pair is that, and was not when clean (None: it was).
        """
        prediction, experiment = self.predictions[role], self.experiment
        if prediction.accepted is None:
            return None
        if experiment.objective != "aware":
            before, after = (accepted == (experiment.objective == "accept") for accepted in prediction.accepted)
        elif experiment.task not in prediction.answers:
            return None
        else:
            answers = prediction.answers[experiment.task]
            if any(answer.correct is None for answer in answers):
                return None
            before, after = (
                not answer.correct and accepted for answer, accepted in zip(answers, prediction.accepted, strict=True)
            )
        return None if before else after

    def example_for(self, role: str) -> Example:
        """Return the pictures the model in this role was shown."""
        return self.examples[self.predictions[role].picture]

    def frame(self, role: str, place: int) -> np.ndarray:
        """Return the picture of the attack crafted on a role at a place of its course: uint8 H×W×3."""
        return self.courses[role].frame(place, self.examples[role].clean)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, as JSON values; the pictures' measured sizes are included."""
        examples = {}
        for role, example in self.examples.items():
            plain = {k: v for k, v in asdict_shallow(example).items() if k not in ("clean", "adversarial")}
            psnr = perturbation_numbers(example.clean, example.adversarial)["psnr"]
            examples[role] = plain | {"psnr_db": None if psnr == float("inf") else round(psnr, 2)}
        return {
            "format": "cmai-lab-result/1",
            "experiment": self.experiment.to_dict(),
            "crafts": examples,
            "readings": {role: asdict(prediction) for role, prediction in self.predictions.items()},
            "seconds": self.seconds,
            "device": self.device,
            "created": self.created,
            "versions": dict(self.versions),
            "second": None if self.second is None else {"id": self.second.id, "left": self.second.left},
            "courses": {role: course.to_dict() for role, course in self.courses.items()},
            "target": None if self.target is None else asdict(self.target),
        }

    @staticmethod
    def from_dict(
        raw: Mapping[str, Any],
        pictures: Mapping[str, tuple[np.ndarray, np.ndarray]],
        packed: Mapping[str, Sequence[bytes]] | None = None,
    ) -> LabResult:
        """Inverse of `to_dict`, also for what earlier versions wrote. The second picture's pixels are not kept.

        Args:
            pictures: role → (clean, adversarial). packed: role → pictures of its course (`Course.packed`), where kept.
        """
        examples = {}
        for role, values in raw["crafts"].items():
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "psnr_db"}
            values["role"] = present_role(values["role"])
            clean, adversarial = pictures[role]
            examples[values["role"]] = Example(clean=clean, adversarial=adversarial, **values)
        predictions = {}
        for role, values in raw["readings"].items():
            answers = {task: tuple(map(_answer, both)) for task, both in values["answers"].items()}
            named = {"role": present_role(role), "picture": present_role(values["picture"])}
            named["target"] = TargetReading.from_dict(values["target"]) if values.get("target") else None
            predictions[named["role"]] = PairPrediction(**{**values, **named, "answers": answers})
        return LabResult(
            Experiment.from_dict(raw["experiment"]),
            examples,
            predictions,
            raw["seconds"],
            raw["device"],
            raw["created"],
            raw["versions"],
            SecondPicture(None, **raw["second"]) if raw.get("second") else None,
            {
                role: Course.from_dict(course, (packed or {}).get(role, ()))
                for role, course in raw.get("courses", {}).items()
            },
            Target.from_dict(raw["target"]) if raw.get("target") else None,
        )


def asdict_shallow(item: Any) -> dict[str, Any]:
    """Field names and values without copying arrays."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}
