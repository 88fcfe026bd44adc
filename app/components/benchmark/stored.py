"""The runs of the store: which are on show, how complete they are, their figures."""

from __future__ import annotations

import streamlit as st

from app import state
from app.access import permissions
from app.components.benchmark.cost import await_result
from app.components.benchmark.pairs import pairs_dialog
from app.components.benchmark.results import results_view
from app.components.benchmark.run import go_on
from app.components.common.guard import show_error
from app.components.common.theme import show
from app.services.benchmark import BenchmarkService
from cmai_core.errors import CmaiError
from cmai_core.lab.benchmark.runs import RunInfo

MOST_TOGETHER = 4


def stored_view(service: BenchmarkService, runs: list[RunInfo]) -> None:
    """Draw the choice of runs, and the figures of the chosen ones (of the latest if none is chosen)."""
    by_name = {info.run: info for info in runs}
    state.put(state.BENCH_RUNS, [name for name in state.get(state.BENCH_RUNS) if name in by_name])
    show('<h2 class="cm-h" style="font-size:20px;margin-top:12px">Results</h2>')
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.multiselect(
        "Runs on show (several are compared on the pairs they share)", list(by_name), key=state.BENCH_RUNS,
        format_func=lambda name: _title(by_name[name]), max_selections=MOST_TOGETHER,
        placeholder=f"The latest: {_title(runs[0])}",
    )  # fmt: skip
    chosen = [by_name[name] for name in state.get(state.BENCH_RUNS)] or [runs[0]]
    lone = chosen[0]
    if len(chosen) == 1 and not service.busy and _unfinished(service, lone):
        right.button(
            "Go on", key="bench_go_on", icon=":material/resume:", width="stretch", on_click=go_on,
            args=(service, lone.grid), help="Measures what this run still lacks; nothing is computed twice.",
        )  # fmt: skip
    future = service.results([info.run for info in chosen])
    if not future.done() and service.busy:
        st.caption("Figures appear here when the run is done; the table above fills meanwhile.")
        return
    if not future.done():
        st.skeleton(height=320)
        await_result(future)
        return
    if error := future.exception():
        if not isinstance(error, CmaiError):
            raise error
        if service.busy:
            st.caption("Nothing of this run can be counted yet.")
        else:
            show_error(error)
        return
    made = future.result()
    wanted = state.get(state.BENCH_OPEN)
    results_view(made)
    if wanted:
        state.put(state.BENCH_OPEN, "")
        pairs_dialog(service, made, wanted)


def _unfinished(service: BenchmarkService, info: RunInfo) -> bool:
    """Tell whether a run may lack something: counted, or a cascade that ran last and was stopped."""
    if info.done is not None:
        return not info.complete
    now = service.state
    return now is None or now.run != info.run or now.state != "done"


def _title(info: RunInfo) -> str:
    when = info.updated[:16].replace("T", " ")
    done = "" if info.complete else f" · {info.done} of {info.cells} cells"
    title = info.title
    for name in (*info.grid["models"], info.grid["dataset"]):
        title = title.replace(name, permissions.display_name(name))
    return f"{when} · {title}{done}"
