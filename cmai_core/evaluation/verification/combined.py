"""The combined detector fitted on clean and attacked validation pairs, with some attack families left out.

    found = fit_detector(model, load_dataset("tabletop", split="validation", limit=200), Retrieval(1000), epsilon=4)
    found.figures["families"]      # AUROC a family, held-out ones marked, with intervals and counts
    found.figures["half"]          # robust accuracy of the same model at ε/2

Pairs of even number are fitted on; the others set the thresholds and are reported on. Attacked pictures are those of
successful attacks (right before, wrong after), made by an attacker who looks at no detector: `aware` says what is left
against one who does. Right-or-rejected at ε cannot honestly exceed the robust accuracy at ε/2 that the model could
have (Tramèr 2022, arXiv 2107.11630), so that figure stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from cmai_core.attacks.adaptive_attack import adaptive
from cmai_core.attacks.result import AttackResult
from cmai_core.data.pair import Batch, PairDataset
from cmai_core.defenses.combined import Combination, CombinedDetector
from cmai_core.defenses.detector import batches
from cmai_core.defenses.evidence import ANSWER, Evidence
from cmai_core.defenses.system import System
from cmai_core.defenses.views import Views
from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.detection import auroc_interval, rates_at, threshold_at_fpr
from cmai_core.evaluation.figures.intervals import share_interval
from cmai_core.evaluation.runs.entries import parse_entry
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.options import number, whole
from cmai_core.progress import CancelToken, Progress, ProgressCallback

FAMILIES = (
    "fgsm",
    "pgd:steps=10",
    "apgd:steps=20,objective=margin",
    "pgd:steps=10,objective=consistency",
    "pgd:steps=10,objective=embedding",
    "pgd:steps=10,objective=kl",
)
HELD_OUT = ("apgd:steps=20,objective=margin", "pgd:steps=10,objective=embedding")
_SIZE = 32
_LEAST_SCALE, _LEAST_EACH = 1e-4, 8


def fit_detector(
    model: Any,
    dataset: PairDataset,
    task: Any,
    *,
    epsilon: float = 4.0,
    fprs: Sequence[float] = (0.01, 0.05),
    families: Sequence[str] = FAMILIES,
    held_out: Sequence[str] = HELD_OUT,
    scores: str = ANSWER,
    views: Views | None = None,
    shortlist: int = 8,
    aware: int = 32,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Combination:
    """Attack, fit, set thresholds, and report.

    Args:
        model: a `VisionLanguageModel`; left as found. dataset: validation pairs. task: as in `Evidence`.
        epsilon: of every attack, in units of 1/255 (L∞). fprs: stated false-positive rates.
        families: recipes as a grid writes them. held_out: those of them that nothing is fitted on.
        scores, views, shortlist: as in `Evidence`. aware: of the reported pairs, how many an attacker who knows the
            detector attacks (0: none). seed: of the attacks and intervals.

    Returns:
        The fitted model. Its `figures` have "families" (a list of {family, held_out, auroc {value, low, high}, tpr
        {rate: share}, successes, clean}), "half" and "full" (robust accuracy at ε/2 and ε, worst case over the
        families, as {hits, total, share, low, high}), "fitted" (counts), and "aware" {rate, right_or_rejected,
        half, clean_rejected} over the pairs attacked.

    Raises:
        OptionError: a family held out that is none, or nothing left to fit on. DataError: too few pairs or successes.
    """
    number("epsilon", epsilon, 0.0, 255.0, above_low=True)
    whole("aware", aware, 0)
    if strange := [name for name in held_out if name not in families]:
        raise OptionError(f"{strange[0]} is held out and no family.", f"Families: {', '.join(families)}.")
    if not set(families) - set(held_out):
        raise OptionError("Every family is held out.", "Leave at least one to fit on.")
    evidence = Evidence(task, dataset, scores, Views() if views is None else views, shortlist)
    tools = {"seed": seed, "cancel": cancel}
    told = _Told(progress, 2 * len(families) + 1 + bool(aware))
    with torch.no_grad(), evaluation_mode(model):
        clean = _seen(evidence, model, dataset)
    told("clean pictures")
    attacked: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    stands = {}
    for share in (0.5, 1.0):
        kept = np.ones(len(dataset), bool)
        for family in families:
            attack = _built(family, task, dataset, model, share * epsilon)
            lost, fooled, rows = _attacked(attack, model, dataset, evidence if share == 1 else None, tools)
            kept &= ~(lost | fooled)
            if share == 1:
                attacked[family] = (np.flatnonzero(fooled & ~lost), rows)
            told(f"{family} at {share * epsilon:g}/255")
        stands[share] = kept
    even = np.arange(len(dataset)) % 2 == 0
    bad = {name: rows[at % 2 == 0] for name, (at, rows) in attacked.items() if name not in held_out}
    fitted = fit_logistic(clean[even], bad)
    known = Combination(
        **{"model": model.hash, "dataset": f"{dataset.name}/{dataset.split}", "task": task.name, "scores": scores},
        **{"views": evidence.views, "shortlist": shortlist, "names": evidence.names(model), "epsilon": float(epsilon)},
        **fitted,
        thresholds=dict.fromkeys((f"{rate:g}" for rate in fprs), 0.0),
        families=tuple(bad),
        held_out=tuple(held_out),
    )
    rest = _log_odds(known, clean[~even])
    known = replace(known, thresholds={f"{rate:g}": _threshold(rest, rate) for rate in fprs})
    odd = {name: _log_odds(known, rows[at % 2 == 1]) for name, (at, rows) in attacked.items()}
    figures: dict[str, Any] = {
        "families": _families(known, rest, odd, seed),
        "half": share_of(stands[0.5]),
        "full": share_of(stands[1.0]),
        "fitted": {"clean": int(even.sum()), **{name: len(rows) for name, rows in bad.items()}},
    }
    if aware:
        rows = np.flatnonzero(~even)[:aware]
        figures["aware"] = _aware(model, known, dataset, task, rows, stands[0.5], max(fprs), tools)
        told("an attacker who knows the detector")
    return replace(known, figures=figures)


def fit_logistic(clean: np.ndarray, attacked: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fit a logistic regression on standardised columns, clean against attacked pictures, both kinds weighing the same.

    Args:
        clean: N×F. attacked: family → M×F; each family weighs the same, whatever its number of successes.

    Returns:
        mean, scale, weights (tuples of F numbers) and bias, of the log odds of being clean.

    Raises:
        DataError: fewer than 8 pictures of a kind, or numbers that are not finite.
    """
    from sklearn.linear_model import LogisticRegression

    filled = [rows for rows in attacked.values() if len(rows)]
    if len(clean) < _LEAST_EACH or sum(map(len, filled)) < _LEAST_EACH:
        raise DataError(
            f"{len(clean)} clean and {sum(map(len, filled))} attacked pictures are too few to fit on.",
            "Give more pairs, or a larger ε.",
        )
    table = np.concatenate([clean, *filled]).astype(np.float64)
    if not np.isfinite(table).all():
        raise DataError("Some of what the detector sees is no finite number.", "Look at the model and its pictures.")
    mean, scale = table.mean(axis=0), np.maximum(table.std(axis=0), _LEAST_SCALE)
    label = np.repeat([1, 0], [len(clean), len(table) - len(clean)])
    weight = np.concatenate([np.full(len(clean), 1 / len(clean)), *(np.full(len(r), 1 / len(r)) for r in filled)])
    weight[len(clean) :] /= len(filled)
    regression = LogisticRegression(max_iter=2000).fit((table - mean) / scale, label, weight * len(table) / 2)
    return {
        "mean": tuple(mean.tolist()),
        "scale": tuple(scale.tolist()),
        "weights": tuple(regression.coef_[0].tolist()),
        "bias": float(regression.intercept_[0]),
    }


def share_of(hits: np.ndarray) -> dict[str, Any]:
    """Return a share with its 95 % interval and denominator."""
    low, high = share_interval(np.array(int(hits.sum())), np.array(len(hits)))
    share = float(hits.mean()) if len(hits) else None
    return {"hits": int(hits.sum()), "total": len(hits), "share": share, "low": float(low), "high": float(high)}


class _Told:
    """Progress in steps of one attack over all pairs."""

    def __init__(self, progress: ProgressCallback | None, total: int):
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, words: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, words))


def _built(family: str, task: Any, dataset: PairDataset, model: Any, epsilon: float) -> Any:
    entry = parse_entry(family, {})
    if entry.where or entry.modality != "image":
        raise OptionError(f"{family!r} is no recipe on pictures.", "Accepted: `cmai recipes`, modality image.")
    return entry.experiment(epsilon=epsilon).build(task, dataset, 3 * model.image_size**2)


def _seen(evidence: Evidence, model: Any, dataset: PairDataset) -> np.ndarray:
    return np.concatenate([_evidence(evidence, model, batch, batch.pixels) for batch in batches(model, dataset, _SIZE)])


def _evidence(evidence: Evidence, model: Any, batch: Batch, pixels: torch.Tensor) -> np.ndarray:
    return evidence.bind(model, batch)(model, pixels, model.image_features(pixels)).double().cpu().numpy()


def _attacked(
    attack: Any, model: Any, dataset: PairDataset, evidence: Evidence | None, tools: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which pairs were wrong when clean and which after the attack, and the evidence of the latter alone."""
    lost, fooled, rows = [], [], []
    for batch in batches(model, dataset, _SIZE):
        found = attack(model, batch, **tools)
        lost.append(found.clean_success.numpy())
        fooled.append(found.success_8bit.numpy())
        if tools["cancel"] is not None:
            tools["cancel"].check()
        won = found.success_8bit & ~found.clean_success
        if evidence is not None:
            with torch.no_grad(), evaluation_mode(model):
                all_rows = _evidence(evidence, model, batch, found.rounded.to(batch.pixels))
            rows.append(all_rows[won.numpy()])
    return np.concatenate(lost), np.concatenate(fooled), np.concatenate(rows) if rows else np.empty((0, 0))


def _log_odds(known: Combination, rows: np.ndarray) -> np.ndarray:
    return known.log_odds(torch.from_numpy(rows)).numpy()


def _threshold(clean: np.ndarray, rate: float) -> float:
    tau = threshold_at_fpr(clean, rate)
    if not np.isfinite(tau):
        raise DataError(f"{len(clean)} pairs give no threshold at {rate:g}.", "Give more pairs, or a higher rate.")
    return tau


def _families(
    known: Combination, clean: np.ndarray, attacked: Mapping[str, np.ndarray], seed: int
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    out = []
    for family, values in attacked.items():
        named: dict[str, Any] = {"family": family, "held_out": family in known.held_out}
        named |= {"successes": len(values), "clean": len(clean), "auroc": None, "tpr": {}}
        if len(values):
            named["auroc"] = asdict(auroc_interval(clean, values, generator=rng, resamples=400))
            named["tpr"] = {rate: rates_at(clean, values, tau)[1] for rate, tau in known.thresholds.items()}
        out.append(named)
    return out


def _aware(
    model: Any,
    known: Combination,
    dataset: PairDataset,
    task: Any,
    rows: np.ndarray,
    half: np.ndarray,
    fpr: float,
    tools: Mapping[str, Any],
) -> dict[str, Any]:
    """Attack a system that rejects what the detector flags: wrong *and* accepted, with gradients through all views."""
    from cmai_core.data.subset import Subset

    system = System(model, detector=CombinedDetector(known, task, dataset, fpr))
    attack = adaptive(task, dataset=dataset, epsilon=known.epsilon / 255, losses=("margin",), steps=20)
    found, refused = [], []
    for batch in batches(system, Subset(dataset, [int(k) for k in rows]), _SIZE):
        found.append(attack(system, batch, **tools))
        refused.append(system.respond(task, batch, dataset=dataset).rejected.cpu().numpy())
    result = AttackResult.concatenate(found)
    beaten = (result.clean_success | result.success_8bit).numpy()
    return {
        "rate": fpr,
        "right_or_rejected": share_of(~beaten),
        "half": share_of(half[rows]),
        "clean_rejected": share_of(np.concatenate(refused)),
    }
