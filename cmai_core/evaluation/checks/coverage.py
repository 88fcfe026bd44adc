"""Checks of what was measured: every model faced the same attacks, and clean answers do not change."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cmai_core.evaluation.checks.check import Check, share, skipped
from cmai_core.evaluation.checks.rows import ATTACK, CLEAN, SUBJECT, UNIT, Rows, cell_name

FACED = "every model faced every attack"
SAME_CLEAN = "clean answers are the same in every cell"


def faced(given: Rows) -> Check:
    """Check that each model was attacked by the same recipes, budgets and seeds, on the same items as the others.

    An item may be missing where it was lost already: wrong when clean, or fooled by another recipe at the same budget
    (cascades leave it out). A task that a model was never asked (no clean answer, no row) is not expected of it.
    """
    keys = [_plain(tuple(key)) for key in given.attacked[ATTACK].drop_duplicates().itertuples(index=False)]
    models = sorted(set(given.frame["target"]) | set(given.frame["source"]))
    lacking, short = _missing(given, models, keys)
    unseen = _unseen(given.attacked)
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


def _missing(given: Rows, models: list[str], keys: list[tuple]) -> tuple[list[str], list[str]]:
    """Name the attacks that a model did not face at all, and those that it faced on fewer items."""
    asked = {model: set(rows["task"]) for model, rows in given.frame.groupby("target")}
    have = {_plain(key): rows for key, rows in given.own.groupby(["source", *ATTACK], dropna=False)}
    universe, lost = _items(given.frame), _lost(given.frame, given.at_budgets)
    lacking: list[str] = []
    short: list[str] = []
    for model in models:
        for key in keys:
            task, recipe = key[0], key[2]
            plain = dict(zip(ATTACK, key, strict=True)) | {"source": model}
            if task not in asked.get(model, set()) or (model, task, recipe) in given.excused:
                continue
            rows = have.get((model, *key))
            if rows is None:
                lacking.append(cell_name(plain))
                continue
            gone = universe.get(task, set()) - set(_units(rows)) - lost.get(_place(model, task, plain), set())
            if gone:
                short.append(f"{cell_name(plain)} ({len(gone)} items)")
    return lacking, short


def _plain(key: tuple) -> tuple:
    """Return missing values as None, so that keys compare equal."""
    return tuple(None if isinstance(value, float) and value != value else value for value in key)


def _list(names: list[str], most: int = 4) -> str:
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def _units(rows: pd.DataFrame) -> list[tuple]:
    return list(zip(rows["item"], rows["text_index"], strict=True))


def _items(frame: pd.DataFrame) -> dict[str, set]:
    """Return all units of each task that some attack was run on."""
    return {task: set(_units(rows)) for task, rows in frame[frame["recipe"] != CLEAN].groupby("task")}


def _place(model: str, task: str, key: dict[str, Any]) -> tuple:
    return (model, task, key["norm"], key["epsilon"], key["seed"])


def _lost(frame: pd.DataFrame, at_budgets: pd.DataFrame) -> dict[tuple, set]:
    """Return units that a model has lost at a budget: wrong when clean, or fooled by some recipe."""
    wrong = frame[frame["correct_clean_known"] == 0]
    wrong = {key: set(_units(rows)) for key, rows in wrong.groupby(["target", "task"])}
    found: dict[tuple, set] = {}
    own = at_budgets[at_budgets["source"] == at_budgets["target"]]
    for key, rows in own.groupby(["target", "task", "norm", "epsilon", "seed"], dropna=False):
        plain = _plain(key)
        found[plain] = wrong.get(plain[:2], set()) | set(_units(rows[rows["fooled"] == 1]))
    return found


def _unseen(attacked: pd.DataFrame) -> list[str]:
    """Return cells whose examples were not shown to all of the models that others of its task were shown to."""
    out = []
    for key, rows in attacked.groupby(["source", *ATTACK], dropna=False):
        targets = {target: set(_units(part)) for target, part in rows.groupby("target")}
        everything = set.union(*targets.values())
        short = [target for target, units in targets.items() if everything - units]
        if short:
            out.append(f"{cell_name(dict(zip(['source', *ATTACK], key, strict=True)))} to {', '.join(short)}")
    return out


def same_clean(given: Rows) -> Check:
    """Check that what a target says of a clean item does not depend on the attack beside it."""
    known = given.frame[given.frame["correct_clean_known"].notna()]
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
