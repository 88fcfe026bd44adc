"""Robust accuracy against ε."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.benchmark.opening import open_cell, open_point
from app.components.benchmark.plots import curve_figure
from app.components.benchmark.words import MODALITY_WORDS, WORST_WORD, figure_id, percent
from app.components.common.fields import one_of
from app.components.common.plots import CONFIG
from app.components.common.words import TASK_WORDS
from cmai_core.budget import norms_in_255
from cmai_core.lab.benchmark.choices import recipe_words

SMALLEST = "each pair's smallest ε"

if TYPE_CHECKING:
    import pandas as pd

    from cmai_core.lab.benchmark.results import Results


def curve_view(made: Results, look: Any) -> None:
    """Draw one line a model: of the worst case, or of one recipe."""
    own = made.figures[made.figures["own"] & (made.figures["kind"] != "clean")]
    own = own[own["norm"].isin(norms_in_255()) & own["epsilon"].notna() & own["robust"].notna()]
    if not len(own):
        st.info("No attack with an ε has been measured on a task yet.", icon="ℹ️")
        return
    one, two, three = st.columns(3)
    tasks = list(dict.fromkeys(own["task"]))
    task = one.selectbox("Task", tasks, key="bench_curve_task", format_func=lambda t: TASK_WORDS.get(t, t))
    task = one_of(task, tasks)
    own = own[own["task"] == task]
    threats = list(dict.fromkeys(zip(own["modality"], own["norm"], strict=True)))
    threat = two.selectbox(
        "Threat", threats, key="bench_curve_threat",
        format_func=lambda t: f"{MODALITY_WORDS[t[0]]}, {'L∞' if t[1] == 'linf' else 'L2'}",
    )  # fmt: skip
    threat = one_of(threat, threats)
    own = own[(own["modality"] == threat[0]) & (own["norm"] == threat[1])]
    names = [*sorted(dict.fromkeys(own["recipe"]), key=lambda name: name != WORST_WORD), SMALLEST]
    name = one_of(
        three.selectbox(
            "Attack", names, key="bench_curve_attack", format_func=lambda n: n if n == SMALLEST else recipe_words(n)
        ),
        names,
    )  # fmt: skip
    of_model = _smallest_line if name == SMALLEST else _line
    lines = {model: of_model(made, own, model, task, name) for model in made.models}
    lines = {model: line for model, line in lines.items() if len(line) > 1}
    title = _curve_title(lines)
    st.plotly_chart(
        curve_figure(lines, look, title=title, steps=name == SMALLEST), key="bench_curve", config=CONFIG,
        selection_mode="points", on_select=lambda: open_point("bench_curve"),
        alt=f"{title}. Robust accuracy against ε under {name}, one line a model; the table below holds every point.",
    )  # fmt: skip
    if name == SMALLEST:
        st.caption(
            "A pair counts as right until the smallest ε with which any attack turned it wrong: searches for the "
            "nearest picture give that exactly, the others from above."
        )
    _table(lines)


def _table(lines: dict[str, pd.DataFrame]) -> None:
    """Draw the points as rows, which open their pairs."""
    with st.expander("As a table"):
        points = [(model, p) for model, line in lines.items() for p in line.to_dict("records")]
        ids = [[p["id"]] for _, p in points]
        st.dataframe(
            [
                {"model": model, "ε (k/255)": p["epsilon"], "right": percent(p["value"], p["low"], p["high"]),
                 "pairs": f"{p['hits']:g}/{p['total']:g}"}
                for model, p in points
            ],
            hide_index=True, key="bench_curve_table", selection_mode=["single-row", "single-cell"],
            on_select=lambda: open_cell("bench_curve_table", ids, []),
        )  # fmt: skip


def _smallest_line(made: Results, own: pd.DataFrame, model: str, task: str, name: str) -> pd.DataFrame:
    """Return the points of one model where each pair is read at its own smallest ε."""
    from cmai_core.lab.benchmark.results import hardest
    from cmai_core.lab.benchmark.smallest import smallest_curve, smallest_epsilons

    its = own[own["target"] == model]
    if not len(its):
        return its
    modality, norm = its["modality"].iloc[0], its["norm"].iloc[0]
    needed = smallest_epsilons(made.frame, model, task, modality, norm)
    points = smallest_curve(needed, float(its["epsilon"].max()))
    behind = hardest(its).sort_values("epsilon")
    places = behind["epsilon"].searchsorted(points["epsilon"].to_numpy()).clip(0, len(behind) - 1)
    ids = [figure_id(row) for row in behind.to_dict("records")]
    return points.assign(id=[ids[place] for place in places])


def _line(made: Results, own: pd.DataFrame, model: str, task: str, name: str) -> pd.DataFrame:
    """Return the points of one model, from its clean accuracy at ε = 0."""
    import pandas as pd

    clean = made.figures[(made.figures["kind"] == "clean") & (made.figures["target"] == model)]
    clean = clean[clean["task"] == task]
    its = own[(own["target"] == model) & (own["recipe"] == name)].sort_values("epsilon")
    if not len(its):
        return its
    points = []
    for rows, column in ((clean.head(1), "clean"), (its.drop_duplicates("epsilon"), "robust")):
        points += [
            {
                "epsilon": 0.0 if column == "clean" else row["epsilon"], "value": row[column],
                "low": row[f"{column}_low"], "high": row[f"{column}_high"], "hits": row[f"{column}_hits"],
                "total": row[f"{column}_total"], "id": figure_id(row),
            }
            for row in rows.to_dict("records")
        ]  # fmt: skip
    return pd.DataFrame(points)


def _curve_title(lines: dict[str, pd.DataFrame]) -> str:
    """Return the finding: what is left of each model at the largest ε."""
    parts = [f"{model} keeps {line['value'].iloc[-1]:.0%}" for model, line in lines.items()]
    at = max((line["epsilon"].iloc[-1] for line in lines.values()), default=0)
    return f"At {at:g}/255 " + ", ".join(parts)
