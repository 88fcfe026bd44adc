"""The attack an experiment describes, from its three parts: threat model, objective, search."""

from __future__ import annotations

from typing import Any

from cmai_core.lab.choices import SEARCHES, TASKLESS, UNJUDGED
from cmai_core.lab.experiment import Experiment


def image_objective(experiment: Experiment, task: Any, prepared: Any) -> Any:
    """What is raised on pictures; `task` and what it prepared may be None where the objective has none."""
    from cmai_core.attacks import Consistency, TaskObjective, Untargeted
    from cmai_core.attacks.objectives.classes import DLR, Divergence, Margin
    from cmai_core.attacks.objectives.detection import DetectorAware
    from cmai_core.attacks.objectives.detectors import Slack
    from cmai_core.attacks.objectives.embedding import EmbeddingDeviation

    consistency = Consistency([experiment.caption])
    return {
        "consistency": lambda: -consistency,
        "deviation": EmbeddingDeviation,
        "task": lambda: TaskObjective(task, prepared),
        "both": lambda: experiment.alpha * TaskObjective(task, prepared) - experiment.beta * consistency,
        "margin": lambda: Margin(task, prepared),
        "dlr": lambda: DLR(task, prepared),
        "kl": lambda: Divergence(task, prepared),
        "aware": lambda: DetectorAware(TaskObjective(task, prepared), Untargeted(task, prepared)),
        "accept": Slack,
        "reject": lambda: -Slack(),
    }[experiment.objective]()


def success_of(experiment: Experiment, task: Any, prepared: Any) -> Any:
    """When an attack on pictures has succeeded; None where the objective is only raised as far as it goes.

    Against a detector (the attacked `System`'s own), a wrong answer counts only where it is accepted.
    """
    from cmai_core.attacks import Untargeted
    from cmai_core.attacks.objectives.detectors import Accepted

    if experiment.objective in TASKLESS:
        return {"accept": Accepted(), "reject": ~Accepted()}.get(experiment.objective)
    wrong = Untargeted(task, prepared)
    return wrong & Accepted() if experiment.objective == "aware" else wrong


def attack_for(
    experiment: Experiment, objective: Any, success: Any, value_count: int, *, task: Any = None, dataset: Any = None
) -> Any:
    """The experiment's search on pictures.

    Args:
        objective, success: what is raised, and when it has succeeded (None: the objective rose). A search that brings
            an objective of its own takes it from `task`, and one against a detector has its own success, too.
        value_count: 3·H·W of the pictures (L2 budgets are per value).
        task, dataset: for searches that need them besides the objective (words to write are those of the dataset).

    Raises:
        OptionError: a number that the search does not accept.
    """
    from cmai_core.attacks import Raised
    from cmai_core.attacks.recipes.registry import get_recipe

    search, recipe = SEARCHES[experiment.recipe], get_recipe(experiment.recipe)
    unit = {"l0": 1.0, "patch": 0.01}.get(experiment.norm, 1 / 255)
    scale = value_count**0.5 if experiment.norm == "l2" else 1.0
    options: dict[str, Any] = {
        "norm": experiment.norm,
        "epsilon": experiment.epsilon * unit * scale,
    }
    if "success" in recipe.options:
        options["success"] = success or Raised()
    if not search.own:
        options["objective"] = objective
    if task is not None:
        options["task"] = task
    if dataset is not None:
        options["dataset"] = dataset
    if search.steps:
        options["steps"] = experiment.steps
    if search.queries:
        options["queries"] = experiment.queries
    if search.restarts:
        options["restarts"] = experiment.restarts
    if search.step_size and experiment.norm in ("linf", "l2"):
        options["step_size"] = experiment.step_size / 255 * scale or None
    if "stop_on_success" in recipe.options:
        # Queries are what black-box attacks are judged by; the others show how far they get.
        options["stop_on_success"] = bool(search.queries) and experiment.objective not in UNJUDGED
    return recipe.build(**options)


def words_attack_for(experiment: Experiment, true_of_scene: bool) -> Any:
    """The experiment's attack on words, or on pixels and words: −S_c of the pair as it is.

    Args:
        true_of_scene: whether the sentence is known to be true of the picture's scene.

    Raises:
        OptionError: a number that the search does not accept.
    """
    from cmai_core.attacks.recipes.registry import get_recipe

    search, recipe = SEARCHES[experiment.recipe], get_recipe(experiment.recipe)
    truth = "none" if experiment.truth == "free" else "scene" if true_of_scene else "similarity"
    options: dict[str, Any] = {"words": experiment.words, "truth": truth}
    if "stop_on_success" in recipe.options:
        options["stop_on_success"] = False
    if search.steps:
        options["steps"] = experiment.steps
    if experiment.norm == "joint":
        # step_size None: 2.5·ε/steps, which is what the published schedules take at their own ε and steps.
        options |= {"epsilon": experiment.epsilon / 255, "step_size": None}
    return recipe.build(**options)
