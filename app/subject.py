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
from cmai_core.lab.experiment import Experiment

if TYPE_CHECKING:
    from cmai_core.lab.result import LabResult

_MODEL_KEYS = ((state.UNDEFENDED, state.UNDEFENDED_SPEC, False), (state.DEFENDED, state.DEFENDED_SPEC, True))


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
    undefended, defended = chosen_specs()
    models = {"undefended": undefended, "defended": defended}
    return Subject(state.get(state.PAIR), {role: spec for role, spec in models.items() if spec}, attacked())


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
    for key, _, defended in _MODEL_KEYS:
        other = [state.OTHER_MODEL] if permissions.rules().any else []
        allowed = [*names, *other, *([state.NO_MODEL] if defended else [])]
        if state.get(key) not in allowed:
            first = allowed[0] if allowed and not defended else state.NO_MODEL
            state.put(key, default_model(defended) or first)


def chosen_specs() -> tuple[str, str]:
    """Return the (undefended, defended) specifications as the widgets stand, "" for none."""
    made = []
    for key, spec_key, _ in _MODEL_KEYS:
        value = state.get(key)
        made.append({state.OTHER_MODEL: state.get(spec_key).strip(), state.NO_MODEL: ""}.get(value, value))
    return made[0], made[1]


def requested_models() -> dict[str, str]:
    """Return role → specification, validated.

    Raises:
        OptionError: no model is chosen.
        ModelError: a specification is missing or not offered to visitors.
    """
    undefended, defended = chosen_specs()
    if not undefended and not defended:
        raise OptionError("No model is chosen.", "Pick a bundled one or type an OpenCLIP specification.")
    models = {"undefended": require_model(undefended, "undefended")}
    if state.get(state.DEFENDED) == state.OTHER_MODEL or defended:
        models["defended"] = require_model(defended, "defended")
    return models


# --- the pair and the experiment --------------------------------------------------------------------------------------


def choose_pair(pair_id: str, caption: str) -> None:
    """Make a pair the chosen one. Call it before the caption's field is drawn."""
    state.put(state.PAIR, pair_id)
    state.put_caption(caption)


def choose_first_pair() -> None:
    """Choose the bundled example's pair if none is chosen, without loading a dataset."""
    if state.get(state.PAIR):
        return
    bundle = showcase()
    if bundle is not None:
        state.put(state.PAIR, bundle.result.experiment.pair)
        state.put(state.CAPTION, bundle.result.experiment.caption)


def described() -> Experiment:
    """Return the experiment as the widgets stand, valid or not."""
    undefended, defended = chosen_specs()
    return Experiment(
        pair=state.get(state.PAIR),
        scene=state.get(state.SCENE) if state.get(state.PAIR) == COMPOSED else "",
        caption=state.get(state.CAPTION),
        undefended=undefended,
        defended=defended,
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
    undefended, defended = chosen_specs()
    require_model(undefended, "undefended")
    if state.get(state.DEFENDED) == state.OTHER_MODEL:
        require_model(defended, "defended")
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
    values = (experiment.undefended, experiment.defended)
    for value, (key, spec_key, _) in zip(values, _MODEL_KEYS, strict=True):
        if value in names:
            state.put(key, value)
        elif value and permissions.rules().any:
            state.put(key, state.OTHER_MODEL)
            state.put(spec_key, value)
        elif value:
            state.put(state.NOTICE, permissions.refusal(value))
            state.put(key, "")
        else:
            state.put(key, state.NO_MODEL)
