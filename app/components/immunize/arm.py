"""ARM's controller on a recorded training: what it measured and what it did, to step through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.fold import fold_table
from app.components.common.plots import CONFIG, base_figure
from app.components.common.theme import ROLES, show, subscript
from cmai_core.errors import DataError
from cmai_core.lab.immunize.arm import ArmLog, arm_log, models_with_log

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def controller_view() -> None:
    """Draw the log of a model, and one of its measurements."""
    names = models_with_log()
    if not names:
        raise DataError("No bundled model was trained with ARM.", "")
    name = st.selectbox("Training", names, key="arm_model", persist_state="session")
    log = arm_log(name if name in names else names[0])
    place = st.slider("Measurement", 1, len(log.steps), 1, key=f"arm_step_{log.name}") - 1
    _step(log, place)
    upper, lower = st.columns(2, gap="large")
    with upper:
        st.plotly_chart(_yardstick(log, place), key="arm_yardstick", config=CONFIG, alt=_found(log))
    with lower:
        st.plotly_chart(_levels(log, place), key="arm_levels", config=CONFIG, alt=_moves(log))
    fold_table("As a table", lambda: _rows(log), key="arm_table")
    st.caption(
        "The yardstick is S_c of fixed validation pairs under a fixed attack. Measured under the current ε instead, "
        "raising ε would lower S_c, which would raise ε. Another training (cmai-replay) followed the same schedule "
        "blindly."
    )


def _step(log: ArmLog, place: int) -> None:
    s = log.steps[place]
    values = (("S_c measured", f"{s.measured:.3f}"), ("average", f"{s.mean:.3f}"), ("τ_c", f"{log.tau:.3f}"))
    numbers = "".join(
        f'<div><div class="label">{subscript(name)}</div><div class="value">{value}</div></div>'
        for name, value in values
    )
    show(
        f'<div class="cm-card" role="status"><div class="cm-step">Training step {s.step}</div>'
        f'<div class="cm-numbers">{numbers}</div>'
        f"<div>{subscript(log.reason(place))} {subscript(log.effect(place))}</div></div>"
    )


def _found(log: ArmLog) -> str:
    below = sum(s.mean < log.tau for s in log.steps)
    return f"Average below τ_c: {below} of {len(log.steps)} times"


def _moves(log: ArmLog) -> str:
    moved = [s for s in log.steps if s.moved]
    if not moved:
        return "β, ε and λ never moved"
    last = log.steps[-1]
    return f"{len(moved)} moves, the last at step {moved[-1].step}: β ends at {last.beta:g}"


def _yardstick(log: ArmLog, place: int) -> Figure:
    import plotly.graph_objects as go

    figure, steps = base_figure(_found(log), "training step", "S_c", 320), [s.step for s in log.steps]
    clean, own = ROLES["clean"], ROLES["A"]
    figure.add_trace(
        go.Scatter(
            x=steps, y=[s.measured for s in log.steps], mode="markers", name="measured",
            marker={"color": clean.colour, "symbol": clean.plotly_symbol, "size": 6},
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(x=steps, y=[s.mean for s in log.steps], name="moving average", line={"color": own.colour})
    )
    figure.add_hrect(y0=log.tau, y1=log.tau + log.hysteresis, opacity=0.15, line_width=0, fillcolor="gray")
    figure.add_hline(
        y=log.tau,
        line_dash="dash",
        line_color="gray",
        annotation_text="τ_c, hysteresis above",
        annotation_position="bottom right",
    )
    figure.add_vline(x=steps[place], line_dash="dot", line_color="gray")
    return figure


def _levels(log: ArmLog, place: int) -> Figure:
    import plotly.graph_objects as go

    figure, steps = base_figure(_moves(log), "training step", "β, ε · 255, λ", 320), [s.step for s in log.steps]
    for name, values, role in (
        ("β", [s.beta for s in log.steps], "B"),
        ("ε · 255", [s.epsilon for s in log.steps], "adversarial"),
        ("λ", [s.share for s in log.steps], "C"),
    ):
        look = ROLES[role]
        line = {"color": look.colour, "dash": look.plotly_dash, "shape": "hv", "width": 3}
        figure.add_trace(go.Scatter(x=steps, y=values, name=name, line=line, mode="lines"))
    figure.add_vline(x=steps[place], line_dash="dot", line_color="gray")
    return figure


def _rows(log: ArmLog) -> list[dict[str, object]]:
    return [
        {
            "step": s.step, "S_c": s.measured, "average": round(s.mean, 4), "variance": round(s.variance, 4),
            "asked": {1: "more", 0: "nothing", -1: "less"}[s.asked], "β": s.beta, "ε · 255": s.epsilon, "λ": s.share,
        }
        for s in log.steps
    ]  # fmt: skip
