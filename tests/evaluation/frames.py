"""Readings frames with known counts."""

from __future__ import annotations

import numpy as np
import pandas as pd

BOOLEAN = ("correct_clean", "correct", "correct_float", "label_changed")
DEFAULTS = {
    "cell": "", "source": "a", "source_hash": "h", "target": "a", "target_hash": "h", "dataset": "d", "split": "test",
    "task": "vqa", "recipe": "pgd", "modality": "image", "knowledge": "white box", "norm": "linf", "epsilon": 4.0,
    "seed": 0, "item": "0", "text_index": 0, "correct_clean": pd.NA, "correct": pd.NA, "correct_float": pd.NA,
    "answer_clean": "", "answer": "", "consistency_clean": np.nan, "consistency": np.nan,
    "answer_consistency_clean": np.nan, "answer_consistency": np.nan, "verification_clean": np.nan,
    "verification": np.nan, "answer_verification_clean": np.nan, "answer_verification": np.nan,
    "objective_clean": np.nan, "objective": np.nan,
    "linf": np.nan, "l2": np.nan, "ssim": np.nan, "psnr": np.nan, "words_changed": 0, "label_changed": pd.NA,
    "forwards": 0, "backwards": 0, "minimum_norm": np.nan, "seconds": 0.0, "note": "", "example": "",
}  # fmt: skip
OUTCOME = {"1": True, "0": False, "?": pd.NA}


def frame(*parts: pd.DataFrame) -> pd.DataFrame:
    """Parts as one frame with the kinds of columns that `evaluation.runs.predictions` gives."""
    out = pd.concat(parts, ignore_index=True)
    for name in BOOLEAN:
        out[name] = out[name].astype("boolean")
    out["item"] = out["item"].astype(str)
    return out


def rows(columns: dict, length: int) -> pd.DataFrame:
    given = DEFAULTS | columns
    data = {}
    for name, value in given.items():
        many = isinstance(value, (list, tuple, np.ndarray, range))
        data[name] = pd.Series(list(value) if many else [value] * length, dtype=object if name in BOOLEAN else None)
    return pd.DataFrame(data)


def clean(outcomes: str, **columns) -> pd.DataFrame:
    """Clean rows of items 0, 1, …: "1" right, "0" wrong, "?" unknown, as in "1101"."""
    given = {
        "recipe": "clean", "modality": "clean", "norm": None, "epsilon": np.nan, "knowledge": "",
        "item": range(len(outcomes)), "correct_clean": [OUTCOME[o] for o in outcomes],
    }  # fmt: skip
    if "target" in columns:
        given["source"] = columns["target"]
    return rows(given | columns, len(outcomes))


def attacked(before: str, after: str, **columns) -> pd.DataFrame:
    """Attacked rows: answers before and after; "-" in `after`: the cell does not hold the item."""
    held = [k for k, o in enumerate(after) if o != "-"]
    given = {
        "item": held,
        "correct_clean": [OUTCOME[before[k]] for k in held],
        "correct": [OUTCOME[after[k]] for k in held],
    }
    return rows(given | columns, len(held))
