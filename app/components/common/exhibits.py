"""Draws what `cmai_core.lab.exhibits` declares: words, tables, bars with intervals, curves, pictures."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from app.components.common.chart import chart
from app.components.common.fold import fold_table
from app.components.common.svg import line_chart
from app.components.common.theme import ROLES, escape, mark, show, subscript
from app.services.pictures import picture_url
from cmai_core.lab.exhibits import Bar, Bars, Curves, Exhibit, Pictures, Table, Words


def draw(exhibits: Iterable[Exhibit], key: str) -> None:
    """Draw exhibits under each other; `key` begins the keys of their elements."""
    for number, one in enumerate(exhibits):
        _one(one, f"{key}_{number}")


def _one(one: Exhibit, key: str) -> None:
    if isinstance(one, Words):
        show(f"<p>{subscript(one.text)}</p>")
    elif isinstance(one, Table):
        show(f'<div class="cm-h">{subscript(one.title)}</div>')
        st.dataframe(list(one.rows), hide_index=True, key=key, placeholder="–")
    elif isinstance(one, Bars):
        bars(one, key)
    elif isinstance(one, Curves):
        _curves(one, key)
    else:
        pictures(one)


def bars(one: Bars, key: str) -> None:
    """Draw bars with their intervals, and the same as a table."""
    lines = "".join(_bar(bar, one) for bar in one.bars)
    level = f'<div class="cm-small cm-muted">┊ {escape(one.level[1])}: {one.level[0]:.3g}</div>' if one.level else ""
    show(f'<figure class="cm-bars"><figcaption class="cm-h">{subscript(one.title)}</figcaption>{lines}{level}</figure>')
    fold_table("As a table", lambda: [_row(bar) for bar in one.bars], key=f"{key}_table")


def _row(bar: Bar) -> dict[str, object]:
    return {"": bar.label, "value": bar.value, "95 % from": bar.low, "to": bar.high, "in words": bar.said}


def _bar(bar: Bar, one: Bars) -> str:
    def at(value: float) -> str:
        share = (value - one.least) / (one.most - one.least)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"

    zero = min(max(0.0, one.least), one.most)
    low, high = sorted((zero, bar.value))
    parts = [
        f'<span class="fill" style="left:{at(low)};right:calc(100% - {at(high)});'
        f'background:{ROLES[bar.role].colour}"></span>'
    ]
    if bar.low is not None and bar.high is not None:
        parts.append(f'<span class="span" style="left:{at(bar.low)};right:calc(100% - {at(bar.high)})"></span>')
    if one.level is not None:
        parts.append(f'<span class="level" style="left:{at(one.level[0])}"></span>')
    return (
        f'<div class="bar"><span class="label">{mark(bar.role)}{subscript(bar.label)}</span>'
        f'<span class="track" aria-hidden="true">{"".join(parts)}</span>'
        f'<span class="said">{escape(bar.said).replace("-", "−")}</span></div>'
    )


def _curves(one: Curves, key: str) -> None:
    longest = max((len(values) for values, _ in one.curves.values()), default=1)
    markup = line_chart(dict(one.curves), title=one.title, x_label=one.x_label, x_max=longest - 1, line_at=one.level)
    chart(markup, key=key)
    fold_table("As a table", lambda: _steps(one), key=f"{key}_table")


def _steps(one: Curves) -> list[dict[str, float]]:
    longest = max(len(values) for values, _ in one.curves.values())
    return [
        {one.x_label: k, **{name: values[k] for name, (values, _) in one.curves.items() if k < len(values)}}
        for k in range(longest)
    ]


def pictures(one: Pictures) -> None:
    """Draw pictures beside each other; sent as PNG, so that what is compared is exact."""
    figures = "".join(
        f'<figure><img src="{picture_url(p.pixels)}" alt="{escape(p.alt)}">'
        f"<figcaption>{subscript(p.caption)}</figcaption></figure>"
        for p in one.pictures
    )
    show(f'<div class="cm-exhibit">{figures}</div>')
