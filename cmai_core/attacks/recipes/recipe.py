"""What a recipe is: a named, cited combination of threat model, objective and search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cmai_core.errors import OptionError

MODALITIES = ("image", "text", "joint")


@dataclass(frozen=True)
class Builder:
    """How an attack is made from options.

    Attributes:
        make: options → attack. options: the names it takes; anything else is refused before `make` is called.
    """

    make: Callable[..., Any]
    options: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A named, cited attack.

    Attributes:
        slug, title: names. modality: what is attacked, "image", "text" or "joint".
        knowledge: "white box" (gradients), "scores" (values of the objective), "decisions" (only whether it succeeded)
            or "surrogate" (gradients of another model).
        threat: what changes, in words. paper, year, url: where it comes from ("", None, "" for our own).
        constants: what is taken from there. compare: what its results may be compared with.
        builder: options → attack.
        norm, epsilon: the pixel budget where none is given, in the units of `ThreatModel` (None: pixels stay).
        norms: all that it goes with.
    """

    slug: str
    title: str
    modality: str
    knowledge: str
    threat: str
    paper: str
    year: int | None
    url: str
    constants: Mapping[str, Any]
    compare: str
    builder: Builder
    norm: str | None = None
    epsilon: float | None = None
    norms: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Names that `build` takes."""
        return self.builder.options

    @property
    def citation(self) -> str:
        """Paper and year in a line."""
        return f"{self.paper} ({self.year})" if self.paper else "this project"

    def build(self, **options: Any) -> Any:
        """The attack: an `Attack`, `TextAttack` or `JointAttack`.

        Raises:
            OptionError: an option the recipe does not have, a value that is not accepted, or a contradiction.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise OptionError(
                f"The recipe {self.slug} has no option {', '.join(map(repr, unknown))}.",
                f"Accepted: {', '.join(self.options)}.",
            )
        if self.norms and (norm := options.get("norm", self.norm)) not in self.norms:
            raise OptionError(
                f"The recipe {self.slug} does not go with norm={norm!r}.", f"Accepted: {', '.join(self.norms)}."
            )
        return self.builder.make(**options)

    def describe(self) -> dict[str, Any]:
        """Plain values for listings."""
        names = ("slug", "title", "modality", "knowledge", "threat", "norm", "epsilon", "paper", "year", "url")
        plain = {name: getattr(self, name) for name in names} | {"norms": list(self.norms)}
        return plain | {"constants": dict(self.constants), "compare": self.compare, "options": list(self.options)}


def option_names(*kinds: type, without: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the options of some dataclasses, in order, each once."""
    found = dict.fromkeys(f.name for kind in kinds for f in dataclasses.fields(kind) if f.init)
    return tuple(name for name in found if name not in set(without))
