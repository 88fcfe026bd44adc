"""How a recipe is written in a grid: "pgd", "pgd:steps=50,norm=l2", "mine@module:function", "mine@"."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cmai_core.attacks.recipes.registry import get_recipe
from cmai_core.attacks.specs import Recipe
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.experiment import AttackExperiment

# Options that `AttackExperiment` has as attributes, in the units of `cmai attack`.
ATTRIBUTES = ("norm", "epsilon", "step_size", "objective", "alpha", "beta")
OUTSIDE_OPTIONS = ("norm", "epsilon")


@dataclass(frozen=True)
class Entry:
    """One recipe of a grid.

    Attributes:
        label: as it was written. slug: the recipe's name, or the outside attacker's.
        where: "" for a recipe; "module:function" or "python" (handed to the runner by name) for an outside attacker.
        options: of the recipe, as plain values.
    """

    label: str
    slug: str
    where: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe's description; None of an outside attacker."""
        return None if self.where else get_recipe(self.slug)

    @property
    def modality(self) -> str:
        """What is attacked: "image", "text" or "joint"."""
        return self.recipe.modality if self.recipe else "image"

    @property
    def minimum_norm(self) -> bool:
        """Whether it looks for the nearest example, so that one search serves every ε."""
        return bool(self.recipe and self.recipe.minimum_norm)

    @property
    def norm(self) -> str | None:
        """The norm that its pixels are bound by; None where pixels stay."""
        own = self.recipe.norm if self.recipe else "linf"
        return None if own is None else self.options.get("norm", own)

    def experiment(self, **values: Any) -> AttackExperiment:
        """Make the recipe's attack as `cmai attack` would run it.

        Args:
            values: of the experiment, where the entry's own options do not say otherwise.

        Raises:
            OptionError: options that the recipe does not have or that contradict each other.
        """
        attributes = {name: value for name, value in self.options.items() if name in ATTRIBUTES}
        options = {name: value for name, value in self.options.items() if name not in ATTRIBUTES}
        return AttackExperiment(**{"recipe": self.slug, "options": options, **values, **attributes})


def key_value(text: str) -> tuple[str, Any]:
    """Return "key=value" with the value as JSON, a fraction such as 1/255, or as it stands.

    Raises:
        OptionError: no key or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not name.strip() or not equals:
        raise OptionError(f"{text!r} is not KEY=VALUE.", "Accepted: for example steps=50.")
    name = name.strip().replace("-", "_")
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+)\s*", value):
        return name, float(match[1]) / float(match[2])
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse_entry(text: Any, shared: Mapping[str, Mapping[str, Any]]) -> Entry:
    """Return a recipe of a grid.

    Args:
        shared: options by recipe name or whole entry, which those written in the entry itself go before.

    Raises:
        OptionError: not a text, an unknown recipe, or an option that is written wrongly.
    """
    if not isinstance(text, str) or not text.strip():
        raise OptionError(f"{text!r} is no recipe.", "Accepted: names of `cmai recipes`, or name@module:function.")
    label = text.strip()
    if "@" in label:
        slug, _, where = label.partition("@")
        module, _, function = where.partition(":")
        if not re.fullmatch(r"[\w.-]+", slug) or (where and not (module and function.isidentifier())):
            raise OptionError(
                f"{label!r} names no outside attacker.",
                "Accepted: name@module:function, or name@ for one given by name.",
            )
        return Entry(label, slug, where or "python", dict(shared.get(slug, {})) | dict(shared.get(label, {})))
    slug, colon, rest = label.partition(":")
    get_recipe(slug)
    own = dict(key_value(part) for part in re.split(r",(?=\s*[\w-]+=)", rest)) if colon else {}
    return Entry(label, slug, "", dict(shared.get(slug, {})) | dict(shared.get(label, {})) | own)
