"""The adaptive attack on a system: wrong *and* accepted, by an ensemble of detector-aware members.

A defence is judged by attacks that know it (Tramèr et al. 2020, arXiv 2002.08347; Athalye et al. 2018,
arXiv 1802.00420). Members are every form of detector awareness × every loss, the plain losses first; each works on what
the ones before it did not fool, so a sample stands only where it stands against all of them. Given a `System`,
gradients go through its smoothing (expectation over its randomness; `eot` more draws a step) and around its
preprocessing (BPDA).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.objectives.classes import Margin, exposes_logits
from cmai_core.attacks.objectives.detection import FORMS, DetectorAware
from cmai_core.attacks.objectives.detectors import Accepted, Detector, Guard, Slack
from cmai_core.attacks.objectives.objective import Consistency, Objective, TaskObjective
from cmai_core.attacks.objectives.stability import Neighbourhood, StableMistake
from cmai_core.attacks.objectives.success import Criterion, Untargeted
from cmai_core.attacks.searches.ensemble import Cascade, Member
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.errors import OptionError
from cmai_core.options import flag, one_of

LOSSES = ("task", "margin", "consistency")


def adaptive(
    task: Any,
    *,
    dataset: Any = None,
    tau: float | None = None,
    detectors: Sequence[Detector] = (),
    norm: str = "linf",
    epsilon: Any = None,
    losses: Sequence[str] | None = None,
    forms: Sequence[str] = FORMS,
    plain: bool = True,
    margin: float = 0.005,
    micro_batch: int | None = None,
    **options: Any,
) -> Attack:
    """Make the adaptive ensemble; success: the task's answer is wrong and the picture is accepted.

    Args:
        task: a task of `cmai_core.tasks`; dataset: handed to its `prepare`.
        tau, detectors: what is evaded; by default the attacked `System`'s own detector (none: a plain ensemble).
            `tau` alone means S_c of the given pair.
        norm, epsilon: as in `ThreatModel`.
        losses: "task" (its loss), "margin" (where the task has class scores), "consistency" (−S_c of the given pair);
            None: the first two.
        forms: of `DetectorAware`; plain: whether each loss is first raised without regard to the detector.
        margin: by how much scores are kept above thresholds. micro_batch: images in one pass.
        options: of each member's `GradientSearch`: steps (20), step_size, restarts, momentum, eot, …

    Raises:
        OptionError: an option that is not known or not accepted.
    """
    flag("plain", plain)
    for form in forms:
        one_of("forms", form, FORMS)
    found = _detectors(tau, detectors)
    names = [n for n in LOSSES[:2] if n != "margin" or exposes_logits(task)] if losses is None else list(losses)
    if not names or not (forms or plain):
        raise OptionError("The ensemble has no member.", f"Accepted: losses of {LOSSES} and forms of {FORMS}.")
    for name in names:
        one_of("losses", name, LOSSES)
    wrong = Untargeted(task, dataset=dataset)
    make = {
        "task": lambda: TaskObjective(task, dataset=dataset),
        "margin": lambda: Margin(task, dataset=dataset),
        "consistency": lambda: -Consistency(),
    }
    search = GradientSearch(**{"steps": 20, "micro_batch": micro_batch, **options})
    members = [Member(name=name, search=search, objective=make[name]()) for name in names if plain]
    for form in forms:
        for name in names:
            aware = DetectorAware(make[name](), wrong, found, form, margin)
            members.append(Member(name=f"{form} {name}", search=search, objective=aware))
    return Attack(
        threat=ThreatModel(norm, epsilon),
        objective=DetectorAware(make[names[0]](), wrong, found, margin=margin),
        search=Cascade(members=tuple(members), micro_batch=micro_batch),
        success=wrong & Accepted(found),
        name="adaptive",
    )


def detector_pgd(
    task: Any,
    *,
    form: str = "lagrangian",
    loss: Objective | None = None,
    dataset: Any = None,
    margin: float = 0.005,
    **options: Any,
) -> Attack:
    """Make one detector-aware PGD ("orthogonal" and "selective": Bryniarski et al. 2022, arXiv 2106.15023).

    Args:
        form: of `DetectorAware`. loss: what is raised; None: the task's loss.
        task, dataset, margin: as in `adaptive`.
        options: tau, detectors, norm and epsilon as in `adaptive`, and those of `GradientSearch`.
    """
    wrong = Untargeted(task, dataset=dataset)
    raised = TaskObjective(task, dataset=dataset) if loss is None else loss
    return _against(
        f"{form}-pgd",
        lambda found: (DetectorAware(raised, wrong, found, form, margin), wrong & Accepted(found)),
        **options,
    )


def stable_mistake(
    task: Any,
    *,
    dataset: Any = None,
    search: Neighbourhood | None = None,
    norm: str = "linf",
    epsilon: Any = None,
    **options: Any,
) -> Attack:
    """Make PGD on `StableMistake`: a wrong answer that a search around the picture does not change (against CPR).

    Args:
        task, dataset, norm, epsilon: as in `adaptive`; a task with class scores.
        search: the system's own (`SearchDetector.search`); None: the usual one.
        options: of `GradientSearch`.
    """
    objective = StableMistake(task, dataset=dataset, search=Neighbourhood() if search is None else search)
    return Attack(
        threat=ThreatModel(norm, epsilon),
        objective=objective,
        search=GradientSearch(**{"steps": 20, **options}),
        success=Untargeted(task, dataset=dataset) & Accepted(),
        name="stable-mistake",
    )


def accept_false(**options: Any) -> Attack:
    """Make PGD on score − τ, which gets the batch's (false) captions accepted. Options as in `detector_pgd`."""
    return _against("accept-false", lambda found: (Slack(found), Accepted(found)), **options)


def reject_true(**options: Any) -> Attack:
    """Make PGD on τ − score, which gets the batch's (true) pairs rejected. Options as in `detector_pgd`."""
    return _against("reject-true", lambda found: (-Slack(found), ~Accepted(found)), **options)


def _against(
    name: str,
    goal: Callable[[tuple[Detector, ...]], tuple[Objective, Criterion]],
    *,
    tau: float | None = None,
    detectors: Sequence[Detector] = (),
    norm: str = "linf",
    epsilon: Any = None,
    **options: Any,
) -> Attack:
    """Make PGD against detectors. `goal`: from the detectors, what is raised and when it has succeeded."""
    objective, success = goal(_detectors(tau, detectors))
    threat, search = ThreatModel(norm, epsilon), GradientSearch(**options)
    return Attack(threat=threat, objective=objective, search=search, success=success, name=name)


def _detectors(tau: float | None, detectors: Sequence[Detector]) -> tuple[Detector, ...]:
    if tau is not None and detectors:
        raise OptionError("Both tau and detectors were given.", "Accepted: one of the two.")
    return (Guard(tau),) if tau is not None else tuple(detectors)
