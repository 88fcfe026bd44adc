"""What ARM's policies at inference do about the main part's attacked pictures, and what they cost in time."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmai_core.comparison.adaptive import pathways
from cmai_core.comparison.detection import worst_pictures
from cmai_core.comparison.protocol import Protocol
from cmai_core.comparison.verdicts import marks
from cmai_core.data.pair import Batch, PairDataset
from cmai_core.defenses.calibration import Calibration
from cmai_core.defenses.detector import AnyDetector, ConsistencyDetector
from cmai_core.defenses.pathways import Ensemble
from cmai_core.defenses.system import System
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval

_SIZE = 50
_WARM_UP, _REPEATS = 3, 15


def policies(model: Any, calibration: Calibration, protocol: Protocol, tower: Any = None) -> dict[str, System]:
    """Return the systems that are compared around a model, by name; CMCV is that of the given pair.

    Args:
        tower: a robust model that weights are shifted to; left out where its text side is not this model's.
    """
    known = calibration.at(protocol.aimed.rate)
    detector, found = known.detector(), pathways(model, protocol.aimed, tower)
    smooth = found["robust pathway"]
    guarded = {"detector": detector, "policy": "robust pathway"}
    out = {
        "none": System(model),
        "reject": System(model, detector=detector),
        "reject by S_c alone": System(model, detector=known.detector("S_c")),
        "smoothing of all": System(model, smoothing=smooth),
        **{name: System(model, pathway=pathway, **guarded) for name, pathway in found.items()},
    }
    if "shifted weights" in found:
        both = replace(found["shifted weights"], then=smooth)
        out["shifted weights, smoothed"] = System(model, pathway=both, **guarded)
        out["ensemble"] = System(model, pathway=Ensemble((tower,)), **guarded)
    return out


def policy_figures(
    model: Any,
    name: str,
    frame: Any,
    store: Path,
    protocol: Protocol,
    test: PairDataset,
    calibration: Calibration,
    tower: Any = None,
) -> dict[str, Any]:
    """Return each policy's answers about the first `aimed.targeted` scenes of the main part, clean and attacked.

    Args:
        frame, store: predictions and examples of the main part. Every policy is evaluated on what fooled the plain
            model: see `worst_pictures`.

    Returns:
        policy → `clean`, `attacked` (right), `clean_rejected`, `attacked_rejected` (strings of `verdicts`, "1": yes),
        `milliseconds`: median time of answering one question about one picture, the question's encoding included, and
        `ratio`: to the policy "none", timed in turn, on the first scene, which is not flagged where thresholds are;
        `flagged_ratio` of policies with a pathway: the same where everything is flagged.
    """
    count = min(protocol.aimed.targeted, protocol.part("main").limit, len(test))
    pairs = [test[k] for k in range(count)]
    task = Retrieval(max(protocol.gallery, count))
    worst = worst_pictures(frame, name, protocol.aimed.epsilon, store, pairs, model)
    systems = policies(model, calibration, protocol, tower)
    out: dict[str, Any] = {policy: {} for policy in systems}
    for policy, system in systems.items():
        for kind, pictures in (("clean", [pair.image for pair in pairs]), ("attacked", worst)):
            right, rejected = _answers(system, task, test, pairs, pictures)
            out[policy] |= {kind: marks(right), f"{kind}_rejected": marks(rejected)}
    flagged = {policy: flagging(system) for policy, system in systems.items() if system.pathway is not None}
    timed = systems | {f"{policy}, flagged": system for policy, system in flagged.items()}
    times = _times(timed, make_batch(model, pairs[:1], 1), test)
    for policy in systems:
        out[policy] |= {"milliseconds": 1000 * times[policy], "ratio": times[policy] / times["none"]}
    for policy in flagged:
        out[policy]["flagged_ratio"] = times[f"{policy}, flagged"] / times["none"]
    return out


def flagging(system: System) -> System:
    """Return the same system with thresholds that flag everything."""
    detector = system.detector
    own = detector.detectors if isinstance(detector, AnyDetector) else (detector,)
    highest = tuple(replace(one, tau=1.0 if isinstance(one, ConsistencyDetector) else 0.0) for one in own)
    return System(system.model, policy=system.policy, pathway=system.pathway, detector=AnyDetector(highest))


def _answers(system: System, task: Any, dataset: PairDataset, pairs: list, pictures: list) -> tuple[list, list]:
    right: list[bool] = []
    rejected: list[bool] = []
    for start in range(0, len(pairs), _SIZE):
        some = slice(start, start + _SIZE)
        batch = make_batch(system, pairs[some], 1)
        shown = Batch(batch.ids, system.preprocess(list(pictures[some])), batch.texts, batch.image_of_text, batch.pairs)
        response = system.respond(task, shown, dataset=dataset)
        right += [bool(prediction.correct) for prediction in response.predictions]
        rejected += response.rejected.tolist()
    return right, rejected


def _times(systems: dict[str, System], batch: Batch, dataset: Any) -> dict[str, float]:
    """Return median seconds of answering one question, the systems taking turns."""
    task = get_task("vqa")
    found: dict[str, list[float]] = {policy: [] for policy in systems}
    for turn in range(_WARM_UP + _REPEATS):
        for policy, system in systems.items():
            start = time.perf_counter()
            system.respond(task, batch, dataset=dataset)
            if turn >= _WARM_UP:
                found[policy].append(time.perf_counter() - start)
    return {policy: sorted(seconds)[len(seconds) // 2] for policy, seconds in found.items()}
