"""Plotly figures. Plotly is imported on first use; colours, dashes and symbols are those of the roles.

Base figures depend on data only, never on a selection or a threshold that moves: a figure that changes loses its
selection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from app.components.theme import ROLES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["autoScale2d"], "toImageButtonOptions": {"format": "svg"}}


def _figure(title: str, x: str, y: str, height: int = 380) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 16}, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top"},
        height=height,
        margin={"l": 56, "r": 12, "t": 76, "b": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis={"title": x},
        yaxis={"title": y},
        hoverlabel={"namelength": -1},
        bargap=0.04,
    )
    return figure


def score_histogram(
    edges: Sequence[float], clean: Sequence[int], adversarial: Sequence[int], *, title: str, tau: float | None
) -> Figure:
    """Overlaid counts of S_c; the adversarial bars are hatched."""
    figure = _figure(title, "consistency score S_c", "pairs")
    centres = [(a + b) / 2 for a, b in pairwise(edges)]
    width = edges[1] - edges[0]
    for role, counts in (("clean", clean), ("adversarial", adversarial)):
        pattern = {"shape": "/", "size": 6, "solidity": 0.35} if role == "adversarial" else {}
        figure.add_bar(
            x=centres,
            y=list(counts),
            width=width,
            name=f"{ROLES[role].mark} {role}",
            marker={"color": ROLES[role].colour, "pattern": pattern, "line": {"width": 0}},
            opacity=0.72,
            hovertemplate="S_c %{x:.3f}: %{y} pairs",
        )
    figure.update_layout(barmode="overlay")
    if tau is not None:
        figure.add_vline(x=tau, line={"dash": "dash", "width": 2, "color": "#888888"}, annotation_text=f"τ = {tau:.3f}")
    return figure


def roc_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]],
    *,
    title: str,
) -> Figure:
    """ROC of "flag where S_c < τ" for each role, with the chosen threshold's point on each curve."""
    figure = _figure(title, "clean pairs flagged (false positive rate)", "attacked pairs flagged (true positive rate)")
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"dash": "dot", "width": 1, "color": "#888888"},
        name="chance",
        hoverinfo="skip",
    )
    for role, (fpr, tpr) in curves.items():
        look = ROLES[role]
        figure.add_scatter(
            x=list(fpr), y=list(tpr), mode="lines", name=f"{look.mark} {role}",
            line={"color": look.colour, "width": 2.5, "dash": look.plotly_dash, "shape": "hv"},
            hovertemplate="false positives %{x:.1%}, found %{y:.1%}",
        )  # fmt: skip
        if role in points:
            figure.add_scatter(
                x=[points[role][0]], y=[points[role][1]], mode="markers", showlegend=False,
                marker={"symbol": look.plotly_symbol, "size": 13, "color": look.colour,
                        "line": {"width": 1.5, "color": "white"}},
                hovertemplate=f"{role} at τ: " + "%{x:.1%}, %{y:.1%}",
            )  # fmt: skip
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    return figure


def embedding_figure(
    points: Mapping[str, Sequence[Sequence[float]]],
    real: Sequence[bool],
    ids: Sequence[str],
    texts: Sequence[str],
    *,
    title: str,
    axes: tuple[str, str],
) -> Figure:
    """Clean and adversarial pictures and texts in the plane, arrows from clean to adversarial.

    Args:
        points: "clean", "adversarial", "text" → N×2; rows belong to `ids`.
        real: N booleans, whether the arrow is longer than those of the drift control (others are dotted).
    """
    figure = _figure(title, axes[0], axes[1], height=560)
    for name, wanted, dash, width in (
        ("clean → adversarial", True, "solid", 1.4),
        ("arrow no longer than the drift control's", False, "dot", 0.8),
    ):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for start, end, beyond in zip(points["clean"], points["adversarial"], real, strict=True):
            if bool(beyond) == wanted:
                xs += [float(start[0]), float(end[0]), None]
                ys += [float(start[1]), float(end[1]), None]
        if not xs:
            continue
        arrow = {"symbol": "arrow", "size": 8, "angleref": "previous", "color": "#888888"}
        figure.add_scatter(
            x=xs, y=ys, mode="lines+markers", name=name, hoverinfo="skip", opacity=0.7, marker=arrow,
            line={"width": width, "color": "#888888", "dash": dash},
        )  # fmt: skip
    looks = {
        "text": ("text", "#888888", "cross-thin-open", 7),
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


def _wrap(text: str, width: int = 48) -> str:
    import html
    import textwrap

    return "<br>".join(html.escape(line) for line in textwrap.wrap(text, width)[:4])


def selected_id(event: Any) -> str | None:
    """The id of the first selected point of an `st.plotly_chart(on_select=…)` event."""
    for point in getattr(getattr(event, "selection", None), "points", None) or []:
        data = point.get("customdata")
        if data:
            return str(data[0] if isinstance(data, (list, tuple)) else next(iter(data.values())))
    return None
