"""The two models as the attack lab's form has them, shown (and changeable) on the other pages."""

from __future__ import annotations

import streamlit as st

from app import owner, services, state
from app.components.attack_form import chosen_specs, model_panel
from app.components.theme import label, show
from cmai_core.errors import OptionError


def models_line() -> None:
    """Names the chosen models; a popover changes them."""
    undefended, defended = chosen_specs()
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    with row:
        names = [f"{label('undefended')}: <b>{_safe(undefended)}</b>"]
        if defended:
            names.append(f"{label('defended')}: <b>{_safe(defended)}</b>")
        st.html(f'<div class="cm">{" &nbsp; ".join(names)}</div>', width="content")
        with st.popover("Change models", icon=":material/swap_horiz:"):
            model_panel()


def _safe(text: str) -> str:
    from app.components.theme import escape

    return escape(owner.shown(text) or "none chosen")


def chosen_models() -> dict[str, str]:
    """Role → specification, validated.

    Raises:
        OptionError, ModelError: where there is none.
    """
    undefended, defended = chosen_specs()
    if not undefended and not defended:
        raise OptionError("No model is chosen.", "Pick a bundled one or type an OpenCLIP specification.")
    models = {"undefended": services.require_model(undefended, "undefended")}
    if state.get(state.DEFENDED) == state.OTHER_MODEL or defended:
        models["defended"] = services.require_model(defended, "defended")
    return models


def page_head(title: str, lead: str) -> None:
    """Heading of a page."""
    from app.components.theme import escape

    show(f'<h1 class="cm-headline">{escape(title)}</h1><p class="cm-lead">{escape(lead)}</p>')
