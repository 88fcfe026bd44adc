"""What a grid costs, before it is started."""

from __future__ import annotations

import streamlit as st

from app.components.common.guard import plain
from app.components.common.visitor_words import plain_reason, said
from app.services.benchmark import BenchmarkService
from app.services.models import require_model
from cmai_core.errors import CmaiError
from cmai_core.lab.benchmark.choices import (
    GridChoice,
    command,
    duration,
    recipe_words,
)


@st.fragment(run_every=0.6)
def await_result(future) -> None:
    """Run the page again when a result of the background is there."""
    if future.done():
        st.rerun()


def cost_line(service: BenchmarkService, wanted: GridChoice) -> bool:
    """Draw what the grid costs, in a line; returns whether it may be started."""
    try:
        values = wanted.checked().values()
        for spec in wanted.models:
            require_model(spec, "")
    except CmaiError as error:
        st.caption(f":material/info: {plain(said(error))}")
        return False
    cells = f"**{wanted.cells} cell{'s' if wanted.cells != 1 else ''} × {wanted.count} pairs**"
    if service.busy:
        st.markdown(f"{cells} · {duration(wanted.seconds(service.rate()))} from nothing")
    else:
        future = service.cost(values)
        if not future.done():
            st.markdown(
                f"{cells} · {duration(wanted.seconds(service.rate()))} from nothing · looking up what is stored …"
            )
            await_result(future)
        elif error := future.exception():
            if not isinstance(error, CmaiError):
                raise error
            st.caption(f":material/info: {plain(said(error))}")
        else:
            _exact(cells, future.result(), values)
            return True
    _terminal(values)
    return True


def _terminal(values: dict) -> None:
    with st.popover("The same in a terminal", icon=":material/terminal:"):
        st.code(command(values), language="bash")


def _exact(cells: str, cost, values: dict) -> None:
    wanted = sum(entry.items for entry in cost.cells)
    stored = sum(entry.stored for entry in cost.cells)
    skipped = [cell for cell in cost.plan.cells if cell.skipped]
    left = duration(cost.seconds) if stored < wanted or cost.clean else "nothing left to compute"
    most = "at most " if cost.plan.grid.cascade and stored < wanted else ""
    basis = "from this store's own timings" if cost.measured else "nothing of this kind has been measured here yet"
    parts = [cells, f"{stored} of {wanted} attacked pairs are in the store", f"{most}{left}"]
    if skipped:
        parts.append(f"{len(skipped)} cells do not combine")
    st.markdown(" · ".join(parts))
    row = st.container(horizontal=True, gap="small")
    with row:
        _terminal(values)
    with row, st.popover("Cell by cell", icon=":material/list:"):
        st.dataframe(
            [
                {
                    "model": entry.cell.source, "task": entry.cell.task or "–",
                    "attack": recipe_words(entry.cell.recipe),
                    "ε (k/255)": entry.cell.epsilon, "stored": f"{entry.stored} of {entry.items}",
                    "seconds": round(entry.seconds, 1),
                }
                for entry in cost.cells
            ],
            hide_index=True, width=640,
        )  # fmt: skip
        st.caption(f"The time is estimated: {basis}.")
        for cell in skipped:
            st.caption(
                f"Left out: {recipe_words(cell.recipe)} on {cell.source}, {cell.task or 'no task'}: "
                f"{plain_reason(cell.skipped)}"
            )
