"""Attacks on the picture, on the text, and on both at once, side by side at equal budget.

Two measures: wrong answers (`modalities`), where attacks on texts are about a task too; and the lowest S_c of the given
pair (`consistency_by_modality`), which every attack moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cmai_core.errors import OptionError
from cmai_core.evaluation.figures.compare import paired_test
from cmai_core.evaluation.figures.counting import Predictions
from cmai_core.evaluation.figures.intervals import mean_interval, share_interval
from cmai_core.evaluation.figures.outcomes import Outcomes
from cmai_core.evaluation.figures.worst_case import all_units, worst_case_units

EITHER = "image or text"
_SETTING = ["source", "target", "dataset", "split", "task", "seed", "norm", "epsilon", "words"]
_SIDE = ["metric", "value", "low", "high", "hits", "total", "recipes", "note"]
_CONTEST = ["a", "b", "value", "low", "high", "only_a", "only_b", "total", "p", "winner"]


def modalities(
    predictions: Predictions, words: Mapping[str, int | None] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare image-only, text-only and joint attacks of the same ε and number of words, on the same units.

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
    outcomes = Outcomes.of(predictions)
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


def consistency_by_modality(
    predictions: Predictions, words: Mapping[str, int | None] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare modalities by S_c of the given pair: for each unit the lowest that any recipe of a modality reaches.

    Attacks on texts that are about no task (task "") stand beside the image and joint attacks of every task. Units
    count whose S_c is known under every recipe; where that are not all units of the setting, as in a cascade, figures
    are NaN.

    Args:
        words: as for `modalities`.

    Returns:
        (sides, contests), as `modalities` gives them: `consistency` = mean of the lowest S_c; contests compare
        means (`value` = a − b, paired bootstrap), `only_a` and `only_b` count units on which one is lower, there is no
        p, and the winner is who reaches the lower S_c.
    """
    outcomes = Outcomes.of(predictions)
    cells, rows = outcomes.cells, outcomes.rows
    budget = [word_budget(r, m, words) for r, m in zip(cells["recipe"], cells["modality"], strict=True)]
    cells = cells.assign(words=pd.array(budget, dtype="Int64"))
    units = outcomes.units.iloc[rows["unit"].to_numpy()][["name", "text_index"]].reset_index(drop=True)
    scored = units.assign(cell=rows["cell"].to_numpy(), value=rows["consistency"].to_numpy())
    by_cell = {int(number): table for number, table in scored.groupby("cell")}
    sides, contests = [], []
    bounded = cells[cells["modality"].isin(["image", "joint"]) & (cells["norm"].fillna("") != "")]
    textual = cells[cells["modality"].isin(["text", "joint"])]
    held = [name for name in _SETTING if name != "words"]
    for key, its in bounded.groupby(held, dropna=False, sort=True):
        setting = dict(zip(held, key, strict=True))
        same = ["source", "target", "dataset", "split", "seed"]
        texts = textual[(textual[same] == [setting[name] for name in same]).all(axis=1)]
        texts = texts[(texts["modality"] == "text") & texts["task"].isin(["", setting["task"]])]
        for number in dict.fromkeys(pd.concat([its[its["modality"] == "joint"], texts])["words"]):
            equal = [
                some[some["words"].isna() if pd.isna(number) else (some["words"] == number).fillna(False)]
                for some in (its[its["modality"] == "joint"], texts)
            ]
            members = pd.concat([its[its["modality"] == "image"], *equal])
            if members["modality"].nunique() > 1:
                found = _lowest(members, by_cell)
                sides += [setting | {"words": number} | row for row in found[0]]
                contests += [setting | {"words": number} | row for row in found[1]]
    return (
        pd.DataFrame(sides, columns=[*_SETTING, "modality", *_SIDE]),
        pd.DataFrame(contests, columns=[*_SETTING, *_CONTEST]),
    )


def modality_figures(predictions: Predictions) -> pd.DataFrame:
    """Compare attacks on picture, text and both at equal budget, by wrong answers and by the lowest S_c.

    Rows of `modalities` and `consistency_by_modality`; a contest has "a − b" as its modality, `metric` "… difference",
    NA hits, and the winner in its note.
    """
    out = []
    for metric, measure in (("asr", modalities), ("consistency", consistency_by_modality)):
        sides, contests = measure(predictions)
        named = contests["a"] + " − " + contests["b"]
        winner = ("winner: " + contests["winner"]) if len(contests) else ""
        out += [sides, contests.assign(modality=named, metric=f"{metric} difference", hits=pd.NA, note=winner)]
    filled = [table for table in out if len(table)] or out[:1]
    return pd.concat([table.astype(object) for table in filled], ignore_index=True)


def _lowest(cells: pd.DataFrame, by_cell: Mapping[int, pd.DataFrame]) -> tuple[list[dict], list[dict]]:
    joined, every = None, set()
    for number in cells.index:
        table = by_cell[number][["name", "text_index", "value"]].rename(columns={"value": number})
        every |= set(zip(table["name"], table["text_index"], strict=True))
        joined = table if joined is None else joined.merge(table, on=["name", "text_index"])
    joined = joined.dropna()
    gaps = len(every) - len(joined)
    note = f"Unknown: {gaps} of {len(every)} units are not known under every recipe." if gaps else ""
    reached, recipes = {}, {}
    for name in ("image", "text", "joint"):
        its = cells[cells["modality"] == name]
        if len(its):
            reached[name] = joined[list(its.index)].to_numpy(dtype=float).min(axis=1)
            recipes[name] = ", ".join(f"{r} {len(by_cell[k])}" for k, r in its["recipe"].items())
    if "image" in reached and "text" in reached:
        reached[EITHER] = np.minimum(reached["image"], reached["text"])
        recipes[EITHER] = f"{recipes['image']}; {recipes['text']}"
    sides, contests = [], []
    unknown = (np.nan, np.nan, np.nan)
    for name, values in reached.items():
        figure = dict(zip(("value", "low", "high"), unknown if gaps else mean_interval(values), strict=True))
        row = {"modality": name, "metric": "consistency", "hits": pd.NA, "total": len(values)}
        sides.append(row | figure | {"recipes": recipes[name], "note": note})
    for a, b in _contests(reached):
        difference = reached[a] - reached[b]
        value, low, high = unknown if gaps else mean_interval(difference)
        winner = a if high < 0 else b if low > 0 else "undecided"
        counts = {"only_a": int((difference < 0).sum()), "only_b": int((difference > 0).sum())}
        figure = {"a": a, "b": b, "value": value, "low": low, "high": high, "total": len(difference), "p": np.nan}
        contests.append(figure | counts | {"winner": winner})
    return sides, contests


def _contests(there: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pair every two modalities, and the joint attack with the better of the other two."""
    pairs = combinations([name for name in ("joint", "image", "text", EITHER) if name in there], 2)
    return [(a, b) for a, b in pairs if b != EITHER or a == "joint"]


def word_budget(recipe: str, modality: str, words: Mapping[str, int | None] | None = None) -> int | None:
    """Return how many words a recipe of a grid may change: as told, as its name says, or its default; None: unknown.

    Args:
        recipe: as it is written in a grid. modality: of the recipe; an image attack changes none.
    """
    from cmai_core.evaluation.runs.entries import parse_entry

    if modality == "image":
        return 0
    if words is not None and recipe in words:
        return words[recipe]
    try:
        entry = parse_entry(recipe, {})
        if entry.where:
            return None
        told = entry.options.get("words", entry.recipe.constants.get("words"))
        return told if isinstance(told, int) else _default_words(entry.slug)
    except OptionError:
        return None


@lru_cache
def _default_words(slug: str) -> int:
    from cmai_core.attacks.recipes.registry import get_recipe

    attack = get_recipe(slug).build()
    return getattr(attack, "text_threat", attack.threat).words


def _settings(outcomes: Outcomes, words: Any) -> Iterator[tuple[dict[str, Any], dict[str, tuple[pd.DataFrame, str]]]]:
    """Yield settings with what each modality did in them: modality → (its units, recipes)."""
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
    for a, b in _contests(fooled):
        found = paired_test(fooled[a], fooled[b], kept["name"].to_numpy())
        if gaps:
            found |= {name: np.nan for name in ("value", "low", "high", "p")}
        winner = a if found["low"] > 0 else b if found["high"] < 0 else "undecided"
        contests.append({"a": a, "b": b, "winner": winner} | {n: found[n] for n in _CONTEST if n in found})
    return sides, contests
