"""Consistency verification (CMCV) of the pairs that a result shows.

Clean and attacked, by each model, with what of them disagrees and what the policies for flagged pairs would do.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.errors import DataError
from cmai_core.lab.policies import PathwayAnswer, pathway_answer
from cmai_core.lab.result import LabResult
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.defenses.basis import Basis
    from cmai_core.defenses.cmcv import Verdict
    from cmai_core.models.protocol import VisionLanguageModel

SIDES = ("clean", "adversarial")


@dataclass(frozen=True, eq=False)
class RoleVerdict:
    """What CMCV of one model says of both pairs. Tuples are of SIDES.

    Attributes:
        name, hash: of the model. has_heads: whether it has consistency heads, and with them a verifier.
        pictures: uint8 H×W×3 as judged. texts: the sentences as judged (an attack may have edited the second).
        verdicts: scores, probability and parts; their `consistent` is that of the largest calibrated rate.
        basis: the thresholds that the verdict rests on; without any there are scores and no verdict.
        pathway: the plain answer and the one by way of the robust pathway; None where no task could be asked.
    """

    name: str
    hash: str
    has_heads: bool
    pictures: tuple[np.ndarray, np.ndarray]
    texts: tuple[str, str]
    verdicts: tuple[Verdict, Verdict]
    basis: Basis
    pathway: tuple[PathwayAnswer, PathwayAnswer] | None = None

    @property
    def rates(self) -> tuple[float, ...]:
        """The false-positive rates that there are thresholds for, rising."""
        return self.basis.rates

    def tau(self, fpr: float) -> float | None:
        """τ of S_c, the one that every page shows."""
        return self.basis.tau(fpr)

    def tau_v(self, fpr: float) -> float | None:
        """τ of V_verify alone, in [0, 1]; None without a verifier."""
        known = self.basis.at(fpr)
        return None if known is None else known.tau_v

    def bounds(self, fpr: float) -> tuple[float, float] | None:
        """Return what the rule "either" holds (S_c, V_verify) against.

        Stricter than each one's own τ, so that the two together flag no more than `fpr`. None without a verifier.
        """
        known = self.basis.at(fpr)
        if known is None or known.both_log_tau_v is None:
            return None
        return known.both_tau, math.exp(known.both_log_tau_v)

    def consistent(self, side: int, fpr: float) -> bool | None:
        """Whether a pair is accepted at a stated rate; None without a calibration for it."""
        known, verdict = self.basis.at(fpr), self.verdicts[side]
        return None if known is None else known.accepts(verdict.s_c, verdict.log_v)


@dataclass(frozen=True, eq=False)
class LabVerdict:
    """Verdicts of one result, by role. `key`: the content they are of (`content_key`)."""

    key: str
    roles: Mapping[str, RoleVerdict]
    seconds: float = 0.0

    @property
    def rates(self) -> tuple[float, ...]:
        """The stated rates of all models that have any, rising."""
        return tuple(sorted({rate for role in self.roles.values() for rate in role.rates}))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON values."""
        return {role: _plain(found) for role, found in self.roles.items()}


def content_key(result: LabResult) -> str:
    """Return a digest of all that verdicts depend on: models, pictures, sentences and the task that is asked."""
    digest = hashlib.sha256()
    for role, prediction in result.attacked.items():
        example = result.example_for(role)
        for picture in (example.clean, example.adversarial):
            digest.update(repr(picture.shape).encode())
            digest.update(np.ascontiguousarray(picture).tobytes())
        words = (role, prediction.hash, result.experiment.caption, example.caption, asked_task(result, role))
        digest.update(repr((*words, result.experiment.pair, result.experiment.scene)).encode())
    return digest.hexdigest()


def asked_task(result: LabResult, role: str) -> str:
    """Return the task whose answer the policies are shown by: the attacked one, else the first that was asked.

    "": none.
    """
    answers = result.predictions[role].answers
    task = result.experiment.task if result.target is None else result.target.task
    return task if task in answers else next(iter(answers), "")


def judge_result(
    result: LabResult,
    models: Mapping[str, VisionLanguageModel],
    bases: Mapping[str, Basis],
    *,
    pair: Pair | None = None,
    dataset: PairDataset | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LabVerdict:
    """Judges the clean and the attacked pair of a result by each model that was shown an attack.

    Args:
        models, bases: role → model, and what its verdict may rest on.
        pair, dataset: as the attack had them; without them the policies are not tried.
        progress: units are pairs. cancel: looked at before each of them.

    Raises:
        DataError: a model is another than the one that was attacked. Cancelled: when told to stop.
    """
    start = time.perf_counter()
    total, roles = 2 * len(result.attacked), {}
    for number, (role, prediction) in enumerate(result.attacked.items()):
        if models[role].hash != prediction.hash:
            raise DataError(f"{prediction.name} is not the model that was attacked any more.", "Attack again.")

        def tell(side: int, role: str = role, number: int = number) -> None:
            if cancel is not None:
                cancel.check()
            if progress is not None:
                words = f"Verifying the {SIDES[side]} pair on model {role}"
                progress(Progress(2 * number + side, total, words, {}))

        roles[role] = _judge(result, role, models[role], bases[role], pair, dataset, tell)
    return LabVerdict(content_key(result), roles, round(time.perf_counter() - start, 3))


def _judge(
    result: LabResult,
    role: str,
    model: VisionLanguageModel,
    basis: Basis,
    pair: Pair | None,
    dataset: PairDataset | None,
    tell: Any,
) -> RoleVerdict:
    from cmai_core.defenses.cmcv import Cmcv
    from cmai_core.models.scoring import has_heads

    example, caption = result.example_for(role), result.experiment.caption
    pictures, texts = (example.clean, example.adversarial), (caption, example.caption or caption)
    known = basis.calibration
    judge = Cmcv(model) if known is None else Cmcv(model, known, known.thresholds[-1].fpr)
    task = asked_task(result, role)
    verdicts, pathway = [], []
    for side in range(2):
        tell(side)
        verdicts += judge(model.preprocess([pictures[side]]), [texts[side]])
        if task and pair is not None and dataset is not None:
            pathway.append(pathway_answer(model, pair, dataset, task, pictures[side], caption, texts[side]))
    return RoleVerdict(
        model.name,
        model.hash,
        has_heads(model),
        pictures,
        texts,
        tuple(verdicts),
        basis,
        tuple(pathway) or None,
    )


def _plain(found: RoleVerdict) -> dict[str, Any]:
    sides = {}
    for side, text, verdict in zip(SIDES, found.texts, found.verdicts, strict=True):
        parts = verdict.parts
        sides[side] = {
            "text": text,
            "s_c": verdict.s_c,
            "log_v": verdict.log_v,
            "probability": verdict.probability,
            "consistent": {f"{rate:g}": found.consistent(SIDES.index(side), rate) for rate in found.rates},
            "words": list(parts.words),
            "word_values": [round(float(value), 6) for value in parts.word_values],
            "words_by": parts.words_by,
            "patches": np.round(parts.patches.astype(float), 6).tolist(),
            "patches_by": parts.patches_by,
        }
    basis = found.basis
    plain = {"name": found.name, "hash": found.hash, "stored": basis.stored, "note": basis.note, **sides}
    return plain | {"calibration": None if basis.calibration is None else basis.calibration.to_dict()}
