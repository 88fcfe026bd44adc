"""Benchmark: choose a grid, see its cost, run it, read its figures, open the pairs behind each of them."""

import streamlit as st

from app import state
from app.benchmark_desk import desk as the_desk
from app.components import benchmark_form as form
from app.components import benchmark_run as run
from app.components.attack_flow import show_notice
from app.components.benchmark_stored import stored_view
from app.components.benchmark_teach import teach
from app.components.guard import guard
from app.components.models_choice import page_head

page_head(
    "How robust are the models, measured?",
    "Models × tasks × attacks × ε on the same pairs: every share with its interval, every number with the pairs "
    "behind it, and self-checks that say whether to believe it.",
)
desk = the_desk()
form.settle()
runs = None
with guard():
    runs = desk.runs()
show_notice()
with guard():
    run.outcome(desk)
if desk.busy:
    with guard():
        run.live(desk)
elif runs is not None and not runs:
    with guard():
        teach()
        form.preset_cards(lambda wanted: run.start(desk, wanted))
with (
    guard(),
    st.expander("New grid", expanded=not runs and not desk.busy, icon=":material/grid_on:", key="card_bench_new"),
):
    if runs or desk.busy:
        form.preset_row()
    form.form()
    wanted = form.choice()
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left:
        ready = form.cost_line(desk, wanted)
    right.button(
        "Start", type="primary", key="start_bench", icon=":material/play_arrow:", width="stretch",
        on_click=run.start, args=(desk, wanted), disabled=not ready or desk.busy,
        help="One benchmark runs at a time." if desk.busy else None,
    )  # fmt: skip
if runs:
    with guard():
        stored_view(desk, runs)
state.put(state.BENCH_OPEN, "")
