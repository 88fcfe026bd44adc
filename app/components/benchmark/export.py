"""The table and the readings as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.theme import number

if TYPE_CHECKING:

    from cmai_core.lab.benchmark.results import Results


def export_view(made: Results) -> None:
    """Draw the table, and the downloads of table and readings."""
    from cmai_core.lab.benchmark.export import as_bytes

    st.markdown("**The table**: one row a figure with its interval, hits and total; worst cases last.")
    row = st.container(horizontal=True, gap="small")
    name = "cmai-" + "-".join(made.runs)[:60]
    for kind, word, mime in (
        ("csv", "CSV", "text/csv"),
        ("json", "JSON", "application/json"),
        ("tex", "LaTeX", "text/x-tex"),
    ):
        row.download_button(
            word, as_bytes(made.summary, kind), f"{name}.{kind}", mime, key=f"bench_export_{kind}",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    row.download_button(
        "Every reading (CSV)", lambda: as_bytes(made.frame, "csv"), f"{name}-readings.csv", "text/csv",
        key="bench_export_readings", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    st.dataframe(made.summary, hide_index=True, height=300, placeholder="–")
    st.caption(
        f"{len(made.summary)} figures of {len(made.frame)} readings. {number(None)} stands for what is not known."
    )
