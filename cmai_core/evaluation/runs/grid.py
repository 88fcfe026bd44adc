"""What is to be measured, in plain values: models × tasks × recipes × ε × seeds on one dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from cmai_core.attacks.specs import LENGTHS
from cmai_core.budget import norms_in_255
from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.entries import OUTSIDE_OPTIONS, Entry, parse_entry
from cmai_core.options import flag, number, one_of, strict_options, whole
from cmai_core.tasks import DEFAULT_TASK, TASKS

_LISTS = ("models", "tasks", "recipes", "epsilons", "seeds", "sources")
_MAY_BE_EMPTY = ("recipes", "sources")


@strict_options
@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of cells; one cell is (source model, task, recipe, ε, seed) on the first items of a dataset.

    Attributes:
        models: specifications; each is attacked, and with `transfer` shown what was crafted on the others.
        tasks: names of tasks. recipes: see `entries`; () measures clean predictions only.
        epsilons: in units of 1/255 (linf; l2: root mean square). Recipes with another kind of budget have their own.
        dataset, split, limit: which items; limit None: all.
        seeds: of the random starts. captions: texts taken of each item.
        sources: those of `models` that are attacked; (): all.
        gallery: captions of the retrieval gallery, at least as many as items; None: that, and at least 200.
        transfer: show each source's examples to every model. cascade: for each source, task and ε the recipes run one
            after another, cheap ones first, each only on items no one before it has turned wrong (`cascade`).
        options: by recipe name, as in `cmai attack` (there in the units of an experiment).
        batch_size: items attacked together. validation: clean items of the dataset's split for it that thresholds are
            set on (0: none).

    Raises:
        OptionError: a value, recipe or option that is not accepted; the message lists what is.
    """

    models: Sequence[str] = ("tabletop",)
    tasks: Sequence[str] = (DEFAULT_TASK,)
    recipes: Sequence[str] = ("pgd",)
    epsilons: Sequence[float] = (4.0,)
    dataset: str = DEFAULT_DATASET
    split: str = "test"
    limit: int | None = 64
    sources: Sequence[str] = ()
    gallery: int | None = None
    seeds: Sequence[int] = (0,)
    captions: int = 1
    transfer: bool = True
    cascade: bool = False
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_size: int = 32
    validation: int = 200

    def __post_init__(self) -> None:
        for name in _LISTS:
            values = getattr(self, name)
            if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
                raise OptionError(f"{name}={values!r} is not accepted.", "Accepted: a list.")
            if not values and name not in _MAY_BE_EMPTY:
                raise OptionError(f"{name} is empty.", "Accepted: at least one.")
            if len(set(map(repr, values))) != len(values):
                raise OptionError(f"{name}={list(values)!r} names one twice.", "Accepted: each once.")
            object.__setattr__(self, name, tuple(values))
        for model in self.models:
            if not isinstance(model, str) or not model.strip():
                raise OptionError(f"{model!r} is no model.", "Accepted: specifications, see `cmai models`.")
        for source in self.sources:
            one_of("source", source, self.models)
        for task in self.tasks:
            one_of("task", task, tuple(TASKS))
        for epsilon in self.epsilons:
            number("epsilon", epsilon, 0.0, 255.0, above_low=True)
        for seed in self.seeds:
            whole("seed", seed, 0)
        for name, least in (("captions", 1), ("batch_size", 1), ("validation", 0)):
            whole(name, getattr(self, name), least)
        for name in ("limit", "gallery"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        for name in ("transfer", "cascade"):
            flag(name, getattr(self, name))
        self._check_options()
        for entry in self.entries:
            for epsilon in self.epsilons_of(entry):
                self._check(entry, epsilon)

    def _check_options(self) -> None:
        if not isinstance(self.options, Mapping) or not all(isinstance(v, Mapping) for v in self.options.values()):
            raise OptionError(f"options={self.options!r} is not accepted.", "Accepted: options by recipe name.")
        known = {name for entry in self.entries for name in (entry.label, entry.slug)}
        if unknown := sorted(set(self.options) - known):
            raise OptionError(
                f"options are given for {', '.join(unknown)}, which the grid does not use.",
                f"Accepted: {', '.join(sorted(known)) or 'none, as there is no recipe'}.",
            )

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The recipes with their options."""
        return tuple(parse_entry(text, self.options) for text in self.recipes)

    def epsilons_of(self, entry: Entry) -> tuple[float | None, ...]:
        """Return the grid's ε for an entry that has such a budget; its own (None) for the others."""
        return self.epsilons if entry.norm in norms_in_255() and "epsilon" not in entry.options else (None,)

    def experiment(self, entry: Entry, epsilon: float | None, *, model: str = "", task: str = "", seed: int = 0) -> Any:
        """Make the attack of an entry as `cmai attack` would run it: an `AttackExperiment` of a recipe.

        Args:
            epsilon: of the grid, or None. A minimum-norm recipe searches with its own budget whatever this is, so that
                one search serves every ε.

        Raises:
            OptionError: options that the recipe does not have or that contradict each other.
        """
        chosen = {} if epsilon is None or entry.minimum_norm else {"epsilon": epsilon}
        return entry.experiment(
            model=model or self.models[0],
            task=task or self.tasks[0],
            dataset=self.dataset,
            split=self.split,
            limit=self.limit,
            captions=self.captions,
            seed=seed,
            batch_size=self.batch_size,
            **chosen,
        )

    def _check(self, entry: Entry, epsilon: float | None) -> None:
        """Refuses what cannot be built for any task, before a model is loaded."""
        if entry.where:
            if unknown := sorted(set(entry.options) - set(OUTSIDE_OPTIONS)):
                raise OptionError(
                    f"The outside attacker {entry.slug} has no option {', '.join(map(repr, unknown))}.",
                    f"Accepted: {', '.join(OUTSIDE_OPTIONS)}.",
                )
            one_of("norm", entry.norm, LENGTHS)
            return
        experiment = self.experiment(entry, epsilon)
        if experiment.modality != "image" and experiment.objective == "task":
            raise OptionError(
                f"{entry.label}: with the task's loss a text attack depends on the other items of its batch.",
                "Accepted here: objective=consistency.",
            )
        if "words" not in experiment.options and entry.slug == "typographic":  # they come from the dataset
            worded = Entry(entry.label, entry.slug, "", {**entry.options, "words": ("word",)})
            experiment = self.experiment(worded, epsilon)
        if "surrogate" in experiment.options:
            one_of("surrogate", type(experiment.options["surrogate"]).__name__, ("str",))
            return  # needs the surrogate itself
        from cmai_core.tasks import get_task

        experiment.build(get_task(DEFAULT_TASK), None, 3 * 128**2)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(value) if name in _LISTS else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Grid:
        """From JSON values; unknown names raise `OptionError`."""
        if not isinstance(values, Mapping):
            raise OptionError("A grid is an object of names and values.", f"Accepted: {', '.join(GRID_FIELDS)}.")
        return Grid(**values)


GRID_FIELDS = tuple(f.name for f in fields(Grid))
