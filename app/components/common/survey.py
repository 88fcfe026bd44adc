"""The form of pages that attack many pairs of a split on each model, and what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app import subject
from app.access import permissions
from app.components.common.fields import number_field
from app.components.common.words import NORM_WORDS
from cmai_core.attacks.specs import LENGTHS
from cmai_core.budget import Budget
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.experiment import EPSILON_LADDER, ROLES, Experiment
from cmai_core.lab.places import surveyed_places

SETS = surveyed_places()
MOST_STEPS = 100


@dataclass(frozen=True)
class Survey:
    """A request for many pairs of a split.

    Attributes:
        split: "dataset/split". count: pairs. experiment: the attack on each of them.
    """

    split: str
    count: int
    experiment: Experiment

    def items(self) -> Any:
        """Load the pairs; runs in the worker thread."""
        from cmai_core.data import load_dataset

        name, _, split = self.split.partition("/")
        return load_dataset(name, split=split, limit=self.count)


@dataclass(frozen=True)
class SurveyForm:
    """The widgets of one page.

    Attributes:
        prefix: of their keys. counts: numbers of pairs that are offered. norms: whether the norm can be chosen.
    """

    prefix: str
    counts: Sequence[int]
    norms: bool = False

    def draw(self) -> None:
        """Draw split, pairs, ε, norm and steps."""
        places = st.columns([2, 2, 2, 1.2, 1.2] if self.norms else [2, 2, 2, 1.2])
        places[0].selectbox(
            "Split", list(SETS), format_func=SETS.get, key=f"{self.prefix}_set", persist_state="session"
        )
        places[1].select_slider("Pairs", self.counts, value=64, key=f"{self.prefix}_count", persist_state="session")
        places[2].select_slider(
            "ε", EPSILON_LADDER, value=Budget.usual("linf").amount, key=f"{self.prefix}_epsilon",
            format_func=lambda amount: Budget("linf", amount).words,
            persist_state="session",
        )  # fmt: skip
        if self.norms:
            places[3].segmented_control(
                "Norm", LENGTHS, default="linf", key=f"{self.prefix}_norm", format_func=NORM_WORDS.get, required=True,
                persist_state="session",
            )  # fmt: skip
        number_field(
            places[-1], "Steps", f"{self.prefix}_steps", low=1, high=MOST_STEPS, value=10, persist_state="session"
        )

    def request(self) -> Survey:
        """Return what the widgets ask for, validated.

        Raises:
            CmaiError: the first thing that is missing or out of range.
        """
        split, count = self._value("set"), self._value("count")
        if split not in SETS or count not in self.counts:
            raise OptionError("This split or number of pairs is not offered.")
        models = subject.requested_models()
        epsilon, steps = float(self._value("epsilon")), self._value("steps")
        if steps is None or not 1 <= steps <= MOST_STEPS:
            raise OptionError(f"steps is {steps}.", f"It lies between 1 and {MOST_STEPS}.")
        experiment = Experiment(
            pair=f"{split}/0",
            caption="the pair's first caption",
            **{role.lower(): models.get(role, "") for role in ROLES},
            craft_on="each",
            norm=self._value("norm") if self.norms else "linf",
            epsilon=epsilon,
            steps=int(steps),
            step_size=round(2.5 * epsilon / steps, 4),
            objective="consistency",
        )
        return Survey(split, count, experiment.checked())

    def moved_on(self, made: Any) -> tuple[Difference, ...]:
        """Return how the form has moved on from a result."""
        try:
            wanted = self.request()
        except CmaiError:  # the form is half filled in: there is nothing to compare with yet
            return ()
        found = []
        shown = made.experiment.pair.removesuffix("/0")
        if shown != wanted.split:
            found.append(Difference("pair", "split", SETS.get(shown, shown), SETS[wanted.split]))
        if made.asked != wanted.count:
            found.append(Difference("setting", "pairs", f"{made.asked}", f"{wanted.count}"))
        others = differences(made.experiment, wanted.experiment)
        return (*found, *(d for d in others if d.what not in ("pair", "sentence")))

    def _value(self, name: str) -> Any:
        return st.session_state[f"{self.prefix}_{name}"]


def survey_words(made: Any) -> str:
    """Return what a result on many pairs belongs to, as a sentence without a full stop."""
    e = made.experiment
    names = " and ".join(permissions.display_name(spec) for spec in e.models.values())
    split = SETS.get(e.pair.removesuffix("/0"), e.pair)
    return f"{made.asked} pairs of {split}, {NORM_WORDS[e.norm]}, ε = {e.budget.words}, {e.steps} steps, on {names}"
