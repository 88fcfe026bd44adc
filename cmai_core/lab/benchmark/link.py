"""A pair of a benchmark as an experiment of the attack lab: what a permalink carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.entries import key_value
from cmai_core.lab.choices import PRESETS, parts_of, usual_epsilon, why_not
from cmai_core.lab.experiment import MAX_QUERIES, MAX_STEPS, MIN_QUERIES, RANGES, Experiment, parse_pair_id
from cmai_core.tasks import DEFAULT_TASK

_STAND_IN = "pgd"


def experiment_of(
    row: Mapping[str, Any],
    epsilon: float | None,
    caption: str,
    defended: Mapping[str, bool],
    others: tuple[str, str],
) -> tuple[Experiment, str]:
    """Return the attack behind a row of predictions, as far as the attack lab has it.

    Args:
        row: with item, source, target, task, recipe, seed. epsilon: that the figure is read at (1/255), NaN or None.
        caption: the pair's sentence. defended: bundled model → whether it is a defended one.
        others: the models A and B of the lab, for the place that the row does not name; "" for none.

    Returns:
        The experiment, and a note where it is not quite the same attack ("" where it is).

    Raises:
        OptionError: the lab has no such pair.
    """
    try:
        parse_pair_id(row["item"])
    except ValueError:
        raise OptionError("The attack lab does not have this pair.", "It opens pairs of the test splits.") from None
    slug, options = _entry(str(row["recipe"]))
    preset = PRESETS.get(slug)
    notes = []
    if preset is None or row["recipe"] == "clean":
        if row["recipe"] != "clean":
            notes.append(f"The lab does not run {slug}; it opens with PGD instead.")
        preset = PRESETS[_STAND_IN]
    source, target = row["source"].partition(" · ")[0], row["target"].partition(" · ")[0]
    values: dict[str, Any] = {
        "pair": row["item"],
        "caption": caption,
        **dict(zip(("norm", "objective", "recipe"), parts_of(preset), strict=True)),
        "task": row["task"] or DEFAULT_TASK,
        "seed": int(row["seed"]) if row["seed"] == row["seed"] and row["seed"] is not None else 0,
        "epsilon": preset.budget().amount if preset.norms else usual_epsilon("linf"),
    }
    values |= _roles(source, target, defended, others)
    if preset.modality == "image" and options.get("norm") in preset.norms:
        values |= {"norm": options["norm"], "epsilon": preset.budget(options["norm"]).amount}
    if preset.norms and epsilon is not None and epsilon == epsilon:
        values["epsilon"] = float(epsilon)
    usual = {preset.counts: preset.usual}
    steps, queries = options.get("steps", usual.get("steps")), options.get("queries", usual.get("queries"))
    if steps:
        values["steps"] = _within("steps", int(steps), 1, MAX_STEPS, notes)
        values["step_size"] = min(round(2.5 * values["epsilon"] / values["steps"], 4), RANGES["step_size"][1])
    if queries:
        values["queries"] = _within("queries", int(queries), MIN_QUERIES, MAX_QUERIES, notes)
    if why_not(values["norm"], values["objective"], values["recipe"], values["task"], values["pair"]):
        notes.append(f"The lab attacks retrieval, not {values['task']}, by this recipe.")
        values["task"] = DEFAULT_TASK  # every recipe goes with it
    return Experiment(**values).checked(), " ".join(notes)


def _within(name: str, value: int, low: int, high: int, notes: list[str]) -> int:
    """Return a number as far as the lab takes it; where it does not, that is noted."""
    kept = max(low, min(high, value))
    if kept != value:
        notes.append(f"The lab takes {low} to {high} {name}: it opens with {kept} instead of {value}.")
    return kept


def _entry(label: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a recipe as it stands in the predictions."""
    name, colon, rest = label.partition(":")
    slug = name.partition("@")[0].partition(" (")[0]
    parts = [part for part in rest.partition(" (")[0].split(",") if "=" in part] if colon else []
    return slug, dict(key_value(part) for part in parts)


def _roles(source: str, target: str, defended: Mapping[str, bool], others: tuple[str, str]) -> dict[str, str]:
    """Which of the lab's two places each model takes, and on which the attack is crafted."""
    first, second = source, target if target != source else ""
    if defended.get(source, False) and not defended.get(second, False):
        first, second = second or (others[0] if others[0] != source else ""), source
    elif not second:
        second = others[1] if others[1] != source else ""
    if not first:  # a lone model stands in the first place, whatever it is
        return {"a": source, "b": "", "craft_on": "A"}
    return {"a": first, "b": second, "craft_on": "A" if first == source else "B"}
