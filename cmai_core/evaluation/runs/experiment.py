"""An attack on a dataset, fully specified in plain values: what `cmai attack` runs, and what its reports hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cmai_core.attacks.attack_spec import ELSEWHERE, AttackSpec
from cmai_core.attacks.objectives.registry import present_name
from cmai_core.attacks.recipes.registry import get_recipe
from cmai_core.attacks.specs import Recipe
from cmai_core.budget import Budget
from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.options import strict_options, whole
from cmai_core.tasks import DEFAULT_TASK

PLAIN = "pgd"
"""The recipe where none is named."""
# Values where no recipe is named, which experiments of that kind have always held.
_PLAIN = {
    "objective": "task",
    "alpha": 1.0,
    "beta": 1.0,
    "restarts": 1,
    "random_start": True,
    "momentum": 0.0,
    "stop_on_success": False,
}
_OWN = ("steps", "restarts", "random_start", "momentum", "stop_on_success")
"""Options of recipes that an experiment has as attributes of its own."""


@strict_options
@dataclass(frozen=True, kw_only=True)
class AttackExperiment:
    """A recipe, or PGD, on the first `limit` pairs of a dataset.

    Attributes:
        model: specification of the model the examples are crafted on.
        targets: specifications of models that are then shown the same pictures and texts (transfer).
        dataset, split, limit: which pairs; limit None: all. captions: texts taken of each pair (joint attacks use more
            than one).
        recipe: a name of `recipes.registry.RECIPES`; "": PGD as the other attributes say.
        options: the recipe's own, as plain values (lists for tuples; a surrogate by its specification).
        task: the task whose predictions are judged, and whose loss the objective raises.
        objective: a name of `attacks.objectives.registry`; "task" with a recipe: what that makes of the task. On
            texts "consistency" or "task". None: the recipe's own ("task" on images, "consistency" on texts).
        norm, epsilon: as in `Budget`; None: the recipe's usual norm and amount. step_size: in the same units; None:
            the recipe's.
        alpha, beta, steps, restarts, random_start, momentum, stop_on_success: as in `GradientSearch`; with a recipe
            they are options of it (None: its own values).
        batch_size: pairs attacked together; it does not change the result (but of universal recipes).

    Raises:
        OptionError: a value outside its range; the message lists what is accepted.
    """

    model: str = "tabletop"
    targets: tuple[str, ...] = ()
    dataset: str = DEFAULT_DATASET
    split: str = "test"
    limit: int | None = 64
    captions: int = 1
    recipe: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    task: str = DEFAULT_TASK
    objective: str | None = None
    alpha: float | None = None
    beta: float | None = None
    norm: str | None = None
    epsilon: float | None = None
    steps: int | None = None
    step_size: float | None = None
    restarts: int | None = None
    random_start: bool | None = None
    momentum: float | None = None
    stop_on_success: bool | None = None
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        recipe = get_recipe(self.recipe or PLAIN)
        object.__setattr__(self, "objective", present_name(self.objective))
        if self.recipe:
            self._check_names(recipe)
        else:
            self._check_plain()
            self._fill({**_PLAIN, "steps": recipe.number})
        usual = recipe.budget(self.norm) if recipe.norms else None
        if usual is not None:
            self._fill({"norm": usual.norm, "epsilon": usual.amount})
        for name in ("steps", "restarts", "batch_size", "captions", "limit"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        if self.restarts is not None and self.restarts > 1 and self.random_start is False:
            raise OptionError(
                f"restarts={self.restarts} without a random start would repeat one and the same run.",
                "Accepted: restarts=1, or a random start.",
            )
        _ = self.spec  # which checks the rest

    def _check_plain(self) -> None:
        """Refuse options of no recipe, and weights of nothing (1, the default, stands in every stored experiment)."""
        if self.options:
            raise OptionError(
                "Options belong to a recipe, and none is named.",
                "Name one (recipe pgd), or give steps and the like by their own names.",
            )
        given = [name for name in ("alpha", "beta") if getattr(self, name) not in (None, 1.0)]
        if given and self.objective != "both":
            raise OptionError(f"{given[0]} weighs nothing here.", "It goes with objective='both', or with a recipe.")

    def _check_names(self, recipe: Recipe) -> None:
        """Refuse options that the recipe does not have."""
        if not isinstance(self.options, Mapping):
            raise OptionError(f"options={self.options!r} is not accepted.", "Accepted: names with values.")
        if "step_size" in self.options:
            raise OptionError(
                "step_size is no option of a recipe here.",
                "Accepted beside the options, by the same name, in the units of an experiment.",
            )
        beside = ELSEWHERE if recipe.norms else tuple(name for name in ELSEWHERE if name not in ("norm", "epsilon"))
        pixels = [name for name in ("norm", "epsilon") if getattr(self, name) is not None]
        unknown = sorted(set(self._given()) - set(recipe.options) - set(beside)) + ([] if recipe.norms else pixels)
        if unknown:
            raise OptionError(
                f"The recipe {self.recipe} has no option {', '.join(map(repr, unknown))}.",
                f"Accepted: {', '.join(name for name in recipe.options if name not in (*ELSEWHERE, 'step_size'))}.",
            )

    def _fill(self, defaults: Mapping[str, Any]) -> None:
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _given(self) -> dict[str, Any]:
        """Return the options of the recipe in its own names, those of the attributes among them."""
        weights = ("alpha", "beta") if self.recipe and self.objective != "both" else ()
        given = {name: getattr(self, name) for name in (*_OWN, *weights) if getattr(self, name) is not None}
        if clash := sorted(set(given) & set(self.options)):
            raise OptionError(f"{', '.join(clash)} was given twice.", "Accepted: once.")
        return given | dict(self.options)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"targets": list(self.targets), "options": dict(self.options)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> AttackExperiment:
        """Read JSON values; unknown names raise `OptionError`."""
        known = {f.name for f in fields(AttackExperiment)}
        values = {k: tuple(v) if k == "targets" and k in known else v for k, v in values.items()}
        return AttackExperiment(**values)

    @property
    def modality(self) -> str:
        """What is attacked: "image", "text" or "joint"."""
        return get_recipe(self.recipe or PLAIN).modality

    @property
    def spec(self) -> AttackSpec:
        """The attack that is asked for."""
        own = self.recipe and self.objective == "task" and self.modality == "image"  # what the recipe makes of it
        return AttackSpec(
            recipe=self.recipe or PLAIN,
            objective=None if own else self.objective,
            alpha=1.0 if self.alpha is None else self.alpha,
            beta=1.0 if self.beta is None else self.beta,
            budget=None if self.norm is None else Budget(self.norm, self.epsilon),
            step_size=self.step_size,
            options=self._given(),
            seed=self.seed,
        )

    def build(self, task: Any, dataset: Any, value_count: int, load: Callable[[str], Any] | None = None) -> Any:
        """Make the attack; arguments as in `AttackSpec.build`."""
        return self.spec.build(task, dataset, value_count=value_count, load=load)
