"""S_c of each model with its threshold, the ROC, and what the threshold does to the pairs that are left."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.common.plots import CONFIG
from app.components.common.theme import escape, label, number, show
from app.components.explore.plots import histogram_figure, roc_figure, selected
from app.components.explore.view import WHERE, View, basis, tau_key, tau_range
from app.services import explore as service
from app.services.explore import named
from cmai_core.lab.explore import rates
from cmai_core.lab.explore.run import SIDES, ExploreRun

if TYPE_CHECKING:
    from cmai_core.evaluation.figures.detection import Interval


def histograms(view: View) -> None:
    """Draw, for each model, the slider of its τ and the histogram."""
    every = view.mask | True
    counted = {role: rates.score_histogram(view.run, role, view.level, every) for role in view.run.parts}
    most = max(int(counts.max()) for one in counted.values() for counts in one.counts.values())
    for role, part in view.run.parts.items():
        known = basis(view.run, role)
        low, high, start = tau_range(view.run, role)
        said = known.said() if known.tau() is not None else f"{known.note} The slider starts in the middle."
        tau = st.slider(
            f"τ of {role} · {part.name}", low, high, start, 0.001, format="%.3f", key=tau_key(view.run, role)
        )
        found = rates.confusion(view.run, role, view.level, tau, view.mask)
        title = f"{role}: τ finds {percent(found.true_positive_rate)} of the attacks"
        key = f"explore_scores_{role}_{view.run.key}"
        st.plotly_chart(
            histogram_figure(
                rates.score_histogram(view.run, role, view.level, view.mask), counted[role],
                title=title, tau=tau, most=most,
            ),
            key=key, on_select=partial(_brushed, view.run, role, key), selection_mode="points",
            config=CONFIG | {"displayModeBar": False},
            alt=f"{title} and flags {percent(found.false_positive_rate)} of the clean pairs. Histogram of S_c over "
            f"{view.count} pairs; lines outline all {len(view.run)}.",
        )  # fmt: skip
        st.caption(said)


def _brushed(run: ExploreRun, role: str, key: str) -> None:
    """Take the bars that were picked: a range of S_c, of the side that most of them show."""
    bars = [data for data in selected(st.session_state.get(key)) if len(data) == 3 and data[0] in SIDES]
    where = state.get(WHERE)
    ranges = {place: ends for place, ends in where.ranges.items() if place[0] != role}
    if bars:
        sides = [str(side) for side, _, _ in bars]
        side = max(sorted(set(sides)), key=sides.count)
        its = [(float(low), float(high)) for s, low, high in bars if s == side]
        ranges[role, side] = (round(min(low for low, _ in its), 4), round(max(high for _, high in its), 4))
    elif len(ranges) == len(where.ranges):
        return
    state.put(WHERE, replace(where, ranges=ranges))


def detection(view: View) -> None:
    """Draw the ROC and the confusion at τ."""
    areas = {role: service.area(view.run, role, view.level, view.mask) for role in view.run.parts}
    curves = {role: rates.roc(view.run, role, view.level, view.mask) for role in view.run.parts}
    found = {role: rates.confusion(view.run, role, view.level, view.taus[role], view.mask) for role in view.run.parts}
    title = "ROC: " + ", ".join(f"{role} {number(area.value if area else None)}" for role, area in areas.items())
    points = {role: (one.false_positive_rate, one.true_positive_rate) for role, one in found.items()}
    st.plotly_chart(
        roc_figure(curves, points, title=title), key=f"explore_roc_{named(view.mask)}",
        config=CONFIG | {"displayModeBar": False}, alt=f"Receiver operating characteristic; area under it: {title[5:]}",
    )  # fmt: skip
    rows = "".join(_rows(view, role, found[role], areas[role]) for role in view.run.parts)
    show(
        '<table class="cm-table"><thead><tr><th>at τ</th><th>flagged</th><th>passed</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _rows(view: View, role: str, one: rates.Confusion, area: Interval | None) -> str:
    interval = "" if area is None else f" [{number(area.low)}, {number(area.high)}]"
    value = None if area is None else area.value
    return (
        f'<tr><th colspan="3">{label(role, role)} · area {number(value)}{interval}</th></tr>'
        f"<tr><td>{label('clean')}</td><td>{one.clean_flagged} ({percent(one.false_positive_rate)})</td>"
        f"<td>{one.clean_passed}</td></tr>"
        f"<tr><td>{label('adversarial', 'attacked')}</td><td>{one.attacked_flagged} "
        f"({percent(one.true_positive_rate)})</td><td>{one.attacked_passed}, of which {one.undetected} fooled {role}"
        "</td></tr>"
    )


def percent(share: float) -> str:
    """Return a share in per cent; an en dash if there is none."""
    return "–" if share != share else f"{share:.0%}"


def finding(view: View) -> None:
    """Say how often each model was fooled among the pairs that are left."""
    said = []
    for role, part in view.run.parts.items():
        one = rates.success(view.run, role, view.level, view.mask)
        interval = "" if not one.total else f" [{percent(one.low)}, {percent(one.high)}]"
        said.append(
            f"{label(role, role)} <b>{escape(part.name)}</b>: fooled on <b>{percent(one.rate)}</b>{interval} of the "
            f"{one.total} it gets right when clean"
        )
    count = f"{view.count:,} of {len(view.run):,} pairs" if view.where else f"{view.count:,} pairs"
    show(f"<p>{' &nbsp;·&nbsp; '.join([count, *said])}</p>")
