"""What all pages are about: the chosen pair, the two models and the attack, as the session holds them.

Nothing here draws. Whatever comes from widgets is validated by `requested` and `requested_models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app import state
from app.access import permissions
from app.services.models import catalogue, default_model, require_model
from app.services.showcase import showcase
from cmai_core.data.registry import COMPOSED
from cmai_core.errors import OptionError
from cmai_core.lab.experiment import ROLES, Experiment

if TYPE_CHECKING:
    from cmai_core.lab.result import LabResult


@dataclass(frozen=True)
class Subject:
    """What a page can work on.

    Attributes:
        pair: id of the chosen pair, "" if none is chosen. models: role → specification of the chosen models.
        attacked: the attack made last, else the bundled example, None if there is neither.
    """

    pair: str
    models: Mapping[str, str]
    attacked: LabResult | None


def current() -> Subject:
    """Return the session's subject as it is now, valid or not."""
    return Subject(state.get(state.PAIR), chosen_models(), attacked())


def attacked() -> LabResult | None:
    """Return the attack made last, else the bundled example, None if there is neither."""
    result = state.get(state.RESULT)
    if result is not None and result.attacked:
        return result
    bundle = showcase()
    return bundle.result if bundle else None


# --- models -----------------------------------------------------------------------------------------------------------


def offered_models() -> list[str]:
    """Return the specifications in the list: the bundled models, and those that the owner allows."""
    return [*(entry.name for entry in catalogue()), *permissions.rules().allow]


def settle_models() -> None:
    """Replace a choice that is not offered (any more) by one that is. Call it before the widgets are drawn."""
    names = offered_models()
    other = [state.OTHER_MODEL] if permissions.rules().any else []
    for role, key in state.MODELS.items():
        first = role == ROLES[0]
        allowed = [*names, *other, *([] if first else [state.NO_MODEL])]
        if state.get(key) in allowed:
            continue
        usual = {"A": default_model(False), "B": default_model(True)}.get(role, "") if state.get(key) else ""
        state.put(key, usual or (allowed[0] if first and allowed else state.NO_MODEL))


def chosen_models() -> dict[str, str]:
    """Return role → specification as the widgets stand, of the roles that have a model."""
    made = {}
    for role, key in state.MODELS.items():
        value = state.get(key)
        made[role] = {state.OTHER_MODEL: state.get(state.SPECS[role]).strip(), state.NO_MODEL: ""}.get(value, value)
    return {role: spec for role, spec in made.items() if spec}


def requested_models() -> dict[str, str]:
    """Return role → specification, validated.

    Raises:
        OptionError: no model is chosen.
        ModelError: a specification is missing or not offered to visitors.
    """
    chosen = chosen_models()
    if not chosen:
        raise OptionError("No model is chosen.", "Pick a bundled one or type an OpenCLIP specification.")
    asked = [r for r in ROLES if r == ROLES[0] or r in chosen or state.get(state.MODELS[r]) == state.OTHER_MODEL]
    return {role: require_model(chosen.get(role, ""), role) for role in asked}


# --- the pair and the experiment --------------------------------------------------------------------------------------


def choose_pair(pair_id: str, caption: str) -> None:
    """Make a pair the chosen one. Call it before the caption's field is drawn."""
    state.put(state.PAIR, pair_id)
    state.put_caption(caption)


def begin() -> None:
    """Set the form to the bundled example, if no pair is chosen yet; without loading a dataset."""
    bundle = showcase()
    if bundle is not None and not state.get(state.PAIR):
        restore(bundle.result.experiment)


def described() -> Experiment:
    """Return the experiment as the widgets stand, valid or not."""
    chosen = chosen_models()
    return Experiment(
        pair=state.get(state.PAIR),
        scene=state.get(state.SCENE) if state.get(state.PAIR) == COMPOSED else "",
        caption=state.get(state.CAPTION),
        **{role.lower(): chosen.get(role, "") for role in ROLES},
        **{name: state.get(name) for name in state.SETTINGS},
    )


def requested() -> Experiment:
    """Return the experiment that the widgets describe, validated.

    Raises:
        OptionError: the first thing that is missing or out of range.
        ModelError: a specification is missing or not offered to visitors.
    """
    if not state.get(state.PAIR):
        raise OptionError("No picture is chosen.", "Browse the examples, upload one or compose a scene.")
    requested_models()
    return described().checked()


def restore(experiment: Experiment) -> None:
    """Set the widgets to an experiment, of a link or of a result. Call it before they are drawn."""
    _restore_models(experiment)
    state.put(state.PAIR, experiment.pair)
    state.put(state.SCENE, experiment.scene)
    state.put_caption(experiment.caption)
    for name in state.SETTINGS:
        state.put(name, getattr(experiment, name))
    settle_models()  # a model that is not offered is replaced by one that is


def _restore_models(experiment: Experiment) -> None:
    names = offered_models()
    for role, key in state.MODELS.items():
        value = experiment.models.get(role, "")
        if value in names:
            state.put(key, value)
        elif value and permissions.rules().any:
            state.put(key, state.OTHER_MODEL)
            state.put(state.SPECS[role], value)
        elif value:
            state.put(state.NOTICE, permissions.refusal(value))
            state.put(key, "")
        else:
            state.put(key, state.NO_MODEL)
