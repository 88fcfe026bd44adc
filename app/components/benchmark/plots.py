"""Figures of the benchmark page. A model keeps its colour, dash and symbol in all of them; roles give the colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.components.common.plots import base_figure
from app.components.common.theme import ROLES

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
_SHADES = {
    "undefended": (ROLES["undefended"].colour, "#9AA1AC", "#4B5563"),
    "defended": (ROLES["defended"].colour, "#56C9A5", "#00674B"),
}


def looks(models: Sequence[str], defended: Mapping[str, bool]) -> dict[str, dict[str, str]]:
    """Return model → colour (of its role), dash and symbol (of its place)."""
    count = {"undefended": 0, "defended": 0}
    found = {}
    for place, model in enumerate(models):
        role = "defended" if defended.get(model, False) else "undefended"
        shades = _SHADES[role]
        found[model] = {
            "colour": shades[count[role] % len(shades)],
            "dash": DASHES[place % len(DASHES)],
            "symbol": SYMBOLS[place % len(SYMBOLS)],
        }
        count[role] += 1
    return found


def curve_figure(
    lines: Mapping[str, DataFrame], look: Mapping[str, Mapping[str, str]], *, title: str, steps: bool = False
) -> Figure:
    """Return robust accuracy against ε, one line a model, with the 95 % interval as bars.

    Args:
        steps: whether lines keep their height up to the next point, which then is no place of its own.
        lines: model → points with epsilon, value, low, high, hits, total and `id` (of the figure behind each).
    """
    figure = base_figure(title, "ε in 1/255", "right after the attack", height=420)
    for model, points in lines.items():
        its = look[model]
        figure.add_scatter(
            x=points["epsilon"], y=points["value"], mode="lines+markers", name=model,
            line={
                "color": its["colour"], "width": 2.5, "dash": its["dash"], "shape": "hv" if steps else "linear",
            },
            marker={"symbol": its["symbol"], "size": 6 if steps else 11, "color": its["colour"]},
            error_y=None if steps else {
                "type": "data", "symmetric": False, "thickness": 1.4, "width": 5,
                "array": (points["high"] - points["value"]).tolist(),
                "arrayminus": (points["value"] - points["low"]).tolist(),
            },
            customdata=[[i] for i in points["id"]],
            text=[f"{h:g} of {n:g}" for h, n in zip(points["hits"], points["total"], strict=True)],
            hovertemplate="ε = %{x}/255: %{y:.1%} (%{text})<extra>" + model + "</extra>",
        )  # fmt: skip
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")
    largest = max((float(points["epsilon"].max()) for points in lines.values()), default=1.0)
    figure.update_xaxes(range=[-0.03 * largest, 1.04 * largest])
    figure.update_layout(clickmode="event+select", dragmode="zoom")
    return figure


def score_figure(rows: DataFrame, look: Mapping[str, Mapping[str, str]], *, title: str) -> Figure:
    """Return how far each attack moves S_c, with its interval: one row an attack, one symbol a model.

    Args:
        rows: `name`, target, sc_change, sc_change_low, sc_change_high and `id`.
    """
    names = list(dict.fromkeys(rows["name"]))
    figure = base_figure(title, "change of S_c (mean)", "", height=140 + 34 * len(names))
    for model in dict.fromkeys(rows["target"]):
        its, of_model = look[model], rows[rows["target"] == model]
        figure.add_scatter(
            x=of_model["sc_change"], y=of_model["name"], mode="markers", name=model,
            marker={"symbol": its["symbol"], "size": 11, "color": its["colour"]},
            error_x={
                "type": "data", "symmetric": False, "thickness": 1.4, "width": 5,
                "array": (of_model["sc_change_high"] - of_model["sc_change"]).tolist(),
                "arrayminus": (of_model["sc_change"] - of_model["sc_change_low"]).tolist(),
            },
            customdata=[[i] for i in of_model["id"]],
            hovertemplate="%{y}: %{x:+.3f}<extra>" + model + "</extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"width": 1, "color": "#888888"})
    figure.update_layout(clickmode="event+select", yaxis={"autorange": "reversed", "title": ""})
    figure.update_layout(margin={"l": 190})
    return figure
