"""Attacks that want more than a wrong answer, or know of the defence: targeted, adaptive, and their mirror images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from cmai_core.attacks.adaptive_attack import accept_false, adaptive, reject_true
from cmai_core.attacks.engine.transforms import Noise
from cmai_core.attacks.objectives.classes import Margin
from cmai_core.attacks.recipes.registry import get_recipe
from cmai_core.attacks.result import AttackResult
from cmai_core.budget import Budget
from cmai_core.comparison.protocol import Aimed
from cmai_core.comparison.verdicts import marks, rights
from cmai_core.data.pair import Batch, PairDataset
from cmai_core.defenses.calibration import Calibration
from cmai_core.defenses.detector import AnyDetector, ConsistencyDetector, VerificationDetector, detector_scores
from cmai_core.defenses.misaligned import misaligned_captions
from cmai_core.defenses.pathways import Regime, Smoothing, shifted
from cmai_core.defenses.system import System
from cmai_core.errors import OptionError
from cmai_core.evaluation.figures.detection import threshold_at_fpr
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.evaluation.verification.cmcv import equal_ranks
from cmai_core.models.scoring import has_heads
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval

_SIZE = 50


def aimed_verdicts(
    model: Any,
    dataset: PairDataset,
    validation: PairDataset,
    calibration: Calibration,
    aimed: Aimed,
    *,
    gallery: int,
    tower: Any = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, Any]:
    """Run the targeted and adaptive attacks on one model.

    Args:
        dataset: whose first scenes are attacked. validation: pairs that thresholds of the retrieved caption are set on.
        calibration: of the model, for the given caption. gallery: captions of the retrieval gallery.
        tower: a robust model that weights are shifted to; left out where its text side is not this model's.

    Returns:
        Strings of `verdicts`, where "1" is what the defender wants:

        - "targeted": `clean` (right), `held` (the target was not reached).
        - "given", "retrieved": `clean` and `held`: correct or rejected, before and after the adaptive attack;
          `accepted`: correct and accepted when clean; `right`: the plain model's clean answer.
        - "accept false", "reject true": `clean` and `held`: the false caption rejected, the true pair accepted.
        - "robust pathway", "shifted weights": `clean` and `held`: right, where flagged pictures take that pathway.
    """
    tools = {"seed": seed, "progress": progress, "cancel": cancel}
    task = Retrieval(max(gallery, aimed.limit))
    given = calibration.at(aimed.rate).detector()
    retrieved = retrieved_detector(model, validation, Retrieval(gallery), task, dataset, aimed.rate)
    options = _options(aimed)
    out = {"targeted": _targeted(model, dataset, aimed, tools)}
    for name, detector in (("given", given), ("retrieved", retrieved)):
        system = System(model, detector=detector)
        attack = adaptive(task, dataset=dataset, **options)
        out[name] = _attacked(system, attack, dataset, aimed.limit, tools) | _answered(
            system, task, dataset, aimed.limit
        )
    system = System(model, detector=given)
    out["accept false"] = _attacked(system, accept_false(**options), dataset, aimed.limit, tools, false=True)
    out["reject true"] = _attacked(system, reject_true(**options), dataset, aimed.limit, tools)
    for name, pathway in pathways(model, aimed, tower).items():
        system = System(model, detector=given, policy="robust pathway", pathway=pathway)
        out[name] = _through(system, task, dataset, aimed, tools)
    return out


def retrieved_detector(
    model: Any, validation: PairDataset, asked: Any, task: Any, dataset: PairDataset, rate: float
) -> Any:
    """Return CMCV of the retrieved caption: S_c and, with heads, V_verify, set to `rate` on validation pairs.

    Args:
        asked: the retrieval among the validation pairs' captions. task, dataset: what the detector is to be used on.
    """
    detectors = [ConsistencyDetector(0.0, asked, validation)]
    if not has_heads(model):
        (s_c,) = detector_scores(model, validation, detectors)
        return ConsistencyDetector(threshold_at_fpr(s_c, rate), task, dataset)
    detectors.append(VerificationDetector(0.0, asked, validation))
    s_c, log_v = detector_scores(model, validation, detectors)
    tau, log_tau_v = equal_ranks(s_c, log_v, rate, "calibration")
    return AnyDetector((ConsistencyDetector(tau, task, dataset), VerificationDetector(log_tau_v, task, dataset)))


def _options(aimed: Aimed) -> dict[str, Any]:
    return {"epsilon": Budget("linf", aimed.epsilon), "steps": aimed.steps, "precision": aimed.precision}


def _batches(model: Any, dataset: PairDataset, limit: int, false: bool = False) -> Iterator[Batch]:
    pairs = [dataset[k] for k in range(min(limit, len(dataset)))]
    texts = misaligned_captions(pairs) if false else None
    for start in range(0, len(pairs), _SIZE):
        batch = make_batch(model, pairs[start : start + _SIZE], 1)
        yield batch if texts is None else replace(batch, texts=texts[start : start + _SIZE])


def _attacked(
    system: Any, attack: Any, dataset: PairDataset, limit: int, tools: dict[str, Any], *, false: bool = False
) -> dict[str, Any]:
    results = []
    for batch in _batches(system, dataset, limit, false):
        results.append(attack(system, batch, **tools))
        if tools["cancel"] is not None:
            tools["cancel"].check()
    found = AttackResult.concatenate(results)
    return {
        "clean": marks((~found.clean_success).tolist()),
        "held": marks((~(found.clean_success | found.success_8bit)).tolist()),
    }


def _answered(system: Any, task: Any, dataset: PairDataset, limit: int) -> dict[str, Any]:
    """Return clean answers of the system: what a defence costs those who attack nothing."""
    right, accepted = [], []
    for batch in _batches(system, dataset, limit):
        response = system.respond(task, batch, dataset=dataset)
        right += [bool(p.correct) for p in response.predictions]
        accepted += (~response.rejected).tolist()
    both = [a and b for a, b in zip(right, accepted, strict=True)]
    return {"right": marks(right), "accepted": marks(both)}


def _targeted(model: Any, dataset: PairDataset, aimed: Aimed, tools: dict[str, Any]) -> dict[str, Any]:
    task = get_task("zero-shot")
    options = {"rank": 1, **_options(aimed)}
    attack = get_recipe("pgd").build(task=task, dataset=dataset, **options)
    found = _attacked(model, attack, dataset, aimed.targeted, tools)
    right = []
    with torch.no_grad():
        for batch in _batches(model, dataset, aimed.targeted):
            prepared = task.prepare(model, list(batch.pairs), dataset)
            right += [bool(p.correct) for p in task.predict(model, model.image_features(batch.pixels), prepared)]
    return {"clean": marks(right), "held": found["held"]}


def _through(system: System, task: Any, dataset: PairDataset, aimed: Aimed, tools: dict[str, Any]) -> dict[str, Any]:
    """Say who is right in the worst case over the task's loss and the margin, raised through the system's pathway."""
    found = []
    for objective in ({}, {"objective": Margin(task, dataset=dataset)}):
        attack = get_recipe("pgd").build(task=task, dataset=dataset, **objective, **_options(aimed))
        found.append(_attacked(system, attack, dataset, aimed.smoothed, tools))
    both = zip(*(rights(one["held"]) for one in found), strict=True)
    return {"clean": found[0]["clean"], "held": marks([bool(a and b) for a, b in both])}


def pathways(model: Any, aimed: Aimed, tower: Any = None) -> dict[str, Any]:
    """Return the protocol's pathways around a model: smoothing, and weights shifted towards a robust tower's.

    Args:
        tower: None, or one whose text side is another: then there is no shift.
    """
    out: dict[str, Any] = {"robust pathway": Smoothing(Noise(sigma=aimed.sigma / 255), copies=aimed.copies)}
    if tower is not None and tower.hash != model.hash:
        with suppress(OptionError):  # another text side, or another architecture
            out["shifted weights"] = Regime(shifted(model, tower, aimed.shift))
    return out
