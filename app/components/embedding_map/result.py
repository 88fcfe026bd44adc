"""A drawn map: the points of one model by one projection, the drift control, and the chosen pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app import navigation, state
from app.components.common.before_after import before_after
from app.components.common.fields import one_of
from app.components.common.plots import CONFIG, selected_id
from app.components.common.theme import escape, label, mark, number, show, signed
from app.components.embedding_map.plots import embedding_figure
from app.subject import choose_pair
from cmai_core.lab.places import is_offered

if TYPE_CHECKING:
    from cmai_core.lab.embedding import EmbeddingMap

METHOD_WORDS = {"umap": "UMAP (neighbourhoods)", "pca": "PCA (linear)"}
SELECTED = "selected_point"
"""Key of the selected pair's id in the session's state."""


def result(made: EmbeddingMap) -> None:
    """Draw the choice of model and projection, the map, the chosen pair, and all points as a table."""
    state.ensure(SELECTED, None)
    role, method = _choice(made)
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        _map(made, role, method)
        st.caption(honesty(made.models[role].projections[method], method))
    with right:
        _chosen(made)
    fold = st.expander("Every point as a table", key="fold_embedding", on_change="rerun")
    if fold.open:
        import pandas as pd

        frame = pd.DataFrame(made.rows(role, method))
        fold.dataframe(frame, hide_index=True)
        fold.download_button("CSV", frame.to_csv(index=False), "cmai-embedding.csv", "text/csv", on_click="ignore")


def _choice(made: EmbeddingMap) -> tuple[str, str]:
    """Draw the choosers; returns (role, projection)."""
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
    return one_of(role, roles), one_of(method, list(METHOD_WORDS))


def _map(made: EmbeddingMap, role: str, method: str) -> None:
    moved = made.models[role].moved.mean()
    title = f"{role.capitalize()}: pictures move by a cosine distance of {moved:.2f} on average"
    event = st.plotly_chart(
        _figure(made.key, role, method, made, title),
        key=f"embedding_{role}_{method}",
        on_select="rerun",
        selection_mode="points",
        config=CONFIG | {"scrollZoom": True},
        alt=f"{title}. {len(made.ids)} pairs by {METHOD_WORDS[method]}; the table below holds every point.",
    )
    picked = selected_id(event)
    if picked:
        state.put(SELECTED, picked)


@st.cache_resource(show_spinner=False, max_entries=16)
def _figure(key: str, role: str, method: str, _made: EmbeddingMap, title: str) -> Any:
    """Return the map's figure: the same object while the map is the same, so that a selection survives reruns."""
    projection = _made.models[role].projections[method]
    shares = projection.explained_variance
    axes = (
        ("", "")
        if shares is None
        else tuple(f"axis {k + 1}: {share:.0%} of the variance" for k, share in enumerate(shares))
    )
    real = projection.displacements["clean", "adversarial"].beyond_control
    return embedding_figure(projection.points, real, _made.ids, _made.captions, title=title, axes=axes)


def honesty(projection: Any, method: str) -> str:
    """Return what the map can and cannot tell."""
    moved = projection.displacements["clean", "adversarial"]
    control = projection.control
    drift = (
        f"Drift control: {len(control.rows)} points were copied with a little noise (cosine distance "
        f"{control.cosine_distance:.3f}); {int(moved.beyond_control.sum())} of {len(moved.plane)} arrows are "
        "longer than "
        "95 % of the copies' moves, the others are dotted and mean nothing."
    )
    if method != "umap":
        share = sum(projection.explained_variance or (0, 0))
        return f"PCA is the linear view; these two axes hold {share:.0%} of the variance. {drift}"
    kept = projection.trustworthiness
    trust = "" if kept is None else f" Of the neighbourhoods {kept:.0%} are kept (trustworthiness)."
    return (
        "UMAP keeps neighbourhoods, not distances or directions; all points were projected in one batch."
        f"{trust} {drift}"
    )


def _chosen(made: EmbeddingMap) -> None:
    """Draw the choice of a pair, its pictures and numbers, and the way to the attack lab."""
    ids = list(made.ids)
    chosen = state.get(SELECTED)
    chosen = st.selectbox(
        "Pair",
        ids,
        index=ids.index(chosen) if chosen in ids else 0,
        format_func=lambda i: f"{i.rsplit('/', 1)[-1]} · {made.captions[ids.index(i)]}",
        help="Or click a point of the map.",
    )
    chosen = one_of(chosen, ids)
    state.put(SELECTED, chosen)
    k = ids.index(chosen)
    _details(made, k)
    offered = is_offered(chosen)
    if st.button(
        "Open this pair in the attack lab", key="open_pair", icon=":material/experiment:", width="stretch",
        disabled=not offered, help=None if offered else "The attack lab does not have this split.",
    ):  # fmt: skip
        choose_pair(chosen, made.captions[k])
        navigation.go("attack_lab")


def _details(made: EmbeddingMap, k: int) -> None:
    """Draw pictures and numbers of one pair."""
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
        f"<table><thead><tr><th></th><th>{mark('clean')}S<sub>c</sub></th><th>{mark('adversarial')}S<sub>c</sub></th>"
        f"<th>Δ</th><th>cosine distance moved</th></tr></thead><tbody>{rows}</tbody></table>"
    )
