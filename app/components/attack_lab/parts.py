"""The three parts of an attack as three choosers, recipes as presets over them; what does not combine is greyed out."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import state
from app.components.common.fields import number_field
from app.components.common.theme import escape, show
from cmai_core.lab.choices import (
    BUDGETS,
    OBJECTIVE_NOTES,
    OBJECTIVES,
    PRESETS,
    SEARCHES,
    TASKLESS,
    THREAT_NOTES,
    THREATS,
    TOGETHER,
    USUAL_BUDGET,
    WORDS,
    budget_words,
    preset_of,
    settled,
    why_not,
    why_not_objective,
    why_not_search,
)
from cmai_core.tasks import DEFAULT_TASK

BUDGET_LABELS = {"l0": "Pixels that may change", "patch": "Area of the patch"}
TRUTH_WORDS = {"kept": "stays true", "free": "anything goes"}


def parts() -> tuple[str, str, str]:
    """Return (threat, objective, search) as the choosers stand."""
    return state.get(state.NORM), state.get(state.OBJECTIVE), state.get(state.RECIPE)


def settle_parts() -> str:
    """Replace what does not combine with the threat model or the task any more. Call it before the widgets are drawn.

    Returns:
        Why something was replaced, "" if nothing was.
    """
    threat, objective, search = parts()
    task, pair = state.get(state.TASK), state.get(state.PAIR)
    reason = why_not(threat, objective, search, task, pair)
    if reason:
        objective, found = settled(threat, objective, search, task, pair)
        state.put(state.OBJECTIVE, objective)
        if found != search:
            _take_search(found)
    state.put(state.PRESET, preset_of(*parts()))
    return reason


def _take_search(slug: str) -> None:
    """Choose a search, with its usual number of steps or queries."""
    state.put(state.RECIPE, slug)
    search = SEARCHES[slug]
    if search.steps:
        state.put(state.STEPS, search.steps)
    if search.queries:
        state.put(state.QUERIES, search.queries)


def _pick(key: str, slug: str) -> None:
    if key == state.RECIPE:
        _take_search(slug)
        return
    if key == state.NORM and slug in BUDGETS and state.get(state.EPSILON) not in BUDGETS[slug]:
        state.put(state.EPSILON, USUAL_BUDGET[slug])  # another threat model counts in other units
    state.put(key, slug)


def _take_preset() -> None:
    """Fill the three parts and the usual numbers from the chosen recipe."""
    preset = PRESETS.get(state.get(state.PRESET))
    if preset is None:  # what a browser sends late may be a word that is no longer among the options
        return
    state.put(state.NORM, preset.threat)
    state.put(state.OBJECTIVE, preset.objective)
    _take_search(preset.search)
    if why_not(*preset.parts, state.get(state.TASK), state.get(state.PAIR)):
        state.put(state.TASK, DEFAULT_TASK)  # every recipe goes with it
    if preset.epsilon:
        state.put(state.EPSILON, preset.epsilon)
    if SEARCHES[preset.search].step_size:
        state.put(state.STEP_SIZE, round(2.5 * preset.epsilon / preset.steps, 4))


def _chooser(
    title: str, key: str, words: Mapping[str, str], reasons: Mapping[str, str], notes: Mapping[str, str]
) -> None:
    """Draw buttons of which one is chosen; those with a reason are disabled and tell it."""
    show(f'<div class="cm-small cm-muted">{escape(title)}</div>')
    with st.container(key=key, horizontal=True, gap="xxsmall"):
        for slug, word in words.items():
            chosen, reason = slug == state.get(key), reasons.get(slug, "")
            st.button(
                word,
                key=f"{key}_{slug}",
                type="primary" if chosen else "secondary",
                icon=":material/check:" if chosen else None,
                disabled=bool(reason),
                help=reason or notes.get(slug),
                on_click=_pick,
                args=(key, slug),
            )


def _shown_searches(threat: str) -> dict[str, str]:
    """Return the searches of the threat model's kind; the others are listed under what does not combine."""
    groups = {"text": (WORDS,), "joint": (TOGETHER,)}.get(threat)
    return {
        slug: search.word
        for slug, search in SEARCHES.items()
        if (search.group in groups if groups else search.group not in (WORDS, TOGETHER))
    }


def parts_panel() -> None:
    """Draw recipe, threat model, objective, search and budget."""
    replaced = settle_parts()
    threat, objective, _ = parts()
    task, preset, pair = state.get(state.TASK), state.get(state.PRESET), state.get(state.PAIR)
    offered = [slug for slug, p in PRESETS.items() if not why_not(*p.parts, DEFAULT_TASK, pair)]
    st.selectbox(
        "Recipe",
        offered if preset else ["", *offered],
        key=state.PRESET,
        format_func=lambda slug: PRESETS[slug].word if slug in PRESETS else "own combination",
        on_change=_take_preset,
        help="A named attack from a paper: it fills the three choosers below and the usual numbers.",
    )
    _chooser("Threat model", state.NORM, THREATS, {}, THREAT_NOTES)
    no_objective = {slug: why_not_objective(threat, slug, task, pair) for slug in OBJECTIVES}
    _chooser("Objective, what the attacker raises", state.OBJECTIVE, OBJECTIVES, no_objective, OBJECTIVE_NOTES)
    no_search = {slug: why_not_search(threat, objective, slug, task) for slug in SEARCHES}
    _chooser("Search", state.RECIPE, _shown_searches(threat), no_search, {})
    if replaced:
        st.caption(f"Changed to what combines: {replaced}")
    with st.popover("What does not combine, and why", key="why_not"):
        _reasons({OBJECTIVES[k]: v for k, v in no_objective.items()})
        _reasons({SEARCHES[k].word: v for k, v in no_search.items()})
    _budget(threat)


def _reasons(reasons: Mapping[str, str]) -> None:
    rows = "".join(f"<li><b>{escape(word)}</b>: {escape(why)}</li>" for word, why in reasons.items() if why)
    show(f'<ul class="cm-small">{rows}</ul>')


def _budget(threat: str) -> None:
    if threat in BUDGETS:
        st.select_slider(
            BUDGET_LABELS.get(threat, "ε, the largest change"),
            sorted({*BUDGETS[threat], state.get(state.EPSILON)}),  # a link's own budget is kept, off the ladder too
            key=state.EPSILON,
            format_func=lambda k: budget_words(threat, k),
            help=THREAT_NOTES[threat],
        )
    if threat in ("text", "joint"):
        one, two = st.columns(2)
        number_field(one, "Words that may change", state.WORDS)
        two.selectbox(
            "The sentence",
            list(TRUTH_WORDS),
            key=state.TRUTH,
            format_func=TRUTH_WORDS.get,
            help="“stays true”: of the scene; of a photograph, close in the attacked model's embedding.",
        )


def needs_task() -> bool:
    """Tell whether the objective belongs to a task."""
    return state.get(state.OBJECTIVE) not in TASKLESS
