"""The form, the map and the details of the page Embedding map."""

from __future__ import annotations

import streamlit as st

from app import services, state
from app.components import plots
from app.components.before_after import before_after
from app.components.distribution_view import MOST_STEPS, SETS, survey
from app.components.fields import among, number_field
from app.components.theme import escape, label, mark, number, show, signed
from app.navigation import go
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.experiment import EPSILON_LADDER, Experiment
from cmai_core.lab.places import is_offered

COUNTS = (16, 32, 64, 128, 200)
METHOD_WORDS = {"umap": "UMAP (neighbourhoods)", "pca": "PCA (linear)"}


def form() -> None:
    """What to draw."""
    a, b, c, d = st.columns([2, 2, 2, 1.2])
    a.selectbox("Split", list(SETS), format_func=SETS.get, key="embedding_set", persist_state="session")
    b.select_slider("Pairs", COUNTS, value=64, key="embedding_count", persist_state="session")
    c.select_slider(
        "ε",
        EPSILON_LADDER,
        value=4.0,
        key="embedding_epsilon",
        format_func=lambda k: f"{k:g}/255",
        persist_state="session",
    )
    number_field(d, "Steps", "embedding_steps", low=1, high=MOST_STEPS, value=10, persist_state="session")


def asked() -> tuple[str, int, Experiment]:
    """(split, pairs, experiment) as the form stands.

    Raises:
        CmaiError: for the first thing that is missing or out of range.
    """
    name, count = st.session_state.embedding_set, st.session_state.embedding_count
    if name not in SETS or count not in COUNTS:
        raise OptionError("This split or number of pairs is not offered.")
    return name, count, survey(name, "embedding")


def start() -> None:
    """Validates and queues the map."""
    try:
        name, count, experiment = asked()
        shelf = services.shelf()
        handle = services.submit(
            "embedding map",
            lambda progress, cancel: services.embedding_work(name, count, experiment, shelf, progress, cancel),
            models=services.experiment_models(experiment).values(),
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.EMBEDDING_JOB, handle)


def result(made) -> None:
    """The map of one model by one method, the drift control, and the chosen pair beside it."""
    roles = list(made.models)
    one, two = st.columns([1, 1])
    role = one.segmented_control(
        "Model",
        roles,
        default=roles[0],
        key="embedding_role",
        required=True,
        format_func=lambda r: f"{r}: {made.models[r].name}",
    )
    method = two.segmented_control(
        "Projection",
        list(METHOD_WORDS),
        default="umap",
        key="embedding_method",
        required=True,
        format_func=METHOD_WORDS.get,
    )
    role = role if role in roles else roles[0]
    method = method if method in METHOD_WORDS else "umap"
    embedded = made.models[role]
    projection = embedded.projections[method]
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        title = f"{role.capitalize()}: pictures move by a cosine distance of {embedded.moved.mean():.2f} on average"
        figure = services.embedding_figure(made.key, role, method, made, title)
        event = st.plotly_chart(
            figure,
            key=f"embedding_{role}_{method}",
            on_select="rerun",
            selection_mode="points",
            config=plots.CONFIG | {"scrollZoom": True},
            alt=f"{title}. {len(made.ids)} pairs by {METHOD_WORDS[method]}; the table below holds every point.",
        )
        picked = plots.selected_id(event)
        if picked:
            state.put(state.SELECTED_POINT, picked)
        honesty(projection, method)
    with right:
        chosen = state.get(state.SELECTED_POINT)
        ids = list(made.ids)
        chosen = st.selectbox(
            "Pair",
            ids,
            index=ids.index(chosen) if chosen in ids else 0,
            format_func=lambda i: f"{i.rsplit('/', 1)[-1]} · {made.captions[ids.index(i)]}",
            help="Or click a point of the map.",
        )
        chosen = among(chosen, ids)
        state.put(state.SELECTED_POINT, chosen)
        details(made, ids.index(chosen))
    fold = st.expander("Every point as a table", key="fold_embedding", on_change="rerun")
    if fold.open:
        import pandas as pd

        frame = pd.DataFrame(made.rows(role, method))
        fold.dataframe(frame, hide_index=True)
        fold.download_button("CSV", frame.to_csv(index=False), "cmai-embedding.csv", "text/csv", on_click="ignore")


def honesty(projection, method: str) -> None:
    """What the map can and cannot tell."""
    moved = projection.displacements["clean", "adversarial"]
    control = projection.control
    drift = (
        f"Drift control: {len(control.rows)} points were copied with a little noise (cosine distance "
        f"{control.cosine_distance:.3f}); {int(moved.beyond_control.sum())} of {len(moved.plane)} arrows are "
        "longer than "
        "95 % of the copies' moves, the others are dotted and mean nothing."
    )
    if method == "umap":
        kept = projection.trustworthiness
        trust = "" if kept is None else f" Of the neighbourhoods {kept:.0%} are kept (trustworthiness)."
        st.caption(
            "UMAP keeps neighbourhoods, not distances or directions; all points were projected in one "
            f"batch.{trust} {drift}"
        )
    else:
        share = sum(projection.explained_variance or (0, 0))
        st.caption(f"PCA is the linear view; these two axes hold {share:.0%} of the variance. {drift}")


def details(made, k: int) -> None:
    """The chosen pair: pictures and numbers of every model."""
    first = next(iter(made.models.values()))
    before_after(
        first.clean_pictures[k],
        first.adversarial_pictures[k],
        key="embedding_slider",
        alt=made.captions[k],
        max_width=420,
    )
    show(f'<p class="cm-quote">{escape(made.captions[k])}</p>')
    rows = "".join(
        f"<tr><td>{label(role, role.capitalize())}</td><td>{number(e.score_clean[k])}</td>"
        f"<td>{number(e.score_adversarial[k])}</td>"
        f"<td>{signed(float(e.score_adversarial[k] - e.score_clean[k]))}</td><td>{number(e.moved[k])}</td></tr>"
        for role, e in made.models.items()
    )
    show(
        f"<table><thead><tr><th></th><th>{mark('clean')}S<sub>c</sub></th><th>{mark('adversarial')}S<sub>c</sub></th><th>Δ</th>"
        f"<th>cosine distance moved</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    offered = is_offered(made.ids[k])
    if st.button(
        "Open this pair in the attack lab", key="open_pair", icon=":material/experiment:", width="stretch",
        disabled=not offered, help=None if offered else "The attack lab does not have this split.",
    ):  # fmt: skip
        from app.components.pair_picker import choose

        choose(made.ids[k], made.captions[k])
        go("attack_lab")
