"""The predictions of a finished evaluation, made ready for the checks, and how a check counts them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cmai_core.budget import norms_in_255
from cmai_core.errors import DataError
from cmai_core.evaluation.checks.check import STATUSES, Check, share, skipped

SUBJECT = ["target", "dataset", "split", "task"]
UNIT = ["item", "text_index"]
ATTACK = ["task", "modality", "recipe", "norm", "epsilon", "seed"]
NEEDED = (*SUBJECT, *ATTACK[1:], *UNIT, "cell", "source", "knowledge", "correct_clean", "correct")
CLEAN = "clean"


@dataclass(frozen=True, eq=False)
class Rows:
    """Predictions, sorted by what a check looks at.

    Attributes:
        frame: all of them, with `fooled` (1 where right when clean and wrong attacked, 0 where right on both, NaN
            otherwise) and `correct_known`, `correct_clean_known`, `correct_float_known` (1, 0, NaN).
        attacked: those of attacks. own: attacks on the model they were made on. bounded: own attacks at a fixed ε of
            pixel values. at_budgets: attacked, with searches for the smallest perturbation once for each ε.
        excused: (model, task, recipe) that need not be there.
    """

    frame: pd.DataFrame
    attacked: pd.DataFrame
    own: pd.DataFrame
    bounded: pd.DataFrame
    at_budgets: pd.DataFrame
    excused: frozenset[tuple[str, str, str]] = frozenset()

    @staticmethod
    def of(frame: pd.DataFrame, excused: Collection[tuple[str, str, str]] = ()) -> Rows:
        """Sort a predictions table.

        Raises:
            DataError: a column is missing, or there is no row.
        """
        missing = [name for name in NEEDED if name not in frame.columns]
        if missing:
            raise DataError(f"The predictions lack the columns {', '.join(missing)}.", "Read them from a store.")
        if not len(frame):
            raise DataError("There are no predictions.", "Run an evaluation first, or loosen the filter.")
        frame = frame.reset_index(drop=True)
        for name in ("correct_clean", "correct", "correct_float"):
            known = frame[name] if name in frame else pd.Series(pd.NA, index=frame.index)
            frame[f"{name}_known"] = known.astype("boolean").astype("Float64").to_numpy(dtype=float, na_value=np.nan)
        frame["fooled"] = _fooled(frame)
        attacked = frame[frame["recipe"] != CLEAN]
        own = attacked[attacked["source"] == attacked["target"]]
        return Rows(frame, attacked, own, own[_budgeted(own)], _at_budgets(attacked), frozenset(excused))


def _fooled(frame: pd.DataFrame) -> np.ndarray:
    """Return 1 where right when clean and wrong attacked, 0 where right on both, NaN otherwise."""
    after = frame["correct_known"].to_numpy()
    return np.where(frame["correct_clean_known"] == 1, np.where(np.isnan(after), np.nan, 1.0 - after), np.nan)


def _at_budgets(attacked: pd.DataFrame) -> pd.DataFrame:
    """Return the attacked rows, searches for the smallest perturbation once for each ε of the others.

    Such a search stores one example an item, whatever its distance; at ε it counts where that is within ε.
    """
    nearest = column(attacked, "minimum_norm")
    free = ~np.isnan(nearest) & np.isnan(column(attacked, "epsilon"))
    parts = [attacked[~free]]
    for norm, rows in attacked[free].groupby("norm"):
        budgets = attacked[~free & (attacked["norm"] == norm).to_numpy()]["epsilon"].dropna().unique()
        for epsilon in budgets:
            near = column(rows, "minimum_norm") <= epsilon * (1 + 1e-9)
            fooled = np.where(rows["fooled"].isna(), np.nan, (near & (rows["fooled"] == 1)).astype(float))
            parts.append(rows.assign(epsilon=epsilon, fooled=fooled))
    return pd.concat(parts) if len(parts) > 1 else parts[0]


def column(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column of numbers; NaN where it is missing."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    return pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def _budgeted(rows: pd.DataFrame) -> np.ndarray:
    """Say which rows are attacks at a fixed ε of pixel values: not those that look for the smallest perturbation."""
    smallest = ~np.isnan(column(rows, "minimum_norm"))
    return rows["norm"].isin(norms_in_255()).to_numpy() & ~np.isnan(column(rows, "epsilon")) & ~smallest


def cell_name(key: dict[str, Any]) -> str:
    """Return a cell in words."""
    parts = [f"{key['recipe']} on {key.get('source', key.get('target'))}"]
    if key.get("task"):
        parts.append(str(key["task"]))
    if (epsilon := key.get("epsilon")) is not None and epsilon == epsilon:
        parts.append(f"ε {epsilon:g}" + ("/255" if key.get("norm") in norms_in_255() else ""))
    return ", ".join(parts)


def cells_of(rows: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return rows of one attack on one model each."""
    keys = ["source", "target", "dataset", "split", *ATTACK]
    found = rows.groupby(keys, dropna=False, sort=True)
    return [(dict(zip(keys, key, strict=True)), group) for key, group in found]


def gravest(found: list[Check], name: str, otherwise: Check) -> Check:
    """Return the worst of several; where all pass, how many were looked at."""
    order = {status: place for place, status in enumerate(("fail", "warn", "pass", "skipped"))}
    if not found:
        return otherwise
    ranked = sorted(found, key=lambda check: order[check.status])
    first = ranked[0]
    counts = {status: sum(check.status == status for check in found) for status in STATUSES}
    others = sum(check.status == first.status for check in found) - 1
    tail = f" The same holds for {others} more." if others and first.status in ("fail", "warn") else ""
    return Check(name, first.status, first.evidence + tail, {**first.numbers, "counts": counts})


def fraction(
    name: str, cells: list[tuple[dict[str, Any], np.ndarray]], what: str, some: float, most: float, none: str
) -> Check:
    """Return a share of each cell's rows that should be small: more than `some` warns, more than `most` fails."""
    found = []
    for key, bad in cells:
        hits, total = int(bad.sum()), len(bad)
        status = "fail" if hits > most * total else "warn" if hits > some * total else "pass"
        numbers = {"hits": hits, "total": total, "cell": cell_name(key)}
        found.append(Check(name, status, f"{cell_name(key)}: {share(hits, total)} {what}.", numbers))
    found.sort(key=lambda check: -check.numbers["hits"] / max(check.numbers["total"], 1))
    if found and all(check.status == "pass" for check in found):
        total = sum(check.numbers["total"] for check in found)
        hits = sum(check.numbers["hits"] for check in found)
        evidence = f"Over {len(found)} cells, {share(hits, total)} {what}; the most in one: {found[0].evidence}"
        return Check(name, "pass", evidence, {**found[0].numbers, "cells": len(found)})
    return gravest(found, name, skipped(name, none))


def finite_rows(rows: pd.DataFrame, *names: str) -> np.ndarray:
    """Return in which rows all of these columns are finite numbers: bool, one a row."""
    return np.all([np.isfinite(column(rows, name)) for name in names], axis=0) if len(rows) else np.zeros(0, bool)
