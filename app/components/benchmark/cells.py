"""The table of all cells, sortable and filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.benchmark.opening import open_cell
from app.components.benchmark.words import MODALITY_WORDS, attack_word, figure_id, model_word
from app.components.common.words import TASK_WORDS

if TYPE_CHECKING:
    import pandas as pd

    from cmai_core.lab.benchmark.results import Results


PERCENT = "%.0f %%"


def cells_view(made: Results) -> None:
    """Draw the table, with its filters and notes."""
    rows = filtered(made.figures)
    if not len(rows):
        st.info("No cell is left by these filters.", icon="🔍")
        return
    ids = [[figure_id(row)] for row in rows.to_dict("records")]
    table, config = shown_cells(rows)
    st.dataframe(
        table, key="bench_cells", hide_index=True, column_config=config, selection_mode=["single-row", "single-cell"],
        on_select=lambda: open_cell("bench_cells", ids, []), height="content" if len(rows) <= 16 else 560,
        placeholder="–",
    )  # fmt: skip
    notes = [note for note in dict.fromkeys(rows["note"]) if note]
    if notes:
        with st.expander(f"Notes ({len(notes)})"):
            for note in notes:
                st.caption(note)


def filtered(figures: pd.DataFrame) -> pd.DataFrame:
    """Draw the filters that have something to choose; returns the rows that they leave."""
    row = st.container(horizontal=True, gap="medium", key="bench_filters")
    for column, word, names in (
        ("target", "Model", None), ("task", "Task", TASK_WORDS), ("modality", "Attacked", MODALITY_WORDS),
    ):  # fmt: skip
        values = [value for value in dict.fromkeys(figures[column]) if value]
        values = [name for name in names if name in values] if names else values
        if len(values) > 1:
            chosen = row.pills(
                word, values, selection_mode="multi", key=f"bench_filter_{column}",
                format_func=lambda value, names=names: (names or {}).get(value, value),
            )  # fmt: skip
            if chosen:
                figures = figures[figures[column].isin(chosen)]
    if not figures["own"].all():
        kinds = {True: "its own attacks", False: "transferred"}
        chosen = row.pills("Examples", list(kinds), key="bench_filter_own", format_func=kinds.get)
        if chosen is not None:
            figures = figures[figures["own"] == chosen]
    if (figures["kind"] == "worst").any() and row.toggle("Worst cases only", key="bench_filter_worst"):
        figures = figures[figures["kind"] == "worst"]
    return figures


def shown_cells(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table as it is shown, numbers as numbers so that it sorts, and its columns' formats."""
    import pandas as pd

    records = rows.to_dict("records")
    table = pd.DataFrame(
        {
            "model": [model_word(name) for name in rows["target"]],
            "task": [TASK_WORDS.get(task, "–") for task in rows["task"]],
            "attack": [attack_word(row) for row in records],
            "crafted on": [
                "" if row["kind"] == "clean" else "itself" if row["own"] else row["source"] for row in records
            ],
            "attacked": [MODALITY_WORDS.get(m, m) for m in rows["modality"]],
            "budget": rows["budget"].to_numpy(),
            "right": 100 * rows["robust"].where(rows["kind"] != "clean", rows["clean"]).astype(float).to_numpy(),
            "95 %": [_interval(row, "clean" if row["kind"] == "clean" else "robust") for row in records],
            "attack success": 100 * rows["asr"].astype(float).to_numpy(),
            "95 % ": [_interval(row, "asr") for row in records],
            "fooled": [_counted(row) for row in records],
            "S_c clean": rows["sc_clean"].astype(float).to_numpy(),
            "S_c": rows["sc"].astype(float).to_numpy(),
        }
    )
    if rows["caught"].notna().any():
        table["found"] = 100 * rows["caught"].astype(float).to_numpy()
        table["right or flagged"] = 100 * rows["safe"].astype(float).to_numpy()
    hidden = [] if rows["task"].nunique() > 1 else ["task"]
    if rows["own"].all():
        hidden.append("crafted on")
    table = table.drop(columns=hidden)
    return table, {name: column for name, column in _formats().items() if name in table.columns}


def _formats() -> dict[str, Any]:
    """Return column → how it is written and explained."""
    column = st.column_config
    interval = column.TextColumn("95 %", help="Bootstrap interval of the share before it.")
    return {
        "right": column.NumberColumn(format=PERCENT, help="Of all pairs: right when clean and after the attack."),
        "95 %": interval,
        "attack success": column.NumberColumn(format=PERCENT, help="Of the pairs right when clean: wrong afterwards."),
        "95 % ": interval,
        "fooled": column.TextColumn(help="Pairs turned wrong, of those right when clean."),
        "S_c clean": column.NumberColumn(format="%.3f", help="Mean consistency score of the clean pairs."),
        "S_c": column.NumberColumn(format="%.3f", help="Mean consistency score of the attacked pairs."),
        "found": column.NumberColumn(
            format=PERCENT, help="Attacked pairs whose S_c lies below τ, set to flag 5 % of clean validation pairs."
        ),
        "right or flagged": column.NumberColumn(format=PERCENT, help="Right after the attack, or flagged at τ."),
    }


def _interval(row: Any, name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or low != low else f"{100 * low:.0f}–{100 * high:.0f}"


def _counted(row: Any) -> str:
    if row["asr_total"] != row["asr_total"] or not row["asr_total"]:
        return ""
    return f"{row['asr_hits']:.0f}/{row['asr_total']:.0f}"
