"""The three parts of an attack as three choosers, recipes as presets over them; what does not combine is greyed out."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import state
from app.components.common.fields import number_field
from app.components.common.theme import escape, show
from app.services.models import gives_attention
from app.subject import described
from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.budget import Budget
from cmai_core.lab.choices import (
    PRESETS,
    SEARCHES,
    THREAT_NOTES,
    THREATS,
    budget_of,
    of_task,
    parts_of,
    preset_of,
    settled,
    usual_epsilon,
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


def _lacking() -> tuple[str, ...]:
    """Return what objectives need and a model under attack does not have, as far as it is in memory."""
    wanted = described()
    specs = (wanted.models.get(role, "") for role in wanted.attacked_models())
    return () if all(gives_attention(spec) for spec in specs) else ("attention",)


def settle_parts() -> str:
    """Replace what does not combine with the threat model or the task any more. Call it before the widgets are drawn.

    Returns:
        Why something was replaced, "" if nothing was.
    """
    threat, objective, search = parts()
    task, pair = state.get(state.TASK), state.get(state.PAIR)
    reason = why_not(threat, objective, search, task, pair, _lacking())
    if reason:
        objective, found = settled(threat, objective, search, task, pair, _lacking())
        state.put(state.OBJECTIVE, objective)
        if found != search:
            _take_search(found)
    state.put(state.PRESET, preset_of(*parts()))
    return reason


def _take_search(slug: str) -> None:
    """Choose a search, with its usual number of steps or queries."""
    state.put(state.RECIPE, slug)
    search = SEARCHES[slug]
    if search.counts:
        state.put({"steps": state.STEPS, "queries": state.QUERIES}[search.counts], search.usual)


def _pick(key: str, slug: str) -> None:
    if key == state.RECIPE:
        _take_search(slug)
        return
    if key == state.NORM:
        usual = budget_of(slug, usual_epsilon(slug) or 0.0)
        if usual is not None and state.get(state.EPSILON) not in [rung.amount for rung in usual.ladder()]:
            state.put(state.EPSILON, usual.amount)  # another threat model counts in other units
    state.put(key, slug)


def _take_preset() -> None:
    """Fill the three parts and the usual numbers from the chosen recipe."""
    preset = PRESETS.get(state.get(state.PRESET))
    if preset is None:  # what a browser sends late may be a word that is no longer among the options
        return
    threat, objective, search = parts_of(preset)
    state.put(state.NORM, threat)
    state.put(state.OBJECTIVE, objective)
    _take_search(search)
    if why_not(threat, objective, search, state.get(state.TASK), state.get(state.PAIR)):
        state.put(state.TASK, DEFAULT_TASK)  # every recipe goes with it
    usual = preset.budget()
    if usual is not None:
        state.put(state.EPSILON, usual.amount)
        if SEARCHES[search].step_size:
            state.put(state.STEP_SIZE, round(2.5 * usual.amount / SEARCHES[search].usual, 4))


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
    kind = threat if threat in ("text", "joint") else "image"
    return {slug: search.word for slug, search in SEARCHES.items() if search.modality == kind}


def recipe_field() -> None:
    """Draw the choice of a named attack."""
    preset, pair = state.get(state.PRESET), state.get(state.PAIR)
    offered = [slug for slug, p in PRESETS.items() if not why_not(*parts_of(p), DEFAULT_TASK, pair)]
    st.selectbox(
        "Recipe",
        offered if preset else ["", *offered],
        key=state.PRESET,
        format_func=lambda slug: PRESETS[slug].word if slug in PRESETS else "own combination",
        on_change=_take_preset,
        help="A named attack from a paper: it fills threat model, objective and search, and the usual numbers.",
    )


def choosers() -> None:
    """Draw the choice of threat model, objective and search."""
    threat, objective, _ = parts()
    task, pair = state.get(state.TASK), state.get(state.PAIR)
    _chooser("Threat model", state.NORM, THREATS, {}, THREAT_NOTES)
    lacking = _lacking()
    no_objective = {slug: why_not_objective(threat, slug, task, pair, lacking) for slug in OBJECTIVES}
    words = {slug: objective.word for slug, objective in OBJECTIVES.items()}
    notes = {slug: objective.note for slug, objective in OBJECTIVES.items()}
    _chooser("Objective, what the attacker raises", state.OBJECTIVE, words, no_objective, notes)
    no_search = {slug: why_not_search(threat, objective, slug, task) for slug in SEARCHES}
    _chooser("Search", state.RECIPE, _shown_searches(threat), no_search, {})
    with st.expander("What does not combine, and why", key="why_not"):
        _reasons({OBJECTIVES[k].word: v for k, v in no_objective.items()})
        _reasons({SEARCHES[k].word: v for k, v in no_search.items()})


def _reasons(reasons: Mapping[str, str]) -> None:
    rows = "".join(f"<li><b>{escape(word)}</b>: {escape(why)}</li>" for word, why in reasons.items() if why)
    show(f'<ul class="cm-small">{rows}</ul>')


def budget_field() -> None:
    """Draw how much may change."""
    threat = state.get(state.NORM)
    budget = budget_of(threat, state.get(state.EPSILON))
    if budget is not None:
        st.select_slider(
            BUDGET_LABELS.get(threat, "ε, the largest change"),
            [rung.amount for rung in budget.ladder()],  # a link's own budget is kept, off the ladder too
            key=state.EPSILON,
            format_func=lambda amount: Budget(budget.norm, amount).words,
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
    return of_task(state.get(state.OBJECTIVE))
