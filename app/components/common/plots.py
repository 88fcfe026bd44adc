"""What all Plotly figures share. Plotly is imported on first use.

Figures depend on data only, never on a selection: a figure that changes loses its selection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["autoScale2d"], "toImageButtonOptions": {"format": "svg"}}


def base_figure(title: str, x: str, y: str, height: int = 380) -> Figure:
    """Return an empty figure with title, axes and the lab's margins."""
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


def selected_id(event: Any) -> str | None:
    """Return the id of the first selected point of an `st.plotly_chart(on_select=…)` event."""
    for point in getattr(getattr(event, "selection", None), "points", None) or []:
        data = point.get("customdata")
        if data:
            return str(data[0] if isinstance(data, (list, tuple)) else next(iter(data.values())))
    return None
