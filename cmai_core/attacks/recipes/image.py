"""Named attacks on images: what each takes from which paper, and how it is built.

    attack = IMAGE_RECIPES["apgd"].build(task=task, dataset=dataset, epsilon=4 / 255)
    result = attack(model, batch, seed=0)

Every `build` takes

- `task`, an object or a name (`tasks.DEFAULT_TASK` where none is given), and `dataset`, which goes to its `prepare`;
- `norm` and `epsilon` as in `ThreatModel` (`place` and `mask` for a patch);
- `objective` and `success` in place of the recipe's own (success: the task's prediction is wrong); or `target` (a
  class, or one per sample) or `rank` (the rank-th likeliest false class) for a targeted attack on a task with classes;
- the options of its search by name.

FGSM, R+FGSM, PGD, MI-FGSM, DI-FGSM, EOT, universal and patch are settings of one `GradientSearch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.engine.transforms import Diversity, InputTransform, Noise, Pose
from cmai_core.attacks.objectives.classes import DLR, ClassLoss, Margin, Misclassified, exposes_logits
from cmai_core.attacks.objectives.objective import Consistency, Objective, TaskObjective
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.recipes.recipe import Builder, Recipe, option_names
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

LENGTHS = ("linf", "l2")
CONVEX = ("linf", "l2", "patch")
ANY = ("linf", "l2", "l0", "patch")

# Where a recipe is used under another norm than its own: the budget RobustBench uses on ImageNet for l2; a twentieth of
# the picture for a patch.
USUAL = {"linf": 4 / 255, "l2": 3.0, "l0": 100, "patch": 0.05}

_COMMON = ("task", "dataset", "norm", "epsilon", "objective", "success")
_GRADIENT = option_names(GradientSearch)
_POSE, _DIVERSITY = option_names(Pose), option_names(Diversity)

# (task, dataset, the target's options) → objective
Goal = Callable[..., Objective]
# (task, dataset, the search's options) → search
Make = Callable[..., Any]


def _loss(task: Any, dataset: Any, **aim: Any) -> Objective:
    return ClassLoss(task, dataset=dataset, **aim) if aim else TaskObjective(task, dataset=dataset)


def _margin(task: Any, dataset: Any, **aim: Any) -> Objective:
    return Margin(_classes(task), dataset=dataset, **aim)


def _score(task: Any, dataset: Any, **aim: Any) -> Objective:
    """What searches by scores raise: the margin, or the loss of a task without classes."""
    return _margin(task, dataset, **aim) if aim or exposes_logits(task) else TaskObjective(task, dataset=dataset)


def _dlr(task: Any, dataset: Any, **aim: Any) -> Objective:
    return DLR(_classes(task), dataset=dataset, **aim)


TARGETED_LOSSES: dict[str, Goal] = {"margin": _margin, "dlr": _dlr}
"""What may be raised towards each false class. DLR is AutoAttack's; its denominator is the lead over the third and
fourth score, which among hundreds of captions is next to nothing, and so it finds fewer: usual is the margin."""


def _saliency(task: Any, dataset: Any, **aim: Any) -> Objective:
    return Saliency(_classes(task), dataset=dataset, **aim)


def _classes(task: Any) -> Any:
    if not exposes_logits(task):
        raise OptionError(
            f"The task {task.name} has no class scores, which this recipe needs.",
            "Choose a task of choices (zero-shot, retrieval, vqa, nlvr), or give an objective of your own.",
        )
    return task


def _plain(kind: Callable[..., Any], **usual: Any) -> Make:
    """A search that needs to know neither task nor dataset, with a recipe's own values."""
    return lambda task, dataset, **options: kind(**{**usual, **options})


def _through(usual: str | None, **settings: Any) -> Make:
    """A gradient search whose transformation may be given by its name and its own options."""

    def make(task: Any, dataset: Any, **options: Any) -> GradientSearch:
        kind = options.pop("transform", usual)
        if isinstance(kind, str):
            one_of("transform", kind, tuple(TRANSFORMS))
            own = option_names(TRANSFORMS[kind])
            kind = TRANSFORMS[kind](**{name: options.pop(name) for name in own if name in options})
        return GradientSearch(**{**settings, "transform": kind, **options})

    return make


def _recipe(
    slug: str,
    title: str,
    knowledge: str,
    threat: str,
    paper: str,
    year: int | None,
    url: str,
    constants: Mapping[str, Any],
    compare: str,
    *,
    make: Make,
    names: tuple[str, ...],
    goal: Goal = _loss,
    goal_names: tuple[str, ...] = (),
    norm: str = "linf",
    norms: tuple[str, ...] = ANY,
    epsilon: float | None = None,
    targeted: bool = True,
    fixed: bool = False,
) -> Recipe:
    """An image recipe.

    Args:
        make, names: the search and its options. goal, goal_names: the objective and its options.
        norm, norms: the usual norm, and all that it goes with. epsilon: the usual budget under the usual norm.
        targeted: whether it takes `target` and `rank`. fixed: its parts have objectives of their own: it takes none.
    """
    usual = USUAL | {norm: USUAL[norm] if epsilon is None else epsilon}
    aim_names = ("target", "rank") if targeted else ()
    place = ("place", "mask") if "patch" in norms else ()

    def build(**options: Any) -> Attack:
        task, dataset = resolve_task(options.pop("task", None)), options.pop("dataset", None)
        chosen = options.pop("norm", norm)
        spot = {name: options.pop(name) for name in place if name in options}
        threat_model = ThreatModel(chosen, options.pop("epsilon", usual[chosen]), **spot)
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
        search = make(task, dataset, **options)
        return Attack(threat=threat_model, objective=objective, search=search, success=success, name=slug)

    common = tuple(name for name in _COMMON if not (fixed and name == "objective"))
    options = tuple(dict.fromkeys((*common, *place, *aim_names, *goal_names, *names)))
    cited = (slug, title, "image", knowledge, threat, paper, year, url, constants, compare)
    return Recipe(*cited, Builder(build, options), norm, usual[norm], norms)


def resolve_task(task: Any) -> Any:
    """Return the task itself, the one of a name, or the usual one."""
    if task is None or isinstance(task, str):
        from cmai_core.tasks import DEFAULT_TASK, get_task

        return get_task(task or DEFAULT_TASK)
    return task


def _mbat(task: Any, dataset: Any, alpha: float = 1.0, beta: float = 1.0) -> Objective:
    return alpha * TaskObjective(task, dataset=dataset) - beta * Consistency()


def _towards(loss: str, task: Any, dataset: Any) -> Objective:
    """What the targeted members of AutoAttack raise towards each false class."""
    one_of("loss", loss, tuple(TARGETED_LOSSES))
    return TARGETED_LOSSES[loss](task, dataset)


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
    """Words not given are the dataset's classes, or else the words of its first captions."""
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
    search = _through("diversity", steps=10, step_scale=1.0, momentum=1.0, random_start=False)(task, dataset, **options)
    return Transfer(surrogate=surrogate, search=search, objective=objective)


_SQUARE = option_names(Square)
_WHITE, _PIXELS = "white box", "pixels"

_RECIPES = (
    _recipe(
        "fgsm",
        "Fast gradient sign method",
        _WHITE,
        _PIXELS,
        "Goodfellow et al., Explaining and Harnessing Adversarial Examples",
        2015,
        "https://arxiv.org/abs/1412.6572",
        {"steps": 1, "step_size": "epsilon"},
        "FGSM of torchattacks, Foolbox and ART, element by element",
        make=_plain(GradientSearch, steps=1, step_scale=1.0, random_start=False, keep="last"),
        names=_GRADIENT,
    ),
    _recipe(
        "r-fgsm",
        "FGSM after a random step (R+FGSM)",
        _WHITE,
        _PIXELS,
        "Tramèr et al., Ensemble Adversarial Training: Attacks and Defenses",
        2018,
        "https://arxiv.org/abs/1705.07204",
        {"alpha": "epsilon/2", "start": "a random sign", "steps": 1},
        "fgsm at the same budget; the paper's R+FGSM up to its random numbers",
        make=_plain(GradientSearch, steps=1, step_scale=0.5, start="sign", start_scale=0.5, keep="last"),
        names=_GRADIENT,
        norms=("linf",),
    ),
    _recipe(
        "pgd",
        "Projected gradient descent",
        _WHITE,
        _PIXELS,
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks",
        2018,
        "https://arxiv.org/abs/1706.06083",
        {"steps": 20, "step_size": "2.5*epsilon/steps", "start": "uniform in the ball"},
        "PGD of torchattacks, Foolbox and ART (with keep='last' and random_start=False element by element)",
        make=_plain(GradientSearch, steps=20),
        names=_GRADIENT,
    ),
    _recipe(
        "mi-fgsm",
        "Momentum iterative FGSM",
        _WHITE,
        _PIXELS,
        "Dong et al., Boosting Adversarial Attacks with Momentum",
        2018,
        "https://arxiv.org/abs/1710.06081",
        {"steps": 10, "step_size": "epsilon/steps", "momentum": 1.0},
        "MIFGSM of torchattacks (with keep='last' element by element); transfer rates at equal steps",
        make=_plain(GradientSearch, steps=10, step_scale=1.0, momentum=1.0, random_start=False),
        names=_GRADIENT,
    ),
    _recipe(
        "di-fgsm",
        "Iterative FGSM with input diversity (DI²-FGSM)",
        _WHITE,
        _PIXELS,
        "Xie et al., Improving Transferability of Adversarial Examples with Input Diversity",
        2019,
        "https://arxiv.org/abs/1803.06978",
        {"probability": 0.5, "resize": "330/299 there, shrunk to 0.9 here", "momentum": "0 (1.0: M-DI²-FGSM)"},
        "DIFGSM of torchattacks, statistically; transfer rates at equal steps",
        make=_through("diversity", steps=20, step_scale=1.0, random_start=False),
        names=(*_GRADIENT, *_DIVERSITY),
    ),
    _recipe(
        "apgd",
        "Auto-PGD on the cross-entropy",
        _WHITE,
        _PIXELS,
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks",
        2020,
        "https://arxiv.org/abs/2003.01690",
        {"steps": 100, "momentum": 0.75, "rho": 0.75, "first step": "2*epsilon"},
        "APGD-CE of AutoAttack and torchattacks (rule='code' step by step)",
        make=_plain(APGD),
        names=option_names(APGD),
        norms=CONVEX,
    ),
    _recipe(
        "apgd-dlr",
        "Auto-PGD on the difference of logits ratio",
        _WHITE,
        _PIXELS,
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks",
        2020,
        "https://arxiv.org/abs/2003.01690",
        {"steps": 100, "momentum": 0.75, "rho": 0.75, "loss": "DLR, eq. 6"},
        "APGD-DLR of AutoAttack and torchattacks (rule='code' step by step)",
        make=_plain(APGD),
        names=option_names(APGD),
        goal=_dlr,
        norms=CONVEX,
    ),
    _recipe(
        "apgd-t",
        "Targeted Auto-PGD",
        _WHITE,
        _PIXELS,
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks",
        2020,
        "https://arxiv.org/abs/2003.01690",
        {"targets": "9, by the clean scores", "steps": 100, "loss": "targeted margin; with loss='dlr' as there, eq. 7"},
        "APGD-T of AutoAttack (loss='dlr'), on tasks of four classes and more",
        make=_each_target,
        names=("targets", "loss", *option_names(APGD, without=("stop_on_success",))),
        goal=_margin,
        norms=CONVEX,
        targeted=False,
        fixed=True,
    ),
    _recipe(
        "fab",
        "Fast adaptive boundary",
        _WHITE,
        _PIXELS,
        "Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        2020,
        "https://arxiv.org/abs/1907.02044",
        {"steps": 100, "alpha": 0.1, "eta": 1.05, "beta": 0.9},
        "FAB of torchattacks and AutoAttack: median distance to the boundary",
        make=_plain(FAB),
        names=option_names(FAB),
        goal=_margin,
        norms=LENGTHS,
    ),
    _recipe(
        "deepfool",
        "DeepFool",
        _WHITE,
        _PIXELS,
        "Moosavi-Dezfooli et al., DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks",
        2016,
        "https://arxiv.org/abs/1511.04599",
        {"steps": 50, "overshoot": 0.02, "candidates": 10},
        "DeepFool of Foolbox, element by element; of torchattacks and ART: median distance",
        make=_plain(DeepFool),
        names=option_names(DeepFool),
        goal=_margin,
        norm="l2",
        norms=LENGTHS,
    ),
    _recipe(
        "cw",
        "Carlini and Wagner, L2",
        _WHITE,
        _PIXELS,
        "Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks",
        2017,
        "https://arxiv.org/abs/1608.04644",
        {"steps": 1000, "step_size": 0.01, "searches": 9, "initial": 0.001, "confidence": 0, "objective": "f6"},
        "C&W of Foolbox, element by element; of torchattacks (one weight) and ART: median distance. The authors' code "
        "takes 10,000 steps",
        make=_plain(CarliniWagner),
        names=option_names(CarliniWagner),
        goal=_margin,
        norm="l2",
        norms=("l2",),
    ),
    _recipe(
        "jsma",
        "Saliency-map attack",
        _WHITE,
        "few pixels",
        "Papernot et al., The Limitations of Deep Learning in Adversarial Settings",
        2016,
        "https://arxiv.org/abs/1511.07528",
        {"theta": 1.0, "pairs": "of the 128 most salient values; the paper: of all"},
        "JSMA of torchattacks and ART: pixels changed",
        make=_plain(JSMA),
        names=option_names(JSMA),
        goal=_saliency,
        norm="l0",
        norms=("l0",),
    ),
    _recipe(
        "autoattack",
        "AutoAttack-style ensemble",
        _WHITE,
        _PIXELS,
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks",
        2020,
        "https://arxiv.org/abs/2003.01690",
        {"members": ["apgd-ce", "apgd-t", "fab-t", "square"], "steps": 100, "targets": 9, "queries": 5000},
        "AutoAttack's standard version (loss='dlr'): robust accuracy",
        make=_autoattack,
        names=("steps", "restarts", "targets", "loss", "queries", "share", "micro_batch"),
        goal=_margin,
        norms=LENGTHS,
        targeted=False,
        fixed=True,
    ),
    _recipe(
        "universal",
        "Universal perturbation",
        _WHITE,
        "pixels, one change for all pictures",
        "Moosavi-Dezfooli et al., Universal Adversarial Perturbations; the search after Shafahi et al., Universal "
        "Adversarial Training (2020)",
        2017,
        "https://arxiv.org/abs/1610.08401",
        {"epsilon": "10/255"},
        "the papers' fooling rates at 10/255, up to the number of pictures the perturbation is made on",
        make=_plain(GradientSearch, steps=100, step_scale=5.0, universal=True, random_start=False),
        names=_GRADIENT,
        norms=CONVEX,
        epsilon=10 / 255,
    ),
    _recipe(
        "patch",
        "Adversarial patch",
        _WHITE,
        "all pixels of a square",
        "Brown et al., Adversarial Patch",
        2017,
        "https://arxiv.org/abs/1712.09665",
        {"share": "a twentieth of the picture", "expectation": "over pose, with transform='pose'"},
        "patches of one picture at a known place; with universal=True the paper's one patch for all",
        make=_through(None, steps=100, step_scale=10.0),
        names=(*_GRADIENT, *_POSE, *_DIVERSITY, "sigma"),
        norm="patch",
        norms=("patch",),
    ),
    _recipe(
        "typographic",
        "Typographic attack",
        "scores",
        "a word drawn into the picture",
        "Goh et al., Multimodal Neurons in Artificial Neural Networks",
        2021,
        "https://distill.pub/2021/multimodal-neurons",
        {"words": "names of classes"},
        "the paper's examples; its words were written by hand and placed at fixed spots",
        make=_typographic,
        names=option_names(Typographic),
        goal=_score,
        norm="patch",
        epsilon=1.0,
    ),
    _recipe(
        "square",
        "Square attack",
        "scores",
        _PIXELS,
        "Andriushchenko et al., Square Attack: A Query-Efficient Black-Box Adversarial Attack via Random Search",
        2020,
        "https://arxiv.org/abs/1912.00049",
        {"share": 0.05, "queries": "5000, as in AutoAttack; the paper: 10,000", "loss": "margin"},
        "Square of torchattacks and AutoAttack at equal queries, statistically",
        make=_plain(Square),
        names=_SQUARE,
        goal=_score,
        norms=CONVEX,
    ),
    _recipe(
        "nes",
        "Natural evolution strategies",
        "scores",
        _PIXELS,
        "Ilyas et al., Black-box Adversarial Attacks with Limited Queries and Information",
        2018,
        "https://arxiv.org/abs/1804.08598",
        {"samples": 50, "sigma": 0.001},
        "square and spsa at equal queries",
        make=_plain(ScoreGradient),
        names=option_names(ScoreGradient),
        goal=_score,
    ),
    _recipe(
        "spsa",
        "Simultaneous perturbation stochastic approximation",
        "scores",
        _PIXELS,
        "Uesato et al., Adversarial Risk and the Dangers of Evaluating Against Weak Attacks",
        2018,
        "https://arxiv.org/abs/1802.05666",
        {"directions": "±1", "update": "Adam", "sigma": 0.01, "step_size": 0.01},
        "SPSA of torchattacks at equal queries, statistically",
        make=_plain(ScoreGradient, samples=128, sigma=0.01, step_size=0.01, directions="rademacher", update="adam"),
        names=option_names(ScoreGradient),
        goal=_score,
    ),
    _recipe(
        "genetic",
        "Genetic search (GenAttack)",
        "scores",
        _PIXELS,
        "Alzantot et al., GenAttack: Practical Black-box Attacks with Gradient-Free Optimization",
        2019,
        "https://arxiv.org/abs/1805.11090",
        {"population": 6, "mutation": "0.5 to 0.1", "span": "0.4 to 0.15"},
        "square and nes at equal queries",
        make=_plain(Genetic),
        names=option_names(Genetic),
        goal=_score,
    ),
    _recipe(
        "hopskipjump",
        "HopSkipJump",
        "decisions",
        _PIXELS,
        "Chen et al., HopSkipJumpAttack: A Query-Efficient Decision-Based Attack",
        2020,
        "https://arxiv.org/abs/1904.02144",
        {"first": 100, "growth": "square root of the iteration", "gamma": 1.0},
        "HopSkipJump of Foolbox and ART at equal queries: median distance",
        make=_plain(HopSkipJump),
        names=option_names(HopSkipJump),
        goal=_score,
        norm="l2",
        norms=LENGTHS,
    ),
    _recipe(
        "transfer",
        "Transfer from a surrogate",
        "surrogate",
        _PIXELS,
        "Papernot et al., Practical Black-Box Attacks against Machine Learning; the search after Dong et al. (2018) "
        "and Xie et al. (2019)",
        2017,
        "https://arxiv.org/abs/1602.02697",
        {"momentum": 1.0, "probability": 0.5, "steps": 10, "step_size": "epsilon/steps"},
        "transfer rates of M-DI²-FGSM between the same two models",
        make=_transfer,
        names=("surrogate", "surrogate_objective", *_GRADIENT, *_DIVERSITY),
        targeted=False,
        fixed=True,
    ),
    _recipe(
        "eot",
        "PGD through randomness (expectation over transformation)",
        _WHITE,
        _PIXELS,
        "Athalye et al., Synthesizing Robust Adversarial Examples",
        2018,
        "https://arxiv.org/abs/1707.07397",
        {"transform": "noise (smoothing), pose or diversity", "eot": 8},
        "pgd at an equal number of gradients, on a model or camera with that randomness",
        make=_through("noise", steps=20, eot=8),
        names=(*_GRADIENT, "sigma", *_POSE, *_DIVERSITY),
    ),
    _recipe(
        "mbat-pgd",
        "PGD on task loss and consistency (MBAT's inner problem)",
        _WHITE,
        _PIXELS,
        "",
        None,
        "",
        {"alpha": 1.0, "beta": 1.0},
        "pgd at equal steps: what lowering S_c at the same time costs the attacker",
        make=_plain(GradientSearch, steps=20),
        names=_GRADIENT,
        goal=_mbat,
        goal_names=("alpha", "beta"),
        targeted=False,
    ),
)

IMAGE_RECIPES: dict[str, Recipe] = {recipe.slug: recipe for recipe in _RECIPES}
"""Image recipes by slug; `recipes.RECIPES` has them all."""
