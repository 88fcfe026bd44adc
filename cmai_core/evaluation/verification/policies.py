"""What each policy at inference costs and keeps, alone and combined, and the best for a latency budget.

    systems = candidates(model, task, dataset, detectors={"CMCV": calibration.at(0.05).detector()})
    found = measure_policies(systems, task, dataset, count=48, epsilon=2)
    choose(found, budget=3.0)

All on validation pairs. Every policy is attacked as a system, by someone who knows it: gradients go through its
pathways, its detector is evaded, and against a search the answer is made stable under it. Time is measured in turns, of
a picture that is flagged and of one that is not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmai_core.attacks.adaptive_attack import adaptive, stable_mistake
from cmai_core.attacks.engine.transforms import Noise
from cmai_core.data.pair import Batch, PairDataset
from cmai_core.data.subset import first
from cmai_core.defenses.detector import AnyDetector, batches
from cmai_core.defenses.pathways import Ensemble, Regime, Smoothing, shifted
from cmai_core.defenses.search_check import SearchDetector
from cmai_core.defenses.system import System
from cmai_core.defenses.verified import VerifiedAnswers
from cmai_core.defenses.verified_pathway import VerifiedPathway
from cmai_core.errors import OptionError
from cmai_core.evaluation.verification.combined import share_of
from cmai_core.models.scoring import has_heads
from cmai_core.options import number, whole
from cmai_core.progress import CancelToken, Progress, ProgressCallback

NONE = "none"
_SIZE = 32
_WARM_UP, _REPEATS = 2, 9


@dataclass(frozen=True)
class PolicyFigures:
    """What was measured of one policy; shares as {hits, total, share, low, high}.

    Attributes:
        name: of the policy. rejects: whether a flag withholds the answer, or has a person look at it.
        cost, flagged_cost: time of answering about a picture that is not flagged, and about one that is, relative to
            the bare model's. milliseconds: the former.
        clean: right and not rejected. clean_flagged, attacked_flagged: flagged.
        held: under the worst of the attacks, right or kept from the attacker (rejected, or shown to a person).
    """

    name: str
    rejects: bool
    cost: float
    flagged_cost: float
    milliseconds: float
    clean: Mapping[str, Any]
    clean_flagged: Mapping[str, Any]
    held: Mapping[str, Any]
    attacked_flagged: Mapping[str, Any]

    @property
    def expected(self) -> float:
        """The cost on clean traffic: as many are flagged as of the clean pairs."""
        share = self.clean_flagged["share"]
        return (1 - share) * self.cost + share * self.flagged_cost


def candidates(
    model: Any,
    task: Any,
    dataset: Any,
    detectors: Mapping[str, Any],
    *,
    rule: VerifiedAnswers | None = None,
    tower: Any = None,
    base: Any = None,
    share: float = 0.5,
    radius: float = 0.5 / 255,
    steps: int = 10,
    smoothing: Smoothing | None = None,
) -> dict[str, System]:
    """Return systems by name: each policy alone, and those combinations that add something to each other.

    Args:
        detectors: name → detector at its threshold, the first of them for the pathways.
        rule: of verified answers, on models with heads. tower, base, share: as in `shifted`; left out where the tower
            does not fit. radius, steps: of the search, ε̃ in pixel units. smoothing: None: 8 copies at 4/255.

    Raises:
        OptionError: no detector.
    """
    if not detectors:
        raise OptionError("No detector was given.", "Calibrate one (cmai cmcv), or fit one (cmai detector).")
    smooth = Smoothing(Noise(sigma=4 / 255), copies=8) if smoothing is None else smoothing
    search = SearchDetector(task, dataset, radius, steps)
    main = next(iter(detectors.values()))
    out = {NONE: System(model), "smoothing of all": System(model, smoothing=smooth)}
    for name, detector in detectors.items():
        out[f"reject by {name}"] = System(model, detector=detector)
    out["search"] = System(model, detector=search)
    out["reject + search"] = System(model, detector=AnyDetector((main, search)))
    out["review"] = System(model, detector=main, policy="flag")
    paths: dict[str, Any] = {"smoothed": smooth}
    if tower is not None:
        with suppress(OptionError):  # another architecture, or a text side of its own and no base
            moved = shifted(model, tower, share, base=base)
            paths |= {"shifted": Regime(moved), "shifted, smoothed": Regime(moved, then=smooth)}
            paths["ensemble"] = Ensemble((moved,))
    if has_heads(model):
        rule = VerifiedAnswers(shortlist=10, gamma=5.0) if rule is None else rule
        paths |= {"verified": VerifiedPathway(rule), "verified, smoothed": VerifiedPathway(rule, then=smooth)}
        out["verified answers"] = System(model, answering=rule)
        out["verified answers + reject"] = System(model, answering=rule, detector=main)
        out["verified answers + search"] = System(model, answering=rule, detector=search)
    for name, path in paths.items():
        out[f"flagged: {name}"] = System(model, detector=main, policy="robust pathway", pathway=path)
    return out


def measure_policies(
    systems: Mapping[str, System],
    task: Any,
    dataset: PairDataset,
    *,
    count: int,
    epsilon: float,
    steps: int = 20,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[PolicyFigures]:
    """Measure every system on a dataset's first `count` pairs.

    Args:
        systems: by name, "none" among them, which times are relative to. dataset: validation pairs, whole: the task
            takes its options from it. epsilon: of the attacks, in units of 1/255 (L∞). steps: of each member.

    Raises:
        OptionError: no system "none", or a number out of range.
    """
    if NONE not in systems:
        raise OptionError("There is no bare model to compare with.", f"Give System(model) under {NONE!r}.")
    whole("count", count, 1)
    number("epsilon", epsilon, 0.0, 255.0, above_low=True)
    pairs = first(dataset, count)
    times = _times(systems, task, next(batches(systems[NONE], first(dataset, 1), 1)), dataset)
    out = []
    for done, (name, system) in enumerate(systems.items()):
        answers = [system.respond(task, batch, dataset=dataset) for batch in batches(system, pairs, _SIZE)]
        right = [bool(p.correct) for answer in answers for p in answer.predictions]
        flagged = np.concatenate([answer.flagged.cpu().numpy() for answer in answers])
        rejected = np.concatenate([answer.rejected.cpu().numpy() for answer in answers])
        held, caught = attacked(system, task, dataset, pairs, epsilon, steps, seed=seed, cancel=cancel)
        plain, full = times[name]
        out.append(
            PolicyFigures(
                name,
                system.rejects,
                cost=plain / times[NONE][0],
                flagged_cost=full / times[NONE][0],
                milliseconds=1000 * plain,
                clean=share_of(np.array(right) & ~rejected),
                clean_flagged=share_of(flagged),
                held=share_of(held),
                attacked_flagged=share_of(caught),
            )
        )
        if progress is not None:
            progress(Progress(done + 1, len(systems), name))
    return out


def attacked(
    system: System,
    task: Any,
    dataset: PairDataset,
    pairs: PairDataset,
    epsilon: float,
    steps: int,
    *,
    seed: int = 0,
    cancel: CancelToken | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs hold against the worst of the attacks, and which are flagged as the last attack leaves them.

    Args:
        system: attacked in white box. pairs: attacked; the task takes its options from `dataset`.
    """
    held, caught = [], []
    for batch in batches(system, pairs, _SIZE):
        stands = np.ones(len(batch.ids), bool)
        for attack in _attacks(system, task, dataset, epsilon, steps):
            found = attack(system, batch, seed=seed, cancel=cancel)
            stands &= ~(found.clean_success | found.success_8bit).numpy()
            if cancel is not None:
                cancel.check()
        sampled = system.for_samples(batch, system.seed)
        held.append(stands)
        caught.append(sampled.scores(found.rounded.to(batch.pixels))[1].cpu().numpy())
    return np.concatenate(held), np.concatenate(caught)


def choose(found: Sequence[PolicyFigures], budget: float, loss: float = 0.05) -> PolicyFigures:
    """Return the policy that holds most attacked pairs within a latency budget; of equal ones the cheapest.

    Args:
        budget: the most that `expected` may be, in times of the bare model: at least 1. loss: how much lower `clean`
            may be than the bare model's; else rejecting everything would win.

    Raises:
        OptionError: a number out of range.
    """
    number("budget", budget, 1.0)
    number("loss", loss, 0.0, 1.0)
    bare = next(one for one in found if one.name == NONE)
    allowed = [
        one for one in found if one.expected <= budget and one.clean["share"] >= bare.clean["share"] - loss - 1e-9
    ]
    return min((*allowed, bare), key=lambda one: (-one.held["share"], one.expected, one.name))


@dataclass(frozen=True)
class _Always:
    """A detector with another threshold, so that everything or nothing is flagged."""

    detector: Any
    tau: float

    @property
    def consistency(self) -> Any:
        return self.detector.consistency

    def describe(self) -> dict:
        return self.detector.describe()


def _attacks(system: System, task: Any, dataset: PairDataset, epsilon: float, steps: int) -> Iterator[Any]:
    """Yield the attacks of someone who knows the system."""
    searches = [one.search for one in _parts(system.detector) if isinstance(one, SearchDetector)]
    options = {"dataset": dataset, "epsilon": epsilon / 255, "steps": steps}
    for search in searches:
        yield stable_mistake(task, search=search, **options)
    forms = ("lagrangian", "selective") if system.rejects else ()
    yield adaptive(task, losses=("task", "margin"), forms=forms, **options)


def _parts(detector: Any) -> tuple[Any, ...]:
    return detector.detectors if isinstance(detector, AnyDetector) else () if detector is None else (detector,)


def _times(
    systems: Mapping[str, System], task: Any, batch: Batch, dataset: PairDataset
) -> dict[str, tuple[float, float]]:
    """Return median seconds of answering about a picture that is not flagged and one that is, all taking turns."""
    timed: dict[tuple[str, bool], System] = {}
    for name, system in systems.items():
        for flagged in (False, True):
            detector = system.detector and _Always(system.detector, np.inf if flagged else -np.inf)
            timed[name, flagged] = System(system.model, **{**system._given, "detector": detector, "review": None})
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in timed}
    # What the task prepares depends on no picture, so a deployed system has it at hand.
    prepared = {key: task.prepare(system.model, list(batch.pairs), dataset) for key, system in timed.items()}
    for turn in range(_WARM_UP + _REPEATS):
        for key, system in timed.items():
            start = time.perf_counter()
            system.respond(task, batch, dataset=dataset, prepared=prepared[key])
            if turn >= _WARM_UP:
                seconds[key].append(time.perf_counter() - start)
    median = {key: float(np.median(values)) for key, values in seconds.items()}
    return {name: (median[name, False], median[name, True]) for name in systems}
