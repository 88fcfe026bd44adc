"""What an attack did, in words."""

from __future__ import annotations

from app.components.attack_lab.detector import decisions, outcome
from app.components.common.theme import number
from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.lab.belonging import epsilon_words
from cmai_core.lab.choices import SEARCHES, THREATS, free_step
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import Example, LabResult


def objective_words(experiment: Experiment) -> str:
    """Return the objective as a short formula."""
    formula = OBJECTIVES[experiment.objective].formula
    return formula.format(task=experiment.task, alpha=experiment.alpha, beta=experiment.beta)


def example_note(result: LabResult, example: Example) -> str:
    """Return how the picture was made, in one line."""
    if not example.begun:
        return "No attacked picture was made."
    e = result.experiment
    search = SEARCHES[e.recipe]
    objective = f"own objective for {e.task}" if search.own_objective else f"objective {objective_words(e)}"
    said = [search.word, THREATS[e.norm]]
    if e.norm != "text":
        said.append(f"ε = {epsilon_words(e)}")
    if e.edits_words:
        said.append(f"at most {e.words} word{'' if e.words == 1 else 's'}")
    if search.counts == "queries":
        said.append(f"{example.forwards} queries")
    elif free_step(search, e.norm):
        said.append(f"{example.steps_done} steps of {e.step_size:g}/255")
    else:
        said.append(f"{example.steps_done} step{'' if example.steps_done == 1 else 's'}")
    return f"Crafted on model {example.role}: {', '.join(said)}, {objective}."


def finding(result: LabResult) -> list[str]:
    """Return the outcome, a sentence for each model."""
    sentences = []
    for role, prediction in result.predictions.items():
        broken, right = prediction.broken_tasks()
        tail = f", {broken} of {right} right answers lost" if right else ""
        if prediction.accepted is not None:
            tail = f", {decisions(prediction)} by its detector. {outcome(result, role)}".removesuffix(".")
        if not prediction.attacked:
            sentences.append(f"{role.capitalize()}: not attacked, as the attack was cancelled before its turn.")
            continue
        sentences.append(
            f"{role.capitalize()}: S_c {number(prediction.clean)} → {number(prediction.adversarial)}{tail}."
        )
    return sentences
