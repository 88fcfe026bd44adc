"""Small charts as SVG text: they need no chart library, follow the theme, and are quick to redraw while a job runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.components.common.theme import ROLES, escape, number

WIDTH = 460


@dataclass(frozen=True)
class _Frame:
    """The plotting area in pixels, and the range of values that it shows."""

    left: int
    right: int
    top: int
    floor: int
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def down(self, value: float) -> float:
        low, high = self.y
        return self.top + (high - value) / (high - low) * (self.floor - self.top)


def line_chart(
    curves: Mapping[str, tuple[Sequence[float], str]],
    *,
    title: str,
    x_label: str,
    x_max: int,
    y_range: tuple[float, float] | None = None,
    line_at: float | None = None,
) -> str:
    """Return curves over steps 0…n as SVG.

    Args:
        curves: name → (values after 0, 1, 2 … steps, role that gives colour and dash).
        title: the finding; also the chart's text alternative.
        x_max: steps planned, so that the axis does not move while the curve grows.
        line_at: level of a dashed line (a threshold).
    """
    height, x_max = 210, max(1, x_max)
    frame = _Frame(46, WIDTH - 12, 12, height - 34, (0, x_max), _padded(curves, y_range))
    parts = [*_grid(frame), *(_below(frame.across(step), height - 18, step) for step in sorted({0, x_max // 2, x_max}))]
    parts.append(_axis_label(frame, height, x_label))
    if line_at is not None and frame.y[0] <= line_at <= frame.y[1]:
        parts.append(_level(frame, line_at))
    parts += [_curve(frame, values, role) for values, role in curves.values()]
    legend = [
        (role, f"{escape(name)}{': ' + number(values[-1]) if len(values) else ''}")
        for name, (values, role) in curves.items()
    ]
    return _chart(title, legend, height, parts)


def histogram(
    edges: Sequence[float],
    counts: Mapping[str, Sequence[int]],
    *,
    title: str,
    markers: Mapping[str, float] | None = None,
    tau: float | None = None,
    height: int = 190,
) -> str:
    """Return overlaid histograms as SVG.

    Args:
        counts: role → counts between the edges; those of "adversarial" are hatched.
        title: the finding; also the chart's text alternative.
        markers: role → a value that is marked. tau: a threshold, drawn as a dashed line.
    """
    low, high = edges[0], edges[-1]
    frame = _Frame(12, WIDTH - 12, 26, height - 34, (low, high), (0, 1))

    def at(value: float) -> float:
        return frame.across(min(high, max(low, value)))

    parts = [_HATCH, *_bars(frame, at, edges, counts)]
    parts.append(
        f'<line x1="{frame.left}" x2="{frame.right}" y1="{frame.floor}" y2="{frame.floor}" stroke="currentColor" '
        'opacity=".4"/>'
    )
    parts += [_below(at(tick), frame.floor + 15, _short(tick)) for tick in _nice_ticks(low, high, 5)]
    parts.append(_axis_label(frame, height, "consistency score S_c"))
    if tau is not None:
        parts.append(_threshold(frame, at(tau), tau))
    parts += [_marker(frame, at(value), role) for role, value in (markers or {}).items()]
    legend = [
        (role, f"{role}{' (hatched)' if role == 'adversarial' else ''}, {sum(bars)} pairs")
        for role, bars in counts.items()
    ]
    return _chart(title, legend, height, parts)


def histogram_table(edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> list[dict[str, float]]:
    """Return the data of a histogram as rows."""
    return [
        {"from": float(edges[i]), "to": float(edges[i + 1])} | {role: int(bars[i]) for role, bars in counts.items()}
        for i in range(len(edges) - 1)
    ]


# --- what both are made of --------------------------------------------------------------------------------------------


def _chart(title: str, legend: Sequence[tuple[str, str]], height: int, parts: Sequence[str]) -> str:
    """Return title, legend of (role, HTML) and picture."""
    marked = "".join(
        f'<span><span style="color:{ROLES[role].colour}" aria-hidden="true">{ROLES[role].mark}</span> {words}</span>'
        for role, words in legend
    )
    return (
        f'<div class="cm-h">{escape(title)}</div><div class="cm-legend">{marked}</div>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _below(x: float, y: float, text: object) -> str:
    """Return a label of a tick on the x axis."""
    return f'<text x="{x:.1f}" y="{y}" font-size="11" text-anchor="middle" opacity=".75">{text}</text>'


def _axis_label(frame: _Frame, height: int, text: str) -> str:
    return (
        f'<text x="{(frame.left + frame.right) / 2}" y="{height - 3}" font-size="11" text-anchor="middle" '
        f'opacity=".75">{escape(text)}</text>'
    )


def _nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    first = -(-low // step) * step
    ticks = []
    while first <= high + 1e-9 * span:
        ticks.append(round(first, 10) + 0.0)  # no negative zero
        first += step
    return ticks


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


# --- parts of a line chart --------------------------------------------------------------------------------------------


def _padded(
    curves: Mapping[str, tuple[Sequence[float], str]], y_range: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the range of the y axis, a little wider than the values."""
    values = [v for ys, _ in curves.values() for v in ys if v == v]
    low, high = y_range or ((min(values), max(values)) if values else (0.0, 1.0))
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _grid(frame: _Frame) -> list[str]:
    """Return horizontal lines with their values."""
    return [
        f'<line x1="{frame.left}" x2="{frame.right}" y1="{frame.down(tick):.1f}" y2="{frame.down(tick):.1f}" '
        'stroke="currentColor" opacity=".12"/>'
        f'<text x="{frame.left - 6}" y="{frame.down(tick) + 3.5:.1f}" font-size="11" text-anchor="end" '
        f'opacity=".75">{_short(tick)}</text>'
        for tick in _nice_ticks(*frame.y)
    ]


def _level(frame: _Frame, value: float) -> str:
    y = frame.down(value)
    return (
        f'<line x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
        f'stroke-dasharray="5 4" opacity=".7"/>'
        f'<text x="{frame.right}" y="{y - 4:.1f}" font-size="11" text-anchor="end">τ</text>'
    )


def _curve(frame: _Frame, values: Sequence[float], role: str) -> str:
    """Return one curve with a dot at its end, "" if it has no values."""
    look = ROLES[role]
    points = [(frame.across(step), frame.down(value)) for step, value in enumerate(values) if value == value]
    if not points:
        return ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = f' stroke-dasharray="{look.dash}"' if look.dash else ""
    x, y = points[-1]
    return (
        f'<polyline points="{path}" fill="none" stroke="{look.colour}" stroke-width="2.5"{dash}/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{look.colour}"/>'
    )


# --- parts of a histogram ---------------------------------------------------------------------------------------------

_HATCH = (
    '<defs><pattern id="cmhatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" fill="{ROLES["adversarial"].colour}" opacity=".22"/>'
    f'<line x1="0" y1="0" x2="0" y2="6" stroke="{ROLES["adversarial"].colour}" stroke-width="3"/></pattern></defs>'
)


def _bars(
    frame: _Frame, at: Callable[[float], float], edges: Sequence[float], counts: Mapping[str, Sequence[int]]
) -> list[str]:
    peak = max((max(bars, default=0) for bars in counts.values()), default=1) or 1
    drawn = []
    for role, bars in counts.items():
        fill = "url(#cmhatch)" if role == "adversarial" else ROLES[role].colour
        for k, count in enumerate(bars):
            if not count:
                continue
            tall = count / peak * (frame.floor - frame.top)
            x, end = at(edges[k]), at(edges[k + 1])
            drawn.append(
                f'<rect x="{x + 0.5:.1f}" y="{frame.floor - tall:.1f}" width="{max(1.0, end - x - 1):.1f}" '
                f'height="{tall:.1f}" fill="{fill}" opacity="{0.8 if role == "clean" else 0.85}"/>'
            )
    return drawn


def _threshold(frame: _Frame, x: float, tau: float) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top - 8}" y2="{frame.floor}" stroke="currentColor" '
        f'stroke-dasharray="5 4" stroke-width="1.5"/>'
        f'<text x="{x:.1f}" y="{frame.top - 12}" font-size="11" text-anchor="middle">τ {number(tau)}</text>'
    )


def _marker(frame: _Frame, x: float, role: str) -> str:
    look = ROLES[role]
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top + 6}" y2="{frame.floor}" stroke="{look.colour}" '
        'stroke-width="2.5"/>'
        f'<text x="{x:.1f}" y="{frame.top + 4}" font-size="15" text-anchor="middle" style="fill:{look.colour}">'
        f"{look.mark}</text>"
    )
