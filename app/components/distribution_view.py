"""The form and the figures of the page Distributions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from app import owner, services, state
from app.components import plots
from app.components.attack_form import NORM_WORDS
from app.components.chart import chart
from app.components.fields import number_field
from app.components.fold import fold_table
from app.components.hero import threshold_words
from app.components.models_choice import chosen_models
from app.components.svg import histogram, histogram_table
from app.components.theme import label, number, show
from app.threshold_desk import basis_of
from cmai_core.data.registry import kind_of, split_title
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.experiment import EPSILON_LADDER, NORMS, Experiment
from cmai_core.lab.places import surveyed_places

SETS = surveyed_places()
COUNTS = (16, 64, 128, 256, 512, 1000)
MOST_STEPS = 100


def form() -> None:
    """What to measure."""
    a, b, c, d, e = st.columns([2, 2, 2, 1.2, 1.2])
    a.selectbox("Split", list(SETS), format_func=SETS.get, key="distribution_set", persist_state="session")
    b.select_slider("Pairs", COUNTS, value=64, key="distribution_count", persist_state="session")
    c.select_slider(
        "ε",
        EPSILON_LADDER,
        value=4.0,
        key="distribution_epsilon",
        format_func=lambda k: f"{k:g}/255",
        persist_state="session",
    )
    d.segmented_control(
        "Norm",
        NORMS,
        default="linf",
        key="distribution_norm",
        format_func=NORM_WORDS.get,
        required=True,
        persist_state="session",
    )
    number_field(e, "Steps", "distribution_steps", low=1, high=MOST_STEPS, value=10, persist_state="session")
    st.caption(
        "The attacker lowers S_c itself, on each model separately (white box): the hardest case for a threshold."
    )


def asked() -> tuple[str, int, Experiment]:
    """(split, pairs, experiment) as the form stands.

    Raises:
        CmaiError: for the first thing that is missing or out of range.
    """
    name, count = st.session_state.distribution_set, st.session_state.distribution_count
    if name not in SETS or count not in COUNTS:
        raise OptionError("This split or number of pairs is not offered.")
    return name, count, survey(name, "distribution", st.session_state.distribution_norm)


def survey(name: str, page: str, norm: str = "linf") -> Experiment:
    """The experiment of a page that attacks many pairs of a split.

    Raises:
        CmaiError: for the first thing that is missing or out of range.
    """
    models = chosen_models()
    epsilon, steps = float(st.session_state[f"{page}_epsilon"]), st.session_state[f"{page}_steps"]
    if steps is None or not 1 <= steps <= MOST_STEPS:
        raise OptionError(f"steps is {steps}.", f"It lies between 1 and {MOST_STEPS}.")
    return Experiment(
        pair=f"{name}/0",
        caption="the pair's first caption",
        undefended=models["undefended"],
        defended=models.get("defended", ""),
        craft_on="each",
        norm=norm,
        epsilon=epsilon,
        steps=int(steps),
        step_size=round(2.5 * epsilon / steps, 4),
        objective="consistency",
    ).checked()


def moved_on(made, wanted: Callable[[], tuple[str, int, Experiment]]) -> tuple[Difference, ...]:
    """How the form of a page that attacks many pairs has moved on from what is on show."""
    try:
        name, count, experiment = wanted()
    except CmaiError:  # the form is half filled in: there is nothing to compare with yet
        return ()
    found = []
    shown = made.experiment.pair.removesuffix("/0")
    if shown != name:
        found.append(Difference("pair", "split", SETS.get(shown, shown), SETS[name]))
    if made.asked != count:
        found.append(Difference("setting", "pairs", f"{made.asked}", f"{count}"))
    return (*found, *(d for d in differences(made.experiment, experiment) if d.what not in ("pair", "sentence")))


def of_many(made) -> str:
    """What a result on many pairs belongs to, in a sentence without a full stop."""
    e = made.experiment
    names = " and ".join(owner.shown(spec) for spec in (e.undefended, e.defended) if spec)
    split = SETS.get(e.pair.removesuffix("/0"), e.pair)
    return f"{made.asked} pairs of {split}, {NORM_WORDS[e.norm]}, ε = {e.epsilon:g}/255, {e.steps} steps, on {names}"


def start() -> None:
    """Validates and queues the measurement."""
    try:
        name, count, experiment = asked()
        shelf = services.shelf()
        handle = services.submit(
            "distribution",
            lambda progress, cancel: services.distribution_work(name, count, experiment, shelf, progress, cancel),
            models=services.experiment_models(experiment).values(),
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.DISTRIBUTION_JOB, handle)


def bundled() -> None:
    """The bundled measurement, while nothing has been measured here."""
    bundle = services.showcase()
    if bundle is None:
        st.info("Nothing measured yet. Choose a split and press Measure.", icon="ℹ️")
        return
    st.caption(
        f"Bundled: {bundle.pairs} pairs of {split_title(bundle.result.experiment.pair)}, "
        f"L∞ ε = {bundle.result.experiment.epsilon:g}/255. "
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


def result(measured) -> None:
    """Histograms with a threshold, the rates it gives, the ROC, the table."""
    from cmai_core.lab.distribution import histogram_counts

    if measured.cancelled:
        st.info(f"Cancelled: {len(measured.ids)} pairs were finished.", icon="⏹️")
    if not measured.ids:
        return
    roles = list(measured.clean)
    values = [v for role in roles for v in (*measured.clean[role], *measured.adversarial[role])]
    low, high = min(values), max(values)
    if high - low < 1e-4:
        low, high = low - 0.01, high + 0.01
    taus = {}
    for column, role in zip(st.columns(len(roles)), roles, strict=True):
        with column:
            taus[role] = threshold(measured, role, low, high)
    rates = {role: measured.rates(role, taus[role]) for role in roles}
    areas = services.areas(measured.key, measured)
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
    columns = st.columns(len(roles))
    for column, role in zip(columns, roles, strict=True):
        edges, clean, attacked = histogram_counts(
            measured.clean[role], measured.adversarial[role], 40, (low - 0.02, high + 0.02)
        )
        fpr, tpr = rates[role]
        title = f"{role.capitalize()}: τ finds {tpr:.0%} of the attacks"
        with column:
            st.plotly_chart(
                plots.score_histogram(edges, clean, attacked, title=title, tau=taus[role]),
                key=f"histogram_{role}",
                config=plots.CONFIG,
                alt=f"{title} and flags {fpr:.0%} of the clean pairs. Histogram of S_c over {len(measured.ids)} pairs.",
            )
    left, right = st.columns([1, 1])
    with left:
        title = "ROC: " + ", ".join(f"{role} {areas[role].value:.2f}" for role in roles)
        st.plotly_chart(
            plots.roc_figure({r: measured.roc(r) for r in roles}, rates, title=title),
            key="roc",
            config=plots.CONFIG,
            alt=f"Receiver operating characteristic. Area under the curve: {title[5:]}.",
        )
    with right:
        table(measured)


def threshold(measured, role: str, low: float, high: float) -> float:
    """The slider of a model's τ; it starts where the model's own threshold is, wherever that is known."""
    e = measured.experiment
    spec = e.undefended if role == "undefended" else e.defended
    basis = basis_of(spec, measured.hashes[role], kind_of(e.pair))
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


def table(measured) -> None:
    """Every pair, and the CSV."""
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
    said = of_many(measured)
    st.caption(f"{len(frame)} pairs, {measured.seconds:.1f} s. Of {said}, seed {measured.experiment.seed}.")
