"""Choosing a grid: models, tasks, recipes as chips, ε, pairs; presets; what it costs; start."""

from __future__ import annotations

import streamlit as st

from app import owner, services, state
from app.benchmark_desk import Desk
from app.components.attack_form import TASK_WORDS
from app.components.benchmark_results import model_word
from app.components.guard import plain
from app.components.theme import escape, show
from app.components.visitor_words import plain_reason, said
from app.threshold_desk import bundled_basis
from cmai_core.data.registry import kind_of, split_title
from cmai_core.errors import CmaiError
from cmai_core.lab.benchmark.choices import (
    COUNTS,
    EFFORTS,
    MAX_MODELS,
    MODALITIES,
    OFFERS,
    QUICK_QUERIES,
    QUICK_STEPS,
    GridChoice,
    Preset,
    command,
    duration,
    presets,
    recipe_words,
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
_CHIPS = {"image": state.BENCH_IMAGE, "text": state.BENCH_TEXT, "joint": state.BENCH_JOINT}


def settle() -> None:
    """Fills in the models where none is chosen yet; before the widgets are drawn."""
    if not state.get(state.BENCH_MODELS):
        names = [services.default_model(defended) for defended in (False, True)]
        state.put(state.BENCH_MODELS, [name for name in names if name])


def choice() -> GridChoice:
    """The grid as the widgets stand."""
    get = state.get
    return GridChoice(
        models=tuple(dict.fromkeys(spec.strip() for spec in get(state.BENCH_MODELS))),
        tasks=tuple(get(state.BENCH_TASKS)),
        recipes=tuple(slug for key in _CHIPS.values() for slug in get(key)),
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
    """Sets the widgets to a grid; before they are drawn."""
    for modality, key in _CHIPS.items():
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


def of_preset(preset: Preset) -> GridChoice:
    """A preset with the bundled models, and the detector's threshold where it needs one."""
    import dataclasses

    plain, defended = services.default_model(False), services.default_model(True)
    models = (plain, defended) if preset.models == 2 else (defended or plain,)
    tau = bundled_tau(defended or plain) if preset.choice.needs_tau else preset.choice.tau
    return dataclasses.replace(preset.choice, models=tuple(m for m in models if m), tau=tau)


def bundled_tau(spec: str) -> float:
    """Return τ of a bundled model's card, for pairs of the chosen set's kind; 0 where there is none."""
    return round(bundled_basis(spec, kind_of(state.get(state.BENCH_SET))).tau() or 0.0, 4)


def preset_cards(start) -> None:
    """One card a preset, with a button that starts it and one that only fills the form.

    Args:
        start: called with the `GridChoice`.
    """
    made = presets()
    for preset, column in zip(made, st.columns(len(made)), strict=True):
        with column, st.container(border=True, key=f"card_preset_{preset.slug}", height="stretch"):
            wanted = of_preset(preset)
            size = f"{wanted.cells} cells × {wanted.count} pairs, {duration(wanted.seconds)}"
            names = " · ".join(offer.word for offer in wanted.offers)
            show(
                f'<div class="cm-h">{escape(preset.title)}</div><div class="cm-small">{escape(preset.words)}</div>'
                f'<div class="cm-small cm-muted" style="margin-top:6px">{escape(names)}</div>'
                f'<div class="cm-small cm-muted">{escape(size)}</div>'
            )
            row = st.container(horizontal=True, gap="small")
            row.button(
                "Start", key=f"preset_{preset.slug}", type="primary", icon=":material/play_arrow:",
                on_click=start, args=(wanted,), disabled=not wanted.models,
            )  # fmt: skip
            row.button("Adjust", key=f"adjust_{preset.slug}", icon=":material/tune:", on_click=take, args=(wanted,))


def preset_row() -> None:
    """The presets as plain buttons that fill the form."""
    row = st.container(horizontal=True, gap="small", vertical_alignment="center", key="bench_presets")
    row.markdown("Fill in:", width="content")
    for preset in presets():
        row.button(preset.title, key=f"fill_{preset.slug}", help=preset.words, on_click=take, args=(of_preset(preset),))


def form() -> None:
    """The widgets of the grid."""
    now = owner.rules()
    known = [*(card.name for card in services.catalogue()), *now.allow]
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
    for modality, key in _CHIPS.items():
        slugs = [slug for slug, offer in OFFERS.items() if offer.modality == modality]
        st.pills(
            f"Attacks on {MODALITIES[modality]}", slugs, selection_mode="multi", key=key, help=_HELP[modality],
            format_func=lambda slug: OFFERS[slug].word + (" (τ)" if OFFERS[slug].detector else ""),
        )  # fmt: skip
    one, two = st.columns([3, 2], gap="medium")
    one.pills(
        "ε, the largest change of a pixel value", EPSILON_LADDER, selection_mode="multi", key=state.BENCH_EPSILONS,
        format_func=lambda k: f"{k:g}/255",
    )  # fmt: skip
    two.select_slider("Pairs", COUNTS, key=state.BENCH_COUNT)
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
    if any(OFFERS[slug].detector for key in _CHIPS.values() for slug in state.get(key) if slug in OFFERS):
        name = services.default_model(True) or services.default_model(False)
        basis = bundled_basis(name, kind_of(state.get(state.BENCH_SET))).said() if name else ""
        st.number_input(
            "τ, the detector's threshold on S_c that attacks marked (τ) evade", -1.0, 1.0, key=state.BENCH_TAU,
            step=0.01, format="%.4f", help=f"Of {name}: {basis}" if basis else None,
        )  # fmt: skip
    with st.expander("More settings"):
        one, two, three = st.columns(3, vertical_alignment="bottom")
        one.selectbox("Pairs from", sets(), key=state.BENCH_SET, format_func=split_title)
        two.number_input("Seed of random starts", 0, 2**31 - 1, key=state.BENCH_SEED)
        with three:
            st.toggle("Show each model the others' examples", key=state.BENCH_TRANSFER)
            st.toggle(
                "Thresholds from clean validation pairs", key=state.BENCH_DETECTION,
                help="Reads 200 clean pairs more, which the detector's thresholds on S_c are then set on.",
            )  # fmt: skip


@st.fragment(run_every=0.6)
def await_result(future) -> None:
    """Runs the page again when something counted in the background is there."""
    if future.done():
        st.rerun()


def cost_line(desk: Desk, wanted: GridChoice) -> bool:
    """What the grid costs, in a line; whether it may be started."""
    try:
        values = wanted.checked().values()
        for spec in wanted.models:
            services.require_model(spec, "")
    except CmaiError as error:
        st.caption(f":material/info: {plain(said(error))}")
        return False
    cells = f"**{wanted.cells} cell{'s' if wanted.cells != 1 else ''} × {wanted.count} pairs**"
    if desk.busy:
        st.markdown(f"{cells} · {duration(wanted.seconds)} from nothing")
    else:
        future = desk.cost(values)
        if not future.done():
            st.markdown(f"{cells} · {duration(wanted.seconds)} from nothing · looking up what is stored …")
            await_result(future)
        elif error := future.exception():
            if not isinstance(error, CmaiError):
                raise error
            st.caption(f":material/info: {plain(said(error))}")
        else:
            _exact(cells, future.result(), values)
            return True
    _terminal(values)
    return True


def _terminal(values: dict) -> None:
    with st.popover("The same in a terminal", icon=":material/terminal:"):
        st.code(command(values), language="bash")


def _exact(cells: str, cost, values: dict) -> None:
    wanted = sum(entry.items for entry in cost.cells)
    stored = sum(entry.stored for entry in cost.cells)
    skipped = [cell for cell in cost.plan.cells if cell.skipped]
    left = duration(cost.seconds) if stored < wanted or cost.clean else "nothing left to compute"
    most = "at most " if cost.plan.grid.cascade and stored < wanted else ""
    basis = "from this store's own timings" if cost.measured else "nothing of this kind has been measured here yet"
    parts = [cells, f"{stored} of {wanted} attacked pairs are in the store", f"{most}{left}"]
    if skipped:
        parts.append(f"{len(skipped)} cells do not combine")
    st.markdown(" · ".join(parts))
    row = st.container(horizontal=True, gap="small")
    with row:
        _terminal(values)
    with row, st.popover("Cell by cell", icon=":material/list:"):
        st.dataframe(
            [
                {
                    "model": entry.cell.source, "task": entry.cell.task or "–",
                    "attack": recipe_words(entry.cell.recipe),
                    "ε (k/255)": entry.cell.epsilon, "stored": f"{entry.stored} of {entry.items}",
                    "seconds": round(entry.seconds, 1),
                }
                for entry in cost.cells
            ],
            hide_index=True, width=640,
        )  # fmt: skip
        st.caption(f"The time is estimated: {basis}.")
        for cell in skipped:
            st.caption(
                f"Left out: {recipe_words(cell.recipe)} on {cell.source}, {cell.task or 'no task'}: "
                f"{plain_reason(cell.skipped)}"
            )
