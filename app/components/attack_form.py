"""Models and settings of an attack, and the experiment they make. All is validated again when it is submitted."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import owner, services, state
from app.components.attack_parts import needs_task, parts_panel
from app.components.fields import number_field
from app.components.theme import ROLES, escape, show
from cmai_core.data.registry import PHOTOGRAPHS, kind_of
from cmai_core.errors import OptionError
from cmai_core.lab.choices import LENGTHS, SEARCHES
from cmai_core.lab.experiment import CRAFT_ON, Experiment
from cmai_core.tasks import TASKS

TASK_WORDS = {name: info.word for name, info in TASKS.items()}
NORM_WORDS = {"linf": "L∞", "l2": "L2"}


def _model_widget(role: str, key: str, spec_key: str, defended: bool) -> None:
    options = [e.name for e in sorted(services.catalogue(), key=lambda e: (e.defended != defended, e.name))]
    now = owner.rules()
    options += [spec for spec in now.allow if spec not in options]
    if now.any:
        options.append(state.OTHER_MODEL)
    if defended or not options:
        options.append(state.NO_MODEL)
    words = {state.OTHER_MODEL: "OpenCLIP model …", state.NO_MODEL: "none"}
    st.selectbox(
        f"{ROLES[role].mark} {role.capitalize()} model",
        options,
        key=key,
        format_func=lambda n: words.get(n, owner.shown(n)),
    )
    if state.get(key) == state.OTHER_MODEL:
        st.text_input(
            "OpenCLIP specification",
            key=spec_key,
            max_chars=200,
            placeholder="ViT-B-32/laion2b_s34b_b79k",
            help="As open_clip names it: `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:…`, `local-dir:…`; "
            "`ViT-B-32/random` has random weights and needs no download.",
        )


def settle_models() -> None:
    """Replaces a choice that does not exist (yet, or any more) by one that does; before the widgets are drawn."""
    names = [*(entry.name for entry in services.catalogue()), *owner.rules().allow]
    for key, defended in ((state.UNDEFENDED, False), (state.DEFENDED, True)):
        allowed = [*names, *([state.OTHER_MODEL] if owner.rules().any else []), *([state.NO_MODEL] if defended else [])]
        if state.get(key) not in allowed:
            state.put(
                key, services.default_model(defended) or (allowed[0] if allowed and not defended else state.NO_MODEL)
            )


def model_panel() -> None:
    show('<div class="cm-step">2 · Models</div>')
    one, two = st.columns(2)
    with one:
        _model_widget("undefended", state.UNDEFENDED, state.UNDEFENDED_SPEC, False)
    with two:
        _model_widget("defended", state.DEFENDED, state.DEFENDED_SPEC, True)
    specs = [services.domain_of(s) for s in chosen_specs() if s]
    pair = state.get(state.PAIR)
    foreign = {domain for domain in specs if pair and domain not in (kind_of(pair), PHOTOGRAPHS)}
    if foreign:
        st.warning(
            f"A chosen model has only ever seen pictures of the kind {escape(', '.join(sorted(foreign)))}, and this is "
            f"another: the attack runs, but its answers mean little.{_for_photographs()}",
            icon="⚠️",
        )


def _for_photographs() -> str:
    """What this lab offers for them."""
    now = owner.rules()
    if now.any:
        return " For photographs choose “OpenCLIP model …”, for example `ViT-B-32/laion2b_s34b_b79k`."
    return " For photographs choose one that is not bundled." if now.allow else ""


def chosen_specs() -> tuple[str, str]:
    """(undefended, defended) specifications as the widgets stand; "" for none."""
    made = []
    for key, spec_key in ((state.UNDEFENDED, state.UNDEFENDED_SPEC), (state.DEFENDED, state.DEFENDED_SPEC)):
        value = state.get(key)
        made.append({state.OTHER_MODEL: state.get(spec_key).strip(), state.NO_MODEL: ""}.get(value, value))
    return made[0], made[1]


def attack_panel() -> None:
    show('<div class="cm-step">3 · Attack</div>')
    parts_panel()
    if needs_task():
        st.selectbox("Attacked task", list(TASKS), key=state.TASK, format_func=TASK_WORDS.get)
    st.radio(
        "Craft on",
        CRAFT_ON,
        key=state.CRAFT_ON,
        horizontal=True,
        format_func={"undefended": "undefended", "defended": "defended", "each": "each (white box each)"}.get,
        help="The other model is shown the same picture, and its result is labelled as transferred.",
    )
    with st.expander("Search settings"):
        _search_settings()


def _search_settings() -> None:
    """The numbers of the chosen search, two in a row."""
    search = SEARCHES[state.get(state.RECIPE)]
    fields: list[tuple[str, str, dict[str, Any]]] = []
    if search.steps:
        fields.append(("Steps", state.STEPS, {"low": search.least_steps, "step": 5}))
    if search.queries:
        fields.append(("Queries", state.QUERIES, {"step": 100}))
    if search.step_size and state.get(state.NORM) in LENGTHS:
        fields.append(("Step size (k/255)", state.STEP_SIZE, {"step": 0.25}))
    if search.restarts:
        fields.append(("Restarts", state.RESTARTS, {}))
    fields.append(("Seed", state.SEED, {}))
    if state.get(state.OBJECTIVE) == "both":
        fields.append(("α (task loss)", state.ALPHA, {"step": 0.5}))
        fields.append(("β (S_c)", state.BETA, {"step": 0.5}))
    for first in range(0, len(fields), 2):
        for place, (label, key, options) in zip(st.columns(2), fields[first : first + 2], strict=False):
            number_field(place, label, key, **options)


def experiment() -> Experiment:
    """The experiment the page describes, validated.

    Raises:
        OptionError: for the first thing that is missing or out of range.
    """
    if not state.get(state.PAIR):
        raise OptionError("No picture is chosen.", "Browse the examples, upload one or compose a scene.")
    undefended, defended = chosen_specs()
    services.require_model(undefended, "undefended")
    if state.get(state.DEFENDED) == state.OTHER_MODEL:
        services.require_model(defended, "defended")
    return described().checked()


def described() -> Experiment:
    """The experiment as the widgets stand, valid or not."""
    undefended, defended = chosen_specs()
    return Experiment(
        pair=state.get(state.PAIR),
        scene=state.get(state.SCENE) if state.get(state.PAIR) == "scene" else "",
        caption=state.get(state.CAPTION),
        undefended=undefended,
        defended=defended,
        craft_on=state.get(state.CRAFT_ON),
        norm=state.get(state.NORM),
        objective=state.get(state.OBJECTIVE),
        task=state.get(state.TASK),
        recipe=state.get(state.RECIPE),
        truth=state.get(state.TRUTH),
        **{name: state.get(key) for name, key in _NUMBERS.items()},
    )


_NUMBERS = {
    "epsilon": state.EPSILON, "steps": state.STEPS, "step_size": state.STEP_SIZE, "restarts": state.RESTARTS,
    "seed": state.SEED, "alpha": state.ALPHA, "beta": state.BETA, "queries": state.QUERIES, "words": state.WORDS,
}  # fmt: skip


def fill_form(e: Experiment) -> None:
    """Sets the widgets to an experiment (a permalink); before they are drawn."""
    names = [*(entry.name for entry in services.catalogue()), *owner.rules().allow]
    for value, key, spec_key in (
        (e.undefended, state.UNDEFENDED, state.UNDEFENDED_SPEC),
        (e.defended, state.DEFENDED, state.DEFENDED_SPEC),
    ):
        if value in names:
            state.put(key, value)
        elif value and owner.rules().any:
            state.put(key, state.OTHER_MODEL)
            state.put(spec_key, value)
        elif value:
            state.put(state.NOTICE, owner.refusal(value))
            state.put(key, "")
        else:
            state.put(key, state.NO_MODEL)
    state.put(state.PAIR, e.pair)
    state.put(state.SCENE, e.scene)
    state.put_caption(e.caption)
    for key, value in (
        (state.CRAFT_ON, e.craft_on), (state.NORM, e.norm), (state.EPSILON, e.epsilon), (state.STEPS, e.steps),
        (state.STEP_SIZE, e.step_size), (state.RESTARTS, e.restarts), (state.SEED, e.seed),
        (state.OBJECTIVE, e.objective),
        (state.TASK, e.task), (state.ALPHA, e.alpha), (state.BETA, e.beta), (state.RECIPE, e.recipe),
        (state.QUERIES, e.queries), (state.WORDS, e.words), (state.TRUTH, e.truth),
    ):  # fmt: skip
        state.put(key, value)
    settle_models()  # where the link's model is not offered, another takes its place
