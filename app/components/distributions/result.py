"""A measured distribution: histograms with a threshold for each model, rates, ROC, table."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.components.common.chart import chart
from app.components.common.fold import fold_table
from app.components.common.plots import CONFIG
from app.components.common.survey import survey_words
from app.components.common.svg import histogram, histogram_table
from app.components.common.theme import label, number, show
from app.components.distributions.plots import roc_figure, score_histogram
from app.services.showcase import showcase, threshold_words
from app.services.thresholds import basis_of
from cmai_core.data.registry import kind_of, split_title
from cmai_core.lab.belonging import epsilon_words
from cmai_core.lab.choices import THREATS

if TYPE_CHECKING:
    from cmai_core.lab.distribution import ScoreDistribution


def bundled() -> None:
    """Draw the bundled measurement, which stands there until something is measured."""
    bundle = showcase()
    if bundle is None:
        st.info("Nothing measured yet. Choose a split and press Measure.", icon="ℹ️")
        return
    st.caption(
        f"Bundled: {bundle.pairs} pairs of {split_title(bundle.result.experiment.pair)}, "
        f"{THREATS[bundle.result.experiment.norm]} ε = {epsilon_words(bundle.result.experiment)}. "
        "Press Measure for your own."
    )
    columns = st.columns(max(1, len(bundle.histograms)))
    for column, (role, data) in zip(columns, bundle.histograms.items(), strict=False):
        with column, st.container(border=True, key=f"card_bundled_{role}"):
            counts = {"clean": data.clean, "adversarial": data.adversarial}
            title = f"{role.capitalize()}: {bundle.flagged[role]:.0%} of the attacked pairs lie below τ"
            chart(histogram(data.edges, counts, title=title, tau=bundle.tau[role]), key=f"bundled_{role}")
            st.caption(
                f"{threshold_words(bundle, role)} Of the clean pairs counted here, which had no part in it, "
                f"{bundle.flagged_clean[role]:.1%} lie below."
            )
            fold_table("As a table", partial(histogram_table, data.edges, counts), key=f"fold_bundled_{role}")


def result(measured: ScoreDistribution) -> None:
    """Draw thresholds, their rates, histograms, ROC and table."""
    if measured.cancelled:
        st.info(f"Cancelled: {len(measured.ids)} pairs were finished.", icon="⏹️")
    if not measured.ids:
        return
    low, high = _range(measured)
    taus = {}
    for column, role in zip(st.columns(len(measured.clean)), measured.clean, strict=True):
        with column:
            taus[role] = _threshold(measured, role, low, high)
    rates = {role: measured.rates(role, tau) for role, tau in taus.items()}
    areas = _areas(measured.key, measured)
    _rates_table(measured, rates, areas)
    for column, role in zip(st.columns(len(rates)), rates, strict=True):
        with column:
            _histogram(measured, role, taus[role], rates[role], (low - 0.02, high + 0.02))
    left, right = st.columns([1, 1])
    with left:
        title = "ROC: " + ", ".join(f"{role} {areas[role].value:.2f}" for role in rates)
        st.plotly_chart(
            roc_figure({role: measured.roc(role) for role in rates}, rates, title=title),
            key="roc",
            config=CONFIG,
            alt=f"Receiver operating characteristic. Area under the curve: {title[5:]}.",
        )
    with right:
        _table(measured)


def _range(measured: ScoreDistribution) -> tuple[float, float]:
    """Return the range of all scores, of some width."""
    values = [v for role in measured.clean for v in (*measured.clean[role], *measured.adversarial[role])]
    low, high = min(values), max(values)
    return (low - 0.01, high + 0.01) if high - low < 1e-4 else (low, high)


def _threshold(measured: ScoreDistribution, role: str, low: float, high: float) -> float:
    """Draw the slider of a model's τ, which starts at the model's own threshold if that is known."""
    e = measured.experiment
    basis = basis_of(e.models[role], measured.hashes[role], kind_of(e.pair))
    known = basis.tau()
    low, high = float(round(low, 3) - 0.001), float(round(high, 3) + 0.001)
    start = (low + high) / 2 if known is None else known
    low, high = min(low, start), max(high, start)
    tau = st.slider(
        f"τ of {measured.names[role]}: pairs with S_c below it are flagged", low, high, float(start), 0.001,
        format="%.3f", key=f"{state.THRESHOLD}_{role}_{measured.key}",
    )  # fmt: skip
    said = f"{basis.note} The slider starts in the middle." if known is None else f"It starts here: {basis.said()}"
    st.caption(said)
    return tau


@st.cache_data(show_spinner=False, max_entries=16)
def _areas(key: str, _measured: ScoreDistribution) -> dict[str, Any]:
    """Return role → area under the ROC with its interval; `key` says of which measurement."""
    return {role: _measured.auroc(role) for role in _measured.clean}


def _rates_table(measured: ScoreDistribution, rates: dict[str, tuple[float, float]], areas: dict[str, Any]) -> None:
    rows = "".join(
        f"<tr><td>{label(role, role.capitalize())} · {measured.names[role]}</td><td>{fpr:.1%}</td><td>{tpr:.1%}</td>"
        f"<td>{number(areas[role].value)} [{number(areas[role].low)}, {number(areas[role].high)}]</td></tr>"
        for role, (fpr, tpr) in rates.items()
    )
    show(
        "<table><thead><tr><th>at these thresholds</th><th>clean pairs flagged (false positives)</th>"
        "<th>attacked pairs flagged (true positives)</th><th>area under the "
        f"ROC</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _histogram(
    measured: ScoreDistribution, role: str, tau: float, rates: tuple[float, float], span: tuple[float, float]
) -> None:
    from cmai_core.lab.distribution import histogram_counts

    edges, clean, attacked = histogram_counts(measured.clean[role], measured.adversarial[role], 40, span)
    fpr, tpr = rates
    title = f"{role.capitalize()}: τ finds {tpr:.0%} of the attacks"
    st.plotly_chart(
        score_histogram(edges, clean, attacked, title=title, tau=tau),
        key=f"histogram_{role}",
        config=CONFIG,
        alt=f"{title} and flags {fpr:.0%} of the clean pairs. Histogram of S_c over {len(measured.ids)} pairs.",
    )


def _table(measured: ScoreDistribution) -> None:
    """Draw every pair, and the CSV."""
    import pandas as pd

    frame = pd.DataFrame(measured.rows())
    st.markdown("**Every pair**")
    st.dataframe(frame, hide_index=True, height=330)
    st.download_button(
        "CSV",
        frame.to_csv(index=False),
        "cmai-distribution.csv",
        "text/csv",
        icon=":material/table:",
        on_click="ignore",
    )
    said = survey_words(measured)
    st.caption(f"{len(frame)} pairs, {measured.seconds:.1f} s. Of {said}, seed {measured.experiment.seed}.")
