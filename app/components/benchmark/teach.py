"""The empty benchmark page: what a cell is."""

from __future__ import annotations

from app.components.common.theme import show


def teach() -> None:
    """Draw what a cell is, in words and as a row of boxes."""
    parts = (
        ("a model", "tabletop"), ("a task", "retrieval"), ("an attack", "PGD"), ("a budget", "ε = 4/255"),
        ("the same pairs", "32 of the test split"),
    )  # fmt: skip
    boxes = '<span class="times" aria-hidden="true">×</span>'.join(
        f'<span class="box"><span class="cm-small cm-muted">{kind}</span><br><b>{value}</b></span>'
        for kind, value in parts
    )
    show(
        '<div class="cm-card cm-cell"><div class="cm-h">A cell is one measurement</div>'
        f'<div class="row">{boxes}<span class="times" aria-hidden="true">=</span>'
        '<span class="box out"><span class="cm-small cm-muted">a number with its interval</span><br>'
        "<b>56 % right, [38, 72]</b></span></div>"
        '<p class="cm-small cm-note">A grid is all combinations of what you choose. Each attack is made once and shown '
        "to every model; what is finished is stored, so nothing is computed twice and a stopped run goes on where it "
        "stopped. The number above is an example. Start with one of these:</p></div>"
    )
