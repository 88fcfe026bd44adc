"""What of a run is looked at: the ε, the model in focus, the filter, the chosen pair; and the state that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from app import state
from app.components.common.fields import one_of
from app.services.explore import bundled
from app.services.thresholds import basis_of
from cmai_core.data.registry import kind_of
from cmai_core.defenses.basis import Basis
from cmai_core.lab.explore.rates import score_range
from cmai_core.lab.explore.run import OUTCOMES, ExploreRun
from cmai_core.lab.explore.where import Where, slices_from_text, slices_to_text

WHERE = "explore_where"
"""The filter as it was last; the widgets hold its words, facets and outcomes while they are drawn."""
CHOSEN = "explore_chosen"
"""Index of the chosen pair, or None."""
ALIKE = "explore_alike"
"""(index, "picture" or "text") that the gallery shows the like of, or None."""
SLICES = "explore_slices"
"""Name → filter as text."""
EPSILON, ROLE, WORDS = "explore_epsilon", "explore_role", "explore_words"
SORT, PAGE = "explore_sort", "explore_page"
LEVEL_QUERY, WHERE_QUERY, SLICES_QUERY, ROLE_QUERY = QUERY = ("level", "where", "slices", "focus")
RESULT = "page_explore_result"


@dataclass(frozen=True, eq=False)
class View:
    """Attributes: mask: which pairs the filter lets through, bool N. taus: role → threshold on S_c."""

    run: ExploreRun
    level: int
    role: str
    where: Where
    mask: np.ndarray
    taus: Mapping[str, float]

    @property
    def count(self) -> int:
        return int(self.mask.sum())


def facet_key(run: ExploreRun, name: str) -> str:
    """Return the key of an attribute's widget."""
    return f"explore_facet_{list(run.attributes).index(name)}_{run.key}"


def outcome_key(role: str) -> str:
    """Return the key of a model's outcomes' widget."""
    return f"explore_outcome_{role}"


def begin(run: ExploreRun) -> None:
    """Give what the page keeps its first values. Called before any of its widgets is drawn."""
    first = {WHERE: Where(), CHOSEN: None, ALIKE: None, SLICES: {}, SORT: "hardest"}
    for name, value in first.items():
        state.ensure(name, value)
    if WORDS not in st.session_state:  # the page has not been drawn since another was
        put(run, state.get(WHERE))


def put(run: ExploreRun, where: Where) -> None:
    """Set the filter and its widgets. Call it before they are drawn."""
    where = replace(where, facets={n: v for n, v in where.facets.items() if n in run.attributes})
    state.put(WHERE, where)
    state.put(WORDS, where.words)
    for name in run.attributes:
        state.put(facet_key(run, name), list(where.facets.get(name, ())))
    for role in run.parts:
        state.put(outcome_key(role), list(where.outcomes.get(role, ())))


def collected(run: ExploreRun) -> Where:
    """Return the filter as widgets and brushes stand."""
    kept: Where = state.get(WHERE)
    facets = {name: tuple(state.get(facet_key(run, name)) or ()) for name in run.attributes}
    outcomes = {role: tuple(state.get(outcome_key(role)) or ()) for role in run.parts}
    found = Where(
        state.get(WORDS) or "",
        {name: values for name, values in facets.items() if values},
        {role: tuple(v for v in values if v in OUTCOMES) for role, values in outcomes.items() if values},
        {place: ends for place, ends in kept.ranges.items() if place[0] in run.parts},
        kept.rows,
    )
    state.put(WHERE, found)
    return found


def level_of(run: ExploreRun) -> int:
    """Return the place of the ε that is looked at."""
    levels = list(range(len(run.epsilons)))
    return one_of(st.session_state.get(EPSILON, levels[-1]), levels)


def role_of(run: ExploreRun) -> str:
    """Return the model in focus."""
    return one_of(st.session_state.get(ROLE), list(run.parts))


def basis(run: ExploreRun, role: str) -> Basis:
    """Return the thresholds of a run's model, from their one owner."""
    part = run.part(role)
    return basis_of(part.spec, part.hash, kind_of(run.experiment.pair))


def tau_key(run: ExploreRun, role: str) -> str:
    """Return the key of a model's threshold."""
    return f"{state.THRESHOLD}_{role}_{run.key}"


def tau_range(run: ExploreRun, role: str) -> tuple[float, float, float]:
    """Return (least, most, where it starts) of a model's threshold: its own where that is known, else the middle."""
    low, high = score_range(run)
    known = basis(run, role).tau()
    start = round((low + high) / 2, 3) if known is None else float(known)
    return min(low, start), max(high, start), start


def tau_of(run: ExploreRun, role: str) -> float:
    """Return a model's threshold as its slider stands."""
    low, high, start = tau_range(run, role)
    return min(high, max(low, float(st.session_state.get(tau_key(run, role), start))))


def current(run: ExploreRun) -> View:
    """Return what is looked at now."""
    where, level = collected(run), level_of(run)
    taus = {role: tau_of(run, role) for role in run.parts}
    return View(run, level, role_of(run), where, where.mask(run, level), taus)


# --- the address ------------------------------------------------------------------------------------------------------


def shown_run() -> ExploreRun | None:
    """Return the run on show: the visitor's, else the bundled one."""
    made = st.session_state.get(RESULT)
    return bundled() if made is None else made


def query() -> dict[str, str]:
    """Return what of the page's state stands in its address; of the bundled run only, which all visitors have."""
    run = shown_run()
    if run is None or run is not bundled() or WHERE not in st.session_state:
        return dict.fromkeys(QUERY, "")
    level, role = level_of(run), role_of(run)
    return {
        LEVEL_QUERY: "" if level == len(run.epsilons) - 1 else f"{run.epsilons[level]:g}",
        WHERE_QUERY: state.get(WHERE).to_text(run),
        SLICES_QUERY: slices_to_text(state.get(SLICES)),
        ROLE_QUERY: "" if role == next(iter(run.parts)) else role,
    }


def read_query(values: Mapping[str, str]) -> None:
    """Set the page's state to what an address says; anything may stand there."""
    run = bundled()
    if run is None:
        return
    begin(run)
    put(run, Where.from_text(values.get(WHERE_QUERY, ""), run))
    known = slices_from_text(values.get(SLICES_QUERY, ""))
    read = {name: Where.from_text(text, run) for name, text in known.items()}
    state.put(SLICES, {name: where.to_text(run) for name, where in read.items() if where})
    levels = {f"{epsilon:g}": level for level, epsilon in enumerate(run.epsilons)}
    state.put(EPSILON, levels.get(values.get(LEVEL_QUERY, ""), len(run.epsilons) - 1))
    role = values.get(ROLE_QUERY, "")
    state.put(ROLE, role if role in run.parts else next(iter(run.parts)))
