"""The map of a run: pictures, clean and attacked, and texts in a model's shared space; a lasso picks pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from app import state
from app.components.common.fields import one_of
from app.components.explore.map_canvas import Layer, canvas, packed, picked
from app.components.explore.view import CHOSEN, WHERE, View
from cmai_core.lab.explore.colours import coloured, colourings
from cmai_core.lab.explore.layout import PCA, TEXT, attacked_group, beyond_control, mean_moved, modality_gap
from cmai_core.lab.explore.run import CLEAN, ExploreRun

KINDS = {CLEAN: "clean", "adversarial": "attacked", TEXT: "texts"}
LAYOUT_WORDS = {"umap": "UMAP", "pca": "PCA", "umap3": "UMAP 3-D", "pca3": "PCA 3-D"}
WHAT = "what it is"
MAP = "explore_map"
"""Key of the canvas."""
LAYOUT, COLOUR, SHOWN, ARROWS = "explore_layout", "explore_colour", "explore_kinds", "explore_arrows"


def embedding_map(view: View) -> None:
    """Draw the choosers, the map and what it can and cannot tell."""
    part = view.run.part(view.role)
    there = [name for name in LAYOUT_WORDS if (PCA if name == "pca3" else name) in part.maps]
    colours = [WHAT, *colourings(view.run)]
    row = st.container(horizontal=True, gap="small", vertical_alignment="bottom")
    layout = row.segmented_control(
        "Projection", there, default=there[0], key=LAYOUT, format_func=LAYOUT_WORDS.get, required=True
    )
    layout = one_of(layout, there)
    colour = one_of(row.selectbox("Colour by", colours, index=1, key=COLOUR, width=150), colours)
    kinds = row.pills(
        "Points", list(KINDS), selection_mode="multi", default=[CLEAN, "adversarial"], key=SHOWN, format_func=KINDS.get
    )
    arrows = row.toggle("Arrows", key=ARROWS, help="From each picked clean picture to its attacked self.")
    kinds = tuple(kind for kind in KINDS if kind in kinds) or (CLEAN,)
    _draw(view, layout, colour, kinds, arrows)
    st.caption(honesty(view, layout))


def _draw(view: View, layout: str, colour: str, kinds: tuple[str, ...], arrows: bool) -> None:
    run, part = view.run, view.run.part(view.role)
    gap = modality_gap(part, view.level, view.mask)
    title = (
        f"{view.role}: pictures move by {mean_moved(part, view.level, view.mask):.2f} (cosine distance, mean); gap to "
        f"the texts {gap[CLEAN]:.2f} → {gap['adversarial']:.2f}"
    )
    st.markdown(f"**{title}**")
    of = "_".join((run.key, view.role, str(view.level), layout, *kinds))
    chosen = state.get(CHOSEN)
    canvas(
        _base(of, colour, run, view.role, view.level, layout, kinds),
        key=MAP, of=of, mask=view.mask,
        moved=beyond_control(part, layout if layout in part.maps else layout.removesuffix("3"), view.level),
        arrows=arrows and set(kinds) >= {CLEAN, "adversarial"}, chosen=-1 if chosen is None else chosen,
        alt=f"{title}. {view.count} of {len(run)} pairs by {LAYOUT_WORDS[layout]}, coloured by {colour}. Arrow keys "
        "step through the pairs.",
        on_picked=partial(_picked, run),
    )  # fmt: skip


def _picked(run: ExploreRun) -> None:
    """Take what was picked on the map: one point is a pair to look at, a lasso a filter; an empty one takes it away."""
    found = picked(MAP, len(run))
    if found is None:
        return
    lasso, rows = found
    if lasso:
        state.put(WHERE, replace(state.get(WHERE), rows=frozenset(rows) if rows else None))
    elif rows:
        state.put(CHOSEN, rows[0])


@st.cache_resource(show_spinner=False, max_entries=32)
def _base(
    of: str, colour: str, _run: ExploreRun, role: str, level: int, layout: str, kinds: Sequence[str]
) -> dict[str, Any]:
    """Return the map's points, packed once for each way of looking at a run."""
    maps = _run.part(role).maps
    places = maps[layout] if layout in maps else maps[layout.removesuffix("3")]
    axes = 3 if layout.endswith("3") else 2
    groups = {CLEAN: CLEAN, TEXT: TEXT, "adversarial": attacked_group(level)}
    layers = [Layer(kind, KINDS[kind], places[groups[kind]][:, :axes]) for kind in kinds]
    return packed(layers, None if colour == WHAT else coloured(_run, role, level, colour), _run.captions)


def honesty(view: View, layout: str) -> str:
    """Return what the map can and cannot tell."""
    part = view.run.part(view.role)
    note = part.notes[layout if layout in part.notes else layout.removesuffix("3")]
    beyond = note["beyond"][attacked_group(view.level)]
    drift = (
        f"Drift control: {note['control_points']} points were copied with a little noise (cosine distance "
        f"{note['control_distance']:.3f}); {beyond} of {len(view.run)} pictures moved farther than 95 % of the copies, "
        "the arrows of the others are dotted and mean nothing."
    )
    if layout.startswith("pca"):
        shares = note["variance"][: 3 if layout.endswith("3") else 2]
        return f"PCA is the linear view; these axes hold {sum(shares):.0%} of the variance. {drift}"
    kept = note["trustworthiness"]
    trust = "" if kept is None else f" Trustworthiness {kept:.2f} (1: neighbours here are neighbours there)."
    return f"UMAP keeps neighbourhoods, not distances; all was projected in one batch.{trust} {drift}"
