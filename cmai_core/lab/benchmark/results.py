"""The figures of one run or several of an evaluation store, as a page shows them, and the pairs behind each figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cmai_core.budget import Budget, norm_of
from cmai_core.errors import DataError
from cmai_core.evaluation.checks import Check, check_predictions
from cmai_core.evaluation.figures.curves import accuracy_curves
from cmai_core.evaluation.figures.metrics import accuracy, clean_accuracy
from cmai_core.evaluation.figures.modalities import modalities
from cmai_core.evaluation.figures.outcomes import CELL, CLEAN, Outcomes
from cmai_core.evaluation.figures.scores import consistency, detection
from cmai_core.evaluation.figures.tables import VALIDATION, summary_table
from cmai_core.evaluation.figures.transfer import transfer_matrix
from cmai_core.evaluation.figures.worst_case import WORST, worst_case
from cmai_core.evaluation.store.store import Store

if TYPE_CHECKING:
    from cmai_core.evaluation.runs.plan import Plan

FOOLED, HELD, WRONG, OPEN = "fooled", "held", "wrong when clean", "not known"


@dataclass(frozen=True, eq=False)
class Results:
    """All that the page shows of some runs.

    Attributes:
        runs: their names. frame: their predictions, one row a (cell, target, item). figures: one row a figure of the
            table: CELL and `budget`, `kind` ("clean", "attack", "worst"), `own` (attacked itself), `clean`, `robust`,
            `asr` and their `…_low`, `…_high`, `…_hits`, `…_total`, `sc_clean`, `sc`, `sc_change` (means of S_c),
            `caught` (share of attacked pairs that S_c finds at 5 % false alarms), `safe` (right or flagged there),
            `note`; of a worst case `recipes`, with how many units each faced, and `contenders`, how many they are.
        summary: the long table that is exported. curves, transfer: see `evaluation`. sides, contests: by modality.
        checks: self-checks. skipped: cells that cannot be measured, with the reason. note: how runs were brought
            together, "" for one.
    """

    runs: tuple[str, ...]
    frame: pd.DataFrame
    figures: pd.DataFrame
    summary: pd.DataFrame
    curves: pd.DataFrame
    transfer: pd.DataFrame
    sides: pd.DataFrame
    contests: pd.DataFrame
    checks: tuple[Check, ...]
    skipped: tuple[tuple[str, str, str, str], ...]
    note: str

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(self.figures["target"]))


def results(folder: str | Path, runs: Sequence[str], items: Collection[str] = ()) -> Results:
    """Read runs from a store and count them.

    Args:
        items: ids of the pairs that are counted; (): all. The validation pairs that thresholds are set on stay.

    Raises:
        StoreError: the store or a run cannot be read. DataError: there is nothing to count yet, or nothing in common.
    """
    from cmai_core.evaluation.runs.predictions import frame as read
    from cmai_core.evaluation.runs.predictions import plan_of

    with Store.read(folder) as store:
        plans = [plan_of(store, run) for run in runs]
        frames = [read(store, plan) for plan in plans]
    frame, note = merged(frames, plans)
    if items:
        frame, note = _only(frame, items)
    outcomes = Outcomes.of(frame, frame.attrs["epsilons"])
    left_out = dict.fromkeys(
        (cell.source, cell.task, cell.recipe, cell.skipped) for plan in plans for cell in plan.cells if cell.skipped
    )
    sides, contests = modalities(outcomes)
    with_scores = bool((frame["split"] == VALIDATION).any())
    return Results(
        tuple(runs),
        frame,
        figures(outcomes, with_scores),
        summary_table(outcomes, scores=with_scores),
        accuracy_curves(outcomes, frame.attrs["epsilons"]),
        transfer_matrix(outcomes),
        sides,
        contests,
        tuple(check_predictions(frame, {cell[:3] for cell in left_out})),
        tuple(left_out),
        note,
    )


def _only(frame: pd.DataFrame, items: Collection[str]) -> tuple[pd.DataFrame, str]:
    """Return the rows of some items, and how many they are."""
    kept = frame[(frame["split"] == VALIDATION) | frame["item"].isin(list(items))].reset_index(drop=True)
    kept.attrs.update(frame.attrs)
    count = kept.loc[kept["split"] != VALIDATION, "item"].nunique()
    if not count:
        raise DataError("None of these pairs is in the runs.", "Name pairs that were measured.")
    return kept, f"A slice: {count} of {frame.loc[frame['split'] != VALIDATION, 'item'].nunique()} pairs."


def merged(frames: Sequence[pd.DataFrame], plans: Sequence[Plan]) -> tuple[pd.DataFrame, str]:
    """Return runs as one frame, on the items that all of them have; what they share stands once.

    Where runs mean different things by one name (a model with other weights, a recipe with other options), the name
    gets a mark.

    Returns:
        The frame, and how many pairs are compared where that are not all ("": one run).

    Raises:
        DataError: nothing has been measured yet, or runs on one split have no item in common.
    """
    epsilons: dict[str, list[float]] = {}
    for frame in frames:
        for norm, values in frame.attrs["epsilons"].items():
            epsilons[norm] = sorted({*epsilons.get(norm, []), *values})
    places: dict[tuple[str, str], list[set[str]]] = {}
    for plan in plans:
        places.setdefault((plan.dataset, plan.split), []).append({item for item, _ in plan.items})
    common = {place: set.intersection(*items) for place, items in places.items()}
    if not all(common.values()):
        raise DataError("These runs have no pair in common.", "Choose runs on the same items.")
    kept = []
    for frame, plan in zip(frames, plans, strict=True):
        its = common[plan.dataset, plan.split]
        kept.append(frame[(frame["split"] == VALIDATION) | frame["item"].isin(its)])
    whole = pd.concat([part for part in kept if len(part)] or kept[:1], ignore_index=True)
    if not len(whole):
        raise DataError("Nothing of this run has been measured yet.", "Start it, or wait until it has begun.")
    whole = _told_apart(whole)
    unit = ["source", "target", "dataset", "split", "task", "recipe", "cell", "item", "text_index"]
    whole = whole.drop_duplicates(unit, ignore_index=True)
    whole.attrs["epsilons"] = epsilons
    cut = any(len(items) > len(common[place]) for place, sets in places.items() for items in sets)
    return whole, f"Compared on the {sum(map(len, common.values()))} pairs that all these runs have." if cut else ""


def _told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Mark models that share a name but not their weights, and recipes that share a name but not their options."""
    hashes: dict[str, dict[str, None]] = {}
    for side in ("source", "target"):
        for name, digest in frame[[side, f"{side}_hash"]].drop_duplicates().itertuples(index=False):
            hashes.setdefault(name, {})[digest] = None
    double = {name for name, its in hashes.items() if len(its) > 1}
    for side in ("source", "target") if double else ():
        marked = frame[side] + " · " + frame[f"{side}_hash"].str[:6]
        frame[side] = frame[side].where(~frame[side].isin(double), marked)
    names = ["source", "dataset", "split", "task", "recipe", "norm", "epsilon", "seed"]
    cells = frame.loc[frame["recipe"] != CLEAN, [*names, "cell"]].drop_duplicates()
    place = cells.groupby(names, dropna=False).cumcount()
    labels = {cell: k for cell, k in zip(cells["cell"], place, strict=True) if k}
    if labels:
        number = frame["cell"].map(labels)
        other = frame["recipe"] + " (" + (number + 1).astype("Int64").astype(str) + ")"
        frame["recipe"] = frame["recipe"].where(number.isna(), other)
    return frame


# --- the table --------------------------------------------------------------------------------------------------------


def figures(outcomes: Outcomes, with_scores: bool = False) -> pd.DataFrame:
    """One row a cell and target, and a worst case; see `Results`."""
    clean = clean_accuracy(outcomes)
    clean = clean[(clean["split"] != VALIDATION) & (clean["task"] != "")]
    worst = worst_case(outcomes)
    worst = worst[worst["contenders"] > 1]
    by_key: dict[tuple, dict[str, Any]] = {}
    for kind, table in (("clean", clean), ("attack", accuracy(outcomes)), ("worst", worst)):
        _take(by_key, table, kind, {"acc_clean": "clean", "acc_robust": "robust", "asr": "asr"})
    scores = consistency(outcomes)
    names = {"consistency_clean": "sc_clean", "consistency": "sc", "consistency_change": "sc_change"}
    _take(by_key, scores[scores["score"] == "pair"], "attack", names)
    if with_scores:
        found = detection(outcomes, intervals=False)
        names = {"tpr_5": "caught", "correct_or_rejected": "safe"}
        _take(by_key, found[found["score"] == "pair"], "attack", names)
    table = pd.DataFrame(list(by_key.values()))
    start = clean.set_index(["target", "dataset", "split", "task"])[["value", "low", "high", "hits", "total"]]
    for column in ("clean", "clean_low", "clean_high", "clean_hits", "clean_total"):
        name = column.removeprefix("clean_") if column != "clean" else "value"
        of_subject = [start[name].get(tuple(row), np.nan) for row in table[list(start.index.names)].to_numpy()]
        table[column] = table[column].fillna(pd.Series(of_subject)) if column in table else of_subject
    table["own"] = table["source"] == table["target"]
    table["budget"] = [budget(n, e) for n, e in zip(table["norm"], table["epsilon"], strict=True)]
    for name in ("robust", "asr", "sc_clean", "sc", "sc_change", "caught", "safe"):
        for column in (name, f"{name}_low", f"{name}_high", f"{name}_hits", f"{name}_total"):
            if column not in table:
                table[column] = np.nan
    table["recipes"] = table["recipes"].fillna("") if "recipes" in table else ""
    table["contenders"] = table["contenders"].fillna(1) if "contenders" in table else 1
    table["taskless"] = table["task"] == ""
    table["order"] = table["kind"].map({"clean": 0, "attack": 1, "worst": 2})
    by = ["target", "taskless", "task", "own", "order", "modality", "recipe", "epsilon", "source"]
    rising = [True, True, True, False, True, True, True, True, True]
    return table.sort_values(by, ascending=rising, kind="stable", ignore_index=True).drop(columns=["order", "taskless"])


def _take(into: dict[tuple, dict[str, Any]], table: pd.DataFrame, kind: str, names: Mapping[str, str]) -> None:
    """Add the figures of a long table to the rows of their cells."""
    table = table[table["metric"].isin(list(names))]
    for row in table.to_dict("records"):
        key = tuple(str(row[name]) for name in CELL)
        held = into.setdefault(key, {name: row[name] for name in CELL} | {"kind": kind, "note": ""})
        name = names[row["metric"]]
        held[name] = row["value"]
        for part in ("low", "high", "hits", "total"):
            held[f"{name}_{part}"] = row[part]
        held["note"] = held["note"] or row["note"]
        for extra in ("recipes", "contenders"):
            if extra in row:
                held[extra] = row[extra]


def hardest(table: pd.DataFrame) -> pd.DataFrame:
    """Return, for each model, task, modality and budget, the worst case, or the one attack there is.

    Args:
        table: `Results.figures`.
    """
    own = table[table["own"] & (table["kind"] != "clean") & table["robust"].notna()]
    own = own.assign(rank=(own["kind"] == "worst").map({True: 0, False: 1}))
    own = own.sort_values(["rank", "robust"], kind="stable")
    keys = ["target", "dataset", "split", "task", "modality", "norm", "epsilon", "budget"]
    return own.drop_duplicates(keys).sort_values(["target", "task", "modality", "norm", "epsilon"])


def budget(norm: Any, epsilon: float | None) -> str:
    """Say a budget as people read it; "" where there is none."""
    if epsilon is None or pd.isna(epsilon):
        return ""
    words = Budget(norm, epsilon).words
    return words + {"linf": "", "l0": "", "patch": " of the area"}.get(norm, f" {norm_of(norm).word}")


# --- the pairs behind a figure ----------------------------------------------------------------------------------------


def pairs_behind(frame: pd.DataFrame, figure: Mapping[str, Any]) -> pd.DataFrame:
    """Return the units that a row of `Results.figures` counts, each with what became of it.

    In the worst case a unit stands with the first recipe that fooled it, else with the last that tried.

    Returns:
        The predictions' columns, and `verdict` (FOOLED, HELD, WRONG, OPEN), one row a (item, text).
    """
    rows = frame
    for name in ("target", "dataset", "split", "task"):
        rows = rows[rows[name] == figure[name]]
    if figure["kind"] == "clean":
        rows = rows[rows["recipe"] == CLEAN]
        right = rows["correct_clean"]
        verdict = np.where(right.isna(), OPEN, np.where(right.fillna(False), HELD, WRONG))
        return rows.assign(verdict=verdict).reset_index(drop=True)
    rows = rows[(rows["recipe"] != CLEAN) & (rows["source"] == figure["source"])]
    rows = rows[(rows["modality"] == figure["modality"]) & (rows["norm"].fillna("") == (figure["norm"] or ""))]
    if not pd.isna(figure["seed"]):
        rows = rows[rows["seed"] == figure["seed"]]
    if figure["recipe"] != WORST:
        rows = rows[rows["recipe"] == figure["recipe"]]
    searched = rows["minimum_norm"].notna() & rows["epsilon"].isna()
    if not pd.isna(figure["epsilon"]):
        rows = rows[searched | (rows["epsilon"] == figure["epsilon"])]
    rows = rows.assign(verdict=_verdicts(rows, figure["epsilon"]))
    rank = rows["verdict"].map({FOOLED: 0, WRONG: 1, OPEN: 2, HELD: 3})
    rows = rows.assign(rank=rank).sort_values("rank", kind="stable")
    chosen = rows.drop_duplicates(["item", "text_index"]).sort_index()
    return chosen.drop(columns="rank").reset_index(drop=True)


def _verdicts(rows: pd.DataFrame, epsilon: float) -> np.ndarray:
    clean, after = rows["correct_clean"], rows["correct"]
    searched = rows["minimum_norm"].notna() & rows["epsilon"].isna()
    if not pd.isna(epsilon):  # the nearest example counts where it lies within ε
        beyond = searched & (rows["minimum_norm"] > epsilon * (1 + 1e-9))
        after = after.where(~beyond, clean)
    known = clean.notna() & after.notna()
    clean, after = clean.fillna(False).astype(bool), after.fillna(False).astype(bool)
    return np.where(~known, OPEN, np.where(~clean, WRONG, np.where(after, HELD, FOOLED)))


@dataclass(frozen=True, eq=False)
class Shown:
    """The pictures of a pair.

    uint8 H×W×3 clean, adversarial (the same object where only words were attacked, or nothing); the sentence before and
    after (None where it was not attacked).
    """

    clean: np.ndarray
    adversarial: np.ndarray
    before: str
    after: str | None


def open_pair(store: Store, row: Mapping[str, Any], clean: np.ndarray, captions: Sequence[str]) -> Shown:
    """Return the pair of a row of `pairs_behind`.

    Args:
        clean: the item's picture as its source sees it. captions: the item's.

    Raises:
        StoreError: the file with the example cannot be read.
    """
    from cmai_core.evaluation.runs.predictions import adversarial

    place = 0 if pd.isna(row["text_index"]) else int(row["text_index"])
    before = captions[place] if place < len(captions) else ""
    if row["recipe"] == CLEAN or not row["example"]:
        return Shown(clean, clean, before, None)
    picture, text = adversarial(store, row["example"], clean)
    return Shown(clean, picture, before, text)
