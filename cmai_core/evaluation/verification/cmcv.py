"""Consistency verification calibrated on clean pairs, and what its thresholds realise on others.

    calibration = calibrate_cmcv(model, load_dataset("tabletop", split="validation"))
    sets = {split: load_dataset("tabletop", split=split, limit=1000) for split in ("holdout", "test-light")}
    calibration = calibration.with_rates(rates(model, calibration, sets))
    store_calibration(calibration, "runs/cmai/model")

`cmai cmcv` does all of it; `cmai_core.defenses.cmcv` judges pairs by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmai_core.data.pair import PairDataset
from cmai_core.data.subset import Subset
from cmai_core.data.truth import ground_truth_of
from cmai_core.defenses.calibration import Calibration, Thresholds
from cmai_core.defenses.cmcv import log_odds
from cmai_core.defenses.detector import ConsistencyDetector, VerificationDetector, detector_scores
from cmai_core.defenses.misaligned import misaligned_captions
from cmai_core.defenses.temperature import fit_scaling
from cmai_core.errors import DataError
from cmai_core.evaluation.figures.detection import threshold_at_fpr
from cmai_core.evaluation.figures.intervals import share_interval
from cmai_core.models.scoring import has_heads

FPRS = (0.01, 0.05)


def pair_scores(
    model: Any, dataset: PairDataset, *, texts: Sequence[str] | None = None, size: int = 64
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (S_c, log V_verify or None) of each unattacked pair, with its first caption or the text given for it."""
    detectors = [ConsistencyDetector(0.0), *([VerificationDetector(0.0)] if has_heads(model) else [])]
    s_c, *log_v = detector_scores(model, dataset, detectors, texts=texts, size=size)
    return s_c, log_v[0] if log_v else None


def calibrate_cmcv(
    model: Any,
    dataset: PairDataset,
    fprs: Sequence[float] = FPRS,
    *,
    guarantee: str = "calibration",
    seed: int = 0,
    size: int = 64,
) -> Calibration:
    """Return thresholds at stated false-positive rates, and the temperature, from clean validation pairs.

    Args:
        model: a model, or a System (calibrated through its preprocessing and smoothing).
        dataset: consistent pairs that nothing else is reported on; each is scored with its first caption.
        fprs: the rates. guarantee: as in `evaluation.detection.threshold_at_fpr`.
        seed: of the inconsistent captions that the temperature is fitted against (`defenses.misaligned`).
        size: pictures at a time.

    Raises:
        DataError: too few pairs for a threshold with this guarantee.
    """
    s_c, log_v = pair_scores(model, dataset, size=size)
    thresholds = tuple(_thresholds(s_c, log_v, fpr, guarantee) for fpr in sorted(fprs))
    false = misaligned_captions([_without_image(dataset, k) for k in range(len(dataset))], seed)
    false_s_c, false_log_v = pair_scores(model, dataset, texts=false, size=size)
    if log_v is None:
        scaling = fit_scaling("S_c", s_c, false_s_c, offset=True)
    else:
        scaling = fit_scaling("V", log_odds(log_v), log_odds(false_log_v), offset=False)
    name = f"{dataset.name}/{dataset.split}"
    return Calibration(model.hash, name, len(s_c), guarantee, thresholds, scaling)


def _without_image(dataset: PairDataset, index: int) -> Any:
    from dataclasses import replace

    return replace(dataset[index], image=np.zeros((0, 0, 3), np.uint8))


def _thresholds(s_c: np.ndarray, log_v: np.ndarray | None, fpr: float, guarantee: str) -> Thresholds:
    tau = _finite(threshold_at_fpr(s_c, fpr, guarantee), len(s_c), fpr)
    realised = {"S_c": float((s_c < tau).mean())}
    if log_v is None:
        return Thresholds(fpr, tau, realised=realised)
    log_tau_v = min(0.0, _finite(threshold_at_fpr(log_v, fpr, guarantee), len(log_v), fpr))
    both = equal_ranks(s_c, log_v, fpr, guarantee)
    realised |= {"V": float((log_v < log_tau_v).mean()), "either": float(_either(s_c, log_v, *both).mean())}
    return Thresholds(fpr, tau, log_tau_v, *both, realised)


def _finite(tau: float, count: int, fpr: float) -> float:
    if not np.isfinite(tau):
        raise DataError(f"{count} pairs give no threshold at {fpr:g}.", "Give more pairs, or a higher rate.")
    return float(tau)


def _either(s_c: np.ndarray, log_v: np.ndarray, tau: float, log_tau_v: float) -> np.ndarray:
    return (s_c < tau) | (log_v < log_tau_v)


def equal_ranks(s_c: np.ndarray, log_v: np.ndarray, fpr: float, guarantee: str) -> tuple[float, float]:
    """Return the highest pair of thresholds of equal rank in their scores that together flag no more than `fpr`.

    With the guarantee "new" the expected rate on a further pair is at most `fpr`: among all N + 1 pairs, the ranks in
    which each stands below the others are exchangeable, and a further pair is flagged at rank r where its own is at
    most r. Adding a pair moves the others' ranks up or not at all, so at most as many of them reach down to r.

    Raises:
        DataError: too few pairs.
    """
    ranked, ranked_v = np.sort(s_c), np.sort(log_v)
    worst = np.minimum(np.searchsorted(ranked, s_c), np.searchsorted(ranked_v, log_v))
    # Flagged at rank r is who has fewer than r scores below in one of the two: their number is what is bounded.
    rank = threshold_at_fpr(worst, fpr, guarantee)
    if guarantee == "new":  # a further pair that stands at r itself is flagged, and two of the N may stand there
        rank = rank - 1 if rank >= 1 else -np.inf
    rank = min(int(_finite(rank, len(s_c), fpr)), len(s_c) - 1)
    return float(ranked[rank]), min(0.0, float(ranked_v[rank]))


def rates(
    model: Any, calibration: Calibration, datasets: Mapping[str, PairDataset], *, size: int = 64
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the share of consistent pairs that each rule flags, with its 95 % interval, at every calibrated rate.

    Args:
        model: the calibrated one. datasets: name → consistent pairs (shifted and held-out splits, `by_vagueness`).

    Returns:
        name → rule ("S_c", "V", "either") → stated rate, such as "0.05" → {rate, low, high, flagged, count}. Nothing
        says that a threshold keeps its rate on pairs of another kind: this is what shows it.
    """
    scores = {name: pair_scores(model, dataset, size=size) for name, dataset in datasets.items()}
    return {name: shares(calibration, s_c, log_v) for name, (s_c, log_v) in scores.items()}


def shares(
    calibration: Calibration, s_c: np.ndarray, log_v: np.ndarray | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Return one set's part of `rates`, from its scores (`pair_scores`)."""
    flags: dict[str, dict] = {}
    for known in calibration.thresholds:
        flags.setdefault("S_c", {})[f"{known.fpr:g}"] = _share(s_c < known.tau)
        if log_v is not None and known.log_tau_v is not None:
            flags.setdefault("V", {})[f"{known.fpr:g}"] = _share(log_v < known.log_tau_v)
            either = _either(s_c, log_v, known.both_tau, known.both_log_tau_v)
            flags.setdefault("either", {})[f"{known.fpr:g}"] = _share(either)
    return flags


def _share(flagged: np.ndarray) -> dict[str, float]:
    hits, count = int(flagged.sum()), len(flagged)
    low, high = share_interval(np.array(hits), np.array(count))
    return {"rate": hits / count, "low": float(low), "high": float(high), "flagged": hits, "count": count}


def by_vagueness(dataset: PairDataset) -> dict[str, Subset]:
    """Split a dataset with ground truth in two halves.

    Pairs whose first caption is true of more of all scenes than the median ("vague"), and of fewer or as many
    ("specific").

    Raises:
        DataError: a caption about which the ground truth cannot say this.
    """
    found = []
    for k in range(len(dataset)):
        pair = dataset[k]
        truth = ground_truth_of([pair])
        found.append(None if truth is None else truth.share_true(pair.captions[0]))
        if found[-1] is None:
            raise DataError(f"Of how many scenes the caption of {pair.id} is true is not known.", "Give other pairs.")
    share = np.array(found)
    vague = share > np.median(share)
    return {
        name: Subset(dataset, [int(k) for k in np.flatnonzero(chosen)])
        for name, chosen in (("vague", vague), ("specific", ~vague))
    }
