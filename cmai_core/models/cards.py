"""A model's card: what is known of it without loading it, read from `card.json` and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmai_core.errors import ModelError
from cmai_core.models.jsonfile import read_object
from cmai_core.models.weights import HEADS_FILE

CARD_FILE = "card.json"
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class ModelCard:
    """What a bundled model's card says.

    Attributes:
        name: its spec.
        defended: whether it was trained against attacks.
        description: one sentence.
        training: command, data, seed, time, as its training wrote them.
        results: figures by task and threat model.
        card: everything in card.json.
        verifier: whether consistency heads lie beside the weights.
        problem: why the card cannot be read; then the rest is empty and the model does not load.
    """

    name: str
    defended: bool
    description: str
    training: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    verifier: bool = False
    problem: str = ""


def card_of(folder: Path) -> ModelCard:
    """Read the card of the model in a folder, empty where it has none.

    Raises:
        ModelError: it cannot be read, is not JSON, or has values of another kind than a card's.
    """
    path = folder / CARD_FILE
    card = read_object(path, _MOST_BYTES) if os.path.lexists(path) else {}
    if wrong := _misfit(card, _CARD, ""):
        raise ModelError(f"The model card {path} is damaged: {wrong}.", "Restore or retrain the model.")
    return ModelCard(
        name=folder.name,
        defended=bool(card.get("defended", False)),
        description=str(card.get("description") or ""),
        training=dict(card.get("training") or {}),
        results=dict(card.get("results") or {}),
        card=card,
        path=folder,
        verifier=(folder / HEADS_FILE).is_file(),
    )


def card_or_problem(folder: Path) -> ModelCard:
    """Read a card as `card_of` does; a damaged one becomes a card with a `problem`."""
    try:
        return card_of(folder)
    except ModelError as error:
        return ModelCard(folder.name, False, "Damaged: its card cannot be read.", path=folder, problem=error.message)


# The shape of what is read elsewhere: a kind; an object's keys ("*": all others; "!": those it must have unless it is
# empty); a list's items. An object may be null.
_NUMBER = (int, float)
_PERHAPS = (int, float, type(None))
_FIGURE = {"!": ("value", "low", "high"), "value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "chance": _PERHAPS}
_ROBUST = {"*": _FIGURE | {"clean": _NUMBER, "total": int, "n": int, "s_c_clean": _NUMBER, "s_c_attacked": _NUMBER}}
_TRAINING: dict[str, Any] = {
    **{"command": str, "source": str, "device": str, "precision": str, "recipe": {"name": str, "start": str}},
    **{"seed": int, "pairs": int, "scenes": int, "threads": int, "seconds": _NUMBER},
    "heads": {"command": str, "pairs": int, "seconds": _NUMBER},
    "steering": [
        {
            "!": ("step", "beta", "epsilon", "share"),
            **{"step": int, "beta": _NUMBER, "epsilon": _NUMBER, "share": _NUMBER},
        }
    ],
}
_TRAINING["start"] = _TRAINING
_CARD: dict[str, Any] = {
    **{"name": str, "domain": str, "architecture": str, "description": str, "defended": bool},
    "training": _TRAINING,
    "results": {
        "protocol": str,
        "validation": {"*": _NUMBER},
        "test": {"!": ("scenes",), "scenes": int, "tasks": {"*": {"*": _FIGURE}}},
        "robust": _ROBUST,
        "robust_image_to_text_r1": _ROBUST,
    },
    "cmcv": {
        "!": ("model", "dataset", "count", "guarantee", "thresholds", "scaling"),
        **{"model": str, "dataset": str, "count": int, "guarantee": str, "scaling": {"score": str, "*": _NUMBER}},
        "thresholds": [
            {
                "!": ("fpr", "tau"),
                **{"fpr": _NUMBER, "tau": _NUMBER, "log_tau_v": _PERHAPS, "both_tau": _PERHAPS},
                **{"both_log_tau_v": _PERHAPS, "realised": {"*": _NUMBER}},
            }
        ],
        "rates": {"*": {"*": {"*": {"!": ("rate", "flagged", "count"), "*": _NUMBER}}}},
    },
    "answering": {
        "!": ("model", "dataset", "tasks"),
        **{"model": str, "dataset": str},
        "tasks": {
            "*": {
                "!": ("before", "after", "gain"),
                "rule": {
                    "!": ("temperature", "gamma", "kappa"),
                    **{"shortlist": (int, type(None)), "temperature": _NUMBER, "gamma": _NUMBER, "kappa": _NUMBER},
                },
                **{"fitted": int, "before": _FIGURE, "after": _FIGURE, "gain": _FIGURE},
            }
        },
    },
}


def _misfit(value: Any, shape: Any, where: str) -> str:
    """Say which part of a value does not have the shape; "" where all parts do."""
    if isinstance(shape, dict):
        if value is None:
            return ""
        if not isinstance(value, Mapping):
            return f"{where or 'it'} is no object"
        if missing := [key for key in shape.get("!", ()) if value and value.get(key) is None]:
            return f"{where} has no {missing[0]}"
        inner = ((f"{where}.{key}".lstrip("."), item, shape.get(key, shape.get("*"))) for key, item in value.items())
        return next((w for name, item, kind in inner if kind is not None and (w := _misfit(item, kind, name))), "")
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next((w for k, item in enumerate(value) if (w := _misfit(item, shape[0], f"{where}[{k}]"))), "")
    if not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        return f"{where} is {str(value)[:80]!r}"
    return ""
