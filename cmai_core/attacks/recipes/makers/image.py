"""Makers of the recipes on images: from options to an `Attack`.

    attack = get_recipe("apgd").build(task=task, dataset=dataset, epsilon=Budget("linf", 4))
    result = attack(model, batch, seed=0)

Every maker takes `threat` (a `ThreatModel`), and

- `task`, an object or a name (`tasks.DEFAULT_TASK` where none is given), and `dataset`, which goes to its `prepare`;
- `objective` and `success` in place of the recipe's own (success: the task's prediction is wrong); or `target` (a
  class, or one per sample) or `rank` (the rank-th likeliest false class) for a targeted attack on a task with classes;
- the options of its search by name.

FGSM, R+FGSM, PGD, MI-FGSM, DI-FGSM, EOT, universal and patch are settings of one `GradientSearch`, which stand in the
recipes' rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.engine.transforms import Diversity, InputTransform, Noise, Pose
from cmai_core.attacks.objectives.classes import DLR, ClassLoss, Margin, Misclassified, exposes_logits
from cmai_core.attacks.objectives.objective import Consistency, Objective, TaskObjective
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.recipes.makers.maker import Maker, option_names
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.searches.carlini_wagner import CarliniWagner
from cmai_core.attacks.searches.deepfool import DeepFool
from cmai_core.attacks.searches.ensemble import Cascade, EachTarget, Member
from cmai_core.attacks.searches.fab import FAB
from cmai_core.attacks.searches.genetic import Genetic
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.searches.hopskipjump import HopSkipJump
from cmai_core.attacks.searches.jsma import JSMA, Saliency
from cmai_core.attacks.searches.score_gradient import ScoreGradient
from cmai_core.attacks.searches.square import Square
from cmai_core.attacks.searches.transfer import Transfer
from cmai_core.attacks.searches.typographic import Typographic, words_of
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.errors import OptionError
from cmai_core.options import one_of

TRANSFORMS: dict[str, type[InputTransform]] = {"diversity": Diversity, "noise": Noise, "pose": Pose}
"""Transformations that can be named by a word."""

# (task, dataset, the target's options) → objective
Goal = Callable[..., Objective]
# (task, dataset, the search's options) → search
Make = Callable[..., Any]


def resolve_task(task: Any) -> Any:
    """Return the task itself, the one of a name, or the usual one."""
    if task is None or isinstance(task, str):
        from cmai_core.tasks import DEFAULT_TASK, get_task

        return get_task(task or DEFAULT_TASK)
    return task


# What is raised


def _loss(task: Any, dataset: Any, **aim: Any) -> Objective:
    return ClassLoss(task, dataset=dataset, **aim) if aim else TaskObjective(task, dataset=dataset)


def _margin(task: Any, dataset: Any, **aim: Any) -> Objective:
    return Margin(_classes(task), dataset=dataset, **aim)


def _score(task: Any, dataset: Any, **aim: Any) -> Objective:
    """Make what searches by scores raise: the margin, or the loss of a task without classes."""
    return _margin(task, dataset, **aim) if aim or exposes_logits(task) else TaskObjective(task, dataset=dataset)


def _dlr(task: Any, dataset: Any, **aim: Any) -> Objective:
    return DLR(_classes(task), dataset=dataset, **aim)


def _saliency(task: Any, dataset: Any, **aim: Any) -> Objective:
    return Saliency(_classes(task), dataset=dataset, **aim)


def _mbat(task: Any, dataset: Any, alpha: float = 1.0, beta: float = 1.0) -> Objective:
    return alpha * TaskObjective(task, dataset=dataset) - beta * Consistency()


def _classes(task: Any) -> Any:
    if not exposes_logits(task):
        raise OptionError(
            f"The task {task.name} has no class scores, which this recipe needs.",
            "Choose a task of choices (zero-shot, retrieval, vqa, nlvr), or give an objective of your own.",
        )
    return task


TARGETED_LOSSES: dict[str, Goal] = {"margin": _margin, "dlr": _dlr}
"""What may be raised towards each false class. DLR is AutoAttack's; its denominator is the lead over the third and
fourth score, which among hundreds of captions is next to nothing, and so it finds fewer: usual is the margin."""


def _towards(loss: str, task: Any, dataset: Any) -> Objective:
    """Make what the targeted members of AutoAttack raise towards each false class."""
    one_of("loss", loss, tuple(TARGETED_LOSSES))
    return TARGETED_LOSSES[loss](task, dataset)


# Searches


def _transformed(task: Any, dataset: Any, **options: Any) -> GradientSearch:
    """Make a gradient search whose transformation may be given by its name and its own options."""
    kind = options.pop("transform", None)
    if isinstance(kind, str):
        one_of("transform", kind, tuple(TRANSFORMS))
        own = option_names(TRANSFORMS[kind])
        kind = TRANSFORMS[kind](**{name: options.pop(name) for name in own if name in options})
    return GradientSearch(transform=kind, **options)


def _each_target(task: Any, dataset: Any, targets: int = 9, loss: str = "margin", **options: Any) -> EachTarget:
    objective, micro_batch = _towards(loss, task, dataset), options.get("micro_batch")
    return EachTarget(search=APGD(**options), objective=objective, targets=targets, micro_batch=micro_batch)


def _autoattack(
    task: Any,
    dataset: Any,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    loss: str = "margin",
    queries: int = 5000,
    share: float = 0.8,
    micro_batch: int | None = None,
) -> Cascade:
    task, common = _classes(task), {"micro_batch": micro_batch}
    ascent, fab = APGD(steps=steps, restarts=restarts, **common), FAB(steps=steps, restarts=restarts, **common)
    aimed = {"targets": targets, **common}
    return Cascade(
        members=(
            Member(name="apgd-ce", search=ascent, objective=_loss(task, dataset)),
            Member(name="apgd-t", search=EachTarget(search=ascent, objective=_towards(loss, task, dataset), **aimed)),
            Member(name="fab-t", search=EachTarget(search=fab, objective=_margin(task, dataset), **aimed)),
            Member(name="square", search=Square(queries=queries, share=share, **common)),
        ),
        micro_batch=micro_batch,
    )


def _typographic(task: Any, dataset: Any, words: Any = None, **options: Any) -> Typographic:
    """Make the search; words not given are the dataset's classes, or else the words of its first captions."""
    if words is None and dataset is not None:
        words = tuple(getattr(dataset, "classes", ()))
        if not words:
            words = words_of([dataset[k].captions[0] for k in range(min(50, len(dataset)))])
    if not words:
        raise OptionError("No words to write.", "Accepted: words=(…), or a dataset to take them from.")
    return Typographic(words=words if isinstance(words, str) else tuple(words), **options)


def _transfer(task: Any, dataset: Any, surrogate: Any = None, surrogate_objective: Any = None, **options: Any) -> Any:
    if surrogate is None:
        raise OptionError("No surrogate to make the pictures on.", "Accepted: surrogate=a model.")
    objective = _loss(task, dataset) if surrogate_objective is None else surrogate_objective
    return Transfer(surrogate=surrogate, search=_transformed(task, dataset, **options), objective=objective)


# Makers


def _maker(
    search: Make | type,
    *kinds: type,
    names: tuple[str, ...] | None = None,
    goal: Goal = _loss,
    goal_names: tuple[str, ...] = (),
    targeted: bool = True,
    own: bool = False,
) -> Maker:
    """Make the maker of a search.

    Args:
        search: a dataclass, or (task, dataset, options) → search. kinds: dataclasses whose options it takes.
        names: its options, where they are not those of `kinds`. goal, goal_names: what is raised, and its options.
        targeted: whether it takes `target` and `rank`. own: its parts have objectives of their own: it takes none.
    """
    if isinstance(search, type):
        kinds = (search,)
    aim_names = ("target", "rank") if targeted else ()

    def make(threat: ThreatModel, **options: Any) -> Attack:
        task, dataset = resolve_task(options.pop("task", None)), options.pop("dataset", None)
        aim = {name: options.pop(name) for name in aim_names if options.get(name) is not None}
        weights = {name: options.pop(name) for name in goal_names if name in options}
        objective, success = options.pop("objective", None), options.pop("success", None)
        if objective is not None and (aim or weights):
            given = ", ".join([*aim, *weights])
            raise OptionError(f"An objective contradicts {given}.", f"Accepted: objective, or {given}.")
        if objective is None:
            objective = goal(task, dataset, **aim, **weights)
        if success is None:
            success = (
                Misclassified(_classes(task), dataset=dataset, **aim) if aim else Untargeted(task, dataset=dataset)
            )
        made = search(**options) if isinstance(search, type) else search(task, dataset, **options)
        return Attack(threat=threat, objective=objective, search=made, success=success)

    common = ("task", "dataset", *(() if own else ("objective",)), "success")
    own_names = option_names(*kinds) if names is None else names
    sources = (goal, *dict.fromkeys((search, *kinds)))
    return Maker(make, tuple(dict.fromkeys((*common, *aim_names, *goal_names, *own_names))), sources)


_WITHOUT = {"targeted": False, "own": True}

gradient = _maker(GradientSearch)
weighted = _maker(GradientSearch, goal=_mbat, goal_names=("alpha", "beta"), targeted=False)
diverse = _maker(_transformed, GradientSearch, Diversity)
transformed = _maker(_transformed, GradientSearch, Noise, Pose, Diversity)
apgd = _maker(APGD)
apgd_dlr = _maker(APGD, goal=_dlr)
apgd_targeted = _maker(
    _each_target,
    APGD,
    names=("targets", "loss", *option_names(APGD, without=("stop_on_success",))),
    goal=_margin,
    **_WITHOUT,
)
fab = _maker(FAB, goal=_margin)
deepfool = _maker(DeepFool, goal=_margin)
carlini_wagner = _maker(CarliniWagner, goal=_margin)
jsma = _maker(JSMA, goal=_saliency)
autoattack = _maker(
    _autoattack,
    names=("steps", "restarts", "targets", "loss", "queries", "share", "micro_batch"),
    goal=_margin,
    **_WITHOUT,
)
typographic = _maker(_typographic, Typographic, goal=_score)
square = _maker(Square, goal=_score)
score_gradient = _maker(ScoreGradient, goal=_score)
genetic = _maker(Genetic, goal=_score)
hopskipjump = _maker(HopSkipJump, goal=_score)
transfer = _maker(
    _transfer,
    GradientSearch,
    Diversity,
    names=("surrogate", "surrogate_objective", *option_names(GradientSearch, Diversity)),
    **_WITHOUT,
)
