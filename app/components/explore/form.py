"""What run to make: a small form, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import subject
from app.components.common.fields import number_field
from app.components.common.words import NORM_WORDS, TASK_WORDS
from cmai_core.attacks.specs import LENGTHS
from cmai_core.budget import NORMS, Budget
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.experiment import ROLES, Experiment
from cmai_core.lab.places import surveyed_places
from cmai_core.tasks import DEFAULT_TASK

if TYPE_CHECKING:
    from cmai_core.lab.explore.run import ExploreRun

SETS = surveyed_places()
COUNTS = (16, 64, 128, 256, 512, 1000)
MOST_STEPS = 100
MOST_LEVELS = 3
USUAL = {norm: (Budget.usual(norm).amount,) for norm in LENGTHS}


@dataclass(frozen=True)
class Wanted:
    """A run to make.

    Attributes:
        split: "dataset/split". count: pairs. epsilons: rising. experiment: the attack, at the largest ε.
    """

    split: str
    count: int
    epsilons: tuple[float, ...]
    experiment: Experiment

    def items(self) -> Any:
        """Load the pairs; runs in the worker thread."""
        from cmai_core.data import load_dataset

        name, _, split = self.split.partition("/")
        return load_dataset(name, split=split, limit=self.count)


def draw() -> None:
    """Draw split, pairs, norm, ε, steps and task."""
    kept: dict[str, Any] = {"persist_state": "session"}
    one, two, three = st.columns([2, 2, 1.4])
    one.selectbox("Split", list(SETS), format_func=SETS.get, key="explore_set", **kept)
    two.select_slider("Pairs", COUNTS, value=64, key="explore_count", **kept)
    three.selectbox(
        "Task", list(TASK_WORDS), index=list(TASK_WORDS).index(DEFAULT_TASK), format_func=TASK_WORDS.get,
        key="explore_task", **kept,
    )  # fmt: skip
    one, two, three = st.columns([1, 3, 1.4])
    one.segmented_control(
        "Norm", LENGTHS, default="linf", key="explore_norm", format_func=NORM_WORDS.get, required=True, **kept
    )
    norm = st.session_state["explore_norm"]
    two.pills(
        f"ε, up to {MOST_LEVELS}", NORMS[norm].ladder, selection_mode="multi", default=USUAL[norm],
        key=f"explore_epsilons_{norm}", format_func=lambda amount: Budget(norm, amount).words, **kept,
    )  # fmt: skip
    number_field(three, "Steps", "explore_steps", low=1, high=MOST_STEPS, value=10, **kept)


def request() -> Wanted:
    """Return what the widgets ask for, validated.

    Raises:
        CmaiError: the first thing that is missing or out of range.
    """
    split, count, norm, steps = (_value(name) for name in ("set", "count", "norm", "steps"))
    if split not in SETS or count not in COUNTS or norm not in LENGTHS:
        raise OptionError("This split, number of pairs or norm is not offered.")
    levels = tuple(sorted(set(_value(f"epsilons_{norm}") or ())))
    if not 1 <= len(levels) <= MOST_LEVELS or not set(levels) <= set(NORMS[norm].ladder):
        raise OptionError(f"{len(levels)} ε are chosen.", f"Choose 1 to {MOST_LEVELS}.")
    if steps is None or not 1 <= steps <= MOST_STEPS:
        raise OptionError(f"steps is {steps}.", f"It lies between 1 and {MOST_STEPS}.")
    models = subject.requested_models()
    experiment = Experiment(
        pair=f"{split}/0", caption="any", **{role.lower(): models.get(role, "") for role in ROLES},
        craft_on="each", norm=norm, epsilon=levels[-1], steps=int(steps), task=_value("task"),
    )  # fmt: skip
    return Wanted(split, count, levels, experiment.checked())


def moved_on(made: ExploreRun) -> tuple[Difference, ...]:
    """Return how the form has moved on from a run."""
    try:
        wanted = request()
    except CmaiError:  # the form is half filled in: there is nothing to compare with yet
        return ()
    found = []
    if made.place != wanted.split:
        found.append(Difference("pair", "split", SETS.get(made.place, made.place), SETS[wanted.split]))
    if made.asked != wanted.count:
        found.append(Difference("setting", "pairs", f"{made.asked}", f"{wanted.count}"))
    if made.epsilons != wanted.epsilons:
        norm = wanted.experiment.norm
        shown, asked = (", ".join(Budget(norm, e).words for e in which) for which in (made.epsilons, wanted.epsilons))
        found.append(Difference("setting", "ε", shown, asked))
    others = differences(made.experiment, wanted.experiment)
    return (*found, *(d for d in others if d.what not in ("pair", "sentence") and d.name != "ε"))


def _value(name: str) -> Any:
    return st.session_state[f"explore_{name}"]
