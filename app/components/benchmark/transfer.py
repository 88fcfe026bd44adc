"""Attack success of examples made on one model and shown to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.benchmark.opening import matrix
from app.components.benchmark.words import figure_id, percent
from app.components.common.fields import one_of
from app.components.common.words import TASK_WORDS
from cmai_core.lab.benchmark.choices import recipe_words

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results


def transfer_view(made: Results) -> None:
    """Draw source × target for one attack."""
    import pandas as pd

    table = made.transfer
    table = table[(table["task"] != "") & table["total"].notna()]
    if len(made.models) < 2 or not len(table) or (table["source"] == table["target"]).all():
        st.info("Transfer takes two models or more whose examples are shown to each other.", icon="ℹ️")
        return
    keys = ["task", "recipe", "norm", "epsilon", "seed"]
    attacks = list(table[keys].drop_duplicates().itertuples(index=False, name=None))
    from cmai_core.lab.benchmark.results import budget

    words = [
        " · ".join(filter(None, (recipe_words(recipe), budget(norm, epsilon), TASK_WORDS.get(task))))
        for task, recipe, norm, epsilon, _ in attacks
    ]
    chosen = st.selectbox("Attack", range(len(attacks)), key="bench_transfer_attack", format_func=words.__getitem__)
    for name, value in zip(keys, attacks[one_of(chosen, range(len(attacks)))], strict=True):
        table = table[(table[name] == value) | (table[name].isna() & (value != value))]
    lines, ids = [], []
    by_cell = {(row["source"], row["target"]): row for row in table.to_dict("records")}
    ids_of = {figure_id(row): row for row in made.figures.to_dict("records")}
    for source in made.models:
        line, its = {"crafted on ↓  shown to →": source}, [""]
        for target in made.models:
            row = by_cell.get((source, target))
            line[target] = "–" if row is None else f"{percent(row['value'], row['low'], row['high'])} · {_of(row)}"
            key = "" if row is None else figure_id(row)
            its.append(key if key in ids_of else "")
        lines.append(line)
        ids.append(its)
    matrix(pd.DataFrame(lines), ids, "bench_matrix")
    st.caption(
        "Attack success on the pairs that every one of these models gets right when clean, so that all cells have one "
        "denominator. On the diagonal a model meets what was crafted on itself."
    )


def _of(row: Any) -> str:
    return f"{row['hits']:.0f}/{row['total']:.0f}"
