"""Named selections, compared; and a selection as a file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from app import state
from app.components.explore.scores import percent
from app.components.explore.view import SLICES, View, put
from app.services.datasets import lab_dataset
from cmai_core.errors import CmaiError
from cmai_core.lab.explore import rates
from cmai_core.lab.explore.run import ExploreRun
from cmai_core.lab.explore.where import MOST_NAME, MOST_SLICES, Where, slice_name
from cmai_core.lab.images import encode

NAME = "explore_slice_name"
MOST_PICTURES = 200


def actions(view: View) -> None:
    """Draw the popovers that keep and export what is left."""
    row = st.container(horizontal=True, gap="small")
    with row.popover("Slices", icon=":material/bookmark:"):
        _slices(view)
    with row.popover("Export", icon=":material/download:"):
        _export(view)


def _slices(view: View) -> None:
    slices: dict[str, str] = state.get(SLICES)
    st.caption("A slice is a filter with a name. It stands in the address: whoever has the link has it.")
    full = len(slices) >= MOST_SLICES
    st.text_input("Name", key=NAME, max_chars=MOST_NAME, placeholder="cubes that fool A", disabled=full)
    st.button(
        "Save what is left as a slice", key="explore_slice_save", icon=":material/bookmark_add:",
        on_click=partial(_save, view.run, view.where), disabled=full or not view.where,
        help="Narrow the pairs first." if not view.where else f"At most {MOST_SLICES}." if full else None,
    )  # fmt: skip
    for number, (name, text) in enumerate(slices.items()):
        row = st.container(horizontal=True, gap="small")
        where = Where.from_text(text, view.run)
        row.button(
            name, key=f"explore_slice_{number}", icon=":material/bookmark:", on_click=partial(put, view.run, where)
        )
        row.button("Remove", key=f"explore_slice_drop_{number}", type="tertiary", on_click=partial(_drop, name))
    if slices:
        st.dataframe(_compared(view, slices), hide_index=True)


def _compared(view: View, slices: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for name, where in (("all", Where()), *((n, Where.from_text(t, view.run)) for n, t in slices.items())):
        mask = where.mask(view.run, view.level)
        line: dict[str, Any] = {"slice": name, "pairs": int(mask.sum())}
        for role in view.run.parts:
            one = rates.success(view.run, role, view.level, mask)
            line[f"{role} fooled"] = f"{percent(one.rate)} [{percent(one.low)}, {percent(one.high)}]"
        rows.append(line)
    return rows


def _save(run: ExploreRun, where: Where) -> None:
    name = slice_name(state.get(NAME) or "") or f"slice {len(state.get(SLICES)) + 1}"
    try:
        state.put(SLICES, {**state.get(SLICES), name: where.to_text(run)})
        state.put(NAME, "")
    except CmaiError as error:
        state.put(state.NOTICE, error)


def _drop(name: str) -> None:
    state.put(SLICES, {n: text for n, text in state.get(SLICES).items() if n != name})


def _export(view: View) -> None:
    rows = np.flatnonzero(view.mask).tolist()
    st.download_button(
        "CSV", partial(table, view.run, rows, view.level), "cmai-explore.csv", "text/csv", icon=":material/table:",
        key="explore_csv", on_click="ignore", disabled=not rows,
    )  # fmt: skip
    st.download_button(
        "CSV and clean pictures", partial(archive, view.run, rows, view.level), "cmai-explore.zip", "application/zip",
        icon=":material/folder_zip:", key="explore_zip", on_click="ignore", disabled=not rows,
    )  # fmt: skip
    left_out = "" if len(rows) <= MOST_PICTURES else f" Of {len(rows)} pairs the first {MOST_PICTURES} with a picture."
    st.caption(
        f"Pictures are lossless PNG.{left_out} Attacked pictures are not kept with a run: open a pair in the lab, "
        "which makes its picture again and exports it."
    )


def table(run: ExploreRun, rows: Sequence[int], level: int) -> bytes:
    """Return pairs of a run as CSV."""
    import pandas as pd

    return pd.DataFrame(run.rows_table(rows, level)).to_csv(index=False).encode()


def archive(run: ExploreRun, rows: Sequence[int], level: int) -> bytes:
    """Return the CSV with the clean pictures of the first MOST_PICTURES pairs, as a ZIP."""
    items, buffer = lab_dataset(run.place), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        file.writestr("pairs.csv", table(run, rows, level))
        for row in rows[:MOST_PICTURES]:
            file.writestr(f"pictures/{run.ids[row].replace('/', '-')}.png", encode(items[run.rows[row]].image))
    return buffer.getvalue()
