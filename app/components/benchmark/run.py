"""The running sweep: its progress, the table that fills, Stop; and the outcome of the last one."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from app import state
from app.components.benchmark.words import model_word
from app.components.common.guard import guard, show_error
from app.components.common.visitor_words import plain_reason
from app.components.common.words import TASK_WORDS, eta_words
from app.services.benchmark import BenchmarkService
from app.services.models import require_model
from cmai_core.errors import CmaiError
from cmai_core.lab.benchmark.choices import OFFERS, GridChoice, recipe_words
from cmai_core.lab.benchmark.runs import LiveCell

REFRESH_SECONDS = 0.8


def start(service: BenchmarkService, wanted: GridChoice) -> None:
    """Validate a grid and start it."""
    with_notice(lambda: service.start(_allowed(wanted.checked()).values()))


def go_on(service: BenchmarkService, values: dict) -> None:
    """Continue a stored run where it stopped."""
    with_notice(lambda: service.start(values))


def with_notice(action: Callable[[], None]) -> None:
    """Call `action`; keep its error for the next run of the page."""
    try:
        action()
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.NOTICE, None)
    state.put(state.BENCH_RUNS, [])


def _allowed(wanted: GridChoice) -> GridChoice:
    for spec in wanted.models:
        require_model(spec, "")
    return wanted


def live(service: BenchmarkService) -> None:
    """Draw the running sweep with its table. Stop is drawn in the main script, where no fragment delays it."""
    with st.container(border=True, key="card_bench_live"):
        if not service.mine():
            _others(service)
            return
        _live(service)
        st.button(
            "Stop", key="cancel_bench", icon=":material/stop_circle:", on_click=service.cancel,
            help="Within one step. What is finished stays in the store, and Start goes on from there.",
        )  # fmt: skip


@st.fragment(run_every=REFRESH_SECONDS)
def _live(service: BenchmarkService) -> None:
    now = service.state
    if now is None or now.over:
        st.rerun()
    place = f"Cell {now.cells} · " if now.cells else ""
    words = f"{place}{_plain(now.stage) or 'Starting'}{eta_words(now.eta)}"
    st.progress(now.fraction, text=words)
    with guard():
        cells = service.live(now.run) if now.run else []
        if cells:
            live_table(cells)
            if service.sweep is not None and service.sweep.values.get("cascade"):
                st.caption("Worst case only: later attacks face the pairs that those before them have left.")
        else:
            st.caption("The table appears as soon as the cells are planned.")


@st.fragment(run_every=4 * REFRESH_SECONDS)
def _others(service: BenchmarkService) -> None:
    """Draw another visitor's sweep: that it runs, and for how long."""
    now = service.state
    if now is None or now.over:
        st.rerun()
    st.progress(now.fraction, text=f"Another visitor's benchmark is running{eta_words(now.eta)}")
    st.caption("One runs at a time; attacks go on between its batches. Yours can start when it has ended.")


def _plain(stage: str) -> str:
    """Return the stage in words: "pgd:steps=10 linf 2/255 on tabletop" is "PGD, 10 steps 2/255 on tabletop"."""
    recipe, space, rest = stage.partition(" ")
    if recipe.partition(":")[0] in OFFERS:
        stage = recipe_words(recipe) + space + rest.removeprefix("linf ")
    return stage.replace("_", "\\_").replace("*", "\\*")


def live_table(cells: list[LiveCell]) -> None:
    """Draw one row a cell, with its progress."""
    rows = [
        {
            "model": model_word(cell.source),
            "task": TASK_WORDS.get(cell.task, "–"),
            "attack": recipe_words(cell.recipe),
            "ε": "" if cell.epsilon is None else f"{cell.epsilon:g}",
            "pairs attacked": cell.done / cell.items if cell.items else 0.0,
            "right so far": f"{cell.right}/{cell.known}" if cell.right is not None and cell.known else "–",
            "S_c so far": cell.consistency,
        }
        for cell in cells
    ]
    config = {
        "pairs attacked": st.column_config.ProgressColumn(min_value=0.0, max_value=1.0, format="percent"),
        "S_c so far": st.column_config.NumberColumn(format="%.3f"),
        "right so far": st.column_config.TextColumn(
            help="Right on the clean and on the attacked pair, of those known."
        ),
    }
    height = "content" if len(rows) <= 12 else 430
    st.dataframe(rows, hide_index=True, column_config=config, height=height, key="bench_live_table", placeholder="–")


def outcome(service: BenchmarkService) -> None:
    """Draw how the last sweep ended, if there is something to say."""
    now = service.state
    if now is None or not now.over or not service.mine():
        return
    if now.state == "failed" and now.error is not None:
        show_error(now.error)
    elif now.state == "cancelled":
        st.info("Stopped. What was finished is kept; “Go on” below takes up the rest.", icon=":material/stop_circle:")
    for reason in now.failed:
        st.warning(f"Not measured: {_plain(plain_reason(reason))}", icon="⚠️")
