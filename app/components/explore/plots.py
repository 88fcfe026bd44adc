"""Plotly figures of the page Explore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from app.components.common.plots import base_figure
from app.components.common.theme import ROLES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from cmai_core.evaluation.figures.histogram import Histogram
    from cmai_core.lab.explore.predictors import Predictor

GREY = "#888888"
TIGHT = {"l": 44, "r": 8, "t": 34, "b": 36}


def small_figure(title: str, x: str, y: str, height: int) -> Figure:
    """Return an empty figure with a title of one line and no legend."""
    figure = base_figure(title, x, y, height=height)
    return figure.update_layout(margin=TIGHT, title={"font": {"size": 14}}, showlegend=False)


def histogram_figure(some: Histogram, every: Histogram, *, title: str, tau: float, most: int) -> Figure:
    """Return counts of S_c of a selection over the outline of all pairs; attacked bars are hatched.

    Args:
        most: upper end of the y axis, the same for all models.
    """
    figure = small_figure(title, "S_c", "pairs", 230)
    edges, width = some.edges, some.edges[1] - some.edges[0]
    for side, counts in some.counts.items():
        look = ROLES[side]
        figure.add_scatter(
            x=edges, y=[*every.counts[side], 0], mode="lines", hoverinfo="skip",
            line={"shape": "hv", "width": 1, "color": look.colour, "dash": look.plotly_dash},
        )  # fmt: skip
        pattern = {"shape": "/", "size": 5, "solidity": 0.35} if side == "adversarial" else {}
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2, y=counts, width=width, opacity=0.72,
            marker={"color": look.colour, "pattern": pattern, "line": {"width": 0}},
            customdata=[[side, float(a), float(b)] for a, b in pairwise(edges)],
            hovertemplate=f"{look.mark} {look.word}, " + "S_c %{x:.3f}: %{y} pairs<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=tau, line={"dash": "dash", "width": 2, "color": GREY}, annotation_text=f"τ {tau:.3f}")
    # While dragging selects, Streamlit takes no clicks; so bars are clicked, with Shift several.
    figure.update_layout(barmode="overlay", clickmode="event+select", dragmode=False)
    return figure.update_yaxes(range=[0, most * 1.12])


def roc_figure(
    curves: Mapping[str, tuple[Any, Any]], points: Mapping[str, tuple[float, float]], *, title: str
) -> Figure:
    """Return the ROC of "flag where S_c < τ" of each model, with the threshold's point on each curve."""
    figure = small_figure(title, "clean pairs flagged", "attacked pairs flagged", 270)
    line = {"dash": "dot", "width": 1, "color": GREY}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, hoverinfo="skip")
    for role, (fpr, tpr) in curves.items():
        look = ROLES[role]
        figure.add_scatter(
            x=fpr, y=tpr, mode="lines", line={"color": look.colour, "width": 2.5, "dash": look.plotly_dash},
            hovertemplate=f"{look.mark} {role}: " + "false positives %{x:.1%}, found %{y:.1%}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[points[role][0]], y=[points[role][1]], mode="markers+text", text=[role], textposition="bottom right",
            marker={"symbol": look.plotly_symbol, "size": 12, "color": look.colour},
            hovertemplate=f"{role} at τ: " + "%{x:.1%}, %{y:.1%}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(range=[-0.03, 1.03], tickformat=".0%")
    return figure.update_yaxes(range=[-0.03, 1.06], tickformat=".0%")


def predictor_figure(found: Sequence[Predictor], *, title: str) -> Figure:
    """Return the lift of each attribute's value with its interval, the strongest on top; what stands is filled."""
    figure = base_figure(title, "success rate with it, less that without it", "", height=110 + 26 * len(found))
    names = [f"{p.name}: {p.value} ({p.count})" for p in found]
    stands = [p.p < 0.05 for p in found]
    figure.add_scatter(
        x=[p.lift for p in found], y=names, mode="markers", showlegend=False,
        marker={"symbol": ["diamond" if s else "circle-open" for s in stands], "size": 11, "line": {"width": 2},
                "color": [ROLES["adversarial"].colour if s else GREY for s in stands]},
        error_x={"type": "data", "symmetric": False, "thickness": 1.4, "width": 4, "color": GREY,
                 "array": [p.high - p.lift for p in found], "arrayminus": [p.lift - p.low for p in found]},
        customdata=[[p.name, p.value] for p in found],
        text=[f"{p.rate:.0%} with, {p.rest:.0%} without; adjusted p {p.p:.3f}" for p in found],
        hovertemplate="%{y}: %{x:+.1%}<br>%{text}<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=0, line={"width": 1, "color": GREY})
    figure.update_layout(
        margin={"l": 170, "r": 12, "t": 40, "b": 44}, clickmode="event+select", dragmode=False,
        yaxis={"autorange": "reversed", "title": "", "type": "category"},
    )  # fmt: skip
    return figure.update_xaxes(tickformat="+.0%")


def selected(event: Any) -> list[list[Any]]:
    """Return the custom data of all selected points of an event, as lists."""
    found = []
    for point in getattr(getattr(event, "selection", None), "points", None) or []:
        data = point.get("customdata")
        if data is not None:
            found.append(list(data.values()) if isinstance(data, dict) else data if isinstance(data, list) else [data])
    return found
