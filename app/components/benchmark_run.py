"""The running sweep: how far it is, the table that fills, cancel; and what became of the last one."""

from __future__ import annotations

import streamlit as st

from app import services, state
from app.benchmark_desk import Desk
from app.components.attack_form import TASK_WORDS
from app.components.benchmark_results import model_word
from app.components.guard import guard, show_error
from app.components.visitor_words import plain_reason
from cmai_core.errors import CmaiError
from cmai_core.lab.benchmark.choices import OFFERS, GridChoice, recipe_words
from cmai_core.lab.benchmark.runs import LiveCell

REFRESH_SECONDS = 0.8


def start(desk: Desk, wanted: GridChoice) -> None:
    """Validates a grid and starts it."""
    with_notice(desk, lambda: desk.start(_allowed(wanted.checked()).values()))


def go_on(desk: Desk, values: dict) -> None:
    """Starts a stored run again: it goes on where it stopped."""
    with_notice(desk, lambda: desk.start(values))


def with_notice(desk: Desk, action) -> None:
    """Does it, or keeps what is wrong for the next run of the page."""
    try:
        action()
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.NOTICE, None)
    state.put(state.BENCH_RUNS, [])


def _allowed(wanted: GridChoice) -> GridChoice:
    for spec in wanted.models:
        services.require_model(spec, "")
    return wanted


def live(desk: Desk) -> None:
    """The running sweep with its table. Cancel stands in the main script, where no fragment delays it."""
    with st.container(border=True, key="card_bench_live"):
        if not desk.mine():
            _others(desk)
            return
        _live(desk)
        st.button(
            "Stop", key="cancel_bench", icon=":material/stop_circle:", on_click=desk.cancel,
            help="Within one step. What is finished stays in the store, and Start goes on from there.",
        )  # fmt: skip


@st.fragment(run_every=REFRESH_SECONDS)
def _live(desk: Desk) -> None:
    now = desk.state
    if now is None or now.over:
        st.rerun()
    place = f"Cell {now.cells} · " if now.cells else ""
    words = f"{place}{_plain(now.stage) or 'Starting'}{services.eta_words(now.eta)}"
    st.progress(now.fraction, text=words)
    with guard():
        cells = desk.live(now.run) if now.run else []
        if cells:
            live_table(cells)
            if desk.sweep is not None and desk.sweep.values.get("cascade"):
                st.caption("Worst case only: later attacks face the pairs that those before them have left.")
        else:
            st.caption("The table appears as soon as the cells are planned.")


@st.fragment(run_every=4 * REFRESH_SECONDS)
def _others(desk: Desk) -> None:
    """Another visitor's sweep: that it runs, and how long it will."""
    now = desk.state
    if now is None or now.over:
        st.rerun()
    st.progress(now.fraction, text=f"Another visitor's benchmark is running{services.eta_words(now.eta)}")
    st.caption("One runs at a time; attacks go on between its batches. Yours can start when it has ended.")


def _plain(stage: str) -> str:
    """What is done now, in words: "pgd:steps=10 linf 2/255 on tabletop" is "PGD, 10 steps 2/255 on tabletop"."""
    recipe, space, rest = stage.partition(" ")
    if recipe.partition(":")[0] in OFFERS:
        stage = recipe_words(recipe) + space + rest.removeprefix("linf ")
    return stage.replace("_", "\\_").replace("*", "\\*")


def live_table(cells: list[LiveCell]) -> None:
    """One row a cell, filling."""
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


def outcome(desk: Desk) -> None:
    """What became of the last sweep, where there is something to say."""
    now = desk.state
    if now is None or not now.over or not desk.mine():
        return
    if now.state == "failed" and now.error is not None:
        show_error(now.error)
    elif now.state == "cancelled":
        st.info("Stopped. What was finished is kept; “Go on” below takes up the rest.", icon=":material/stop_circle:")
    for reason in now.failed:
        st.warning(f"Not measured: {_plain(plain_reason(reason))}", icon="⚠️")
