"""A named attack as plain data: everything about it that can be known without making it. It imports no torch.

A recipe is a row of keywords. Command line, grid, lab, presets, estimates of cost and the documentation read it from
here, and `build` makes the attack. Another package adds one by an entry point (`attacks.recipes.registry`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cmai_core.budget import NORMS, Budget, convex_norms
from cmai_core.errors import OptionError
from cmai_core.registry import imported

MODALITIES = ("image", "text", "joint")
KNOWLEDGE = ("white box", "scores", "decisions", "surrogate")
GRADIENTS, NEAREST, BLACK_BOX, WORDS, JOINT = (
    "gradients",
    "nearest boundary",
    "black box",
    "words",
    "pixels and words",
)
FAMILIES = (GRADIENTS, NEAREST, BLACK_BOX, WORDS, JOINT)
COUNTS = ("", "steps", "queries")
NEEDS = ("classes", "detector", "heads", "masked_lm", "surrogate", "many pictures")

LENGTHS = ("linf", "l2")
"""Norms that searches for the nearest boundary have formulas for."""
CONVEX, PIXELS = convex_norms(), tuple(NORMS)
"""Norms under which searches may project and mix; all norms."""

_PATCH_OPTIONS = ("place", "mask")


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """A named, cited attack.

    Attributes:
        slug, title, word: its name, its full title, and the short word that a page has room for.
        family: one of `FAMILIES`. modality: what is attacked, "image", "text" or "joint".
        knowledge: "white box" (gradients), "scores" (values of the objective), "decisions" (only whether it succeeded)
            or "surrogate" (gradients of another model).
        threat: what changes, in words.
        make: "module:maker" of the function that makes the attack; it is given `threat` (a `ThreatModel`) where pixels
            change, and the options.
        paper, year, url: where it comes from ("", None, "": this project).
        settings: option → the recipe's own value, where it differs from the default of the search.
        cited: options whose values are told with the recipe, as built. remarks: what else the paper says.
        compare: what its results may be compared with.
        norms: the norms it goes with; () where pixels stay. home: the norm where none is asked for ("": the first).
        amounts: norm → the amount where none is given, where it is not the norm's own (`Budget.usual`).
        counts: "steps", "queries" or "": what its length is counted in. number: of them, where none is asked for.
            interactive: the same where somebody waits for the result (0: `number`). least: fewest it runs with.
        restarts, step_size: whether restarts, and the length of a step, are a person's to choose.
        needs: what else it needs, of `NEEDS`: "classes" (a task with class scores, whatever is raised), "detector"
            (around the model), "heads" (consistency heads of the model), "masked_lm" (a masked language model),
            "surrogate" (another model), "many pictures".
        minimum_norm: whether it looks for the nearest example, so that one search serves every ε.
        objective: what it raises, a name of `attacks.objectives.registry`; where `own_objective`, nothing else can be
            raised in its place.
        from_clean: whether it starts at the clean picture.
        cost: forward passes for each step or query, about (in all, where it counts in neither); a gradient counts as
            two. overhead: passes besides.
        variant_of: the recipe whose search it is, with another objective; "": a search of its own.
        absent: why the lab shows it but does not run it ("": it does).
    """

    slug: str
    title: str
    word: str
    family: str
    modality: str
    knowledge: str
    threat: str
    make: str
    compare: str
    paper: str = ""
    year: int | None = None
    url: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    cited: tuple[str, ...] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)
    norms: tuple[str, ...] = ()
    home: str = ""
    amounts: Mapping[str, float] = field(default_factory=dict)
    counts: str = ""
    number: int = 0
    interactive: int = 0
    least: int = 1
    restarts: bool = False
    step_size: bool = False
    needs: tuple[str, ...] = ()
    minimum_norm: bool = False
    objective: str = "task"
    own_objective: bool = False
    from_clean: bool = False
    cost: float = 3.0
    overhead: float = 0.0
    variant_of: str = ""
    absent: str = ""

    @property
    def name(self) -> str:
        """Its word as a sentence begins."""
        return self.word[0].upper() + self.word[1:]

    @property
    def citation(self) -> str:
        """Paper and year in a line."""
        return f"{self.paper} ({self.year})" if self.paper else "this project"

    @property
    def norm(self) -> str | None:
        """The norm where none is asked for; None where pixels stay."""
        return self.home or (self.norms[0] if self.norms else None)

    @property
    def search(self) -> str:
        """The recipe whose search it is: itself, or the one it is a variant of."""
        return self.variant_of or self.slug

    @property
    def usual(self) -> int:
        """How many steps or queries are offered where somebody waits; 0 where it counts in neither."""
        return self.interactive or self.number

    def passes(self, number: int = 0, restarts: int = 1) -> float:
        """Estimate the forward passes that an attacked item costs.

        Args:
            number: of steps or queries (0: the recipe's own). restarts: how many starts.
        """
        units = (number or self.number) if self.counts else 1
        return self.cost * units * restarts + self.overhead

    def budget(self, norm: str | None = None) -> Budget | None:
        """Return the budget where none is given, under the recipe's norm or another; None where pixels stay.

        Raises:
            OptionError: it does not go with that norm.
        """
        chosen = norm or self.norm
        if not self.norms or chosen is None:
            return None
        self._check_norm(chosen)
        return Budget(chosen, self.amounts[chosen]) if chosen in self.amounts else Budget.usual(chosen)

    # What follows imports the attacks

    @cached_property
    def maker(self) -> Callable[..., Any]:
        """The function that makes it."""
        return imported(self.make)

    @property
    def options(self) -> tuple[str, ...]:
        """Names that `build` takes."""
        from cmai_core.attacks.recipes.makers.maker import options_of

        threat = ("norm", "epsilon", *(_PATCH_OPTIONS if "patch" in self.norms else ())) if self.norms else ()
        return tuple(dict.fromkeys((*threat, *options_of(self.maker))))

    @property
    def defaults(self) -> dict[str, Any]:
        """Options with values of the recipe's own."""
        return {**({self.counts: self.number} if self.number else {}), **self.settings}

    @property
    def constants(self) -> dict[str, Any]:
        """What is told of the recipe: values that the attack is built with, then what the paper says besides."""
        from cmai_core.attacks.recipes.makers.maker import default_of

        own = self.defaults
        return {name: own.get(name, default_of(self.maker, name)) for name in self.cited} | dict(self.remarks)

    def build(self, **options: Any) -> Any:
        """Make the attack: an `Attack`, `TextAttack` or `JointAttack`.

        Args:
            options: by name, see `options`. `epsilon` is a `Budget`, or as in `ThreatModel` (pixel units of [0, 1]);
                None or absent: `budget(norm)`.

        Raises:
            OptionError: an option the recipe does not have, a value that is not accepted, or a contradiction.
        """
        if unknown := sorted(set(options) - set(self.options)):
            raise OptionError(
                f"The recipe {self.slug} has no option {', '.join(map(repr, unknown))}.",
                f"Accepted: {', '.join(self.options)}.",
            )
        if self.norms:
            options["threat"] = self._threat_model(options)
        return dataclasses.replace(self.maker(**{**self.defaults, **options}), name=self.slug)

    def _threat_model(self, options: dict[str, Any]) -> Any:
        """Make the threat model on pixels; its options are taken out of the others."""
        from cmai_core.attacks.threats.image import ThreatModel

        norm, epsilon = options.pop("norm", None), options.pop("epsilon", None)
        if norm is None:
            norm = epsilon.norm if isinstance(epsilon, Budget) else self.norm
        usual = self.budget(norm)
        placed = {name: options.pop(name) for name in _PATCH_OPTIONS if name in options}
        return ThreatModel(norm, usual if epsilon is None else epsilon, **placed)

    def _check_norm(self, norm: str) -> None:
        if norm not in self.norms:
            raise OptionError(
                f"The recipe {self.slug} does not go with norm={norm!r}.", f"Accepted: {', '.join(self.norms)}."
            )

    def describe(self) -> dict[str, Any]:
        """Return plain values for listings."""
        names = ("slug", "title", "modality", "knowledge", "threat", "norm", "paper", "year", "url", "compare")
        budget = self.budget()
        plain = {name: getattr(self, name) for name in names}
        plain |= {"norms": list(self.norms), "epsilon": None if budget is None else budget.amount}
        return plain | {"constants": self.constants, "options": list(self.options)}
