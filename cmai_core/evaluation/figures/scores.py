"""S_c and V_verify of clean and attacked pairs, and what a detector that flags low scores is worth.

Scores: "pair", S_c of the picture with the given text; "answer", S_c of the picture with what the target answered;
"verification" and "answer verification", log V_verify with the same texts, where the target has consistency heads.
Detection treats attacked pairs as positives (`detection`: flagged when the score is below τ).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cmai_core.bootstrap import percentiles, resampled_counts
from cmai_core.evaluation.figures.counting import FIGURE, Predictions
from cmai_core.evaluation.figures.detection import auroc, resampled_areas, threshold_at_fpr
from cmai_core.evaluation.figures.intervals import mean_interval, share_interval
from cmai_core.evaluation.figures.outcomes import CELL, UNKNOWN, VALIDATION, Outcomes

SCORES = {
    "pair": "consistency",
    "answer": "answer_consistency",
    "verification": "verification",
    "answer verification": "answer_verification",
}
RATES = (0.01, 0.05)
REJECTION_RATE = 0.05
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def consistency(predictions: Predictions) -> pd.DataFrame:
    """Return mean and quantiles of each score over a cell's units for which it is known clean and attacked.

    `consistency_clean`, `consistency`, and `consistency_change` (attacked − clean, paired). Columns beside FIGURE:
    `score` (one of SCORES), `sd`, and q05 … q95. hits is NA (a mean has none).
    """
    outcomes = Outcomes.of(predictions)
    out = []
    for number, rows in outcomes.rows.groupby("cell", sort=True):
        key = outcomes.cells.iloc[number][list(CELL)].to_dict()
        for score, column in SCORES.items():
            clean = rows[f"{column}_clean"].to_numpy()
            clean = np.where(np.isnan(clean), outcomes.units[f"{column}_clean"].to_numpy()[rows["unit"]], clean)
            both = ~np.isnan(clean) & rows[column].notna().to_numpy()
            if not both.any():
                continue
            before, after = clean[both], rows[column].to_numpy()[both]
            for metric, values in (
                ("consistency_clean", before),
                ("consistency", after),
                ("consistency_change", after - before),
            ):
                value, low, high = mean_interval(values)
                figure = {"metric": metric, "value": value, "low": low, "high": high, "hits": pd.NA}
                spread = {f"q{round(100 * q):02d}": float(np.quantile(values, q)) for q in QUANTILES}
                sd = float(values.std(ddof=1)) if len(values) > 1 else np.nan
                out.append(key | figure | {"total": len(values), "note": "", "score": score, "sd": sd} | spread)
    spread = [f"q{round(100 * q):02d}" for q in QUANTILES]
    return pd.DataFrame(out, columns=[*CELL, *FIGURE, "score", "sd", *spread])


@dataclass(frozen=True)
class _Clean:
    """Clean scores of a subject, and thresholds from validation where it has any.

    Attributes:
        scores, unit: N, of the subject's own units; right: int8 N. tau: rate → threshold. note: where τ comes from.
    """

    scores: np.ndarray
    unit: np.ndarray
    right: np.ndarray
    tau: dict[float, float]
    note: str


def detection(predictions: Predictions, intervals: bool = True) -> pd.DataFrame:
    """Measure what flagging low scores finds, cell by cell and score by score (column `score`: one of SCORES).

    Negatives are the target's clean units of the same split, positives a cell's attacked units.

    - `auroc`, `auroc_success`: against all attacked units, and against successes alone (right when clean, wrong now).
    - `tpr_1`, `tpr_5` and `…_success`: share flagged at the τ that flags at most 1 % or 5 % of clean *validation*
      pairs; where there are none, of the clean units themselves, and the note says so. `tau_1`, `tau_5`: the
      thresholds; `fpr_1`, `fpr_5`: what they flag of the clean units.
    - `correct_or_rejected`: at τ for 5 %, attacked units that are robust (right before and after) or flagged, among
      those whose outcome and score are known.
    - `correct_and_accepted`: at the same τ, clean units answered right and not flagged.

    Args:
        intervals: bootstrap AUROC too (items are resampled, clean and attacked together); the rest is quick.
    """
    outcomes = Outcomes.of(predictions)
    cells, rows = outcomes.cells, outcomes.rows
    first = (outcomes.units["text_index"] == 0).to_numpy()
    kinds = {"one text": first, "several": np.ones(len(first), bool)}
    cleans = {
        (score, kind): _clean_scores(outcomes, column, kept)
        for score, column in SCORES.items()
        for kind, kept in kinds.items()
    }
    out: list[dict] = []
    for number, group in rows.groupby("cell", sort=True):
        key = cells.iloc[number][list(CELL)].to_dict()
        kind = "one text" if first[group["unit"].to_numpy()].all() else "several"
        for score, column in SCORES.items():
            clean = cleans[score, kind].get(int(cells["subject"].iloc[number]))
            after = group[column].to_numpy()
            known = ~np.isnan(after)
            if clean is None or not known.any():
                continue
            some = group[known]
            note = clean.note
            if len(np.unique(group["unit"])) < len(clean.scores):
                note = f"{len(group)} of {len(clean.scores)} clean units were attacked. {note}".strip()
            figures = _figures_of(clean, some, after[known], intervals)
            out += [key | figure | {"note": note, "score": score} for figure in figures]
    return pd.DataFrame(out, columns=[*CELL, *FIGURE, "score"])


def _clean_scores(outcomes: Outcomes, column: str, kept: np.ndarray) -> dict[int, _Clean]:
    """Return for each subject with clean scores: the scores of the units kept (bool, one a unit) and the thresholds."""
    units, subjects = outcomes.units, outcomes.subjects
    values = units[f"{column}_clean"].to_numpy()
    known = np.flatnonzero(~np.isnan(values) & kept)
    by_subject = {int(k): group.to_numpy() for k, group in pd.Series(known).groupby(units["subject"].to_numpy()[known])}
    names = ["target", "dataset", "task"]
    validation = {
        tuple(subjects.loc[k, names]): values[rows]
        for k, rows in by_subject.items()
        if subjects.loc[k, "split"] == VALIDATION
    }
    out = {}
    for number, its in by_subject.items():
        held_out = validation.get(tuple(subjects.loc[number, names]))
        scores = values[its]
        if subjects.loc[number, "split"] == VALIDATION:
            held_out = None
        source = scores if held_out is None else held_out
        note = "τ is from the clean pairs reported on: there are no validation pairs." if held_out is None else ""
        tau = {rate: threshold_at_fpr(source, rate) for rate in RATES}
        out[number] = _Clean(scores, its, units["clean"].to_numpy()[its], tau, note)
    return out


def _figures_of(clean: _Clean, rows: pd.DataFrame, after: np.ndarray, intervals: bool) -> list[dict]:
    won = rows["fooled"].to_numpy() == 1
    robust = rows["robust"].to_numpy()
    unit = rows["unit"].to_numpy()
    out = []
    for suffix, some in (("", np.ones(len(after), bool)), ("_success", won)):
        out.append(_auroc_figure(f"auroc{suffix}", clean, after[some], unit[some], intervals))
        for rate in RATES:
            out.append(_share(f"tpr_{100 * rate:.0f}{suffix}", after[some] < clean.tau[rate]))
    for rate in RATES:
        percent = f"{100 * rate:.0f}"
        out.append(_share(f"fpr_{percent}", clean.scores < clean.tau[rate]))
        tau = {"metric": f"tau_{percent}", "value": clean.tau[rate], "low": np.nan, "high": np.nan}
        out.append(tau | {"hits": pd.NA, "total": len(clean.scores)})
    tau = clean.tau[REJECTION_RATE]
    flagged = after < tau
    judged = robust != UNKNOWN
    out.append(_share("correct_or_rejected", ((robust == 1) | flagged)[judged]))
    judged = clean.right != UNKNOWN
    out.append(_share("correct_and_accepted", ((clean.right == 1) & (clean.scores >= tau))[judged]))
    return out


def _share(metric: str, hit: np.ndarray) -> dict:
    low, high = share_interval(hit.sum(), len(hit))
    value = float(hit.mean()) if len(hit) else np.nan
    figure = {"metric": metric, "value": value, "low": float(low), "high": float(high)}
    return figure | {"hits": int(hit.sum()), "total": len(hit)}


def _auroc_figure(metric: str, clean: _Clean, attacked: np.ndarray, unit: np.ndarray, intervals: bool) -> dict:
    figure = {"metric": metric, "value": np.nan, "low": np.nan, "high": np.nan, "hits": pd.NA, "total": len(attacked)}
    if not len(attacked):
        return figure
    figure["value"] = auroc(clean.scores, attacked)
    if intervals:
        figure["low"], figure["high"] = auroc_bounds(clean.scores, clean.unit, attacked, unit)
    return figure


def auroc_bounds(
    clean: np.ndarray, clean_unit: np.ndarray, attacked: np.ndarray, attacked_unit: np.ndarray
) -> tuple[float, float]:
    """Return the bootstrap bounds of `detection.auroc`, drawing each unit's clean and attacked score together.

    Args:
        clean, attacked: N and M scores. clean_unit, attacked_unit: which unit each belongs to.
    """
    number, place = np.unique(np.concatenate([clean_unit, attacked_unit]), return_inverse=True)
    blocks = (
        (counts[:, place[: len(clean)]], counts[:, place[len(clean) :]]) for counts in resampled_counts(len(number))
    )
    return percentiles(resampled_areas(clean, attacked, blocks))
