"""Benchmark: choose a grid, see its cost, run it, read its figures, open the pairs behind each of them."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.benchmark import form, run
from app.components.benchmark.cost import cost_line
from app.components.benchmark.presets import preset_cards, preset_row
from app.components.benchmark.stored import stored_view
from app.components.benchmark.teach import teach
from app.components.common.guard import guard, show_notice
from app.page import Page
from app.services.benchmark import BenchmarkService, benchmark_service
from cmai_core.lab.benchmark.runs import RunInfo


def body() -> None:
    """Draw the running sweep or the presets, the form, and the stored runs."""
    service = benchmark_service()
    form.settle()
    runs = None
    with guard():
        runs = service.runs()
    show_notice()
    with guard():
        run.outcome(service)
    with guard():
        if service.busy:
            run.live(service)
        elif runs is not None and not runs:
            teach()
            preset_cards(lambda wanted: run.start(service, wanted), service.rate())
    with guard():
        _new_grid(service, runs)
    if runs:
        with guard():
            stored_view(service, runs)
    state.put(state.BENCH_OPEN, "")


def _new_grid(service: BenchmarkService, runs: list[RunInfo] | None) -> None:
    with st.expander(
        "New grid", expanded=not runs and not service.busy, icon=":material/grid_on:", key="card_bench_new"
    ):
        if runs or service.busy:
            preset_row()
        form.form()
        wanted = form.choice()
        left, right = st.columns([3, 1], vertical_alignment="center")
        with left:
            ready = cost_line(service, wanted)
        right.button(
            "Start", type="primary", key="start_bench", icon=":material/play_arrow:", width="stretch",
            on_click=run.start, args=(service, wanted), disabled=not ready or service.busy,
            help="One benchmark runs at a time." if service.busy else None,
        )  # fmt: skip


PAGE = Page(
    name="benchmark",
    title="Benchmark",
    icon=":material/leaderboard:",
    heading="How robust are the models, measured?",
    lead="Models × tasks × attacks × ε on the same pairs: every share with its interval, every number with the pairs "
    "behind it, and self-checks that say whether to believe it.",
    body=body,
)
