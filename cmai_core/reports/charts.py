"""Charts of a report: SVG that says its values on hover and focus, kilobytes in place of a library of megabytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cmai_core.reports.looks import Look

WIDTH, HEIGHT = 620, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
MOST_POINTS = 120
"""Points of a line that can be pointed at; the line itself has all."""


@dataclass(frozen=True)
class Point:
    """A value: `said` in words, `low` and `high` the ends of its interval (None: none)."""

    x: float
    y: float
    said: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    look: Look
    points: Sequence[Point]


def line_chart(
    series: Sequence[Series], *, title: str, x_label: str, y_range: tuple[float, float] | None = None,
    percent: bool = False,
) -> Markup:  # fmt: skip
    """Return a chart as HTML: title, legend whose names hide their lines, picture; "" where there is nothing to draw.

    Args:
        title: the finding; also the text alternative. y_range: None: that of the values. percent: y as per cent.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return Markup("")
    frame = _Frame(drawn, y_range)
    parts = [*_axes(frame, x_label, percent)]
    legend = []
    for number, one in enumerate(drawn):
        parts.append(_series(frame, one, number))
        legend.append(
            Markup(
                '<button type="button" aria-pressed="true" data-series="{}"><span class="m c{}">{}</span> {}</button>'
            ).format(number, one.look.colour[1:], one.look.mark, one.name)
        )
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption><div class="legend">{}</div>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg><output class="tip" hidden></output></figure>'
    ).format(title, Markup("").join(legend), WIDTH, HEIGHT, title, Markup("").join(parts))


class _Frame:
    """Where a value lies in the picture."""

    def __init__(self, series: Sequence[Series], y_range: tuple[float, float] | None):
        points = [point for one in series for point in one.points]
        self.x = min(p.x for p in points), max(p.x for p in points)
        ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None and math.isfinite(v)]
        low, high = y_range or (min(ends, default=0.0), max(ends, default=1.0))
        if high - low < 1e-6:
            low, high = low - 0.5, high + 0.5
        pad = 0.05 * (high - low)
        self.y = low - pad, high + pad

    def across(self, value: float) -> float:
        span = self.x[1] - self.x[0] or 1.0
        return LEFT + 6 + (value - self.x[0]) / span * (WIDTH - LEFT - RIGHT - 12)

    def down(self, value: float) -> float:
        return TOP + (self.y[1] - value) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)


def _axes(frame: _Frame, x_label: str, percent: bool) -> list[Markup]:
    parts = []
    for tick in ticks(*frame.y):
        y, words = frame.down(tick), f"{100 * tick:.0f} %" if percent else f"{tick:g}".replace("-", "−")
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
        parts.append(line.format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, y + 4, words))
    for tick in ticks(*frame.x):
        text = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>')
        parts.append(text.format(frame.across(tick), HEIGHT - BOTTOM + 16, tick))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 6, x_label))
    return parts


def _series(frame: _Frame, one: Series, number: int) -> Markup:
    finite = [p for p in one.points if math.isfinite(p.x) and math.isfinite(p.y)]
    path = " ".join(f"{frame.across(p.x):.1f},{frame.down(p.y):.1f}" for p in finite)
    parts = [
        Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="2.2" stroke-dasharray="{}"/>').format(
            path, one.look.colour, one.look.dash or "none"
        )
    ]
    step = max(1, -(-len(finite) // MOST_POINTS))
    for place, point in enumerate(finite):
        if place % step and place != len(finite) - 1:
            continue
        x, y = frame.across(point.x), frame.down(point.y)
        if point.low is not None and point.high is not None:
            bar = Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}" stroke="{3}" stroke-width="1.3"/>')
            parts.append(bar.format(x, frame.down(point.low), frame.down(point.high), one.look.colour))
        said = f"{one.name}: {point.said}"
        size = 4.5 if len(finite) <= 30 else 2.5
        dot = Markup('<circle class="dot" tabindex="0" cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}" data-said="{}"/>')
        parts.append(dot.format(x, y, size, one.look.colour, escape(said)))
    return Markup('<g data-line="{}">{}</g>').format(number, Markup("").join(parts))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values between two others."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= span / count)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]
