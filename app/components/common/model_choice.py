"""The choice of the two models, as a panel and as a line with a popover."""

from __future__ import annotations

import streamlit as st

from app import state
from app.access import permissions
from app.components.common.guard import plain
from app.components.common.theme import ROLES, escape, label, show
from app.services.models import catalogue, domain_of
from app.subject import chosen_specs
from cmai_core.data.registry import PHOTOGRAPHS, kind_of, kind_title


def model_panel() -> None:
    """Draw both selections, and a warning if the picture is of a kind that a model has never seen."""
    show('<div class="cm-step">2 · Models</div>')
    one, two = st.columns(2)
    with one:
        _model_widget("undefended", state.UNDEFENDED, state.UNDEFENDED_SPEC, False)
    with two:
        _model_widget("defended", state.DEFENDED, state.DEFENDED_SPEC, True)
    specs = [domain_of(s) for s in chosen_specs() if s]
    pair = state.get(state.PAIR)
    foreign = {domain for domain in specs if pair and domain not in (kind_of(pair), PHOTOGRAPHS)}
    if foreign:
        st.warning(
            f"A chosen model has only ever seen {plain(' and '.join(map(kind_title, sorted(foreign))))} pictures, and "
            f"this is another kind: the attack runs, but its answers mean little.{_for_photographs()}",
            icon="⚠️",
        )


def _model_widget(role: str, key: str, spec_key: str, defended: bool) -> None:
    options = [e.name for e in sorted(catalogue(), key=lambda e: (e.defended != defended, e.name))]
    now = permissions.rules()
    options += [spec for spec in now.allow if spec not in options]
    if now.any:
        options.append(state.OTHER_MODEL)
    if defended or not options:
        options.append(state.NO_MODEL)
    words = {state.OTHER_MODEL: "OpenCLIP model …", state.NO_MODEL: "none"}
    st.selectbox(
        f"{ROLES[role].mark} {role.capitalize()} model",
        options,
        key=key,
        format_func=lambda n: words.get(n, permissions.display_name(n)),
    )
    if state.get(key) == state.OTHER_MODEL:
        st.text_input(
            "OpenCLIP specification",
            key=spec_key,
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


def models_line() -> None:
    """Draw the names of the chosen models, and a popover that changes them."""
    undefended, defended = chosen_specs()
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    with row:
        names = [f"{label('undefended')}: <b>{_name(undefended)}</b>"]
        if defended:
            names.append(f"{label('defended')}: <b>{_name(defended)}</b>")
        st.html(f'<div class="cm">{" &nbsp; ".join(names)}</div>', width="content")
        with st.popover("Change models", icon=":material/swap_horiz:"):
            model_panel()


def _name(spec: str) -> str:
    return escape(permissions.display_name(spec) or "none chosen")
