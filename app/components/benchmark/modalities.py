"""Attacks on pictures, on words and on both, at the same budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.benchmark.opening import open_cell, open_point
from app.components.benchmark.plots import score_figure
from app.components.benchmark.words import MODALITY_WORDS, figure_id, percent
from app.components.common.plots import CONFIG
from app.components.common.words import TASK_WORDS
from cmai_core.lab.benchmark.choices import recipe_words

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results


def modality_view(made: Results, look: Any) -> None:
    """Draw how far each attack moves S_c, and the worst case of each kind."""
    import pandas as pd

    from cmai_core.lab.benchmark.results import budget

    sides = made.sides[made.sides["source"] == made.sides["target"]]
    found = made.figures[made.figures["own"] & (made.figures["kind"] == "attack") & made.figures["sc_change"].notna()]
    if found["modality"].nunique() < 2:
        st.info("Choose attacks of two kinds: on pictures, on words, or on both.", icon="ℹ️")
        return
    found = found.sort_values(["modality", "recipe", "epsilon"])
    names = [
        f"{MODALITY_WORDS[r['modality']]}: {recipe_words(r['recipe'])}{' ' + r['budget'] if r['budget'] else ''}"
        for r in found.to_dict("records")
    ]
    found = found.assign(name=names, id=[figure_id(row) for row in found.to_dict("records")])
    strongest = found.loc[found["sc_change"].idxmin()]
    title = f"S_c falls most under {recipe_words(strongest['recipe'])} ({MODALITY_WORDS[strongest['modality']]})"
    st.plotly_chart(
        score_figure(found, look, title=title), key="bench_scores", config=CONFIG, selection_mode="points",
        on_select=lambda: open_point("bench_scores"), alt=f"{title}. Mean change of S_c of every attack and model.",
    )  # fmt: skip
    if len(sides):
        st.markdown("**Attack success at equal budget, each kind in its worst case**")
        lines = [
            {
                "model": row["target"], "task": TASK_WORDS.get(row["task"], "–"),
                "budget": budget(row["norm"], row["epsilon"]) or "–",
                "words": "–" if pd.isna(row["words"]) else str(row["words"]),
                "attacked": MODALITY_WORDS.get(row["modality"], row["modality"]),
                "attack success": percent(row["value"], row["low"], row["high"]),
                "fooled": f"{row['hits']:.0f}/{row['total']:.0f}",
            }
            for row in sides.to_dict("records")
        ]  # fmt: skip
        ids = [[_side_id(made, row)] for row in sides.to_dict("records")]
        st.dataframe(
            lines, key="bench_sides", hide_index=True, selection_mode=["single-row", "single-cell"],
            on_select=lambda: open_cell("bench_sides", ids, []),
        )  # fmt: skip
    st.caption("Attacks on words leave the picture as it is, so of the tasks only S_c answers to them.")


def _side_id(made: Results, side: Any) -> str:
    """Return the id of the figure behind a row of `sides`: that modality's worst case, or its one attack."""
    from cmai_core.lab.benchmark.results import hardest

    found = hardest(made.figures)
    found = found[(found["target"] == side["target"]) & (found["task"] == side["task"])]
    same = (found["epsilon"] == side["epsilon"]) | (found["epsilon"].isna() & (side["epsilon"] != side["epsilon"]))
    its = found[(found["modality"] == side["modality"]) & same]
    # words have no ε of their own, and stand beside pictures at each
    found = its if len(its) else found[(found["modality"] == side["modality"]) & found["epsilon"].isna()]
    return figure_id(found.iloc[0]) if len(found) else ""
