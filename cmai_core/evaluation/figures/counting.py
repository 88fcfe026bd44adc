"""Shares and paired differences of groups of units, and what groups lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from cmai_core.evaluation.figures.intervals import ratio_interval, share_interval
from cmai_core.evaluation.figures.outcomes import Outcomes, codes_of

FIGURE = ("metric", "value", "low", "high", "hits", "total", "note")
Predictions = pd.DataFrame | Outcomes


def shares(
    group: np.ndarray,
    count: int,
    hits: np.ndarray,
    counted: np.ndarray,
    items: np.ndarray | None = None,
    misses: np.ndarray | None = None,
) -> pd.DataFrame:
    """Count shares of hits among what is counted, group by group: value, low, high, hits, total.

    Args:
        group: N group numbers below `count`. hits, counted: bool N.
        items: N item numbers where several rows may belong to one item: then items are resampled, not rows.
        misses: for each group, how many more units are counted that did not hit.
    """
    misses = np.zeros(count, dtype=int) if misses is None else misses
    hit = np.bincount(group, weights=hits & counted, minlength=count).astype(int)
    total = np.bincount(group, weights=counted, minlength=count).astype(int) + misses
    value = np.divide(hit, total, out=np.full(count, np.nan), where=total > 0)
    low, high = (np.array(bound) for bound in share_interval(hit, total))
    if items is not None:
        for number, above, below in _per_item(group[counted], items[counted], hits[counted].astype(float)):
            if (below > 1).any() and 0 < hit[number] < total[number]:
                above = np.concatenate([above, np.zeros(misses[number])])
                below = np.concatenate([below, np.ones(misses[number])])
                _, low[number], high[number] = ratio_interval(above, below)
    return pd.DataFrame({"value": value, "low": low, "high": high, "hits": hit, "total": total})


def paired_shares(group: np.ndarray, count: int, differences: np.ndarray, items: np.ndarray) -> pd.DataFrame:
    """Average differences in {−1, 0, 1} group by group, resampling items; hits is their sum."""
    out = pd.DataFrame({"value": np.nan, "low": np.nan, "high": np.nan, "hits": 0, "total": 0}, index=range(count))
    for number, above, below in _per_item(group, items, differences):
        out.loc[number, ["value", "low", "high"]] = ratio_interval(above, below)
        out.loc[number, ["hits", "total"]] = int(above.sum()), int(below.sum())
    return out


def _per_item(group: np.ndarray, items: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield for each group that occurs (group, sums of the values of each of its items, rows of each of them)."""
    code, first = codes_of([group, items])
    above, below = np.bincount(code, weights=values), np.bincount(code).astype(float)
    owner = group[first]
    edges = [*np.flatnonzero(np.diff(owner, prepend=-1)), len(owner)]
    for start, stop in pairwise(edges):
        yield int(owner[start]), above[start:stop], below[start:stop]


def clusters(rows: pd.DataFrame, units: pd.DataFrame) -> np.ndarray | None:
    """Return the rows' items where an item may have several texts, else None (rows are independent)."""
    several = units["text_index"].to_numpy()[rows["unit"].to_numpy()].any()
    return rows["item"].to_numpy() if several else None


def coverage(
    outcomes: Outcomes, group: np.ndarray, subject: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Count what groups of attacked rows lack of their subjects' items.

    Args:
        group: the group of each row of `outcomes.rows`. subject: the subject of each group.

    Returns:
        lost: units of absent items that are wrong when clean. missing: absent items that are right when clean, at
        least with one text. faced: (items present, items in all) of each group.
    """
    units, item = outcomes.units, outcomes.units["item"].to_numpy()
    _, first = np.unique(item, return_index=True)  # items are numbered from 0
    size = len(first)
    owner = units["subject"].to_numpy()[first]
    is_right = np.bincount(item, weights=units["clean"] == 1, minlength=size) > 0
    wrong = np.where(is_right, 0, np.bincount(item, weights=units["clean"] == 0, minlength=size))
    number = len(outcomes.subjects)
    all_right, all_wrong, everything = (
        np.bincount(owner, weights=values, minlength=number)[subject] for values in (is_right, wrong, np.ones(size))
    )
    row_item = item[outcomes.rows["unit"].to_numpy()]
    _, first = codes_of([group, row_item])
    present_item, present_group = row_item[first], group[first]
    here_right, here_wrong, here = (
        np.bincount(present_group, weights=values[present_item], minlength=len(subject))
        for values in (is_right, wrong, np.ones(size))
    )
    faced = list(zip(here.astype(int).tolist(), everything.astype(int).tolist(), strict=True))
    return (all_wrong - here_wrong).astype(int), (all_right - here_right).astype(int), faced


def only_whole(found: pd.DataFrame, missing: np.ndarray) -> pd.DataFrame:
    """Leave the figures of groups that lack items unknown."""
    found.loc[missing > 0, ["value", "low", "high"]] = np.nan
    return found


def figure_rows(keys: pd.DataFrame, metric: str, found: pd.DataFrame, notes: Sequence[str]) -> pd.DataFrame:
    """Put keys and shares beside each other, with the columns FIGURE."""
    table = pd.concat([keys.reset_index(drop=True), found.reset_index(drop=True)], axis=1)
    return table.assign(metric=metric, note=list(notes))[[*keys.columns, *FIGURE]]
