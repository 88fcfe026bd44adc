"""The figures and the predictions as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.benchmark.opening import open_cell
from app.components.benchmark.words import figure_id
from app.components.common.report_download import runs_report
from app.components.common.theme import number

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results


def export_view(made: Results) -> None:
    """Draw one of the figures, and the downloads of its table and of the predictions."""
    from cmai_core.evaluation.figures.registry import FIGURES, SUMMARY, describe, figure_table
    from cmai_core.lab.benchmark.export import as_bytes

    chosen = st.selectbox("Figures", list(FIGURES), key="bench_figures", format_func=lambda n: n.replace("-", " "))
    table = made.summary if chosen == SUMMARY else figure_table(made.frame, [chosen], made.frame.attrs["epsilons"])
    st.markdown(describe(chosen))
    row = st.container(horizontal=True, gap="small")
    name = "cmai-" + "-".join(made.runs)[:60]
    for kind, word, mime in (
        ("csv", "CSV", "text/csv"),
        ("json", "JSON", "application/json"),
        ("tex", "LaTeX", "text/x-tex"),
    ):
        row.download_button(
            word, as_bytes(table, kind), f"{name}-{chosen}.{kind}", mime, key=f"bench_export_{kind}",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    row.download_button(
        "Every prediction (CSV)", lambda: as_bytes(made.frame, "csv"), f"{name}-predictions.csv", "text/csv",
        key="bench_export_predictions", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    runs_report(row, made)
    known = {figure_id(line) for line in made.figures.to_dict("records")}
    ids = [[key if (key := _key(line)) in known else ""] for line in table.to_dict("records")]
    st.dataframe(
        table, hide_index=True, height=300, placeholder="–", key="bench_export_table",
        selection_mode=["single-row", "single-cell"], on_select=lambda: open_cell("bench_export_table", ids, []),
    )  # fmt: skip
    st.caption(f"{len(table)} rows from {len(made.frame)} predictions. {number(None)} stands for what is not known.")


def _key(line: dict) -> str:
    """Return the figure of a row of an exported table; "" where its table does not name one."""
    try:
        return figure_id(line)
    except KeyError:
        return ""
