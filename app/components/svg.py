"""Small charts as SVG text: they need no chart library, follow the theme and are quick enough to redraw while a job
runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.components.theme import ROLES, escape, number


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


def line_chart(
    curves: Mapping[str, tuple[Sequence[float], str]],
    *,
    title: str,
    x_label: str,
    x_max: int,
    y_range: tuple[float, float] | None = None,
    line_at: float | None = None,
) -> str:
    """Curves over steps 0…n.

    Args:
        curves: name → (values after 0, 1, 2 … steps, role that gives colour and dash).
        title: the finding; also the chart's text alternative.
        x_max: steps planned, so that the axis does not move while the curve grows.
        line_at: a dashed level (a threshold).
    """
    width, height, left, bottom, top, right = 460, 210, 46, 34, 12, 12
    values = [v for ys, _ in curves.values() for v in ys if v == v]
    low, high = y_range or ((min(values), max(values)) if values else (0.0, 1.0))
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    pad = 0.06 * (high - low)
    low, high = low - pad, high + pad
    x_max = max(1, x_max)

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + step / x_max * (width - left - right)
        return x, top + (high - value) / (high - low) * (height - top - bottom)

    parts = []
    for tick in _nice_ticks(low, high):
        _, y = place(0, tick)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".12"/>'
            f'<text x="{left - 6}" y="{y + 3.5:.1f}" font-size="11" text-anchor="end" '
            f'opacity=".75">{_short(tick)}</text>'
        )
    for step in sorted({0, x_max // 2, x_max}):
        x, _ = place(step, low)
        parts.append(
            f'<text x="{x:.1f}" y="{height - 18}" font-size="11" text-anchor="middle" opacity=".75">{step}</text>'
        )
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 3}" font-size="11" text-anchor="middle" opacity=".75">'
        f"{escape(x_label)}</text>"
    )
    if line_at is not None and low <= line_at <= high:
        _, y = place(0, line_at)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            'stroke-dasharray="5 4" '
            f'opacity=".7"/><text x="{width - right}" y="{y - 4:.1f}" font-size="11" text-anchor="end">τ</text>'
        )
    for ys, role in curves.values():
        look = ROLES[role]
        points = [place(i, v) for i, v in enumerate(ys) if v == v]
        if not points:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = f' stroke-dasharray="{look.dash}"' if look.dash else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{look.colour}" stroke-width="2.5"{dash}/>')
        x, y = points[-1]
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{look.colour}"/>')
    legend = "".join(
        f'<span><span style="color:{ROLES[role].colour}" aria-hidden="true">{ROLES[role].mark}</span> {escape(name)}'
        f"{': ' + number(ys[-1]) if len(ys) else ''}</span>"
        for name, (ys, role) in curves.items()
    )
    return (
        f'<div class="cm-h">{escape(title)}</div><div class="cm-legend">{legend}</div>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def histogram(
    edges: Sequence[float],
    counts: Mapping[str, Sequence[int]],
    *,
    title: str,
    markers: Mapping[str, float] | None = None,
    tau: float | None = None,
    height: int = 190,
) -> str:
    """Overlaid histograms (roles as keys; the second is hatched), with a marker for each role and the threshold."""
    width, left, bottom, top, right = 460, 12, 34, 26, 12
    peak = max((max(c, default=0) for c in counts.values()), default=1) or 1
    low, high = edges[0], edges[-1]

    def at(value: float) -> float:
        return left + (min(high, max(low, value)) - low) / (high - low) * (width - left - right)

    floor = height - bottom
    parts = [
        '<defs><pattern id="cmhatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="6" height="6" fill="{ROLES["adversarial"].colour}" opacity=".22"/>'
        f'<line x1="0" y1="0" x2="0" y2="6" stroke="{ROLES["adversarial"].colour}" stroke-width="3"/></pattern></defs>'
    ]
    for role, bars in counts.items():
        fill = "url(#cmhatch)" if role == "adversarial" else ROLES[role].colour
        for i, count in enumerate(bars):
            if not count:
                continue
            tall = count / peak * (floor - top)
            x, x2 = at(edges[i]), at(edges[i + 1])
            parts.append(
                f'<rect x="{x + 0.5:.1f}" y="{floor - tall:.1f}" width="{max(1.0, x2 - x - 1):.1f}" '
                f'height="{tall:.1f}" '
                f'fill="{fill}" opacity="{0.8 if role == "clean" else 0.85}"/>'
            )
    parts.append(
        f'<line x1="{left}" x2="{width - right}" y1="{floor}" y2="{floor}" stroke="currentColor" opacity=".4"/>'
    )
    for tick in _nice_ticks(low, high, 5):
        parts.append(
            f'<text x="{at(tick):.1f}" y="{floor + 15}" font-size="11" text-anchor="middle" '
            f'opacity=".75">{_short(tick)}</text>'
        )
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 3}" font-size="11" text-anchor="middle" opacity=".75">'
        "consistency score S_c</text>"
    )
    if tau is not None:
        parts.append(
            f'<line x1="{at(tau):.1f}" x2="{at(tau):.1f}" y1="{top - 8}" y2="{floor}" stroke="currentColor" '
            f'stroke-dasharray="5 4" stroke-width="1.5"/>'
            f'<text x="{at(tau):.1f}" y="{top - 12}" font-size="11" text-anchor="middle">τ {number(tau)}</text>'
        )
    for role, value in (markers or {}).items():
        look = ROLES[role]
        parts.append(
            f'<line x1="{at(value):.1f}" x2="{at(value):.1f}" y1="{top + 6}" y2="{floor}" stroke="{look.colour}" '
            'stroke-width="2.5"/>'
            f'<text x="{at(value):.1f}" y="{top + 4}" font-size="15" text-anchor="middle" '
            f'style="fill:{look.colour}">{look.mark}</text>'
        )
    legend = "".join(
        f'<span><span style="color:{ROLES[role].colour}" aria-hidden="true">{ROLES[role].mark}</span> {role}'
        f"{' (hatched)' if role == 'adversarial' else ''}, {sum(bars)} pairs</span>"
        for role, bars in counts.items()
    )
    return (
        f'<div class="cm-h">{escape(title)}</div><div class="cm-legend">{legend}</div>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def histogram_table(edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> list[dict[str, float]]:
    """The same data as rows."""
    return [
        {"from": float(edges[i]), "to": float(edges[i + 1])} | {role: int(bars[i]) for role, bars in counts.items()}
        for i in range(len(edges) - 1)
    ]
