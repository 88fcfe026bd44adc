"""From the store to one pandas frame: a row for each (cell, target, item), or text of an item; no model is needed.

Columns (docs/evaluation.md says what each means): COLUMNS. Clean rows have the recipe "clean" and source = target. A
minimum-norm recipe has one row an item, its `epsilon` not a number: its answer at ε follows from `minimum_norm` ≤ ε.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.budget import norms_in_255
from cmai_core.errors import StoreError
from cmai_core.evaluation.runs.plan import CLEAN, Cell, Plan
from cmai_core.evaluation.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("cell", "source", "source_hash", "target", "target_hash", "dataset", "split", "task", "recipe", "modality"),
    *("knowledge", "norm", "epsilon", "seed", "item", "text_index", "correct_clean", "correct", "correct_float"),
    *("answer_clean", "answer", "consistency_clean", "consistency", "answer_consistency_clean", "answer_consistency"),
    *("verification_clean", "verification", "answer_verification_clean", "answer_verification"),
    *("objective_clean", "objective", "linf", "l2", "ssim", "psnr", "words_changed", "label_changed", "forwards"),
    *("backwards", "minimum_norm", "seconds", "note", "example"),
)
_BOOLEANS = ("correct_clean", "correct", "correct_float", "label_changed")
_WHOLE = ("seed", "text_index", "words_changed", "forwards", "backwards")
_NUMBERS = (
    *("epsilon", "consistency_clean", "consistency", "answer_consistency_clean", "answer_consistency"),
    *("verification_clean", "verification", "answer_verification_clean", "answer_verification"),
    *("objective_clean", "objective", "linf", "l2", "ssim", "psnr", "minimum_norm", "seconds"),
)
_OF_PAIR = ("consistency", "verification")
_OF_ANSWER = ("correct", "answer", "answer_consistency", "answer_verification")


def runs(store: Store) -> list[dict[str, Any]]:
    """Return the runs a store knows, the latest first: `run`, `updated` and the values of its `grid`."""
    rows = store.query("SELECT run, updated, plan FROM runs ORDER BY updated DESC, run")
    return [{"run": run, "updated": updated, "grid": json.loads(plan)["grid"]} for run, updated, plan in rows]


def plan_of(store: Store, run: str | None = None) -> Plan:
    """Return what a run asked for (None: the latest).

    Raises:
        StoreError: there is no such run.
    """
    known = store.query("SELECT run, plan FROM runs ORDER BY updated DESC, run")
    found = [plan for name, plan in known if run in (None, name)]
    if not found:
        names = ", ".join(name for name, _ in known)
        raise StoreError(
            f"The store {store.folder} holds no run {run or ''}.".replace(" .", "."), f"Runs: {names or '–'}."
        )
    return Plan.from_dict(json.loads(found[0]))


def frame(store: Store, plan: Plan | None = None) -> pd.DataFrame:
    """Return what a store holds of a plan (None: of the latest run); what is not there yet is missing.

    `frame.attrs["epsilons"]` has the ε that minimum-norm recipes are to be read at, by norm.
    """
    import pandas as pd

    plan = plan or plan_of(store)
    parts = [_clean(store, plan, reader, key, plan.items, plan.split) for key, reader in plan.readers.items()]
    clean = {key: part for key, part in zip(plan.readers, parts, strict=True)}
    for key, reader in plan.validation_readers.items():
        parts.append(_clean(store, plan, reader, key, plan.validation, "validation"))
    for cell in plan.runnable:
        parts += [_attacked(store, plan, cell, target, clean) for target in plan.targets(cell)]
    whole = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    whole = _typed(whole.reindex(columns=list(COLUMNS)))
    whole.attrs["epsilons"] = {norm: list(plan.grid.epsilons) for norm in norms_in_255()}
    return whole


def _clean(store: Store, plan: Plan, reader: str, key: tuple[str, str], items: Any, split: str) -> pd.DataFrame:
    spec, task = key
    rows = store.frame(
        f"SELECT item, version, text_index, {store.selected('clean', (*_OF_ANSWER, *_OF_PAIR))} FROM clean "
        "WHERE reader = ? ORDER BY item, text_index",
        (reader,),
    )
    rows = _among(rows, items)
    for name in (*_OF_ANSWER, *_OF_PAIR):
        rows[f"{name}_clean"] = rows[name]
    named = {"cell": "", "recipe": CLEAN, "modality": CLEAN, "knowledge": "", "norm": "", "epsilon": np.nan, "seed": 0}
    sides = {"source": spec, "source_hash": plan.hashes[spec], "target": spec, "target_hash": plan.hashes[spec]}
    return rows.assign(dataset=plan.dataset, split=split, task=task, **named, **sides)


def _attacked(store: Store, plan: Plan, cell: Cell, target: str, clean: dict[tuple[str, str], Any]) -> pd.DataFrame:
    rows = store.frame(
        "SELECT examples.*, examples.file || ':' || examples.row AS example, "
        f"{store.selected('readings', ('correct_float', *_OF_ANSWER, *_OF_PAIR))} "
        "FROM examples JOIN readings USING (craft, item, version, text_index) "
        "WHERE examples.craft = ? AND readings.reader = ? ORDER BY examples.item, examples.text_index",
        (cell.craft, plan.readers[target, cell.task]),
    )
    rows = _among(rows, plan.items)
    join = ["item", "version", "text_index"]
    of_pair, of_answer = [f"{name}_clean" for name in _OF_PAIR], [f"{name}_clean" for name in _OF_ANSWER]
    paired = clean[target, "" if cell.modality != "image" else cell.task]
    rows = rows.merge(paired[[*join, *of_pair]], how="left", on=join)
    rows = rows.merge(clean[target, cell.task][[*join, *of_answer]], how="left", on=join)
    names = ("source", "source_hash", "task", "recipe", "modality", "knowledge", "norm", "seed")
    return rows.assign(
        cell=cell.address,
        target=target,
        target_hash=plan.hashes[target],
        dataset=plan.dataset,
        split=plan.split,
        epsilon=np.nan if cell.epsilon is None else cell.epsilon,
        **{name: getattr(cell, name) for name in names},
    )


def _among(rows: pd.DataFrame, items: Any) -> pd.DataFrame:
    """Rows of some items, in the items' order."""
    place = {tuple(key): k for k, key in enumerate(items)}
    order = [place.get(key, -1) for key in zip(rows["item"], rows["version"], strict=True)]
    rows = rows.assign(order=order)
    rows = rows[rows["order"] >= 0].sort_values(["order", "text_index"], kind="stable")
    return rows.drop(columns="order").reset_index(drop=True)


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    kinds: dict[str, str] = {}
    kinds |= dict.fromkeys(_BOOLEANS, "boolean") | dict.fromkeys(_WHOLE, "Int64") | dict.fromkeys(_NUMBERS, "float64")
    for name, kind in kinds.items():
        values = rows[name]
        if kind == "boolean":  # SQLite has no booleans: 1, 0 or nothing
            values = values.astype("Float64")
        rows[name] = values.astype(kind)
    for name in set(COLUMNS) - set(kinds):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), None)
    return rows


def adversarial(store: Store, example: str, clean: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Return the pair behind a row of the frame.

    Its picture (uint8 H×W×3) and its text (None where texts are not attacked).

    Args:
        example: the row's `example`. clean: the item's picture as the *source* sees it: preprocessed, uint8 H×W×3.

    Raises:
        StoreError: the file cannot be read.
    """
    found = store.example(example)
    difference = found["difference"]
    return (clean if difference is None else clean + difference), found["text"]
