"""What predicts success: attributes ranked by how much they change the success rate; each is a filter."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import streamlit as st

from app.components.common.fold import fold_table
from app.components.common.plots import CONFIG
from app.components.explore.filters import add_facet
from app.components.explore.plots import predictor_figure, selected
from app.components.explore.view import View
from app.services import explore as service
from app.services.explore import named
from cmai_core.lab.explore.predictors import SHUFFLES, Predictor
from cmai_core.lab.explore.run import ExploreRun

SHOWN = 12


def predictors(view: View) -> None:
    """Draw the ranking for the model in focus."""
    found = service.predictors(view.run, view.role, view.level, view.mask)
    if not found:
        st.caption(f"All that {view.role} gets right when clean came to the same here, or too few are left to compare.")
        return
    stand = [p for p in found if p.p < 0.05]
    title = (
        f"What predicts that {view.role} is fooled? {stand[0].name}: {stand[0].value} ({stand[0].lift:+.0%})"
        if stand
        else f"Nothing here predicts that {view.role} is fooled"
    )
    key = f"explore_predict_{view.role}_{view.level}_{named(view.mask)}"
    st.plotly_chart(
        predictor_figure(found[:SHOWN], title=title), key=key, on_select=partial(_picked, view.run, key),
        selection_mode="points", config=CONFIG | {"displayModeBar": False},
        alt=f"{title}. The {min(SHOWN, len(found))} strongest of {len(found)} values, with 95 % intervals.",
    )  # fmt: skip
    st.caption(
        f"{len(found)} values compared at once among pairs that {view.role} gets right when clean; {len(stand)} stand "
        f"(filled) after a correction for all of them (the largest difference of {SHUFFLES:,} shuffles, p < 0.05). The "
        "intervals are of each alone. What predicts need not cause. Click a point to filter by it."
    )
    fold_table("All values as a table", lambda: [_row(p) for p in found], key="explore_predict_table")


def _row(p: Predictor) -> dict[str, object]:
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(p).items()}


def _picked(run: ExploreRun, key: str) -> None:
    for data in selected(st.session_state.get(key))[:1]:
        name, value = str(data[0]), str(data[1])
        if name in run.attributes:
            add_facet(run, name, value)
