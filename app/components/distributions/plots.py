"""Plotly figures of the page Distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from app.components.common.plots import base_figure
from app.components.common.theme import ROLES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def score_histogram(
    edges: Sequence[float], clean: Sequence[int], adversarial: Sequence[int], *, title: str, tau: float | None
) -> Figure:
    """Return overlaid counts of S_c; the adversarial bars are hatched."""
    figure = base_figure(title, "consistency score S_c", "pairs")
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
    """Return the ROC of "flag where S_c < τ" for each role, with the chosen threshold's point on each curve."""
    figure = base_figure(
        title, "clean pairs flagged (false positive rate)", "attacked pairs flagged (true positive rate)"
    )
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
