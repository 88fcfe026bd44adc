"""The Plotly figure of the embedding map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.components.common.plots import base_figure
from app.components.common.theme import ROLES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

GREY = "#888888"


def embedding_figure(
    points: Mapping[str, Sequence[Sequence[float]]],
    real: Sequence[bool],
    ids: Sequence[str],
    texts: Sequence[str],
    *,
    title: str,
    axes: tuple[str, str],
) -> Figure:
    """Return clean and adversarial pictures and texts in the plane, with arrows from clean to adversarial.

    Args:
        points: "clean", "adversarial", "text" → N×2; rows belong to `ids`.
        real: N booleans, whether the arrow is longer than those of the drift control (others are dotted).
    """
    figure = base_figure(title, axes[0], axes[1], height=560)
    _add_arrows(figure, points["clean"], points["adversarial"], real)
    looks = {
        "text": ("text", GREY, "cross-thin-open", 7),
        "clean": (f"{ROLES['clean'].mark} clean picture", ROLES["clean"].colour, "circle", 8),
        "adversarial": (f"{ROLES['adversarial'].mark} adversarial picture", ROLES["adversarial"].colour, "diamond", 8),
    }
    for kind, (name, colour, symbol, size) in looks.items():
        if kind not in points:
            continue
        figure.add_scatter(
            x=[float(p[0]) for p in points[kind]], y=[float(p[1]) for p in points[kind]], mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 1, "color": colour}},
            customdata=[[i] for i in ids], text=[_wrap(t) for t in texts],
            hovertemplate="%{text}<extra>" + kind + "</extra>",
        )  # fmt: skip
    figure.update_layout(clickmode="event+select", dragmode="pan")
    return figure


def _add_arrows(
    figure: Figure, starts: Sequence[Sequence[float]], ends: Sequence[Sequence[float]], real: Sequence[bool]
) -> None:
    """Add an arrow from each start to its end: one trace of those that mean something, one of the others."""
    for name, wanted, dash, width in (
        ("clean → adversarial", True, "solid", 1.4),
        ("arrow no longer than the drift control's", False, "dot", 0.8),
    ):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for start, end, beyond in zip(starts, ends, real, strict=True):
            if bool(beyond) == wanted:
                xs += [float(start[0]), float(end[0]), None]
                ys += [float(start[1]), float(end[1]), None]
        if not xs:
            continue
        arrow = {"symbol": "arrow", "size": 8, "angleref": "previous", "color": GREY}
        figure.add_scatter(
            x=xs, y=ys, mode="lines+markers", name=name, hoverinfo="skip", opacity=0.7, marker=arrow,
            line={"width": width, "color": GREY, "dash": dash},
        )  # fmt: skip


def _wrap(text: str, width: int = 48) -> str:
    import html
    import textwrap

    return "<br>".join(html.escape(line) for line in textwrap.wrap(text, width)[:4])
