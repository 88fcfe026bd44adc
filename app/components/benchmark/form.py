"""The form of a grid: models, tasks, recipes, ε, pairs."""

from __future__ import annotations

import streamlit as st

from app import state
from app.access import permissions
from app.components.benchmark.words import model_word
from app.components.common.words import TASK_WORDS
from app.services.models import catalogue, default_model
from app.services.thresholds import bundled_basis
from cmai_core.budget import Budget
from cmai_core.data.registry import kind_of, split_title
from cmai_core.lab.benchmark.choices import (
    COUNTS,
    EFFORTS,
    MAX_MODELS,
    MODALITIES,
    OFFERS,
    QUICK_QUERIES,
    QUICK_STEPS,
    GridChoice,
    sets,
)
from cmai_core.lab.experiment import EPSILON_LADDER
from cmai_core.tasks import TASKS

KINDS = {"full": "every cell in full", "cascade": "worst case only"}

EFFORT_WORDS = {"quick": "quick", "usual": "as in the attack lab", "published": "as published"}

_HELP = {
    "image": "They change pixels by at most ε; few pixels, patch and typographic have a budget of their own, and "
    "searches for the nearest picture serve every ε at once. Marked (τ): they also evade a detector on S_c.",
    "text": "They change words of the sentence and leave the picture, so only S_c answers to them.",
    "joint": "They change pixels by at most ε, and words with them.",
}

_PILLS = {"image": state.BENCH_IMAGE, "text": state.BENCH_TEXT, "joint": state.BENCH_JOINT}


def settle() -> None:
    """Choose the bundled models if none is chosen yet. Call it before the widgets are drawn."""
    if not state.get(state.BENCH_MODELS):
        names = [default_model(defended) for defended in (False, True)]
        state.put(state.BENCH_MODELS, [name for name in names if name])


def choice() -> GridChoice:
    """Return the grid as the widgets stand."""
    get = state.get
    return GridChoice(
        models=tuple(dict.fromkeys(spec.strip() for spec in get(state.BENCH_MODELS))),
        tasks=tuple(get(state.BENCH_TASKS)),
        recipes=tuple(slug for key in _PILLS.values() for slug in get(key)),
        epsilons=tuple(get(state.BENCH_EPSILONS)),
        dataset=get(state.BENCH_SET),
        count=get(state.BENCH_COUNT),
        cascade=get(state.BENCH_KIND) == "cascade",
        transfer=bool(get(state.BENCH_TRANSFER)),
        seed=int(get(state.BENCH_SEED)),
        effort=get(state.BENCH_EFFORT),
        detection=bool(get(state.BENCH_DETECTION)),
        tau=float(get(state.BENCH_TAU)),
    )


def take(wanted: GridChoice) -> None:
    """Set the widgets to a grid. Call it before they are drawn."""
    for modality, key in _PILLS.items():
        state.put(key, [offer.slug for offer in wanted.offers if offer.modality == modality])
    for key, value in (
        (state.BENCH_MODELS, list(wanted.models)), (state.BENCH_TASKS, list(wanted.tasks)),
        (state.BENCH_EPSILONS, list(wanted.epsilons)), (state.BENCH_SET, wanted.dataset),
        (state.BENCH_COUNT, wanted.count), (state.BENCH_KIND, "cascade" if wanted.cascade else "full"),
        (state.BENCH_TRANSFER, wanted.transfer), (state.BENCH_SEED, wanted.seed), (state.BENCH_EFFORT, wanted.effort),
        (state.BENCH_DETECTION, wanted.detection),
    ):  # fmt: skip
        state.put(key, value)
    if wanted.tau is not None:
        state.put(state.BENCH_TAU, wanted.tau)


def form() -> None:
    """Draw the widgets of the grid."""
    _models_and_tasks()
    _attacks()
    _budget()
    _measure()
    with st.expander("More settings"):
        _more()


def _models_and_tasks() -> None:
    now = permissions.rules()
    known = [*(card.name for card in catalogue()), *now.allow]
    names = [*known, *(name for name in state.get(state.BENCH_MODELS) if name not in known)]
    one, two = st.columns([3, 2], gap="medium")
    one.multiselect(
        "Models", names, key=state.BENCH_MODELS, format_func=model_word, accept_new_options=now.any,
        max_selections=MAX_MODELS, placeholder="Choose, or type an OpenCLIP specification" if now.any else "Choose",
        help="Each is attacked itself, and shown what was crafted on the others."
        + (" For others type `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:…` or `ViT-B-32/random`." if now.any else ""),
    )  # fmt: skip
    two.pills(
        "Tasks", list(TASKS), selection_mode="multi", key=state.BENCH_TASKS, format_func=TASK_WORDS.get, wrap=True
    )


def _attacks() -> None:
    """Draw the recipes as pills, by what they attack."""
    for modality, key in _PILLS.items():
        slugs = [slug for slug, offer in OFFERS.items() if offer.modality == modality]
        st.pills(
            f"Attacks on {MODALITIES[modality]}", slugs, selection_mode="multi", key=key, help=_HELP[modality],
            format_func=lambda slug: OFFERS[slug].word + (" (τ)" if OFFERS[slug].detector else ""),
        )  # fmt: skip


def _budget() -> None:
    one, two = st.columns([3, 2], gap="medium")
    one.pills(
        "ε, the largest change of a pixel value", EPSILON_LADDER, selection_mode="multi", key=state.BENCH_EPSILONS,
        format_func=lambda k: Budget("linf", k).words,
    )  # fmt: skip
    two.select_slider("Pairs", COUNTS, key=state.BENCH_COUNT)


def _measure() -> None:
    """Draw how thoroughly the grid is measured, and the threshold that a detector's attacks need."""
    one, two = st.columns([3, 2], gap="medium")
    one.segmented_control(
        "Measure", list(KINDS), key=state.BENCH_KIND, format_func=KINDS.get, required=True,
        help="Worst case only: for each model, task and ε the attacks run one after another, cheap ones first, each "
        "only on pairs that none before it has turned wrong. The worst case stays exact; single attacks get no figure "
        "of their own.",
    )  # fmt: skip
    two.segmented_control(
        "Effort", EFFORTS, key=state.BENCH_EFFORT, format_func=EFFORT_WORDS.get, required=True,
        help=f"Quick: at most {QUICK_STEPS} steps and {QUICK_QUERIES} queries. A weak attack flatters a model: the "
        "self-checks say where more effort is due.",
    )  # fmt: skip
    if any(OFFERS[slug].detector for key in _PILLS.values() for slug in state.get(key) if slug in OFFERS):
        name = default_model(True) or default_model(False)
        basis = bundled_basis(name, kind_of(state.get(state.BENCH_SET))).said() if name else ""
        st.number_input(
            "τ, the detector's threshold on S_c that attacks marked (τ) evade", -1.0, 1.0, key=state.BENCH_TAU,
            step=0.01, format="%.4f", help=f"Of {name}: {basis}" if basis else None,
        )  # fmt: skip


def _more() -> None:
    one, two, three = st.columns(3, vertical_alignment="bottom")
    one.selectbox("Pairs from", sets(), key=state.BENCH_SET, format_func=split_title)
    two.number_input("Seed of random starts", 0, 2**31 - 1, key=state.BENCH_SEED)
    with three:
        st.toggle("Show each model the others' examples", key=state.BENCH_TRANSFER)
        st.toggle(
            "Thresholds from clean validation pairs", key=state.BENCH_DETECTION,
            help="Reads 200 clean pairs more, which the detector's thresholds on S_c are then set on.",
        )  # fmt: skip
