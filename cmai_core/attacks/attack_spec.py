"""What attack is asked for, in plain values: the one request that command line, grid and lab make an attack from.

It imports no torch until `build`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.attacks.recipes.registry import get_recipe
from cmai_core.attacks.specs import Recipe
from cmai_core.budget import Budget, norm_of
from cmai_core.errors import OptionError
from cmai_core.options import number, whole

ELSEWHERE = ("task", "dataset", "norm", "epsilon", "objective", "success")
"""Options of recipes that a request does not give by `options`."""


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """A recipe with everything that is chosen about it.

    Attributes:
        recipe: a name of `recipes.registry.RECIPES`.
        objective: what is raised, a name of `objectives.registry.OBJECTIVES`; None: what the recipe raises.
        alpha, beta: weights of the objective, where it has them.
        budget: how far pixels may move; None: the recipe's usual budget, or none where pixels stay.
        step_size: length of a step in the units of the budget; None: the recipe's.
        options: of the recipe, as plain values. seed: of the random numbers.

    Raises:
        OptionError: an unknown name, a budget or an option that the recipe does not take.
    """

    recipe: str = "pgd"
    objective: str | None = None
    alpha: float = 1.0
    beta: float = 1.0
    budget: Budget | None = None
    step_size: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        recipe = self.description
        if self.objective is not None:
            OBJECTIVES.find(self.objective)
        for name in ("alpha", "beta"):
            number(name, getattr(self, name), 0.0)
        if self.objective == "both" and self.alpha == 0 and self.beta == 0:
            raise OptionError("alpha and beta are both 0.", "At least one part of the objective needs a weight.")
        whole("seed", self.seed, 0)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, 255.0, above_low=True)
        if not isinstance(self.options, Mapping):
            raise OptionError(f"options={self.options!r} is not accepted.", "Accepted: names with values.")
        if elsewhere := sorted(set(self.options) & set(ELSEWHERE)):
            raise OptionError(
                f"{', '.join(elsewhere)} is no option of a recipe here.",
                "Accepted beside the options, by the same name, in the units of an experiment.",
            )
        if self.budget is not None:
            recipe.budget(self.budget.norm)

    @property
    def description(self) -> Recipe:
        """The recipe itself."""
        return get_recipe(self.recipe)

    @property
    def needs_detector(self) -> bool:
        """Whether the attacked model must have a detector around it."""
        given = {"tau", "detectors"} & set(self.options)
        raised = () if self.objective is None else OBJECTIVES.find(self.objective).needs
        return "detector" in raised or ("detector" in self.description.needs and not given)

    @property
    def chosen_budget(self) -> Budget | None:
        """The budget, or the recipe's usual one; None where pixels stay."""
        return self.budget or self.description.budget()

    def build(
        self,
        task: Any = None,
        dataset: Any = None,
        *,
        value_count: int,
        load: Callable[[str], Any] | None = None,
    ) -> Any:
        """Make the attack: an `Attack`, `TextAttack` or `JointAttack`.

        Args:
            task: whose predictions are judged; None where the objective needs none. dataset: handed to its `prepare`.
            value_count: 3·H·W of the attacked model's pixels, on which the size of a budget may depend.
            load: specification → model, for a surrogate.

        Raises:
            OptionError: parts that do not go together, or more than the pictures have room for.
        """
        recipe = self.description
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in self.options.items()}
        options |= self._size(value_count)
        if isinstance(options.get("surrogate"), str) and load is not None:
            options["surrogate"] = load(options["surrogate"])
        goal = self._image_goal if recipe.modality == "image" else self._text_goal
        return recipe.build(**options, **goal(recipe, task, dataset))

    def _size(self, value_count: int) -> dict[str, Any]:
        """Turn the budget and the step into pixel units."""
        budget = self.chosen_budget
        if budget is None:
            return {} if self.step_size is None else {"step_size": self.step_size}
        if budget.norm == "l0" and budget.amount > (positions := value_count // 3):
            raise OptionError(
                f"epsilon={budget.amount:g} is more than the {positions:,} pixel positions of the model's pictures.",
                f"Accepted for l0: 0, or 1 to {positions}.",
            )
        sized: dict[str, Any] = {"norm": budget.norm, "epsilon": budget.pixels(value_count)}
        if self.step_size is not None:
            sized["step_size"] = self.step_size * norm_of(budget.norm).scale(value_count)
        return sized

    def _image_goal(self, recipe: Recipe, task: Any, dataset: Any) -> dict[str, Any]:
        """Make what is raised on pictures, and when it has succeeded."""
        goal = {"task": task, "dataset": dataset}
        if self.objective is not None:
            objective = OBJECTIVES.find(self.objective)
            goal["objective"] = objective.build(task, dataset, alpha=self.alpha, beta=self.beta)
            if task is None or objective.success != "wrong":
                goal["success"] = objective.criterion(task, dataset)
        taken = {"objective", *recipe.options}  # a recipe that takes no objective says so itself
        return {name: value for name, value in goal.items() if value is not None and name in taken}

    def _text_goal(self, recipe: Recipe, task: Any, dataset: Any) -> dict[str, Any]:
        """Make what is raised on texts: −S_c of the pair, or the task's loss."""
        if self.objective not in (None, "consistency", "task"):
            raise OptionError(
                f"objective={self.objective!r} is for recipes on images.", "Accepted here: consistency, task."
            )
        return {"task": task, "dataset": dataset} if self.objective == "task" else {}
