"""Right answers, clean and in the worst case over the attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.benchmark.opening import matrix
from app.components.benchmark.words import MODALITY_WORDS, figure_id, model_word, percent
from app.components.common.words import TASK_WORDS

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results


def worst_view(made: Results) -> None:
    """Draw one row a model and task, one column a budget."""
    import pandas as pd

    from cmai_core.lab.benchmark.results import hardest

    found = hardest(made.figures)
    clean = made.figures[made.figures["kind"] == "clean"]
    if not len(clean):
        return
    columns: dict[str, tuple] = {}
    for row in found.sort_values(["modality", "norm", "epsilon"]).to_dict("records"):
        words = f"{MODALITY_WORDS[row['modality']]} {row['budget']}".strip()
        columns[words] = (row["modality"], row["norm"], row["budget"])
    table, ids = [], []
    several = clean["task"].nunique() > 1
    for start in clean.to_dict("records"):
        line = {"model": model_word(start["target"])} | ({"task": TASK_WORDS[start["task"]]} if several else {})
        line["clean"] = percent(start["clean"], start["clean_low"], start["clean_high"])
        its = [""] * (len(line) - 1) + [figure_id(start)]
        same = found[(found["target"] == start["target"]) & (found["task"] == start["task"])]
        same = same[(same["dataset"] == start["dataset"]) & (same["split"] == start["split"])]
        for words, (modality, norm, budget) in columns.items():
            cell = same[(same["modality"] == modality) & (same["norm"] == norm) & (same["budget"] == budget)]
            cell = cell.iloc[0] if len(cell) else None
            line[words] = "–" if cell is None else percent(cell["robust"], cell["robust_low"], cell["robust_high"])
            its.append("" if cell is None else figure_id(cell))
        table.append(line)
        ids.append(its)
    st.markdown("#### Right answers, clean and in the worst case over the attacks")
    matrix(pd.DataFrame(table), ids, "bench_worst")
    total = int(clean["clean_total"].max()) if clean["clean_total"].notna().any() else 0
    st.caption(
        f"Share of up to {total} pairs answered right, with the 95 % bootstrap interval; after an attack a pair counts "
        "as lost as soon as one attack of that budget turns it wrong."
    )
