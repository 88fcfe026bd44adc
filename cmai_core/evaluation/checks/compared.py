"""Checks that compare attacks: more budget, more knowledge or more seeds should not fool less."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from cmai_core.evaluation.checks.check import LARGE_SHARE, SOME_SHARE, Check, lead, rounding, share, skipped
from cmai_core.evaluation.checks.rows import UNIT, Rows, cell_name, cells_of, column, gravest

# From here on any picture can become grey.
GREY = 128.0

GROWS = "success grows with the budget"
LARGE = "a large budget leaves nothing right"
SCORES = "black box is no better than white box"
TRANSFER = "transfer is no better than white box"
SEEDS = "seeds change little"
ROUNDED = "rounding to 8 bits costs attacks little"


def _both(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return outcomes of two sets of rows on the units that both have."""
    parts = [rows.dropna(subset=["fooled"]).groupby(UNIT)["fooled"].max() for rows in (first, second)]
    return pd.concat(parts, axis=1, join="inner", keys=["first", "second"])


def grows(given: Rows) -> Check:
    """Check that with each larger ε the same recipe fools at least as many of the same items."""
    found = []
    keys = ["source", "task", "modality", "recipe", "norm", "seed"]
    for key, rows in given.bounded[~np.isnan(column(given.bounded, "epsilon"))].groupby(keys, dropna=False):
        budgets = sorted(rows["epsilon"].unique())
        for small, big in itertools.pairwise(budgets):
            both = _both(rows[rows["epsilon"] == small], rows[rows["epsilon"] == big])
            if not len(both):
                continue
            drop = lead(both["first"] == 1, both["second"] == 1)
            numbers = {"fooled_small": int(both["first"].sum()), "fooled_big": int(both["second"].sum()), "p": drop.p}
            name = cell_name(dict(zip(keys, key, strict=True)) | {"epsilon": small})
            evidence = (
                f"{name} fools {share(numbers['fooled_small'], len(both))}, and at {big:g} "
                f"{share(numbers['fooled_big'], len(both))}."
            )
            found.append(Check(GROWS, drop.status, evidence, numbers))
    found.sort(key=lambda check: check.numbers["p"])
    return gravest(found, GROWS, skipped(GROWS, "No recipe was run at two budgets on the same items."))


def large(given: Rows) -> Check:
    """Check that at 128/255 or more, the attacks together leave nothing right."""
    rows = given.own[(given.own["norm"] == "linf").to_numpy() & (column(given.own, "epsilon") >= GREY)]
    rows = rows[rows["knowledge"] == "white box"]
    found = []
    for (model, task), group in rows.groupby(["target", "task"]):
        fooled = group.dropna(subset=["fooled"]).groupby(UNIT)["fooled"].max()
        left, total = int((fooled == 0).sum()), len(fooled)
        status = "pass" if not left else "warn" if left <= LARGE_SHARE * total else "fail"
        evidence = f"{model}, {task}: with a budget of {GREY:g}/255 or more, {share(left, total)} are still right."
        found.append(Check(LARGE, status, evidence, {"left": left, "total": total}))
    none = f"No white-box attack was run at {GREY:g}/255 or more; `cmai check` does."
    return gravest(found, LARGE, skipped(LARGE, none))


def black_box(given: Rows) -> Check:
    """Check that attacks by scores or decisions fool no more than the white-box ones together, at the same budget."""
    attacked = given.at_budgets
    own = attacked[(attacked["source"] == attacked["target"]) & (attacked["modality"] == "image").to_numpy()]
    white, black = own[own["knowledge"] == "white box"], own[own["knowledge"].isin(["scores", "decisions"])]
    none = "No black-box attack on pictures was run beside a white-box one at the same budget."
    return _ahead(SCORES, black, white, none, ["target", "task", "recipe", "norm", "epsilon"])


def transfer(given: Rows) -> Check:
    """Check that pictures made on another model fool no more than white-box attacks at the same budget."""
    attacked = given.at_budgets
    images = attacked[(attacked["modality"] == "image").to_numpy()]
    others = images[(images["source"] != images["target"]) | (images["knowledge"] == "surrogate").to_numpy()]
    own = images[(images["source"] == images["target"]) & (images["knowledge"] == "white box")]
    none = "No example was shown to another model that was attacked at the same budget itself."
    return _ahead(TRANSFER, others, own, none, ["source", "target", "task", "recipe", "norm", "epsilon"])


def _ahead(name: str, weaker: pd.DataFrame, stronger: pd.DataFrame, none: str, keys: list[str]) -> Check:
    """Compare each of the attacks with less knowledge with all with more together, on the same model and budget."""
    found = []
    for key, rows in weaker.groupby(keys):
        plain = dict(zip(keys, key, strict=True))
        same = np.all([stronger[column] == plain[column] for column in ("target", "task", "norm", "epsilon")], axis=0)
        both = _both(rows, stronger[same]) if len(stronger) else pd.DataFrame()
        if not len(both):
            continue
        ahead = lead(both["first"] == 1, both["second"] == 1)
        words = cell_name(plain) + (f" shown to {plain['target']}" if "source" in plain else "")
        evidence = (
            f"{words} fools {share(int(both['first'].sum()), len(both))}, white-box attacks together "
            f"{int(both['second'].sum())}; {ahead.extra} are fooled by the former alone."
        )
        found.append(Check(name, ahead.status, evidence, ahead.numbers()))
    found.sort(key=lambda check: check.numbers["p"])
    return gravest(found, name, skipped(name, none))


def seeds(given: Rows) -> Check:
    """Check that all seeds together fool little more than one of them."""
    found = []
    keys = ["source", "task", "modality", "recipe", "norm", "epsilon"]
    for key, rows in given.own.dropna(subset=["fooled"]).groupby(keys, dropna=False):
        table = rows.pivot_table(index=UNIT, columns="seed", values="fooled", aggfunc="max").dropna()
        if table.shape[1] < 2 or not len(table):
            continue
        best, together = int(table.sum().max()), int(table.max(axis=1).sum())
        extra, total = together - best, len(table)
        numbers = {"seeds": table.shape[1], "best": best, "together": together, "total": total, "extra": extra}
        name = cell_name(dict(zip(keys, key, strict=True)))
        evidence = f"{name}: the best of {table.shape[1]} seeds fools {share(best, total)}, all together {together}."
        status = "warn" if extra > max(1, SOME_SHARE * total) else "pass"
        found.append(Check(SEEDS, status, evidence, numbers))
    found.sort(key=lambda check: -check.numbers["extra"] / check.numbers["total"])
    return gravest(found, SEEDS, skipped(SEEDS, "No attack was run with two seeds."))


def rounded(given: Rows) -> Check:
    """Count the successes of the float example that are gone when it is rounded to 8 bits."""
    own = given.own
    known = own[own["correct_float_known"].notna() & own["correct_known"].notna() & (own["correct_clean_known"] == 1)]
    found = []
    for key, rows in cells_of(known):
        as_float = rows["correct_float_known"] == 0
        check = rounding(ROUNDED, int(as_float.sum()), int((as_float & (rows["correct_known"] == 0)).sum()))
        if check.status != "skipped":
            found.append(Check(ROUNDED, check.status, f"{cell_name(key)}: {check.evidence}", check.numbers))
    found.sort(key=lambda check: -(check.numbers["float"] - check.numbers["kept"]) / check.numbers["float"])
    return gravest(found, ROUNDED, skipped(ROUNDED, "No success of a float example is known."))
