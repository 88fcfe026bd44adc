"""What an attack did, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.components.attack_lab.detector import decisions, outcome
from app.components.common.theme import number
from cmai_core.lab.choices import LENGTHS, SEARCHES, THREATS, budget_words
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import Craft, LabResult

if TYPE_CHECKING:
    pass


def objective_words(experiment: Experiment) -> str:
    """Return the objective as a short formula."""
    task = f"loss({experiment.task})"
    return {
        "task": task,
        "consistency": "−S_c",
        "both": f"{experiment.alpha:g}·{task} − {experiment.beta:g}·S_c",
        "margin": f"margin({experiment.task})",
        "dlr": f"DLR({experiment.task})",
        "kl": f"KL({experiment.task}) from the clean answer",
        "deviation": "distance from the clean embedding",
        "aware": f"{task} while S_c ≥ τ",
        "accept": "S_c − τ",
        "reject": "τ − S_c",
    }[experiment.objective]


def craft_note(result: LabResult, craft: Craft) -> str:
    """Return how the picture was made, in one line."""
    if not craft.begun:
        return "No attacked picture was made."
    e = result.experiment
    search = SEARCHES[e.recipe]
    objective = f"own objective for {e.task}" if search.own else f"objective {objective_words(e)}"
    said = [search.word, THREATS[e.norm]]
    if e.norm != "text":
        said.append(f"ε = {budget_words(e.norm, e.epsilon)}")
    if e.edits_words:
        said.append(f"at most {e.words} word{'' if e.words == 1 else 's'}")
    if search.queries:
        said.append(f"{craft.forwards} queries")
    elif search.step_size and e.norm in LENGTHS:
        said.append(f"{craft.steps_done} steps of {e.step_size:g}/255")
    else:
        said.append(f"{craft.steps_done} step{'' if craft.steps_done == 1 else 's'}")
    return f"Crafted on the {craft.role} model: {', '.join(said)}, {objective}."


def finding(result: LabResult) -> list[str]:
    """Return the outcome, a sentence for each model."""
    sentences = []
    for role, reading in result.readings.items():
        broken, right = reading.broken_tasks()
        tail = f", {broken} of {right} right answers lost" if right else ""
        if reading.accepted is not None:
            tail = f", {decisions(reading)} by its detector. {outcome(result, role)}".removesuffix(".")
        if not reading.attacked:
            sentences.append(f"{role.capitalize()}: not attacked, as the attack was cancelled before its turn.")
            continue
        sentences.append(f"{role.capitalize()}: S_c {number(reading.clean)} → {number(reading.adversarial)}{tail}.")
    return sentences
