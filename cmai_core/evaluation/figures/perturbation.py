"""How large perturbations are: of pictures (L∞, L2, SSIM, PSNR) and of texts (words, label changes)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cmai_core.evaluation.figures.counting import FIGURE, Predictions, shares
from cmai_core.evaluation.figures.intervals import mean_interval, median_interval
from cmai_core.evaluation.figures.outcomes import CELL, UNKNOWN, Outcomes

SIZES = ("linf", "l2", "ssim", "psnr")


def picture_sizes(predictions: Predictions) -> pd.DataFrame:
    """Return medians over a cell's examples of `linf`, `l2` (8-bit, pixels in [0, 1]), `ssim` and `psnr` (dB).

    total: examples whose size is known; hits: those of them that are changed at all (NA where the L∞ is unknown). An
    unchanged picture has an infinite PSNR; where half of them are unchanged the median is NaN and the note says so.
    Only cells that change pictures; transferred examples are those of the source.
    """
    outcomes = Outcomes.of(predictions)
    pictures = outcomes.cells["modality"].isin(["image", "joint"]).to_numpy()
    several = bool(outcomes.units["text_index"].any())
    out = []
    for number, rows in outcomes.rows.groupby("cell", sort=True):
        if not pictures[number]:
            continue
        if several:  # texts of one picture may share its example
            rows = rows.drop_duplicates(["item", *SIZES])
        key = outcomes.cells.iloc[number][list(CELL)].to_dict()
        for name in SIZES:
            known = rows[rows[name].notna()]
            value, low, high = median_interval(known[name].to_numpy())
            changed = known["linf"].dropna()
            note = "Half of the pictures or more are unchanged." if value == np.inf else ""
            out.append(
                key
                | {"metric": name, "value": _finite(value), "low": _finite(low), "high": _finite(high)}
                | {"hits": int((changed > 0).sum()) if len(changed) else pd.NA, "total": len(known), "note": note}
            )
    return pd.DataFrame(out, columns=[*CELL, *FIGURE])


def word_edits(predictions: Predictions, lengths: Mapping[tuple[str, int], int] | None = None) -> pd.DataFrame:
    """Measure what attacks did to texts, cell by cell (text and joint recipes).

    - `words_changed`: mean number of words changed; hits: texts changed, total: texts.
    - `word_edit_rate`: mean share of a text's words that are changed, where `lengths` says how many words it has.
    - `label_change_rate`: among changed texts that can be judged, those that are false of the picture now.

    Args:
        lengths: (item, text_index) → words of the clean text.
    """
    outcomes = Outcomes.of(predictions)
    cells, rows = outcomes.cells, outcomes.rows
    texts = cells["modality"].isin(["text", "joint"]).to_numpy()
    out = []
    for number, group in rows[texts[rows["cell"].to_numpy()]].groupby("cell", sort=True):
        key = cells.iloc[number][list(CELL)].to_dict()
        known = group[group["words_changed"].notna()]
        changed = known["words_changed"].to_numpy()
        counts = {"hits": int((changed > 0).sum()), "total": len(changed), "note": ""}
        out.append(key | _mean("words_changed", changed) | counts)
        if lengths is not None:
            units = outcomes.units.iloc[known["unit"].to_numpy()]
            length = [lengths.get(text, 0) for text in zip(units["name"], units["text_index"], strict=True)]
            length = np.array(length, dtype=float)
            rate = changed[length > 0] / length[length > 0]
            counts = {"hits": int((rate > 0).sum()), "total": len(rate), "note": ""}
            out.append(key | _mean("word_edit_rate", rate) | counts)
        label = known["label_changed"].to_numpy()
        judged = (changed > 0) & (label != UNKNOWN)
        found = shares(np.zeros(len(known), dtype=int), 1, label == 1, judged, known["item"].to_numpy()).iloc[0]
        figure = {name: found[name] for name in ("value", "low", "high")}
        silent = int(((changed > 0) & (label == UNKNOWN)).sum())
        note = f"{silent} changed texts cannot be judged." if silent else ""
        counts = {"hits": int(found["hits"]), "total": int(found["total"]), "note": note}
        out.append(key | {"metric": "label_change_rate"} | figure | counts)
    return pd.DataFrame(out, columns=[*CELL, *FIGURE])


def _mean(metric: str, values: np.ndarray) -> dict:
    value, low, high = mean_interval(values)
    return {"metric": metric, "value": value, "low": low, "high": high}


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.nan
