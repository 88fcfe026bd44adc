"""Verified answering step by step: the likeliest captions, what V_verify says of each, and the answer that follows.

For a clean pair, for the picture of an attacker who knows the model alone, and for that of one who knows both stages
(the recipes `pgd` and `verified-pgd` at equal ε and steps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.budget import Budget
from cmai_core.errors import OptionError
from cmai_core.lab.pair_in_context import PairAmong
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.tasks.verified import VerifiedAnswers

TASK = "retrieval"
ATTACKS = {"clean": "", "attacker of the model": "pgd", "attacker who knows the verification": "verified-pgd"}
"""Side → the recipe that makes its picture."""
RANGES = {"epsilon": (0.5, 16.0), "steps": (1, 50), "shortlist": (2, 20), "gamma": (0.0, 10.0)}


@dataclass(frozen=True)
class Asked:
    """The terms: ε in 1/255 (L∞), steps, and k and γ of the rule; None: the model's card, else the usual ones.

    Raises:
        OptionError: one outside its range.
    """

    epsilon: float = 2.0
    steps: int = 20
    shortlist: int | None = None
    gamma: float | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise OptionError(f"{name} is {value}.", f"It lies between {low:g} and {high:g}.")


@dataclass(frozen=True)
class Option:
    """A caption of the shortlist: the model's cosine, V_verify in [0, 1], its words, the fused score, whether true."""

    text: str
    cosine: float
    verified: float
    words: int
    fused: float
    true: bool


@dataclass(frozen=True, eq=False)
class Side:
    """One picture: its shortlist best first, and the places in it of the answer by cosine alone and as verified."""

    name: str
    picture: np.ndarray
    shortlist: tuple[Option, ...]
    plain: int
    verified: int

    @property
    def answers(self) -> tuple[Option, Option]:
        """The answer of the model alone, and the verified one."""
        return self.shortlist[self.plain], self.shortlist[self.verified]


@dataclass(frozen=True, eq=False)
class Answering:
    """All sides. rule: as plain values. calibrated: whether it is the card's. captions: how many are searched."""

    asked: Asked
    pair: str
    caption: str
    sides: tuple[Side, ...]
    rule: Mapping[str, Any]
    calibrated: bool
    captions: int
    name: str
    hash: str


def rule_for(model: Any, asked: Asked) -> tuple[VerifiedAnswers, bool]:
    """Return the rule that a model answers by under some terms, and whether it is its card's own."""
    from dataclasses import replace

    from cmai_core.tasks.verified import VerifiedAnswers

    stored = VerifiedAnswers.of_card(model).get(TASK)
    changes = {n: getattr(asked, n) for n in ("shortlist", "gamma") if getattr(asked, n) is not None}
    rule = VerifiedAnswers() if stored is None else stored
    return replace(rule, **changes), stored is not None and not changes


def answer_step_by_step(
    model: Any,
    pair: Pair,
    dataset: PairDataset,
    asked: Asked,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Answering:
    """Attack a pair twice and answer all three pictures step by step.

    Args:
        model: with consistency heads. pair: of a kind that the model knows; dataset: whose captions are searched.
        progress: units are pictures. cancel: looked at before each step.

    Raises:
        OptionError: a model without consistency heads. Cancelled: when told to stop.
    """
    from cmai_core.defenses.system import System
    from cmai_core.models.scoring import has_heads

    if not has_heads(model):
        raise OptionError("This model has no consistency heads to verify with.", "Choose a model that has them.")
    rule, calibrated = rule_for(model, asked)
    among, sides = PairAmong(pair, dataset), []
    system = System(model, answering=rule)
    for number, (name, recipe) in enumerate(ATTACKS.items()):
        if cancel is not None:
            cancel.check()
        if progress is not None:
            progress(Progress(number, len(ATTACKS), f"{name[:1].upper()}{name[1:]}", {}))
        attacked = system if recipe == "verified-pgd" else model
        pixels = _pixels(model, pair) if not recipe else _crafted(attacked, recipe, pair, among, asked, cancel)
        sides.append(_side(name, model, rule, pixels, pair, among))
    return Answering(
        asked, pair.id, pair.captions[0], tuple(sides), rule.describe(), calibrated, len(among), model.name, model.hash
    )


def _pixels(model: Any, pair: Pair) -> Any:
    return (model.preprocess([pair.image]) * 255).round() / 255


def _crafted(attacked: Any, recipe: str, pair: Pair, among: PairAmong, asked: Asked, cancel: CancelToken | None) -> Any:
    """Return the attacked picture, rounded to 8 bits: 1×3×S×S."""
    from cmai_core.attacks.recipes.registry import get_recipe
    from cmai_core.data.pair import Batch
    from cmai_core.evaluation.runs.attacked import attack_batch
    from cmai_core.tasks import get_task

    options = {"task": get_task(TASK), "dataset": among, "epsilon": Budget("linf", asked.epsilon), "steps": asked.steps}
    batch = Batch((pair.id,), _pixels(attacked, pair), pair.captions[:1], (0,), (pair,))
    result, _ = attack_batch(get_recipe(recipe).build(**options), attacked, batch, seed=0, cancel=cancel)
    return (result.pixels * 255).round() / 255


def _side(name: str, model: Any, rule: VerifiedAnswers, pixels: Any, pair: Pair, among: PairAmong) -> Side:
    import torch

    from cmai_core.models.evaluation_mode import evaluation_mode
    from cmai_core.tasks import get_task

    task = get_task(TASK)
    with torch.no_grad(), evaluation_mode(model):
        prepared = task.prepare(model, [pair], among)
        features = model.image_features(pixels)
        scores = task.scores(model, features, prepared)
        places = rule.chosen(scores)
        log_v, words = task.verification(model, features, prepared, places)
        fused = rule.fuse(scores.gather(1, places), log_v, words)[0].tolist()
        texts = [task.statement(prepared, 0, place) for place in places[0].tolist()]
        cosines = (features.embedding @ model.encode_text(texts).T)[0].tolist()
        true = prepared.target[0, places[0]].tolist()
    picture = (pixels[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    rows = zip(texts, cosines, log_v[0].exp().tolist(), words[0].tolist(), fused, true, strict=True)
    shortlist = tuple(Option(t, c, v, int(w), f, bool(is_true)) for t, c, v, w, f, is_true in rows)
    return Side(name, picture, shortlist, 0, _best(fused))


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
