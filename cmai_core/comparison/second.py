"""The terms that all trainings of the second comparison share, and those trainings.

    cmai compare trials tecoa hard-negative …      # which ε each recipe is trained with
    cmai compare train tecoa hard-negative …       # the whole schedule with it, into runs/second

All start from `BASE`, see `PAIRS` pairs, and perturb by one step of ε from noise within ±2ε (N-FGSM: de Jorge et al.
2022, arXiv 2202.01181), which on validation scenes was worth as much as two steps of projected ascent and a fourth
faster. Recipes that learn from captions have class prompts as further positives, which gains accuracy in zero-shot and
loses none in retrieval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmai_core.errors import DataError, OptionError
from cmai_core.files import check_folder, explained
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.training.recipes import PAIRS_2, get_recipe
from cmai_core.training.settings import Recipe

BASE, PAIRS = "tabletop-2", PAIRS_2
PROMPTS = 0.5
"""Weight of class prompts and short statements as further positives, of all recipes that learn from captions."""
TRIALS = "trials.json"


def second_recipe(name: str, epsilon: float | None) -> Recipe:
    """Return a recipe under the second comparison's terms.

    Args:
        epsilon: in units of 1/255; where ARM steers ε, it may go up to this one, and starts there. None: of a recipe
            that perturbs nothing.

    Raises:
        OptionError: an unknown recipe, one that does not fine-tune, or an ε where none belongs or none where one does.
    """
    recipe = get_recipe(name)
    if not recipe.start:
        raise OptionError(f"The recipe {name} does not fine-tune.", "Give recipes that start from a model.")
    if (recipe.inner is None) != (epsilon is None):
        raise OptionError(f"The recipe {name} and ε {epsilon} do not go together.", "Give ε to those that perturb.")
    recipe = replace(recipe, start=BASE, architecture=BASE, pairs=PAIRS)
    if recipe.weights.contrastive:
        recipe = replace(recipe, weights=replace(recipe.weights, prompts=PROMPTS))
    if epsilon is None:
        return recipe
    radius = epsilon / 255
    inner = replace(recipe.inner, epsilon=radius, step_size=radius, steps=1, start="noise")
    arm = recipe.controller
    if arm is not None:
        arm = replace(arm, epsilon=replace(arm.epsilon, low=min(arm.epsilon.low, radius), high=radius))
        if getattr(arm, "start", None) is not None:  # a controller by constraints begins at its price
            arm = replace(arm, start=replace(arm.start, epsilon=radius))
    return replace(recipe, inner=inner, controller=arm)


def chosen_epsilons(folder: Path) -> dict[str, float]:
    """Return recipe → the ε that its trials chose, of a folder of `run_trials`.

    Raises:
        DataError: there are none.
    """
    path = folder / TRIALS
    if not path.is_file():
        raise DataError(f"No trials lie in {folder}.", "Run `cmai compare trials` first.")
    with explained(path, "read"):
        found = json.loads(path.read_text(encoding="utf-8"))["recipes"]
    return {name: float(part["chosen"]) for name, part in found.items()}


def train_second(
    names: Sequence[str],
    folder: Path,
    epsilons: dict[str, float],
    *,
    base: str = BASE,
    seed: int = 0,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[Path]:
    """Train recipes to the end of the schedule, one after another; goes on where it was stopped.

    Args:
        names: of recipes. folder: gets a folder a recipe. epsilons: recipe → ε (1/255), of those that perturb.
        base: spec of the model that all start from.
        changes: of settings, for all of them, such as the model that is replayed.

    Returns:
        Where the models lie.
    """
    from cmai_core.training.runs import run
    from cmai_core.training.trainer import RunOptions

    recipes = [second_recipe(name, epsilons.get(name)) for name in names]
    check_folder(folder)
    made = []
    for recipe in recipes:
        recipe = replace(recipe, **(changes or {}))
        options = RunOptions(pairs=recipe.pairs, validate_every=200)
        place = folder / (recipe.name if seed == 0 else f"{recipe.name}-{seed}")
        tools: dict[str, Any] = {"device": device, "progress": progress, "cancel": cancel}
        made.append(run(recipe, out_dir=place, base=base, seed=seed, options=options, **tools).model_dir)
    return made
