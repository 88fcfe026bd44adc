"""Paired tests between models on the same units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.counting import Predictions
from cmai_core.evaluation.figures.intervals import ratio_interval
from cmai_core.evaluation.figures.outcomes import UNKNOWN, VALIDATION, Outcomes
from cmai_core.evaluation.figures.worst_case import all_units, worst_case_units

_WHERE = ("dataset", "split", "task", "modality", "recipe", "norm", "epsilon", "seed")
TESTED = ("value", "low", "high", "only_a", "only_b", "a_hits", "b_hits", "total", "p", "p_holm", "note")


def paired_test(a: np.ndarray, b: np.ndarray, items: np.ndarray | None = None) -> dict[str, Any]:
    """Compare two lists of rights and wrongs about the same N units.

    Args:
        a, b: bool N. items: N numbers; units of one item are resampled together.

    Returns:
        `value`: share right in a − share right in b, with the paired bootstrap's `low`, `high`. `p`: McNemar's exact
        test, two-sided (McNemar 1947): among the units on which they differ, is each as often the right one? NaN where
        N = 0; 1 where they never differ. `only_a`, `only_b`: units that one alone has right. `a_hits`, `b_hits`,
        `total`.

    The test takes units as independent; where an item has several, the interval is the safer judge.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"Outcomes of the shapes {a.shape} and {b.shape} are not pairs.", "Give two of one length.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    _, place = np.unique(np.arange(len(a)) if items is None else items, return_inverse=True)
    difference = np.bincount(place, weights=a.astype(float) - b)
    value, low, high = ratio_interval(difference, np.bincount(place))
    p = float("nan")
    if len(a):
        p = float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    counts = {"only_a": only_a, "only_b": only_b, "a_hits": int(a.sum()), "b_hits": int(b.sum()), "total": len(a)}
    return {"value": value, "low": low, "high": high, **counts, "p": p}


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction (Holm 1979): adjusted p of several tests made together.

    NaN stays NaN and is not counted.
    """
    values = np.asarray(p, dtype=float)
    out = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * (len(order) - np.arange(len(order)))
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return out


def compare_models(
    predictions: Predictions,
    models: Sequence[str] | None = None,
    *,
    source: str | None = None,
) -> pd.DataFrame:
    """Compare every two models on the units that both were asked about: clean, under each recipe, in the worst case.

    Args:
        models: targets; None: all. Two give one row a setting, more give every two.
        source: whose examples: None: each model is attacked itself (white box, or its own queries); a model's name:
            both are evaluated on the examples made on that one.

    Returns:
        `a`, `b`, `outcome` ("clean" or "robust"), the setting, then TESTED: see `paired_test`, where right means right
        on the clean unit, or on clean and attacked unit. `p_holm` corrects over all rows of the table. A setting that
        one of the two does not have is left out. The worst case has NaN and a note where it is not known for a unit
        that both were asked about.

    Raises:
        OptionError: a model that the predictions do not have.
    """
    outcomes = Outcomes.of(predictions)
    known = list(dict.fromkeys(outcomes.subjects["target"]))
    models = known if models is None else list(models)
    for model in models:
        if model not in known:
            raise OptionError(f"There are no predictions of {model!r}.", f"Accepted: {', '.join(known)}.")
    out = []
    for (outcome, *where), tables in _by_setting(outcomes, source).items():
        for a, b in combinations([model for model in models if model in tables], 2):
            out.append({"a": a, "b": b, "outcome": outcome, **dict(zip(_WHERE, where, strict=True))})
            out[-1] |= _tested(tables[a], tables[b])
    table = pd.DataFrame(out, columns=["a", "b", "outcome", *_WHERE, *TESTED])
    table["p_holm"] = holm(table["p"].to_numpy(dtype=float))
    return table


def model_differences(predictions: Predictions) -> pd.DataFrame:
    """Return the share that one model has right less another's, on the same units, with McNemar's test.

    `source` is the model that is compared, `target` the other; `hits` is NA (a difference has none).
    """
    table = compare_models(predictions)
    names = {"a": "source", "b": "target"}
    return table.rename(columns=names).assign(metric=table["outcome"] + " difference", hits=pd.NA)


def _by_setting(outcomes: Outcomes, source: str | None) -> dict[tuple, dict[str, pd.DataFrame]]:
    """Map (outcome, setting) to each target's units; pairs without a task are scored, not answered, and left out."""
    found: dict[tuple, tuple[tuple, dict[str, pd.DataFrame]]] = {}
    for outcome, target, where, table in [*_clean_settings(outcomes), *_robust_settings(outcomes, source)]:
        if where[2] != "":
            # NaN and NA as text, since they equal nothing, themselves included
            found.setdefault((outcome, *map(str, where)), ((outcome, *where), {}))[1][target] = table
    return dict(found.values())


def _tested(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """Compare two tables of units (`all_units`)."""
    both = a.merge(b, on=["name", "text_index"], suffixes=("_a", "_b"))
    kept = both[(both["right_a"] != UNKNOWN) & (both["right_b"] != UNKNOWN)]
    found = paired_test(kept["right_a"] == 1, kept["right_b"] == 1, kept["name"].to_numpy())
    return found | _gaps(found, both, len(a) - len(both), len(b) - len(both))


def _gaps(found: dict[str, Any], both: pd.DataFrame, alone_a: int, alone_b: int) -> dict[str, Any]:
    """NaN for a comparison that is not known, and a note.

    Units that are open cannot be left out: they are those that were hardest to fool.
    """
    if gaps := int((both["open_a"] | both["open_b"]).sum()):
        unknown = {name: np.nan for name in ("value", "low", "high", "p")}
        return unknown | {"note": f"Unknown: {gaps} units were fooled by no recipe, but not faced by all."}
    note = f"{alone_a} units of a and {alone_b} of b have no partner." if alone_a or alone_b else ""
    return {"note": note}


def _clean_settings(outcomes: Outcomes) -> Iterator[tuple[str, str, tuple, pd.DataFrame]]:
    units = outcomes.units
    for number, subject in enumerate(outcomes.subjects.to_dict("records")):
        if subject["split"] == VALIDATION:  # there for thresholds, not for verdicts
            continue
        its = units[(units["subject"] == number).to_numpy()]
        its = its[its["from_clean"].to_numpy() | (not its["from_clean"].any())]
        where = (subject["dataset"], subject["split"], subject["task"], "clean", "clean", "", np.nan, pd.NA)
        yield "clean", subject["target"], where, its.assign(right=its["clean"], open=False)


def _robust_settings(outcomes: Outcomes, source: str | None) -> Iterator[tuple[str, str, tuple, pd.DataFrame]]:
    cells = outcomes.cells
    wanted = (cells["source"] == (cells["target"] if source is None else source)).to_numpy(dtype=bool)
    kept = outcomes.select(wanted)
    for over in ((), ("recipe",)):
        groups, units = worst_case_units(kept, over)
        if over:
            groups = groups[groups["contenders"] > 1]
        members = units.groupby("group").indices
        for number, group in groups.iterrows():
            if number in members:
                where = tuple(group[name] for name in _WHERE)
                yield "robust", group["target"], where, all_units(kept, group, units.iloc[members[number]])
