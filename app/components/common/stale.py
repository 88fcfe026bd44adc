"""A result that the form no longer describes: dimmed, with what it belongs to, and a button that runs the new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import streamlit as st

from app.access import permissions
from app.components.common.theme import escape, show
from cmai_core.lab import belonging as core
from cmai_core.lab.belonging import Difference
from cmai_core.lab.experiment import Experiment

MOST_NAMED = 4


@contextmanager
def result_of(
    differences: Sequence[Difference],
    said: str,
    *,
    key: str,
    run: Callable[[], None] | None = None,
    run_label: str = "Run the new one",
    back: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Draw the result inside; if it differs from what the form describes it is dimmed, below words that say so.

    Args:
        differences: between the result and what the form describes, none if it is of the form.
        said: what the result belongs to, as a sentence without a full stop.
        run: starts what the form describes. back: sets the form to the result's settings.
    """
    if not differences:
        with st.container(key=f"current_{key}"):
            yield
        return
    with st.container(border=True, key=f"card_stale_{key}"):
        show(
            f'<div role="status" class="cm-stale"><b>Not of what the form says now.</b> This is of {escape(said)}.<br>'
            f'<span class="cm-small">{escape(changed(differences))}</span></div>'
        )
        row = st.container(horizontal=True, gap="small")
        if run is not None:
            row.button(run_label, key=f"stale_run_{key}", type="primary", icon=":material/play_arrow:", on_click=run)
        if back is not None:
            row.button("Back to its settings", key=f"stale_back_{key}", icon=":material/undo:", on_click=back)
    with st.container(key=f"stale_{key}"):
        yield


def changed(differences: Sequence[Difference]) -> str:
    """Return the differences in a line: "Form: ε 3/255 (here 4/255), seed 1 (here 0)."."""
    named = [f"{d.name} {_word(d, d.wanted)} (here {_word(d, d.shown)})" for d in differences[:MOST_NAMED]]
    more = len(differences) - len(named)
    return f"Form: {', '.join(named)}" + (f", and {more} more" if more > 0 else "") + "."


def belongs_to(e: Experiment) -> str:
    """Return what a result belongs to, as visitors read it: a sentence without a full stop."""
    names = {role.lower(): permissions.display_name(spec) for role, spec in e.models.items()}
    return core.belongs_to(replace(e, **names))


def _word(difference: Difference, value: str) -> str:
    return permissions.display_name(value) if difference.what == "model" else value
