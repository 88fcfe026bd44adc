"""Validation trials: which ε each recipe is trained with is chosen by short trainings, as many for one as for another.

    cmai compare trials tecoa hard-negative-mat leaf proeat

trains every recipe with every ε for a tenth of the pairs, under the terms of the second comparison (`second`), measures
each on validation scenes, and chooses (`RULE`).
Nothing here opens the test split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmai_core.comparison.second import BASE, PAIRS, TRIALS, second_recipe
from cmai_core.comparison.tables import markdown
from cmai_core.errors import DataError, OptionError
from cmai_core.files import check_folder, explained, write_json
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.training.recipes import get_recipe
from cmai_core.training.settings import Recipe, terms

EPSILONS = (3.0, 4.5, 6.0)
"""In units of 1/255."""
MEASURED = (2.0, 4.0)
"""Radii of the validation attacks, in units of 1/255."""
SHARE = 0.1
"""Of the schedule, that a trial takes."""
SCENES = 300
RULE = (
    "The ε with the highest mean of the worst cases at 2/255 and 4/255 on the validation scenes; of equals, the "
    "smallest. Test scenes are not looked at."
)
RESULT = "trial.json"
FORMAT = "cmai-trials/1"


@dataclass(frozen=True)
class Terms:
    """What all trials share.

    Attributes:
        base: spec of the model that every trial starts from.
        pairs: length of the whole schedule. A trial sees a tenth.
        epsilons: that are tried, in units of 1/255. seed: of the trainings.
        scenes: validation scenes measured on. training_scenes: use only the first so many scenes; None: all.
    """

    base: str = BASE
    pairs: int = PAIRS
    epsilons: tuple[float, ...] = EPSILONS
    seed: int = 0
    scenes: int = SCENES
    training_scenes: int | None = None

    def __post_init__(self) -> None:
        if not self.epsilons or min(self.epsilons) <= 0 or len(set(self.epsilons)) < len(self.epsilons):
            raise OptionError(f"epsilons={self.epsilons} cannot be tried.", "Give different numbers above 0.")


def run_trials(
    names: Sequence[str],
    folder: Path,
    given: Terms,
    *,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    report: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and measure every trial that is not finished; write and return the summary.

    Args:
        names: of recipes. folder: gets RECIPE-ε/ with the training and `trial.json`, and `trials.json`.
        progress: of the training at work. cancel: looked at once a step. report: told each trial's name and figures.

    Raises:
        OptionError: a recipe without ε, or the same one twice. DataError: a folder that holds another trial.
    """
    if len(set(names)) < len(names) or not names:
        raise OptionError(f"Recipes: {', '.join(names) or 'none'}.", "Give one or more, each once.")
    if missing := [name for name in names if get_recipe(name).inner is None]:
        raise OptionError(f"The recipe {missing[0]} has no ε to try.", "Give recipes that perturb pictures.")
    rows = {name: {epsilon: second_recipe(name, epsilon) for epsilon in given.epsilons} for name in names}
    check_folder(folder)
    found: dict[str, dict[float, dict[str, Any]]] = {}
    for name, recipes in rows.items():
        for epsilon, recipe in recipes.items():
            place = folder / f"{name}-{epsilon:g}"
            figures = _trial(recipe, place, given, device, progress, cancel)
            found.setdefault(name, {})[epsilon] = figures
            if report is not None:
                report(place.name, figures)
    out = summary(found, given)
    write_json(folder / TRIALS, out)
    return out


def _trial(
    recipe: Recipe,
    place: Path,
    given: Terms,
    device: str | None,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> dict[str, Any]:
    """Return the figures of one trial: those that are there, or measured after its training has gone on to its end."""
    from cmai_core.training.runs import run
    from cmai_core.training.trainer import RunOptions

    pairs = max(recipe.batch, round(SHARE * given.pairs))
    identity = {
        "recipe": terms(recipe.to_dict()),
        "base": given.base,
        "pairs": pairs,
        "seed": given.seed,
        "scenes": given.scenes,
        "training_scenes": given.training_scenes,
    }
    identity = json.loads(json.dumps(identity))
    if (place / RESULT).is_file():
        with explained(place / RESULT, "read"):
            kept = json.loads((place / RESULT).read_text(encoding="utf-8"))
        different = sorted(k for k in identity if kept.get("identity", {}).get(k) != identity[k])
        if different:
            raise DataError(
                f"{place} holds another trial: {', '.join(different)} differ.", "Choose another folder, or delete it."
            )
        return kept["figures"]
    result = run(
        recipe,
        out_dir=place,
        base=given.base,
        seed=given.seed,
        device=device,
        scenes=given.training_scenes,
        options=RunOptions(pairs=pairs, validate_every=0, validation_scenes=given.scenes),
        progress=progress,
        cancel=cancel,
    )
    figures = measured(f"local-dir:{result.model_dir}", given.scenes, device) | {"seconds": round(result.seconds, 1)}
    write_json(place / RESULT, {"format": FORMAT, "identity": identity, "figures": figures})
    return figures


def measured(spec: str, scenes: int = SCENES, device: str | None = None) -> dict[str, Any]:
    """Return the worst case of a stored model on the first validation scenes (`training.validation`)."""
    from cmai_core.models import load_model
    from cmai_core.training.placement import validation_arrays
    from cmai_core.training.trainer import take_apart
    from cmai_core.training.validation import worst_validation

    parts = take_apart(load_model(spec, device))
    return worst_validation(
        parts, validation_arrays(scenes), scenes=scenes, epsilons=[epsilon / 255 for epsilon in MEASURED]
    )


def chosen(figures: Mapping[float, Mapping[str, Any]]) -> float:
    """Return the ε that `RULE` chooses; figures: of one recipe, by ε."""
    return max(sorted(figures), key=lambda epsilon: sum(figures[epsilon]["worst"]))


def summary(found: Mapping[str, Mapping[float, Mapping[str, Any]]], given: Terms) -> dict[str, Any]:
    """Return everything as JSON values: terms, rule, figures of every trial, and the ε chosen for each recipe."""
    return {
        "format": FORMAT,
        "rule": RULE,
        "split": "validation",
        "base": given.base,
        "pairs": given.pairs,
        "share": SHARE,
        "seed": given.seed,
        "scenes": given.scenes,
        "epsilons": list(given.epsilons),
        "measured": list(MEASURED),
        "recipes": {
            name: {
                "trials": {f"{epsilon:g}": dict(figures) for epsilon, figures in trials.items()},
                "chosen": chosen(trials),
            }
            for name, trials in found.items()
        },
    }


def table(out: Mapping[str, Any]) -> str:
    """Return the summary as Markdown: per cent of the validation scenes, the chosen ε in bold."""
    rows = []
    for name, part in out["recipes"].items():
        for epsilon, figures in part["trials"].items():
            label = f"**{epsilon}**" if float(epsilon) == part["chosen"] else epsilon
            values = (figures["clean"], *figures["worst"])
            rows.append([f"`{name}`", label, *(f"{100 * value:.1f}" for value in values)])
    heads = ["recipe", "ε of training", "clean", *(f"worst {epsilon:g}/255" for epsilon in out["measured"])]
    return f"{markdown(heads, rows)}\n\nOf {out['scenes']} validation scenes, image→text R@1. Bold: {out['rule']}"
