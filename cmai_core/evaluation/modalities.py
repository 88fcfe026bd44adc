"""Attacks on the picture, on the text, and on both at once, side by side at equal budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cmai_core.errors import OptionError
from cmai_core.evaluation.compare import paired_test
from cmai_core.evaluation.intervals import share_interval
from cmai_core.evaluation.metrics import Readings, all_units, worst_case_units
from cmai_core.evaluation.outcomes import Outcomes

EITHER = "image or text"
_SETTING = ["source", "target", "dataset", "split", "task", "seed", "norm", "epsilon", "words"]
_SIDE = ["metric", "value", "low", "high", "hits", "total", "recipes", "note"]
_CONTEST = ["a", "b", "value", "low", "high", "only_a", "only_b", "total", "p", "winner"]


def modalities(readings: Readings, words: Mapping[str, int | None] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Image-only, text-only and joint attacks of the same ε and the same number of words, on the same units.

    Each modality is its worst case over recipes, unit by unit. "image or text" is the better of the two unimodal
    attacks for each unit: what an attacker without any joint attack could do. Units count that are right when clean and
    whose outcome is known for all modalities at hand.

    Args:
        words: recipe → words that it may change, where a grid's options say other than the recipe as it is written
            ("sga:words=2") or its own default does.

    Returns:
        (sides, contests). sides: one row a setting and modality: `asr` with its interval, hits, total and `recipes`.
        contests: one row a setting and two modalities a, b: `value` = ASR of a − ASR of b with the paired bootstrap's
        interval, units that one alone fools, McNemar's exact p, `winner` (a, b, or "undecided" where the interval holds
        0 or the figure is not known). Settings with one modality only are left out. Where a cascade leaves a unit open,
        figures are NaN.
    """
    outcomes = Outcomes.of(readings)
    cells = outcomes.cells
    budget = [word_budget(r, m, words) for r, m in zip(cells["recipe"], cells["modality"], strict=True)]
    budget = pd.array(budget, dtype="Int64")
    textual = cells["modality"].isin(["text", "joint"]).to_numpy()
    sides, contests = [], []
    for number in dict.fromkeys(None if pd.isna(value) else int(value) for value in budget[textual]):
        same = budget.isna() if number is None else (budget == number).fillna(False)
        kept = outcomes.select(~textual | np.asarray(same, dtype=bool))
        for setting, tables in _settings(kept, pd.NA if number is None else number):
            its_sides, its_contests = _side_by_side(tables)
            sides += [setting | row for row in its_sides]
            contests += [setting | row for row in its_contests]
    return (
        pd.DataFrame(sides, columns=[*_SETTING, "modality", *_SIDE]),
        pd.DataFrame(contests, columns=[*_SETTING, *_CONTEST]),
    )


def word_budget(recipe: str, modality: str, words: Mapping[str, int | None] | None = None) -> int | None:
    """How many words a recipe of a grid may change: as told, as its name says, or its default; None: unknown.

    Args:
        recipe: as it is written in a grid. modality: of the recipe; an image attack changes none.
    """
    from cmai_core.attacks.recipes import get_recipe
    from cmai_core.evaluation.entries import parse_entry

    if modality == "image":
        return 0
    if words is not None and recipe in words:
        return words[recipe]
    try:
        entry = parse_entry(recipe, {})
        if entry.where:
            return None
        told = entry.options.get("words", get_recipe(entry.slug).constants.get("words"))
        return told if isinstance(told, int) else _default_words(entry.slug)
    except OptionError:
        return None


@lru_cache
def _default_words(slug: str) -> int:
    from cmai_core.attacks.recipes import get_recipe

    attack = get_recipe(slug).build()
    return getattr(attack, "text_threat", attack.threat).words


def _settings(outcomes: Outcomes, words: Any) -> Iterator[tuple[dict[str, Any], dict[str, tuple[pd.DataFrame, str]]]]:
    """Settings with what each modality did in them: modality → (its units, recipes)."""
    groups, units = worst_case_units(outcomes, ("recipe",))
    members = units.groupby("group").indices
    there = groups[[number in members for number in groups.index]]
    held = ["source", "target", "dataset", "split", "task", "seed"]
    for key, its in there.groupby(held, dropna=False, sort=True):
        bounded = its[its["modality"].isin(["image", "joint"]) & its["norm"].notna()]
        texts = its[its["modality"] == "text"]
        for threat, at_threat in bounded.groupby(["norm", "epsilon"], dropna=False, sort=True):
            tables = {}
            for number, group in pd.concat([at_threat, texts]).iterrows():
                table = all_units(outcomes, group, units.iloc[members[number]])
                tables[group["modality"]] = (table, group["recipes"])
            if len(tables) > 1:
                values = dict(zip(held, key, strict=True)) | dict(zip(("norm", "epsilon"), threat, strict=True))
                yield values | {"words": words}, tables


def _side_by_side(tables: dict[str, tuple[pd.DataFrame, str]]) -> tuple[list[dict], list[dict]]:
    names = [name for name in ("image", "text", "joint") if name in tables]
    joined = None
    for name in names:
        table = tables[name][0][["name", "text_index", "clean", "right", "open"]]
        table = table.rename(columns={column: f"{column} {name}" for column in ("clean", "right", "open")})
        joined = table if joined is None else joined.merge(table, on=["name", "text_index"])
    clean = np.all([joined[f"clean {name}"] == 1 for name in names], axis=0)
    gaps = int((np.any([joined[f"open {name}"] for name in names], axis=0) & clean).sum())
    known = clean & np.all([joined[f"right {name}"] >= 0 for name in names], axis=0)
    kept = joined[known]
    fooled = {name: (kept[f"right {name}"] == 0).to_numpy() for name in names}
    recipes = {name: tables[name][1] for name in names}
    if "image" in fooled and "text" in fooled:
        fooled[EITHER] = fooled["image"] | fooled["text"]
        recipes[EITHER] = f"{recipes['image']}; {recipes['text']}"
    note = f"Unknown: {gaps} units were fooled by no recipe, but not faced by all." if gaps else ""
    sides = []
    for name, hit in fooled.items():
        low, high = share_interval(hit.sum(), len(hit))
        figure = [hit.mean() if len(hit) else np.nan, float(low), float(high)]
        figure = [np.nan] * 3 if gaps else figure
        row = {"modality": name, "metric": "asr"} | dict(zip(("value", "low", "high"), figure, strict=True))
        sides.append(row | {"hits": int(hit.sum()), "total": len(hit), "recipes": recipes[name], "note": note})
    contests = []
    for a, b in combinations([n for n in ("joint", "image", "text", EITHER) if n in fooled], 2):
        if b == EITHER and a != "joint":
            continue
        found = paired_test(fooled[a], fooled[b], kept["name"].to_numpy())
        if gaps:
            found |= {name: np.nan for name in ("value", "low", "high", "p")}
        winner = a if found["low"] > 0 else b if found["high"] < 0 else "undecided"
        contests.append({"a": a, "b": b, "winner": winner} | {n: found[n] for n in _CONTEST if n in found})
    return sides, contests
