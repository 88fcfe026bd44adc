"""What the lab offers as threat model, objective and search, the recipes as presets over the three, and what combines.

All of it is read off the descriptions of attacks and objectives; none of it imports torch.
"""

from __future__ import annotations

from collections.abc import Collection

from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.attacks.specs import LENGTHS, Recipe
from cmai_core.budget import NORMS, Budget
from cmai_core.data.registry import DATASETS, kind_of
from cmai_core.paths import assets_dir
from cmai_core.tasks import DEFAULT_TASK, TASKS

_BESIDES = {
    "text": ("words", "The picture stays; at most so many words of the sentence change."),
    "joint": ("pixels + words", "Pixels change by at most ε (L∞), and words of the sentence change with them."),
}
THREATS = {name: norm.word for name, norm in NORMS.items()} | {name: word for name, (word, _) in _BESIDES.items()}
"""Threat model → its word: the norms, "text" (words of the sentence) and "joint" (pixels under L∞, and words)."""
THREAT_NOTES = {name: norm.note for name, norm in NORMS.items()} | {name: note for name, (_, note) in _BESIDES.items()}

SEARCHES: dict[str, Recipe] = {slug: recipe for slug, recipe in RECIPES.items() if not recipe.variant_of}
"""Every search that the lab shows, by the recipe that it is; other recipes are one of these with another objective."""


AIMED = "margin"
"""The objective whose rules an attack with a target follows: it, too, compares class scores."""
FALSE_POSITIVE_RATE = 0.05
"""Share of clean pairs that a detector in the lab may flag; τ is calibrated to it."""
CALIBRATION_PAIRS = 200
"""Clean pairs of the validation split that τ is calibrated on."""


def threats_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the threat models that a recipe goes with."""
    return recipe.norms if recipe.modality == "image" else (recipe.modality,)


def home_of(recipe: Recipe) -> str:
    """Return the threat model of a recipe where none is chosen."""
    return recipe.norm if recipe.modality == "image" else recipe.modality


def budget_norm(threat: str) -> str | None:
    """Return the norm that pixels are bound by under a threat model; None where the picture stays."""
    return {"text": None, "joint": "linf"}.get(threat, threat)


def budget_of(threat: str, epsilon: float) -> Budget | None:
    """Make the budget on pixels under a threat model; None where the picture stays."""
    norm = budget_norm(threat)
    return None if norm is None else Budget(norm, epsilon)


def usual_epsilon(threat: str) -> float | None:
    """Return the ε where none is chosen; None where the picture stays."""
    if threat == "joint":
        return RECIPES["joint-cmai"].budget("linf").amount
    return None if threat == "text" else Budget.usual(threat).amount


def of_task(objective: str) -> bool:
    """Whether an objective belongs to a task."""
    return objective in OBJECTIVES and "task" in OBJECTIVES[objective].needs


def of_detector(objective: str) -> bool:
    """Whether an objective is one of attacks on a model with a detector around it."""
    return objective in OBJECTIVES and "detector" in OBJECTIVES[objective].needs


def parts_of(recipe: Recipe) -> tuple[str, str, str]:
    """Return the three parts that a recipe is made of: threat model, objective and search."""
    return home_of(recipe), recipe.objective, recipe.search


PRESETS: dict[str, Recipe] = {slug: recipe for slug, recipe in RECIPES.items() if not recipe.absent}
"""Every recipe that the lab runs, by slug."""


def preset_of(threat: str, objective: str, search: str) -> str:
    """Return the recipe that is made of these three parts; "" where none is."""
    return next((slug for slug, recipe in PRESETS.items() if parts_of(recipe) == (threat, objective, search)), "")


def why_no_detector(pair: str) -> str:
    """Say why there is no threshold for pairs like this one (`Experiment.pair`); "" where there is."""
    kind = kind_of(pair) if pair else ""
    with_pairs = [info for info in DATASETS.values() if info.calibration]
    if not pair or any(info.kind == kind for info in with_pairs):
        return ""
    least = round(1 / FALSE_POSITIVE_RATE)
    titles = " or ".join(info.title for info in with_pairs)
    few = sum(info.sizes.get(split, 0) for info in DATASETS.values() if info.kind == kind for split in info.shown)
    return (
        f"A threshold at {FALSE_POSITIVE_RATE:.0%} false alarms takes {least} clean pairs to spare, "
        f"and the {kind} here are {few}: choose a pair of {titles}."
    )


def why_not_objective(threat: str, objective: str, task: str, pair: str = "", lacking: Collection[str] = ()) -> str:
    """Say why an objective does not go with a threat model, a task and a pair ("": any); "" where it does.

    Args:
        lacking: of `OBJECTIVE_NEEDS`, what the models do not have.
    """
    if threat in _BESIDES and objective != "consistency":
        return "Where words change, the lab raises −S_c; the command line has objectives on tasks, too."
    if of_detector(objective) and (reason := why_no_detector(pair)):
        return reason
    if "classes" in OBJECTIVES[objective].needs and not TASKS[task].has_classes:
        return f"The task {task} has no class scores, which this objective compares."
    if "attention" in OBJECTIVES[objective].needs and "attention" in lacking:
        return "A chosen model's image tower gives out no attention."
    if objective == "dlr" and (options := TASKS[task].options or 3) < 3:
        return f"DLR compares three answers, and the task {task} has {options}: choose the margin."
    return ""


def why_not_search(threat: str, objective: str, search: str, task: str) -> str:
    """Say why a search does not go with an objective that goes with the threat model; "" where it does."""
    chosen = SEARCHES[search]
    if chosen.absent:
        return chosen.absent
    if threat not in threats_of(chosen):
        return _wrong_threat(chosen, threat)
    if "masked_lm" in chosen.needs and not (assets_dir() / "masked_lm" / "model.safetensors").is_file():
        return "It needs Tabletop's masked language model, which is not here."
    return _wrong_objective(chosen, objective, task)


def _wrong_objective(search: Recipe, objective: str, task: str) -> str:
    if search.minimum_norm and not search.own_objective:
        if objective not in ("margin", "accept", "reject"):
            return f"{search.name} looks for the nearest boundary, where the margin is zero: choose the margin."
    elif "classes" in search.needs and not TASKS[task].has_classes:
        return f"The task {task} has no class scores, which {search.word} needs."
    if "detector" in search.needs and objective != search.objective:
        word = OBJECTIVES[search.objective].word
        return f"{search.name} looks for what is wrong and accepted: choose “{word}”."
    if search.own_objective and objective != search.objective:
        return f"{search.name} brings an objective of its own for a wrong answer: choose the task loss."
    if search.from_clean and OBJECTIVES[objective].flat_at_clean:
        return f"{search.name} starts at the clean picture, where this objective is flat."
    return ""


def _wrong_threat(search: Recipe, threat: str) -> str:
    if search.modality == "text":
        return f"{search.name} edits words: choose the threat model “{THREATS['text']}”."
    if search.modality == "joint":
        return f"{search.name} moves pixels and words: choose the threat model “{THREATS['joint']}”."
    if threat in _BESIDES:
        return f"{search.name} changes pixels only."
    fits = " or ".join(THREATS[name] for name in search.norms)
    return f"{search.name} goes with {fits}, not with {THREATS[threat]}."


def why_not_target(threat: str, objective: str, search: str) -> str:
    """Say why an attack cannot be aimed at a target, which takes the place of its objective; "" where it can."""
    if threat in _BESIDES:
        return "Where words change, the lab raises −S_c: a target goes with attacks on pixels alone."
    if of_detector(objective):
        return "A target takes the place of the objective, and this one is about a detector: choose another."
    if SEARCHES[search].own_objective:
        return f"{SEARCHES[search].name} brings an objective of its own: choose another search for a target."
    return why_not_search(threat, AIMED, search, DEFAULT_TASK)


def why_not(
    threat: str,
    objective: str,
    search: str,
    task: str,
    pair: str = "",
    lacking: Collection[str] = (),
    target: str = "",
) -> str:
    """Say why the three parts do not combine on a task (and a pair), in a sentence; "" where they do.

    Args:
        target: what the model shall see; it takes the place of objective and task.
    """
    if target:
        return why_not_target(threat, objective, search)
    return why_not_objective(threat, objective, task, pair, lacking) or why_not_search(threat, objective, search, task)


def settled(
    threat: str, objective: str, search: str, task: str, pair: str = "", lacking: Collection[str] = ()
) -> tuple[str, str]:
    """Choose (objective, search): as given where they go with the threat model, else the first that does."""
    if why_not_objective(threat, objective, task, pair, lacking):
        fitting = (o for o in OBJECTIVES if not why_not_objective(threat, o, task, pair, lacking))
        objective = next(fitting)
    if why_not_search(threat, objective, search, task):
        search = next(s for s in SEARCHES if not why_not_search(threat, objective, s, task))
    return objective, search


def free_step(search: Recipe, threat: str) -> bool:
    """Whether the length of a step is a person's to choose: under norms whose ε is a length."""
    return search.step_size and threat in LENGTHS
