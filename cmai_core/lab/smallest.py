"""How little is enough: the smallest ε at which an attack breaks each model's answer, by a ladder and halving."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.budget import NORMS, Budget
from cmai_core.data.pair import Batch, Pair, PairDataset
from cmai_core.errors import OptionError
from cmai_core.lab.choices import budget_norm
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.pair_in_context import PairAmong
from cmai_core.lab.result import Answer
from cmai_core.lab.run import Setting, answer_of, clean_pixels, with_sentence
from cmai_core.lab.target import near_target, place_of, possible_target
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

HALVINGS = 3
"""Attacks between the last ε that held and the first that broke, at most."""


@dataclass(frozen=True, eq=False)
class Rung:
    """One ε that was tried on one model, in white box.

    Attributes:
        epsilon: as in `Budget`; words: as people read it. broken: whether the answer broke on the 8-bit picture.
        picture: uint8 H×W×3. s_c, answer: what the model makes of it. margin: of the target over the best other option
            (`TargetReading`), None without a target.
    """

    epsilon: float
    words: str
    broken: bool
    picture: np.ndarray
    s_c: float
    answer: Answer
    margin: float | None = None


@dataclass(frozen=True, eq=False)
class ModelLimit:
    """How much one model stands.

    Attributes:
        name: of the model. clean_s_c, clean_answer: of the picture as it is.
        already: whether the answer is wrong (or the target's) without any attack; then nothing is tried.
        rungs: what was tried, by rising ε. complete: whether the search came to its end.
        note: why nothing was tried, "" where something was.
    """

    name: str
    clean_s_c: float | None = None
    clean_answer: Answer | None = None
    already: bool = False
    rungs: tuple[Rung, ...] = ()
    complete: bool = False
    note: str = ""

    @property
    def breaking(self) -> Rung | None:
        """The smallest ε that broke the answer, with its picture; None where none did."""
        return next((rung for rung in self.rungs if rung.broken), None)

    @property
    def held(self) -> Rung | None:
        """The largest ε below that at which the answer held; None where none did."""
        kept = [rung for rung in self.rungs if not rung.broken]
        return kept[-1] if kept else None

    @property
    def holds(self) -> bool:
        """Whether the answer held up to the top of the ladder."""
        return self.complete and bool(self.rungs) and self.breaking is None


@dataclass(frozen=True, eq=False)
class SmallestEpsilon:
    """The limits of all models, by role.

    Attributes:
        experiment: whose attack it was. norm: of ε. top: the ladder's largest ε. cancelled: whether it ended early.
    """

    experiment: Experiment
    norm: str
    top: float
    models: Mapping[str, ModelLimit]
    cancelled: bool = False
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON values."""
        models = {}
        for role, limit in self.models.items():
            plain = {
                name: getattr(limit, name) for name in ("name", "clean_s_c", "already", "complete", "note", "holds")
            }
            rungs = [
                {name: getattr(rung, name) for name in ("epsilon", "words", "broken", "s_c", "margin")}
                | {"answer": asdict(rung.answer)}
                for rung in limit.rungs
            ]
            clean = None if limit.clean_answer is None else asdict(limit.clean_answer)
            models[role] = plain | {"clean_answer": clean, "rungs": rungs}
        values = {name: getattr(self, name) for name in ("norm", "top", "cancelled", "seconds")}
        return values | {"experiment": self.experiment.to_dict(), "models": models}


def why_no_smallest(experiment: Experiment) -> str:
    """Say why there is no smallest ε to be looked for; "" where there is."""
    if experiment.edits_words:
        return "Where words change, ε alone does not say how much: choose an attack on pixels."
    if experiment.has_detector:
        return "An objective on a detector has no answer to break: choose another."
    return ""


def smallest_epsilon(
    experiment: Experiment,
    pair: Pair,
    models: Mapping[str, VisionLanguageModel],
    dataset: PairDataset,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> SmallestEpsilon:
    """Find for every model the smallest ε at which the experiment's attack, made on that model, breaks its answer.

    Broken is the answer of the experiment's task where it is wrong, or with a target where it is the target, on the
    8-bit picture. The ladder is climbed until an ε breaks it; a success there settles every larger one. Then the gap
    to the last ε that held is halved.

    Args:
        experiment: its ε and `craft_on` do not matter. pair, dataset: as in `run_attack`.
        progress: told with `role`, `epsilon` (in words) and `image`; units are attacks, at most.
        cancel: looked at at every step of an attack; what was found until then is returned.

    Raises:
        OptionError: `why_no_smallest`, or a target that is true already.
    """
    start = time.perf_counter()
    experiment.checked()
    if reason := why_no_smallest(experiment):
        raise OptionError("There is no smallest ε to look for.", reason)
    pair = with_sentence(pair, experiment.caption)
    among = PairAmong(pair, dataset)
    target = possible_target(experiment.target, pair, among) if experiment.target else None
    setting, norm = Setting(pair, among, target), budget_norm(experiment.norm)
    ladder = NORMS[norm].ladder
    each = len(ladder) + HALVINGS
    found: dict[str, ModelLimit] = {}
    for number, (role, model) in enumerate(models.items()):
        climb = _Climb(experiment, setting, role, model, progress, cancel, number * each, len(models) * each)
        found[role] = climb.run(ladder)
    stopped = cancel is not None and cancel.cancelled and not all(limit.complete for limit in found.values())
    return SmallestEpsilon(experiment, norm, ladder[-1], found, stopped, round(time.perf_counter() - start, 3))


def between(norm: str, low: float, high: float) -> float | None:
    """Return an ε between one that held and one that broke; None where 8-bit pictures know none.

    A picture of 8 bits changes by whole steps of 1/255 under L∞, and by whole pixels under L0.
    """
    middle = (low + high) / 2
    if norm in ("linf", "l0"):
        middle = float(int(middle))
        return middle if max(low, 0) < middle < high and middle >= 1 else None
    return float(f"{middle:.4g}") if low < middle < high else None


class _Climb:
    """The search on one model."""

    def __init__(
        self,
        experiment: Experiment,
        setting: Setting,
        role: str,
        model: VisionLanguageModel,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
        done: int,
        total: int,
    ):
        self.experiment, self.setting, self.role, self.model = experiment, setting, role, model
        self.progress, self.cancel, self.done, self.total = progress, cancel, done, total
        self.name = experiment.task if setting.target is None else setting.target.task
        self.rungs: dict[float, Rung] = {}
        self.shown: dict[str, Any] = {}

    def run(self, ladder: tuple[float, ...]) -> ModelLimit:
        """Climb, halve, and say what was found."""
        try:
            self.task = self.setting.task(self.name, self.model)
        except OptionError as error:
            return ModelLimit(self.model.name, complete=True, note=str(error))
        pixels = clean_pixels(self.model, [self.setting.pair.image])
        words = (self.experiment.caption,)
        self.batch = Batch((self.setting.pair.id,), pixels, words, (0,), (self.setting.pair,))
        self.place = self._place()
        s_c, answer, broken, _ = self._look(pixels)
        limit = ModelLimit(self.model.name, s_c, answer, broken)
        if answer.correct is None and self.place is None:
            note = "Whether its answer is right, nobody can say here: choose a target."
            return replace(limit, complete=True, note=note)
        complete = limit.already or self._search(ladder)
        return replace(limit, rungs=tuple(self.rungs[key] for key in sorted(self.rungs)), complete=complete)

    def _search(self, ladder: tuple[float, ...]) -> bool:
        """Try the ladder upwards, then what lies between; return whether it came to the end."""
        low, high = 0.0, None
        for epsilon in ladder:
            rung = self._try(epsilon)
            if rung is None:
                return False
            if rung.broken:
                high = epsilon
                break
            low = epsilon
        for _ in range(HALVINGS):
            middle = None if high is None else between(budget_norm(self.experiment.norm), low, high)
            if middle is None:
                break
            rung = self._try(middle)
            if rung is None:
                return False
            low, high = (low, middle) if rung.broken else (middle, high)
        return True

    def _try(self, epsilon: float) -> Rung | None:
        """Attack with one ε; None where that was cancelled before it broke anything."""
        from cmai_core.evaluation.runs.attacked import attack_batch

        if self.cancel is not None and self.cancel.cancelled:
            return None
        words = Budget(budget_norm(self.experiment.norm), epsilon).words
        spec = replace(self.experiment, epsilon=epsilon).spec(target=self.place)
        if "stop_on_success" in spec.description.options:
            spec = replace(spec, options={**spec.options, "stop_on_success": True})
        attack = spec.build(self.task, self.setting.dataset, value_count=self.batch.pixels[0].numel())
        listener = self._listener(words)
        result, _ = attack_batch(
            attack, self.model, self.batch, seed=self.experiment.seed, progress=listener, cancel=self.cancel
        )
        s_c, answer, broken, margin = self._look(result.rounded)
        self.done += 1
        if result.cancelled and not broken:
            return None
        self.rungs[epsilon] = Rung(epsilon, words, broken, result.images()[0], s_c, answer, margin)
        return self.rungs[epsilon]

    def _place(self) -> int | None:
        target, setting = self.setting.target, self.setting
        return None if target is None else place_of(target, self.task, self.model, setting.pair, setting.dataset)

    def _look(self, pixels: Any) -> tuple[float, Answer, bool, float | None]:
        """Return S_c, answer, whether it is broken, and the target's margin, of one 8-bit picture of the model."""
        import torch

        from cmai_core.evaluation.runs.predictor import encode, predict_images

        setting = self.setting
        with torch.no_grad():
            seen = encode(self.model, pixels)
            ((found,),) = predict_images(self.model, self.task, setting.dataset, self.batch, [seen])
            answer = answer_of(found.prediction)
            if setting.target is None:
                return found.consistency, answer, answer.correct is False, None
            twice = seen.picked([0, 0]).features
            near = near_target(setting.target, self.task, self.model, setting.pair, setting.dataset, twice)
        return found.consistency, answer, near.reached[1], near.margin[1]

    def _listener(self, words: str) -> ProgressCallback | None:
        if self.progress is None:
            return None

        def tell(update: Progress) -> None:
            self.shown = self.shown | {"role": self.role, "epsilon": words}
            if update.data.get("pixels") is not None:
                from cmai_core.evaluation.runs.predictor import pictures

                self.shown["image"] = pictures(update.data["pixels"][:1])[0]
            self.progress(Progress(self.done, self.total, f"Trying {words} on model {self.role}", self.shown))

        return tell
