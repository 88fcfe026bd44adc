"""Transfer: what was crafted on one model and shown to another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cmai_core.evaluation.figures.counting import FIGURE, Predictions, clusters, coverage, shares
from cmai_core.evaluation.figures.outcomes import CELL, UNKNOWN, Outcomes, codes_of

_HELD = [name for name in CELL if name not in ("source", "target", "knowledge")]


def transfer_matrix(predictions: Predictions, architectures: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return `transfer_asr`: source × target, over the units that *every* model of the matrix gets right when clean.

    One matrix a (data, task, recipe, threat, seed). So all of its figures have one denominator, and a target that
    is weak when clean does not look easy to fool.

    Args:
        architectures: model → architecture; None: as `architecture_of` knows it.

    Returns:
        CELL (the knowledge is that of the recipe on its own source), FIGURE, `kind` ("same model", "same architecture",
        "other architecture", "other model" where one is unknown), `models` (how many had to be right when
        clean). A source whose examples were not shown to a target has no row; where they were shown only in part, as in
        a cascade, the value is NaN and a note says so.
    """
    outcomes = Outcomes.of(predictions)
    outcomes = outcomes.select((outcomes.cells["task"] != "").to_numpy(dtype=bool))  # what has no answer is not right
    cells, rows, units = outcomes.cells, outcomes.rows, outcomes.units
    if not len(cells):
        return pd.DataFrame(columns=[*CELL, *FIGURE, "kind", "models"])
    names = [pd.factorize(cells[name], sort=True)[0] for name in _HELD]
    matrix, first = codes_of(names)
    # which units all models get right: counted over the data's units, whichever model tells of them
    shared, _ = codes_of([_factor(units["name"]), units["text_index"].to_numpy()])
    subject = outcomes.subjects
    data, _ = codes_of([_factor(subject[name]) for name in ("dataset", "split", "task")])
    place, _ = codes_of([data[units["subject"].to_numpy()], shared])
    owner = subject["target"].to_numpy()[units["subject"].to_numpy()]
    right = units["clean"].to_numpy() == 1
    by_model = {
        model: np.bincount(place[owner == model], weights=right[owner == model], minlength=place.max() + 1) > 0
        for model in set(owner)
    }
    members = [
        set(cells["target"][matrix == k]) | (set(cells["source"][matrix == k]) & set(by_model))
        for k in range(len(first))
    ]
    every = np.stack([np.logical_and.reduce([by_model[model] for model in its]) for its in members])

    cell = rows["cell"].to_numpy()
    counted = every[matrix[cell], place[rows["unit"].to_numpy()]]
    fooled = rows["fooled"].to_numpy()
    found = shares(cell, len(cells), fooled == 1, counted & (fooled != UNKNOWN), clusters(rows, units))
    # of the units that all get right, how many this cell does not hold or has no answer to
    _, _, faced = coverage(outcomes, cell, cells["subject"].to_numpy())
    asked = _asked(outcomes, place, every, matrix)
    short = asked - found["total"].to_numpy()
    found.loc[short > 0, ["value", "low", "high"]] = np.nan
    notes = [
        f"Faced {here} of {all_} items only; {gap} that all models get right are missing." if gap else ""
        for (here, all_), gap in zip(faced, short, strict=True)
    ]
    models = set(cells["source"]) | set(cells["target"])
    known = {model: architecture_of(model) for model in models} | dict(architectures or {})
    table = pd.concat([cells[list(CELL)], found], axis=1).assign(metric="transfer_asr", note=notes)
    table["kind"] = [_kind(s, t, known) for s, t in zip(cells["source"], cells["target"], strict=True)]
    table["models"] = [len(members[k]) for k in matrix]
    return table[[*CELL, *FIGURE, "kind", "models"]].sort_values([*_HELD, "source", "target"], ignore_index=True)


def _asked(outcomes: Outcomes, place: np.ndarray, every: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return, for each cell, the units of its target that all models of its matrix get right.

    With a text that the cell's kind of attack is about: the first one, unless the cell holds others.
    """
    rows, units = outcomes.rows, outcomes.units
    several = np.zeros(len(outcomes.cells), dtype=bool)
    first_text = units["text_index"].to_numpy() == 0
    several[rows["cell"].to_numpy()[~first_text[rows["unit"].to_numpy()]]] = True
    subject = units["subject"].to_numpy()
    out = np.zeros(len(outcomes.cells), dtype=int)
    counts: dict[tuple[int, int, bool], int] = {}
    for cell, (its, number) in enumerate(zip(outcomes.cells["subject"], matrix, strict=True)):
        key = (int(its), int(number), bool(several[cell]))
        if key not in counts:
            own = (subject == key[0]) & (first_text | key[2])
            counts[key] = int(every[key[1], place[own]].sum())
        out[cell] = counts[key]
    return out


def architecture_of(model: str) -> str:
    """Return the architecture that a specification names.

    Of a bundled model its card's, of open_clip's the part before the tag; "" where only loading it would tell.
    """
    from cmai_core.models.families.bundled import bundled_models

    for card in bundled_models():
        if card.name == model:
            return str(card.card.get("architecture", ""))
    if ":" in model or "/" not in model:
        return ""
    return model.rsplit("/", 1)[0]


def _kind(source: str, target: str, known: Mapping[str, str]) -> str:
    if source == target:
        return "same model"
    if not known.get(source) or not known.get(target):
        return "other model"
    return "same architecture" if known[source] == known[target] else "other architecture"


def _factor(values: pd.Series) -> np.ndarray:
    return pd.factorize(values, sort=True)[0]
