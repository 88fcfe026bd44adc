"""The colour bar of maps that share one scale."""

from __future__ import annotations

from app.components.common.theme import show
from app.services.pictures import picture_url
from cmai_core.lab.images import colour_map


def colour_bar(scale: float, signed: bool) -> None:
    """Draw the scale of all maps above it: 0…scale in one hue, or −scale…scale in two."""
    import numpy as np

    low = -scale if signed else 0.0
    bar = colour_map(np.linspace(low, scale, 160)[None].repeat(8, 0), low, scale, signed)
    ends = (f"{low:.2g}".replace("-", "−"), f"{scale:.2g}")
    show(
        '<div class="cm-row cm-small" style="flex-wrap:nowrap;align-items:center;max-width:420px">'
        f"<span>{ends[0]}</span>"
        f'<img src="{picture_url(bar)}" alt="Colour scale from {ends[0]} to {ends[1]}" '
        'style="flex:1;height:8px;min-width:0;border-radius:4px">'
        f'<span>{ends[1]}</span><span class="cm-muted">one scale for all</span></div>'
    )
