"""Presets: grids that start with one click or fill the form."""

from __future__ import annotations

import streamlit as st

from app.components.benchmark.form import take
from app.components.common.theme import escape, show
from app.services.models import default_model
from app.services.thresholds import bundled_basis
from cmai_core.data.registry import kind_of
from cmai_core.lab.benchmark.choices import (
    GridChoice,
    Preset,
    duration,
    presets,
)


def of_preset(preset: Preset) -> GridChoice:
    """Return a preset's grid with the bundled models, and the detector's threshold if it needs one."""
    import dataclasses

    plain, defended = default_model(False), default_model(True)
    models = (plain, defended) if preset.models == 2 else (defended or plain,)
    kind = kind_of(preset.choice.dataset)
    tau = bundled_tau(defended or plain, kind) if preset.choice.needs_tau else preset.choice.tau
    return dataclasses.replace(preset.choice, models=tuple(m for m in models if m), tau=tau)


def bundled_tau(spec: str, kind: str) -> float:
    """Return τ of a bundled model's card for a kind of pairs, 0 if it has none."""
    return round(bundled_basis(spec, kind).tau() or 0.0, 4)


def preset_cards(start, rate: float) -> None:
    """Draw one card a preset, with a button that starts it and one that only fills the form.

    Args:
        start: called with the `GridChoice`. rate: seconds of a pass, for the estimates.
    """
    made = presets()
    for preset, column in zip(made, st.columns(len(made)), strict=True):
        with column, st.container(border=True, key=f"card_preset_{preset.slug}", height="stretch"):
            wanted = of_preset(preset)
            most = "at most " if wanted.cascade else ""
            size = f"{wanted.cells} cells × {wanted.count} pairs, {most}{duration(wanted.seconds(rate))}"
            names = " · ".join(offer.word for offer in wanted.offers)
            show(
                f'<div class="cm-h">{escape(preset.title)}</div><div class="cm-small">{escape(preset.words)}</div>'
                f'<div class="cm-small cm-muted" style="margin-top:6px">{escape(names)}</div>'
                f'<div class="cm-small cm-muted">{escape(size)}</div>'
            )
            row = st.container(horizontal=True, gap="small")
            row.button(
                "Start", key=f"preset_{preset.slug}", type="primary", icon=":material/play_arrow:",
                on_click=start, args=(wanted,), disabled=not wanted.models,
            )  # fmt: skip
            row.button("Adjust", key=f"adjust_{preset.slug}", icon=":material/tune:", on_click=take, args=(wanted,))


def preset_row() -> None:
    """Draw the presets as plain buttons that fill the form."""
    row = st.container(horizontal=True, gap="small", vertical_alignment="center", key="bench_presets")
    row.markdown("Fill in:", width="content")
    for preset in presets():
        row.button(preset.title, key=f"fill_{preset.slug}", help=preset.words, on_click=take, args=(of_preset(preset),))
