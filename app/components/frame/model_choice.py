"""The choice of the models, as a panel and as a line with a popover."""

from __future__ import annotations

import streamlit as st

from app import state
from app.access import permissions
from app.components.common.guard import plain
from app.components.common.theme import ROLES as LOOKS
from app.services.models import catalogue, domain_of
from app.subject import chosen_models, offered_models
from cmai_core.data.registry import PHOTOGRAPHS, kind_of, kind_title
from cmai_core.lab.experiment import ROLES


def model_panel() -> None:
    """Draw the models' selections."""
    shown = [role for role in ROLES if role in ROLES[:2] or _taken(role)]
    for place, role in zip(st.columns(2) * 2, shown, strict=False):
        with place:
            _model_widget(role)
    row = st.container(horizontal=True, gap="small")
    if len(shown) < len(ROLES):
        row.button("Add a model", key="add_model", icon=":material/add:", on_click=_add)
    row.button("Swap A and B", key="swap_models", icon=":material/swap_horiz:", on_click=swap)


def foreign_warning() -> None:
    """Warn where the picture is of a kind that a chosen model has never seen."""
    specs = [domain_of(spec) for spec in chosen_models().values()]
    pair = state.get(state.PAIR)
    foreign = {domain for domain in specs if pair and domain not in (kind_of(pair), PHOTOGRAPHS)}
    if foreign:
        st.warning(
            f"A chosen model has only ever seen {plain(' and '.join(map(kind_title, sorted(foreign))))} pictures, and "
            f"this is another kind: the attack runs, but its answers mean little.{_for_photographs()}",
            icon="⚠️",
        )


def swap() -> None:
    """Let A and B change places, if there are both."""
    (one, other), (typed, also_typed) = ([names[r] for r in ROLES[:2]] for names in (state.MODELS, state.SPECS))
    if state.get(other) == state.NO_MODEL:
        return
    for first, second in ((one, other), (typed, also_typed)):
        before = state.get(first)
        state.put(first, state.get(second))
        state.put(second, before)


def _taken(role: str) -> bool:
    return state.get(state.MODELS[role]) != state.NO_MODEL


def _add() -> None:
    """Put a model that is not compared yet into the first free place."""
    free = next((role for role in ROLES if not _taken(role)), None)
    chosen = set(chosen_models().values())
    names = [name for name in offered_models() if name not in chosen]
    if free and names:
        state.put(state.MODELS[free], names[0])


def _model_widget(role: str) -> None:
    key, first = state.MODELS[role], role == ROLES[0]
    options = [e.name for e in sorted(catalogue(), key=lambda e: (e.defended == first, e.name))]
    now = permissions.rules()
    options += [spec for spec in now.allow if spec not in options]
    if now.any:
        options.append(state.OTHER_MODEL)
    if not first or not options:
        options.append(state.NO_MODEL)
    words = {state.OTHER_MODEL: "OpenCLIP model …", state.NO_MODEL: "none"}
    st.selectbox(
        f"{LOOKS[role].mark} Model {role}",
        options,
        key=key,
        format_func=lambda n: words.get(n, permissions.display_name(n)),
    )
    if state.get(key) == state.OTHER_MODEL:
        st.text_input(
            "OpenCLIP specification",
            key=state.SPECS[role],
            max_chars=200,
            placeholder="ViT-B-32/laion2b_s34b_b79k",
            help="As open_clip names it: `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:…`, `local-dir:…`; "
            "`ViT-B-32/random` has random weights and needs no download.",
        )


def _for_photographs() -> str:
    """Return what this lab offers for photographs."""
    now = permissions.rules()
    if now.any:
        return " For photographs choose “OpenCLIP model …”, for example `ViT-B-32/laion2b_s34b_b79k`."
    return " For photographs choose one that is not bundled." if now.allow else ""
