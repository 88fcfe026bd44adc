"""What the lab's benchmark offers, as plain data: recipes by modality, a chosen grid, presets. It imports no torch.

A chosen grid becomes the values of an `evaluation.grid.Grid`; the same grid is what `cmai evaluate` runs.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.attacks.specs import LENGTHS, Recipe
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.pace import READ, SECONDS_A_PASS, attack_passes
from cmai_core.lab.experiment import EPSILON_LADDER
from cmai_core.paths import assets_dir
from cmai_core.tasks import DEFAULT_TASK, TASKS

MODALITIES = {"image": "pictures", "text": "words", "joint": "pictures and words"}
COUNTS = (4, 8, 16, 32, 64, 128, 256, 512, 1000)
MAX_MODELS, MAX_CELLS = 6, 400
EFFORTS = ("quick", "usual", "published")
QUICK_STEPS, QUICK_QUERIES = 10, 200
BATCH = 16
"""Pairs attacked together: between batches a run makes way for others, and a stop loses at most one of them."""
VALIDATION = 200


@dataclass(frozen=True)
class Offer:
    """A recipe as the page offers it."""

    recipe: Recipe

    @property
    def slug(self) -> str:
        """The recipe's name."""
        return self.recipe.slug

    @property
    def word(self) -> str:
        """The recipe's short word."""
        return self.recipe.word

    @property
    def modality(self) -> str:
        """What is attacked: "image", "text" or "joint"."""
        return self.recipe.modality

    @property
    def detector(self) -> bool:
        """Whether it needs a threshold τ."""
        return "detector" in self.recipe.needs

    @property
    def own_budget(self) -> bool:
        """Whether ε does not multiply it: it has a budget of another kind, or looks for the nearest example."""
        return self.recipe.norm not in LENGTHS or self.recipe.minimum_norm

    def number(self, effort: str) -> int:
        """Return how many steps or queries it has at an effort; 0 where it counts in neither."""
        if effort == "published" or not self.recipe.counts:
            return self.recipe.number
        if effort == "usual":
            return self.recipe.usual
        most = QUICK_STEPS if self.recipe.counts == "steps" else QUICK_QUERIES
        return min(self.recipe.usual, max(most, self.recipe.least))

    def entry(self, effort: str, tau: float | None = None) -> str:
        """Write it as in a grid, such as "pgd:steps=10"."""
        options = []
        if effort != "published" and self.recipe.counts:
            options.append(f"{self.recipe.counts}={self.number(effort)}")
        if self.detector and tau is not None:
            options.append(f"tau={tau:.4f}")
        return self.slug + (":" + ",".join(options) if options else "")

    def units(self, effort: str) -> float:
        """Estimate how many forward passes an item costs."""
        return self.recipe.passes(self.number(effort))


def sets() -> tuple[str, ...]:
    """Return the splits that can be measured, as "<dataset>/<split>": those shown in the lab and held-out ones."""
    return tuple(f"{info.name}/{split}" for info in DATASETS.values() for split in (*info.shown, *info.held_out))


OFFERS = {slug: Offer(recipe) for slug, recipe in RECIPES.items() if "surrogate" not in recipe.needs}
"""Recipes by slug, but for those that need another model to craft on: here every model is shown every example."""


def recipe_words(label: str) -> str:
    """Say a recipe as it stands in the predictions: "pgd:steps=10" is "PGD, 10 steps"."""
    label, space, mark = label.partition(" (")  # "(2)" tells apart what two runs mean by one name
    slug, _, rest = label.partition(":")
    words = [OFFERS[slug].word if slug in OFFERS else slug]
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        words.append({"steps": f"{value} steps", "queries": f"{value} queries", "tau": f"τ = {value}"}.get(name, part))
    return ", ".join(words) + space + mark


@dataclass(frozen=True, kw_only=True)
class GridChoice:
    """A grid as a person chooses it.

    Attributes:
        models: specifications. tasks, recipes: names. epsilons: of EPSILON_LADDER. dataset: one of `sets`.
            count: pairs.
        cascade: worst case only. transfer: show each model the others' examples. seed: of random starts.
        effort: "quick" (at most QUICK_STEPS steps and QUICK_QUERIES queries), "usual" (as in the attack lab) or
            "published". detection: also read VALIDATION clean pairs that the detector's thresholds are set on.
        tau: the threshold that detector-aware recipes evade; None where none is chosen.
    """

    models: Sequence[str] = ()
    tasks: Sequence[str] = (DEFAULT_TASK,)
    recipes: Sequence[str] = ()
    epsilons: Sequence[float] = (4.0,)
    dataset: str = f"{DEFAULT_DATASET}/{DATASETS[DEFAULT_DATASET].usual}"
    count: int = 32
    cascade: bool = False
    transfer: bool = True
    seed: int = 0
    effort: str = "quick"
    detection: bool = False
    tau: float | None = None

    def checked(self) -> GridChoice:
        """Itself, when every value is one that is offered.

        Raises:
            OptionError: naming the first that is missing or not offered.
        """
        for values, word in ((self.models, "model"), (self.tasks, "task"), (self.epsilons, "ε")):
            if not values:
                raise OptionError(f"No {word} is chosen.", f"Choose at least one {word}.")
        if not self.recipes:
            raise OptionError("No attack is chosen.", "Choose at least one recipe.")
        if len(self.models) > MAX_MODELS:
            raise OptionError(f"{len(self.models)} models are chosen.", f"At most {MAX_MODELS} go into one grid.")
        if any(not 0 < len(model) <= 200 for model in self.models):
            raise OptionError("A model's specification is too long.", "Up to 200 characters are accepted.")
        accepted = (
            ("task", self.tasks, tuple(TASKS)), ("recipe", self.recipes, OFFERS), ("ε", self.epsilons, EPSILON_LADDER),
            ("set", (self.dataset,), sets()), ("number of pairs", (self.count,), COUNTS),
            ("effort", (self.effort,), EFFORTS),
        )  # fmt: skip
        for name, values, known in accepted:
            for value in values:
                if value not in known:
                    names = ", ".join(map(str, known))
                    raise OptionError(f"The {name} {value!r} is not offered.", f"Offered: {names}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise OptionError(f"The seed is {self.seed!r}.", "It is a whole number from 0.")
        if self.needs_tau and (self.tau is None or not math.isfinite(self.tau) or not -1 <= self.tau <= 1):
            raise OptionError(
                "Attacks that know a detector need its threshold τ.", "Give τ between −1 and 1, or leave them out."
            )
        if self.cells > MAX_CELLS:
            raise OptionError(
                f"The grid has {self.cells} cells.", f"At most {MAX_CELLS} run here; the command line has no limit."
            )
        return self

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The recipes chosen, in the order they are offered."""
        return tuple(offer for slug, offer in OFFERS.items() if slug in self.recipes)

    @property
    def needs_tau(self) -> bool:
        return any(offer.detector for offer in self.offers)

    def _sizes(self) -> list[tuple[Offer, int]]:
        """Recipes with how many cells each has on one model."""
        sizes = []
        for offer in self.offers:
            tasks = 1 if offer.modality == "text" else len(self.tasks)
            sizes.append((offer, tasks * (1 if offer.own_budget else len(self.epsilons))))
        return sizes

    @property
    def cells(self) -> int:
        """How many cells it has, before it is known which can be measured."""
        return len(self.models) * sum(size for _, size in self._sizes())

    def seconds(self, rate: float = SECONDS_A_PASS) -> float:
        """Estimate the seconds with nothing stored.

        Args:
            rate: seconds of a pass, such as `runs.pace_of` learns them from a store.
        """
        others = len(self.models) - 1 if self.transfer else 0
        passes = sum(
            size * self.count * (attack_passes(offer.units(self.effort)) + READ * others)
            for offer, size in self._sizes()
        )
        clean = len(self.tasks) * (self.count + (VALIDATION if self.detection else 0))
        return len(self.models) * (passes + READ * clean) * rate

    def values(self) -> dict[str, Any]:
        """Return the values of the `Grid`, as plain JSON."""
        dataset, _, split = self.dataset.partition("/")
        return {
            "models": list(self.models),
            "tasks": list(self.tasks),
            "recipes": [offer.entry(self.effort, self.tau) for offer in self.offers],
            "epsilons": sorted(self.epsilons),
            "dataset": dataset,
            "split": split,
            "limit": self.count,
            "seeds": [self.seed],
            "cascade": self.cascade,
            "transfer": self.transfer,
            "batch_size": BATCH,
            "validation": VALIDATION if self.detection and DATASETS[dataset].calibration else 0,
        }


def command(values: Mapping[str, Any]) -> str:
    """Return the same grid for a terminal."""
    words = ["cmai evaluate"]
    for name in ("models", "sources", "tasks", "recipes", "epsilons", "seeds"):
        if values.get(name) or name == "recipes":
            words.append(" ".join([f"--{name}", *(_plain(value) for value in values[name])]))
    words += [f"--dataset {_plain(values['dataset'])}", f"--split {_plain(values['split'])}"]
    words += [f"--limit {'all' if values['limit'] is None else values['limit']}"]
    for name in ("captions", "gallery"):
        if values.get(name) not in (None, 1):
            words.append(f"--{name} {values[name]}")
    words += [f"--batch-size {values['batch_size']}", f"--validation {values['validation']}"]
    words += ["--cascade"] if values["cascade"] else []
    words += [] if values["transfer"] else ["--no-transfer"]
    for recipe, given in (values.get("options") or {}).items():
        words += [f"--option {shlex.quote(f'{recipe}:{name}={json.dumps(value)}')}" for name, value in given.items()]
    return " \\\n  ".join(words)


def _plain(value: Any) -> str:
    return shlex.quote(f"{value:g}" if isinstance(value, float) else str(value))


@dataclass(frozen=True)
class Preset:
    """A grid for one click. `models`: how many: 2 the undefended and the defended bundled model, 1 the defended one."""

    slug: str
    title: str
    words: str
    models: int
    choice: GridChoice


def presets() -> tuple[Preset, ...]:
    """Return the grids that the empty page offers; those of words need the masked language model, where it is there."""
    masked = (assets_dir() / "masked_lm" / "model.safetensors").is_file()
    both = ("bert-attack", "char", "sga", "joint-cmai") if masked else ("synonym", "char")
    return (
        Preset(
            "quick", "Quick look", "Two models, retrieval, four attacks from one step to black box, at 2 and 4/255.", 2,
            GridChoice(recipes=("fgsm", "pgd", "apgd", "square"), epsilons=(2.0, 4.0), count=32),
        ),
        Preset(
            "modalities", "Image vs text vs joint",
            "The same pairs attacked in their pictures, in their words, and in both at once.", 2,
            GridChoice(recipes=("pgd", *both), epsilons=(2.0,), count=32),
        ),
        Preset(
            "worst", "Worst case",
            "Six attacks of different kinds as a cascade: cheap ones first, only survivors go on. The worst case is "
            "exact.", 2,
            GridChoice(
                recipes=("fgsm", "pgd", "apgd", "apgd-dlr", "fab", "square"), epsilons=(1.0, 2.0, 4.0), count=32,
                cascade=True,
            ),
        ),
        Preset(
            "adaptive", "Adaptive",
            "The defended model behind a detector on S_c: attacks that do not know it, and attacks that evade it.", 1,
            GridChoice(
                recipes=("pgd", "detector-pgd", "adaptive"), epsilons=(4.0,), count=32, detection=True, tau=0.0,
            ),
        ),
    )  # fmt: skip


def duration(seconds: float | None) -> str:
    """Return "about 40 s", "about 3 min", "about 2 h"; "" where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s" if seconds < 20 else f"about {round(seconds, -1):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
