"""MBAT's inner loop: its terms as a form, and the loop step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import subject
from app.access import permissions
from app.components.common.chart import chart
from app.components.common.exhibits import pictures
from app.components.common.fields import number_field
from app.components.common.fold import fold_table
from app.components.common.svg import line_chart
from app.components.common.theme import escape, show
from app.services.models import model_cards
from cmai_core.errors import CmaiError, ModelError
from cmai_core.lab.belonging import Difference
from cmai_core.lab.exhibits import Picture, Pictures
from cmai_core.lab.images import perturbation_gain, perturbation_view
from cmai_core.lab.immunize.bundle import bundled
from cmai_core.lab.immunize.inner_loop import BATCH, RANGES, Asked

if TYPE_CHECKING:
    from cmai_core.lab.immunize.inner_loop import InnerLoop

_FIELDS = {
    "alpha": "α, weight of the task's loss",
    "beta": "β, weight of S_c",
    "epsilon": "ε in 1/255",
    "steps": "Steps",
}


@dataclass(frozen=True)
class Request:
    """A loop on a model: its role and specification, and the terms."""

    role: str
    spec: str
    asked: Asked


def form() -> None:
    """Draw α, β, ε and steps, and which model."""
    usual, places = Asked(), st.columns([1.3, 1, 1, 1, 1])
    roles = list(subject.chosen_models())
    places[0].selectbox("Model", roles, key="inner_role", format_func=_named().get, persist_state="session")
    for place, (name, label) in zip(places[1:], _FIELDS.items(), strict=True):
        low, high = RANGES[name]
        st.session_state.setdefault(f"inner_{name}", getattr(usual, name))
        number_field(place, label, f"inner_{name}", name, low=low, high=high, persist_state="session")
    st.caption(f"The batch is {BATCH} pairs of Tabletop's validation split; the loop is the one that training runs.")


def _named() -> dict[str, str]:
    """Return role → its words in the list."""
    return {role: f"{role} · {permissions.display_name(spec)}" for role, spec in subject.chosen_models().items()}


def query() -> str:
    """Return the form's numbers for the address, "" where they are the usual ones."""
    values = [st.session_state.get(f"inner_{name}", getattr(Asked(), name)) for name in _FIELDS]
    usual = [getattr(Asked(), name) for name in _FIELDS]
    return "" if values == usual else ",".join("" if value is None else f"{value:g}" for value in values)


def read_query(text: str) -> None:
    """Set the form to the numbers of an address; what is out of range or no number changes nothing."""
    try:
        values = dict(zip(_FIELDS, [float(v) if v else None for v in text[:80].split(",")], strict=True))
        asked = Asked(**{**values, "steps": int(values["steps"])})
    except (ValueError, TypeError, OverflowError, CmaiError):
        return
    for name in _FIELDS:
        st.session_state[f"inner_{name}"] = getattr(asked, name)


def request() -> Request:
    """Return what the form asks for, validated.

    Raises:
        CmaiError: a number out of range, or a model that is not bundled.
    """
    models = subject.requested_models()
    role = st.session_state.get("inner_role")
    role = role if role in models else next(iter(models))
    if models[role] not in model_cards():
        raise ModelError("The batch is written in the bundled models' vocabulary.", "Choose a bundled model.")
    values = {name: st.session_state.get(f"inner_{name}") for name in _FIELDS}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ModelError(f"{missing[0]} is empty.", "Give a number.")
    return Request(role, models[role], Asked(**values | {"steps": int(values["steps"])}))


def work(wanted: Request, models: Mapping[str, Any], progress: Any, cancel: Any) -> InnerLoop:
    """Run the loop; runs in the worker thread."""
    from cmai_core.lab.immunize.inner_loop import run_inner_loop

    return run_inner_loop(models[wanted.role], wanted.asked, progress=progress, cancel=cancel)


def said(made: InnerLoop) -> str:
    """Return what a loop belongs to."""
    a = made.asked
    return f"α = {a.alpha:g}, β = {a.beta:g}, ε = {a.epsilon:g}/255, {a.steps} steps, on {made.name}"


def moved_on(made: InnerLoop) -> tuple[Difference, ...]:
    """Return how the form has moved on from a loop."""
    try:
        wanted = request()
    except CmaiError:
        return ()
    found = [] if wanted.spec == made.name else [Difference("model", "model", made.name, wanted.spec)]
    for name, word in (("alpha", "α"), ("beta", "β"), ("epsilon", "ε"), ("steps", "steps")):
        mine, theirs = getattr(made.asked, name), getattr(wanted.asked, name)
        if mine != theirs:
            found.append(Difference("setting", word, f"{mine:g}", f"{theirs:g}"))
    return tuple(found)


def empty() -> None:
    """Draw the bundled loop."""
    loop, _ = bundled()
    show(f'<p class="cm-small cm-muted">The bundled example: {escape(said(loop))}.</p>')
    view(loop)


def view(made: InnerLoop) -> None:
    """Draw the terms as curves, and a step of the first pair."""
    left, right = st.columns([1.1, 1], gap="large")
    with left:
        _curves(made)
    with right:
        _step(made)


def _curves(made: InnerLoop) -> None:
    first, last = ((made.task[k], made.s_c[k]) for k in (0, -1))
    title = f"α·L goes from {first[0]:.3f} to {last[0]:.3f}, S_c from {first[1]:.3f} to {last[1]:.3f}"
    curves = {
        "α·L": (made.task, "adversarial"),
        "β·S_c": (made.consistency, "clean"),
        "raised: α·L − β·S_c": (made.value, "A"),
    }
    chart(line_chart(curves, title=title, x_label="step", x_max=made.asked.steps), key="inner_curves")
    kind = "the consistency heads" if made.heads else "the contrastive embeddings: this model has no consistency heads"
    show(f'<p class="cm-small">Means of {made.pairs} pairs; S<sub>c</sub> is the cosine of {escape(kind)}.</p>')
    fold_table("As a table", lambda: _rows(made), key="inner_table")


def _rows(made: InnerLoop) -> list[dict[str, float]]:
    names = ("α·L", "β·S_c", "α·L − β·S_c", "S_c", "mean change, 1/255")
    series = (made.task, made.consistency, made.value, made.s_c, made.size)
    return [{"step": k, **dict(zip(names, row, strict=True))} for k, row in enumerate(zip(*series, strict=True))]


def _step(made: InnerLoop) -> None:
    last = len(made.pictures) - 1
    place = st.slider("Step", 0, last, last, key=f"inner_step_{last}")
    shown, clean = made.pictures[place], made.pictures[0]
    gain = perturbation_gain(clean, made.pictures[-1])
    change = perturbation_view(clean, shown, gain)
    pictures(
        Pictures(
            [
                Picture(shown, f"after step {place}: {made.size[place]:.2f}/255 on average", made.caption),
                Picture(change, f"the perturbation, ×{gain}, mid-grey = 0", "The perturbation made visible"),
            ]
        )
    )
    show(f'<p class="cm-small">The first pair: “{escape(made.caption)}”</p>')
