"""Checks that a search goes with a threat model and an objective, made when an attack is put together.

A search says by attributes what it goes with: `norms` (names of `ThreatModel`, or a function that returns them; none:
all), `objectives` (kinds of `Objective`; none: all), `text_gradient` (whether it takes the objective's gradient in the
text).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cmai_core.attacks.objectives.objective import Objective, Weighted
from cmai_core.attacks.objectives.text import TextObjective
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.budget import convex_norms
from cmai_core.errors import OptionError


def check_fit(search: Any, threat: ThreatModel, objective: Objective) -> None:
    """Check a search and those inside it (members of an ensemble, each with its own objective).

    Raises:
        OptionError: one of them does not go with the threat model or with its objective, or all weights are 0.
    """
    for inner, raised in _searches(search, objective):
        _check_weights(raised)
        name = type(inner).__name__
        norms = getattr(inner, "norms", ())
        _check_norm(name, threat.norm, norms() if callable(norms) else norms)
        kinds = getattr(inner, "objectives", ())
        if kinds and not isinstance(raised, kinds):
            accepted = ", ".join(f"objective={kind.__name__}(task)" for kind in kinds)
            raise OptionError(f"{name} does not go with the objective {raised.describe()}.", f"Accepted: {accepted}.")
        if getattr(inner, "universal", False):
            _check_norm("One perturbation for all", threat.norm, convex_norms())
            if not threat.shared:
                raise OptionError("One perturbation for all needs one epsilon.", "Accepted: a single number.")
        if getattr(inner, "start", "") == "sign" and inner.random_start:
            _check_norm("start='sign', a corner of the linf ball,", threat.norm, ("linf",))


def check_text_fit(search: Any, objective: Objective) -> None:
    """Check a search on texts.

    Raises:
        OptionError: the search goes by the gradient in the text, and a part of the objective has none.
    """
    if not getattr(search, "text_gradient", False):
        return
    for part in _parts(objective):
        if isinstance(part, TextObjective) and not part.differentiable:
            raise OptionError(
                f"{part.describe()} has no gradient in the text, which {type(search).__name__} needs.",
                "Accepted: objectives on embeddings, such as PairConsistency(); or a search by candidates, such as "
                "BeamSearch().",
            )


def _searches(search: Any, objective: Objective) -> Iterator[tuple[Any, Objective]]:
    """Yield (search, what it raises) of a search and of those inside it."""
    yield search, objective
    for member in getattr(search, "members", ()):
        yield from _searches(member.search, objective if member.objective is None else member.objective)
    if hasattr(search, "search"):  # one target after another, or on a surrogate: with an objective of its own
        yield from _searches(search.search, search.objective)


def _parts(objective: Objective) -> Iterator[Objective]:
    if isinstance(objective, Weighted):
        for _, part in objective.terms:
            yield from _parts(part)
    else:
        yield objective


def _check_weights(objective: Objective) -> None:
    if isinstance(objective, Weighted) and not any(weight for weight, _ in objective.terms):
        raise OptionError("Every weight of the objective is 0.", "Accepted: at least one part with a weight.")


def _check_norm(what: str, norm: str, norms: tuple[str, ...]) -> None:
    if norms and norm not in norms:
        raise OptionError(f"{what} does not go with norm={norm!r}.", f"Accepted: {', '.join(norms)}.")
