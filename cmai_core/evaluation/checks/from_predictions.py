"""Checks from the readings of a finished evaluation alone: no model, no new attack.

Rows with known outcomes are compared item by item. A cell need not hold every item (a cascade asks a recipe only for
survivors), so comparisons use the items that both sides have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd

from cmai_core.errors import DataError
from cmai_core.evaluation.checks.check import (
    BARELY,
    LARGE_SHARE,
    LAZY_SHARE,
    SOME_SHARE,
    STATUSES,
    Check,
    lead,
    rounding,
    share,
    skipped,
)

SUBJECT = ["target", "dataset", "split", "task"]
UNIT = ["item", "text_index"]
ATTACK = ["task", "modality", "recipe", "norm", "epsilon", "seed"]
NEEDED = (*SUBJECT, *ATTACK[1:], *UNIT, "cell", "source", "knowledge", "correct_clean", "correct")
# What a search that has stopped early has spent, as a share of the median of its cell.
EARLY = 0.5
# From here on any picture can become grey.
GREY = 128.0
CLEAN = "clean"

FACED = "every model faced every attack"
WITHIN = "every example lies within its budget"
USES = "attacks use their budget on what they do not fool"
RAISES = "attacks raise their objective"
EARLY_STOP = "attacks spend the same effort on all they do not fool"
FINITE = "objectives and gradients were finite"
SAME_CLEAN = "clean answers are the same in every cell"
HELPS = "attacks do not make a model more often right"
GROWS = "success grows with the budget"
LARGE = "a large budget leaves nothing right"
SCORES = "black box is no better than white box"
TRANSFER = "transfer is no better than white box"
SEEDS = "seeds change little"
ROUNDED = "rounding to 8 bits costs attacks little"


def checks_from_readings(frame: pd.DataFrame, excused: Collection[tuple[str, str, str]] = ()) -> list[Check]:
    """All checks that a readings frame allows, the worst case of each named in its evidence.

    Args:
        frame: from `evaluation.readings`. excused: (model, task, recipe) that need not be there, such as the cells a
            plan has skipped with a reason.

    Raises:
        DataError: a column is missing, or there is no row.
    """
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing:
        raise DataError(f"The readings lack the columns {', '.join(missing)}.", "Read them from a store.")
    if not len(frame):
        raise DataError("There are no readings.", "Run an evaluation first, or loosen the filter.")
    frame = frame.reset_index(drop=True)
    for name in ("correct_clean", "correct", "correct_float"):
        known = frame[name] if name in frame else pd.Series(pd.NA, index=frame.index)
        frame[f"{name}_known"] = known.astype("boolean").astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    frame["fooled"] = _fooled(frame)
    attacked = frame[frame["recipe"] != CLEAN]
    at_budgets = _at_budgets(attacked)
    own = attacked[attacked["source"] == attacked["target"]]
    bounded = own[_budgeted(own)]
    every: dict[str, Callable[[], Check]] = {
        FACED: lambda: faced(frame, attacked, at_budgets, excused),
        SAME_CLEAN: lambda: same_clean(frame, attacked),
        WITHIN: lambda: within(own),
        USES: lambda: uses(bounded),
        RAISES: lambda: raises(bounded),
        EARLY_STOP: lambda: early(bounded),
        FINITE: lambda: finite(attacked),
        HELPS: lambda: helps(own),
        GROWS: lambda: grows(bounded),
        LARGE: lambda: large(own),
        SCORES: lambda: black_box(at_budgets),
        TRANSFER: lambda: transfer(at_budgets),
        SEEDS: lambda: seeds(own),
        ROUNDED: lambda: rounded(own),
    }
    return [check() if len(attacked) else skipped(name, "No attack was run.") for name, check in every.items()]


def _fooled(frame: pd.DataFrame) -> np.ndarray:
    """1 where right when clean and wrong attacked, 0 where right on both, NaN otherwise."""
    after = frame["correct_known"].to_numpy()
    return np.where(frame["correct_clean_known"] == 1, np.where(np.isnan(after), np.nan, 1.0 - after), np.nan)


def _at_budgets(attacked: pd.DataFrame) -> pd.DataFrame:
    """The attacked rows, those of searches for the smallest perturbation once for each ε of the others, as read there.

    Such a search stores one example an item, whatever its distance; at ε it counts where that is within ε.
    """
    nearest = _column(attacked, "minimum_norm")
    free = ~np.isnan(nearest) & np.isnan(_column(attacked, "epsilon"))
    parts = [attacked[~free]]
    for norm, rows in attacked[free].groupby("norm"):
        budgets = attacked[~free & (attacked["norm"] == norm).to_numpy()]["epsilon"].dropna().unique()
        for epsilon in budgets:
            near = _column(rows, "minimum_norm") <= epsilon * (1 + 1e-9)
            fooled = np.where(rows["fooled"].isna(), np.nan, (near & (rows["fooled"] == 1)).astype(float))
            parts.append(rows.assign(epsilon=epsilon, fooled=fooled))
    return pd.concat(parts) if len(parts) > 1 else parts[0]


def _column(rows: pd.DataFrame, name: str) -> np.ndarray:
    """A column of numbers; NaN where it is missing."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    return pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def _budgeted(rows: pd.DataFrame) -> np.ndarray:
    """Attacks at a fixed ε of pixel values: not those that look for the smallest perturbation."""
    smallest = ~np.isnan(_column(rows, "minimum_norm"))
    return rows["norm"].isin(["linf", "l2"]).to_numpy() & ~np.isnan(_column(rows, "epsilon")) & ~smallest


def _name(key: dict[str, Any]) -> str:
    """A cell in words."""
    parts = [f"{key['recipe']} on {key.get('source', key.get('target'))}"]
    if key.get("task"):
        parts.append(str(key["task"]))
    if (epsilon := key.get("epsilon")) is not None and epsilon == epsilon:
        parts.append(f"ε {epsilon:g}" + ("/255" if key.get("norm") in ("linf", "l2") else ""))
    return ", ".join(parts)


def _cells(rows: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows of one attack on one model each."""
    keys = ["source", "target", "dataset", "split", *ATTACK]
    found = rows.groupby(keys, dropna=False, sort=True)
    return [(dict(zip(keys, key, strict=True)), group) for key, group in found]


def _gravest(found: list[Check], name: str, otherwise: Check) -> Check:
    """The worst of several; where all pass, how many were looked at."""
    order = {status: place for place, status in enumerate(("fail", "warn", "pass", "skipped"))}
    if not found:
        return otherwise
    ranked = sorted(found, key=lambda check: order[check.status])
    first = ranked[0]
    counts = {status: sum(check.status == status for check in found) for status in STATUSES}
    others = sum(check.status == first.status for check in found) - 1
    tail = f" The same holds for {others} more." if others and first.status in ("fail", "warn") else ""
    return Check(name, first.status, first.evidence + tail, {**first.numbers, "counts": counts})


def _fraction(
    name: str, cells: list[tuple[dict[str, Any], np.ndarray]], what: str, some: float, most: float, none: str
) -> Check:
    """A share of each cell's rows that should be small: more than `some` warns, more than `most` fails."""
    found = []
    for key, bad in cells:
        hits, total = int(bad.sum()), len(bad)
        status = "fail" if hits > most * total else "warn" if hits > some * total else "pass"
        numbers = {"hits": hits, "total": total, "cell": _name(key)}
        found.append(Check(name, status, f"{_name(key)}: {share(hits, total)} {what}.", numbers))
    found.sort(key=lambda check: -check.numbers["hits"] / max(check.numbers["total"], 1))
    if found and all(check.status == "pass" for check in found):
        total = sum(check.numbers["total"] for check in found)
        hits = sum(check.numbers["hits"] for check in found)
        evidence = f"Over {len(found)} cells, {share(hits, total)} {what}; the most in one: {found[0].evidence}"
        return Check(name, "pass", evidence, {**found[0].numbers, "cells": len(found)})
    return _gravest(found, name, skipped(name, none))


# --- what was measured ------------------------------------------------------------------------------------------------


def faced(
    frame: pd.DataFrame, attacked: pd.DataFrame, at_budgets: pd.DataFrame, excused: Collection[tuple[str, str, str]]
) -> Check:
    """Each model was attacked itself by the same recipes, budgets and seeds, on the same items as the others.

    An item may be missing where it was lost already: wrong when clean, or fooled by another recipe at the same budget
    (cascades leave it out). A task that a model was never asked (no clean answer, no row) is not expected of it.
    """
    keys = [_plain(tuple(key)) for key in attacked[ATTACK].drop_duplicates().itertuples(index=False)]
    models = sorted(set(frame["target"]) | set(frame["source"]))
    asked = {model: set(rows["task"]) for model, rows in frame.groupby("target")}
    own = attacked[attacked["source"] == attacked["target"]]
    have = {_plain(key): rows for key, rows in own.groupby(["source", *ATTACK], dropna=False)}
    universe, lost = _items(frame), _lost(frame, at_budgets)
    lacking: list[str] = []
    short: list[str] = []
    for model in models:
        for key in keys:
            task, recipe = key[0], key[2]
            plain = dict(zip(ATTACK, key, strict=True)) | {"source": model}
            if task not in asked.get(model, set()) or (model, task, recipe) in set(excused):
                continue
            rows = have.get((model, *key))
            if rows is None:
                lacking.append(_name(plain))
                continue
            gone = universe.get(task, set()) - set(_units(rows)) - lost.get(_place(model, task, plain), set())
            if gone:
                short.append(f"{_name(plain)} ({len(gone)} items)")
    unseen = _unseen(attacked)
    numbers = {"models": models, "attacks": len(keys), "missing": lacking, "short": short, "transfer_short": unseen}
    if lacking or short or unseen:
        parts = [f"not run: {_list(lacking)}"] if lacking else []
        parts += [f"run on fewer items: {_list(short)}"] if short else []
        parts += [f"examples not shown to every model: {_list(unseen)}"] if unseen else []
        return Check(FACED, "fail", f"Models did not face the same attacks; {'; '.join(parts)}.", numbers)
    evidence = (
        f"Each of {len(models)} models faced the same {len(keys)} attacks (recipe, task, budget, seed) and items."
    )
    return Check(FACED, "pass", evidence, numbers)


def _plain(key: tuple) -> tuple:
    """Missing values as None, so that keys compare equal."""
    return tuple(None if isinstance(value, float) and value != value else value for value in key)


def _list(names: list[str], most: int = 4) -> str:
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def _units(rows: pd.DataFrame) -> list[tuple]:
    return list(zip(rows["item"], rows["text_index"], strict=True))


def _items(frame: pd.DataFrame) -> dict[str, set]:
    """All units of each task that some attack was run on."""
    return {task: set(_units(rows)) for task, rows in frame[frame["recipe"] != CLEAN].groupby("task")}


def _place(model: str, task: str, key: dict[str, Any]) -> tuple:
    return (model, task, key["norm"], key["epsilon"], key["seed"])


def _lost(frame: pd.DataFrame, at_budgets: pd.DataFrame) -> dict[tuple, set]:
    """Units that a model has lost at a budget: wrong when clean, or fooled by some recipe."""
    wrong = frame[frame["correct_clean_known"] == 0]
    wrong = {key: set(_units(rows)) for key, rows in wrong.groupby(["target", "task"])}
    found: dict[tuple, set] = {}
    own = at_budgets[at_budgets["source"] == at_budgets["target"]]
    for key, rows in own.groupby(["target", "task", "norm", "epsilon", "seed"], dropna=False):
        plain = _plain(key)
        found[plain] = wrong.get(plain[:2], set()) | set(_units(rows[rows["fooled"] == 1]))
    return found


def _unseen(attacked: pd.DataFrame) -> list[str]:
    """Cells whose examples were not shown to all of the models that others of its task were shown to."""
    out = []
    for key, rows in attacked.groupby(["source", *ATTACK], dropna=False):
        targets = {target: set(_units(part)) for target, part in rows.groupby("target")}
        crafted = set.union(*targets.values())
        short = [target for target, units in targets.items() if crafted - units]
        if short:
            out.append(f"{_name(dict(zip(['source', *ATTACK], key, strict=True)))} to {', '.join(short)}")
    return out


def same_clean(frame: pd.DataFrame, attacked: pd.DataFrame) -> Check:
    """What a target says of a clean item does not depend on the attack it was read for."""
    known = frame[frame["correct_clean_known"].notna()]
    spread = known.groupby([*SUBJECT, *UNIT])["correct_clean_known"].nunique()
    differ = spread[spread > 1]
    numbers = {"units": len(spread), "differ": len(differ)}
    if not len(spread):
        return skipped(SAME_CLEAN, "No clean answer is known.")
    if len(differ):
        example = dict(zip(spread.index.names, differ.index[0], strict=True))
        evidence = (
            f"{share(len(differ), len(spread))} of the clean answers are right in one cell and wrong in another, such "
            f"as {example['target']} on {example['item']} ({example['task']})."
        )
        return Check(SAME_CLEAN, "fail", evidence, numbers)
    return Check(
        SAME_CLEAN, "pass", f"All of {len(spread)} clean answers are the same wherever they are read.", numbers
    )


# --- whether attacks tried --------------------------------------------------------------------------------------------


def within(own: pd.DataFrame) -> Check:
    """The largest change of a pixel value is at most ε, after rounding to 8 bits at most half a level more."""
    rows = own[(own["norm"] == "linf").to_numpy() & _finite(own, "linf", "epsilon")]
    cells = []
    for key, group in _cells(rows):
        epsilon = _column(group, "epsilon")
        room = np.where(epsilon == np.round(epsilon), 1e-3, 0.5 + 1e-3)
        cells.append((key, _column(group, "linf") * 255 > epsilon + room))
    none = "No perturbation of pixel values was recorded."
    return _fraction(WITHIN, cells, "of the examples lie outside", 0.0, 0.0, none)


def _finite(rows: pd.DataFrame, *names: str) -> np.ndarray:
    return np.all([np.isfinite(_column(rows, name)) for name in names], axis=0) if len(rows) else np.zeros(0, bool)


def uses(bounded: pd.DataFrame) -> Check:
    """What was not fooled lies at the edge of the budget. Budgets below one level are left to rounding."""
    rows = bounded[(bounded["norm"] == "linf").to_numpy() & (bounded["fooled"] == 0).to_numpy()]
    rows = rows[_finite(rows, "linf", "epsilon")]
    rows = rows[_column(rows, "epsilon") >= 1]
    cells = [(key, _column(g, "linf") * 255 < BARELY * _column(g, "epsilon")) for key, g in _cells(rows)]
    none = "No item was left unfooled at a budget of one level or more."
    return _fraction(USES, cells, "of the unfooled examples use less than half of it", SOME_SHARE, LAZY_SHARE, none)


def raises(bounded: pd.DataFrame) -> Check:
    """The objective of what was not fooled is higher than on the clean item."""
    rows = bounded[(bounded["fooled"] == 0).to_numpy()]
    rows = rows[_finite(rows, "objective", "objective_clean")]
    cells = [(key, _column(g, "objective") <= _column(g, "objective_clean")) for key, g in _cells(rows)]
    none = "No item was left unfooled whose objective is known."
    return _fraction(RAISES, cells, "of the unfooled examples raise it not at all", SOME_SHARE, LAZY_SHARE, none)


def early(bounded: pd.DataFrame) -> Check:
    """An attack on pictures has no reason to spend less on one item than on another that it does not fool either.

    Attacks on texts have: a short text has fewer candidates.
    """
    rows = bounded[((bounded["fooled"] == 0) & (bounded["modality"] == "image")).to_numpy()]
    rows = rows[_finite(rows, "forwards")]
    cells = [(k, _column(g, "forwards") < EARLY * np.median(_column(g, "forwards"))) for k, g in _cells(rows)]
    none = "No item was left unfooled whose passes were counted."
    what = "of the unfooled items got less than half of the median passes"
    return _fraction(EARLY_STOP, cells, what, 0.0, SOME_SHARE, none)


def finite(attacked: pd.DataFrame) -> Check:
    """No note speaks of values that are not numbers."""
    notes = attacked["note"].fillna("").astype(str) if "note" in attacked else pd.Series("", index=attacked.index)
    bad = notes.str.contains("not finite|not a number").to_numpy()
    hits, total = int(bad.sum()), len(attacked)
    evidence = f"{share(hits, total)} of the rows have a note of gradients or objectives that are not finite"
    if hits:
        evidence += f", such as {_name(attacked[bad].iloc[0].to_dict())}"
    status = "fail" if hits > SOME_SHARE * total else "warn" if hits else "pass"
    return Check(FINITE, status, evidence + ".", {"hits": hits, "total": total})


def helps(own: pd.DataFrame) -> Check:
    """Attacked accuracy is not above clean accuracy ("label leaking", Kurakin et al. 2017, arXiv 1611.01236)."""
    found = []
    for key, rows in _cells(own[own["correct_known"].notna() & own["correct_clean_known"].notna()]):
        gained = lead(rows["correct_known"] == 1, rows["correct_clean_known"] == 1)
        numbers = {"clean": int(rows["correct_clean_known"].sum()), "attacked": int(rows["correct_known"].sum())}
        evidence = (
            f"{_name(key)}: {share(numbers['attacked'], len(rows))} are right attacked, "
            f"{share(numbers['clean'], len(rows))} clean."
        )
        found.append(Check(HELPS, gained.status, evidence, numbers | {"p": gained.p}))
    found.sort(key=lambda check: check.numbers["clean"] - check.numbers["attacked"])
    return _gravest(found, HELPS, skipped(HELPS, "No attacked answer is known."))


# --- how attacks compare ----------------------------------------------------------------------------------------------


def _both(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Outcomes of two sets of rows on the units that both have."""
    parts = [rows.dropna(subset=["fooled"]).groupby(UNIT)["fooled"].max() for rows in (first, second)]
    return pd.concat(parts, axis=1, join="inner", keys=["first", "second"])


def grows(own: pd.DataFrame) -> Check:
    """With each larger ε the same recipe fools at least as many of the same items."""
    found = []
    keys = ["source", "task", "modality", "recipe", "norm", "seed"]
    for key, rows in own[~np.isnan(_column(own, "epsilon"))].groupby(keys, dropna=False):
        budgets = sorted(rows["epsilon"].unique())
        for small, big in itertools.pairwise(budgets):
            both = _both(rows[rows["epsilon"] == small], rows[rows["epsilon"] == big])
            if not len(both):
                continue
            drop = lead(both["first"] == 1, both["second"] == 1)
            numbers = {"fooled_small": int(both["first"].sum()), "fooled_big": int(both["second"].sum()), "p": drop.p}
            name = _name(dict(zip(keys, key, strict=True)) | {"epsilon": small})
            evidence = (
                f"{name} fools {share(numbers['fooled_small'], len(both))}, and at {big:g} "
                f"{share(numbers['fooled_big'], len(both))}."
            )
            found.append(Check(GROWS, drop.status, evidence, numbers))
    found.sort(key=lambda check: check.numbers["p"])
    return _gravest(found, GROWS, skipped(GROWS, "No recipe was run at two budgets on the same items."))


def large(own: pd.DataFrame) -> Check:
    """At 128/255 or more, the attacks together leave nothing right."""
    rows = own[(own["norm"] == "linf").to_numpy() & (_column(own, "epsilon") >= GREY)]
    rows = rows[rows["knowledge"] == "white box"]
    found = []
    for (model, task), group in rows.groupby(["target", "task"]):
        fooled = group.dropna(subset=["fooled"]).groupby(UNIT)["fooled"].max()
        left, total = int((fooled == 0).sum()), len(fooled)
        status = "pass" if not left else "warn" if left <= LARGE_SHARE * total else "fail"
        evidence = f"{model}, {task}: with a budget of {GREY:g}/255 or more, {share(left, total)} are still right."
        found.append(Check(LARGE, status, evidence, {"left": left, "total": total}))
    none = f"No white-box attack was run at {GREY:g}/255 or more; `cmai check` does."
    return _gravest(found, LARGE, skipped(LARGE, none))


def black_box(attacked: pd.DataFrame) -> Check:
    """Attacks by scores or decisions fool no more than the white-box ones together, at the same budget."""
    own = attacked[(attacked["source"] == attacked["target"]) & (attacked["modality"] == "image").to_numpy()]
    white, black = own[own["knowledge"] == "white box"], own[own["knowledge"].isin(["scores", "decisions"])]
    none = "No black-box attack on pictures was run beside a white-box one at the same budget."
    return _ahead(SCORES, black, white, none, ["target", "task", "recipe", "norm", "epsilon"])


def transfer(attacked: pd.DataFrame) -> Check:
    """Pictures made on another model fool no more than white-box attacks on the model itself, at the same budget."""
    images = attacked[(attacked["modality"] == "image").to_numpy()]
    others = images[(images["source"] != images["target"]) | (images["knowledge"] == "surrogate").to_numpy()]
    own = images[(images["source"] == images["target"]) & (images["knowledge"] == "white box")]
    none = "No example was shown to another model that was attacked at the same budget itself."
    return _ahead(TRANSFER, others, own, none, ["source", "target", "task", "recipe", "norm", "epsilon"])


def _ahead(name: str, weaker: pd.DataFrame, stronger: pd.DataFrame, none: str, keys: list[str]) -> Check:
    """Each of the attacks with less knowledge against all with more together, on the same model and budget."""
    found = []
    for key, rows in weaker.groupby(keys):
        plain = dict(zip(keys, key, strict=True))
        same = np.all([stronger[column] == plain[column] for column in ("target", "task", "norm", "epsilon")], axis=0)
        both = _both(rows, stronger[same]) if len(stronger) else pd.DataFrame()
        if not len(both):
            continue
        ahead = lead(both["first"] == 1, both["second"] == 1)
        words = _name(plain) + (f" shown to {plain['target']}" if "source" in plain else "")
        evidence = (
            f"{words} fools {share(int(both['first'].sum()), len(both))}, white-box attacks together "
            f"{int(both['second'].sum())}; {ahead.extra} are fooled by the former alone."
        )
        found.append(Check(name, ahead.status, evidence, ahead.numbers()))
    found.sort(key=lambda check: check.numbers["p"])
    return _gravest(found, name, skipped(name, none))


def seeds(own: pd.DataFrame) -> Check:
    """All seeds together fool little more than one of them."""
    found = []
    keys = ["source", "task", "modality", "recipe", "norm", "epsilon"]
    for key, rows in own.dropna(subset=["fooled"]).groupby(keys, dropna=False):
        table = rows.pivot_table(index=UNIT, columns="seed", values="fooled", aggfunc="max").dropna()
        if table.shape[1] < 2 or not len(table):
            continue
        best, together = int(table.sum().max()), int(table.max(axis=1).sum())
        extra, total = together - best, len(table)
        numbers = {"seeds": table.shape[1], "best": best, "together": together, "total": total, "extra": extra}
        name = _name(dict(zip(keys, key, strict=True)))
        evidence = f"{name}: the best of {table.shape[1]} seeds fools {share(best, total)}, all together {together}."
        status = "warn" if extra > max(1, SOME_SHARE * total) else "pass"
        found.append(Check(SEEDS, status, evidence, numbers))
    found.sort(key=lambda check: -check.numbers["extra"] / check.numbers["total"])
    return _gravest(found, SEEDS, skipped(SEEDS, "No attack was run with two seeds."))


def rounded(own: pd.DataFrame) -> Check:
    """Successes of the float example that are gone when it is rounded to 8 bits."""
    known = own[own["correct_float_known"].notna() & own["correct_known"].notna() & (own["correct_clean_known"] == 1)]
    found = []
    for key, rows in _cells(known):
        as_float = rows["correct_float_known"] == 0
        check = rounding(ROUNDED, int(as_float.sum()), int((as_float & (rows["correct_known"] == 0)).sum()))
        if check.status != "skipped":
            found.append(Check(ROUNDED, check.status, f"{_name(key)}: {check.evidence}", check.numbers))
    found.sort(key=lambda check: -(check.numbers["float"] - check.numbers["kept"]) / check.numbers["float"])
    return _gravest(found, ROUNDED, skipped(ROUNDED, "No success of a float example is known."))
