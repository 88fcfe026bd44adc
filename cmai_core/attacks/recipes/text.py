"""Named attacks on texts and on image and text together: what each takes from which paper, and how it is built.

    attack = TEXT_RECIPES["sga"].build(epsilon=4 / 255, truth="scene")
    result = attack(model, batch, seed=0)

Every `build` takes

- `objective` and `success` (default: −S_c of the pair as it is; success where it rose); or `tau` in place of `success`
  (success where S_c is below it); or `task` (and `dataset`) in place of both: the task's loss on the edited text,
  success where its prediction is wrong (for retrieval: another picture of the batch comes before the right ones);
- the options of `TextThreat` by name (words, characters, truth, …), for joint attacks `norm` and `epsilon`, and the
  options of its search or schedule; `proposer` is one, or one of the names in `PROPOSERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cmai_core.attacks.joint_attack import JointAttack
from cmai_core.attacks.joint_schedules.best_response import BestResponse
from cmai_core.attacks.joint_schedules.schedules import SGA, Alternating, Separate, Sequential
from cmai_core.attacks.objectives.success import Raised
from cmai_core.attacks.objectives.text import (
    Divergence,
    Mismatch,
    Misretrieved,
    PairConsistency,
    PairFlagged,
    TextTask,
    TextTaskWrong,
)
from cmai_core.attacks.recipes.image import USUAL
from cmai_core.attacks.recipes.recipe import Builder, Recipe, option_names
from cmai_core.attacks.text_attack import TextAttack
from cmai_core.attacks.text_searches.masked_lm import MaskedLMProposer
from cmai_core.attacks.text_searches.proposers import Characters, Eda, Homoglyphs, Injection, Several, Synonyms
from cmai_core.attacks.text_searches.search import BeamSearch, ImportanceSearch
from cmai_core.attacks.text_searches.tokens import HotFlip, RelaxedPGD
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.errors import OptionError
from cmai_core.options import one_of

PROPOSERS: dict[str, Callable[[], Any]] = {
    "synonyms": Synonyms,
    "eda": Eda,
    "characters": Characters,
    "homoglyphs": Homoglyphs,
    "masked-lm": MaskedLMProposer,
}
"""Proposers that can be named by a word."""

_GOAL = ("objective", "success", "tau", "task", "dataset")
_THREAT = option_names(TextThreat)
# The budget of Co-Attack and SGA.
_SGA_TEXT, _EPSILON = {"words": 1}, 2 / 255
# The norms that joint attacks go with, each with the budget where none is given. Not l0: their schedules move all
# pixels a little at every step, of which a projection onto a few positions leaves next to nothing.
JOINT_NORMS = {"linf": _EPSILON, "l2": USUAL["l2"], "patch": USUAL["patch"]}
_MASKED_LM = {"masked_lm": "model", "mode": "mode", "top": "top", "least": "least", "lexicon": "lexicon"}


def _threat(options: dict[str, Any], usual: Mapping[str, Any]) -> TextThreat:
    """The text threat of a recipe with its own defaults; its options are taken out of the others."""
    return TextThreat(**{**usual, **{name: options.pop(name) for name in _THREAT if name in options}})


def _goal(options: dict[str, Any]) -> dict[str, Any]:
    """Objective and criterion; their options are taken out of the others."""
    given = {name: value for name in _GOAL if (value := options.pop(name, None)) is not None}
    task, dataset = given.get("task"), given.get("dataset")
    for one, others in (("task", ("objective", "success", "tau")), ("tau", ("success",))):
        if one in given and (clash := [name for name in others if name in given]):
            raise OptionError(f"{one} contradicts {', '.join(clash)}.", f"Accepted: {one}, or {', '.join(clash)}.")
    if task is None:
        if dataset is not None:
            raise OptionError("A dataset without a task.", "Give the task it belongs to.")
        success = PairFlagged(given["tau"]) if "tau" in given else given.get("success", Raised())
        return {"objective": given.get("objective", -PairConsistency()), "success": success}
    if isinstance(task, str):
        from cmai_core.tasks import get_task

        task = get_task(task)
    if task.text_field == "query":
        return {"objective": Mismatch("image"), "success": Misretrieved("image")}
    goal = (task, task.text_field, dataset)
    return {"objective": TextTask(*goal), "success": TextTaskWrong(*goal)}


def _text(slug: str, make: Callable[..., Any], threat: Mapping[str, Any], names: tuple[str, ...]) -> Builder:
    def build(**options: Any) -> TextAttack:
        region, goal = _threat(options, threat), _goal(options)
        return TextAttack(threat=region, search=make(**options), name=slug, **goal)

    return Builder(build, tuple(dict.fromkeys((*_GOAL, *_THREAT, *names))))


def _joint(
    slug: str, make: Callable[..., Any], threat: Mapping[str, Any], names: tuple[str, ...], keep: str = "best"
) -> Builder:
    def build(*, norm: str = "linf", epsilon: Any = None, keep: str = keep, **options: Any) -> JointAttack:
        region, goal = _threat(options, threat), _goal(options)
        pixels = ThreatModel(norm, JOINT_NORMS[norm] if epsilon is None else epsilon)
        return JointAttack(threat=pixels, text_threat=region, schedule=make(**options), keep=keep, name=slug, **goal)

    return Builder(build, tuple(dict.fromkeys(("norm", "epsilon", *_GOAL, *_THREAT, *names, "keep"))))


def _proposer(value: Any) -> Any:
    """A proposer, or the one of a name."""
    if isinstance(value, str):
        one_of("proposer", value, tuple(PROPOSERS))
        return PROPOSERS[value]()
    return value


def _masked_lm(options: dict[str, Any]) -> Any:
    """The proposer given, or masked-LM substitutes as asked for by `masked_lm`, `mode`, `top` and `least`."""
    given = {target: options.pop(name) for name, target in _MASKED_LM.items() if name in options}
    proposer = _proposer(options.pop("proposer", None))
    if proposer is not None and given:
        raise OptionError(f"A proposer contradicts {', '.join(given)}.", "Accepted: a proposer, or options of its own.")
    return proposer or MaskedLMProposer(**given)


def _bert_attack(**options: Any) -> ImportanceSearch:
    proposer = _masked_lm(options)
    return ImportanceSearch(proposer=proposer, **{"stop_on_success": True, **options})


def _with_proposer(make: Callable[..., Any], proposer: Callable[..., Any], *names: str) -> Callable[..., BeamSearch]:
    """A candidate search whose proposer takes some of the options."""

    def build(**options: Any) -> Any:
        own = {name: options.pop(name) for name in names if name in options}
        given = _proposer(options.pop("proposer", None))
        if given is not None and own:
            raise OptionError(f"A proposer contradicts {', '.join(own)}.", "Accepted: one of the two.")
        return make(proposer=given or proposer(**own), **options)

    return build


def _schedule(make: Callable[..., Any], **defaults: Any) -> Callable[..., Any]:
    """A schedule whose text search is BERT-Attack's with the options meant for it."""

    def build(**options: Any) -> Any:
        text = options.pop("text", None)
        if text is None:
            proposer = _masked_lm(options)
            mask = options.pop("mask", "")
            text = ImportanceSearch(proposer=proposer, mask=mask)
        return make(text=text, **{**defaults, **options})

    return build


def _best_response(**options: Any) -> BestResponse:
    if "text" in options:
        return BestResponse(**options)
    given = _proposer(options.pop("proposer", None))
    proposer = given or Several((_masked_lm(options), Synonyms(), Eda()))
    return BestResponse(text=BeamSearch(proposer=proposer), **options)


def _gradient(kind: Callable[..., Any]) -> Callable[..., Any]:
    """A search by gradients; the words it may put in are its option `vocabulary`, as `words` is the threat's budget."""

    def build(vocabulary: tuple[str, ...] | None = None, **options: Any) -> Any:
        return kind(words=vocabulary, **options)

    return build


def _gradient_names(kind: type) -> tuple[str, ...]:
    return (*option_names(kind, without=("words",)), "vocabulary")


_BEAM = option_names(BeamSearch)
_BERT = (*option_names(ImportanceSearch), *_MASKED_LM)


def _scheduled(kind: type) -> tuple[str, ...]:
    return (*option_names(kind), "proposer", "mask", *_MASKED_LM)


_KL = Divergence("image", "clean") + 3.0 * Divergence("image", "other")

_RECIPES = (
    Recipe(
        "bert-attack",
        "BERT-Attack",
        "text",
        "scores",
        "words, by a masked language model",
        "Li et al., BERT-ATTACK: Adversarial Attack Against BERT Using BERT",
        2020,
        "https://arxiv.org/abs/2004.09984",
        {"order": "importance of the masked word", "top": 10, "words": 1, "stop words": "left alone"},
        "SGA's and Co-Attack's text attack (top 10, one word; mode='as_published', least=0.3, lexicon=None)",
        _text("bert-attack", _bert_attack, {"words": 1}, _BERT),
    ),
    Recipe(
        "eda",
        "Easy data augmentation",
        "text",
        "scores",
        "words, at random",
        "Wei and Zou, EDA: Easy Data Augmentation Techniques",
        2019,
        "https://arxiv.org/abs/1901.11196",
        {"operations": ["synonym", "insert", "swap", "delete"], "rate": 0.1},
        "random text augmentation, as used in MMCoA and multimodal adversarial training; a weak baseline",
        _text(
            "eda",
            _with_proposer(BeamSearch, Eda, "operations", "count"),
            {"words": 3, "rate": 0.1},
            (*_BEAM, "operations", "count"),
        ),
    ),
    Recipe(
        "synonym",
        "Synonym substitution",
        "text",
        "scores",
        "words, by synonyms",
        "after Ren et al., Generating Natural Language Adversarial Examples (PWWS)",
        2019,
        "https://aclanthology.org/P19-1103",
        {"candidates": "every synonym"},
        "PWWS and its kin, up to the lexicon and the order of words",
        _text("synonym", _with_proposer(BeamSearch, Synonyms, "lexicon"), {"words": 2}, (*_BEAM, "lexicon")),
    ),
    Recipe(
        "hotflip",
        "HotFlip",
        "text",
        "white box",
        "words, by the gradient of their one-hot vectors",
        "Ebrahimi et al., HotFlip: White-Box Adversarial Examples for Text Classification",
        2018,
        "https://arxiv.org/abs/1712.06751",
        {"gain": "first order", "unit": "words of one token"},
        "word-level HotFlip (§5 there); candidates=1 is its greedy form",
        _text("hotflip", _gradient(HotFlip), {"words": 1}, _gradient_names(HotFlip)),
    ),
    Recipe(
        "char",
        "Character edits",
        "text",
        "scores",
        "characters: swap, delete, insert, substitute",
        "Gao et al., Black-box Generation of Adversarial Text Sequences (DeepWordBug)",
        2018,
        "https://arxiv.org/abs/1801.04354",
        {"operations": ["swap", "delete", "insert", "substitute"]},
        "DeepWordBug's transformations under a greedy search; first and last letters stay",
        _text(
            "char",
            _with_proposer(BeamSearch, Characters, "operations", "inner", "shortest", "letters"),
            {"words": 2, "characters": 2},
            (*_BEAM, "operations", "inner", "shortest", "letters"),
        ),
    ),
    Recipe(
        "homoglyph",
        "Homoglyphs",
        "text",
        "scores",
        "letters by others that look the same",
        "Boucher et al., Bad Characters: Imperceptible NLP Attacks",
        2022,
        "https://arxiv.org/abs/2106.09898",
        {"class": "homoglyphs"},
        "its homoglyph attack, with a greedy search in place of differential evolution",
        _text("homoglyph", _with_proposer(BeamSearch, Homoglyphs), {"words": 2, "characters": 2}, _BEAM),
    ),
    Recipe(
        "relaxed-pgd",
        "PGD on relaxed tokens",
        "text",
        "white box",
        "words, by distributions over tokens",
        "Geisler et al., Attacking Large Language Models with Projected Gradient Descent",
        2024,
        "https://arxiv.org/abs/2402.09154",
        {"projection": "simplex and entropy", "optimiser": "Adam", "discretisation": "likeliest token, best kept"},
        "gradient searches over tokens (HotFlip, GCG) at an equal number of gradients",
        _text("relaxed-pgd", _gradient(RelaxedPGD), {"words": 2}, _gradient_names(RelaxedPGD)),
    ),
    Recipe(
        "injection",
        "Prompt and end-of-text injection",
        "text",
        "scores",
        "a payload, or an end-of-text literal that cuts the text short",
        "",
        None,
        "",
        {"end": "<end_of_text>"},
        "nothing published that we know of; it works where a tokenizer reads the literal as its own end token",
        _text(
            "injection",
            lambda **options: _with_proposer(BeamSearch, Injection, "payloads", "end")(**{"rounds": 1, **options}),
            {"words": 12, "special_tokens": True, "keep_punctuation": False, "keep_case": False},
            (*_BEAM, "payloads", "end"),
        ),
    ),
    Recipe(
        "sep",
        "Separate",
        "joint",
        "white box",
        "pixels and one word, each against the clean other side",
        "Lu et al., Set-level Guidance Attack (its baseline Sep)",
        2023,
        "https://arxiv.org/abs/2307.14061",
        {"epsilon": "2/255", "steps": 10, "step_size": "0.5/255", "words": 1, "top": 10},
        "SGA table 1, row Sep-Attack (79.75 TR@1, 86.79 IR@1 on CLIP ViT-B/16, Flickr30k)",
        _joint("sep", _schedule(Separate, steps=10, step_size=0.5 / 255), _SGA_TEXT, _scheduled(Separate)),
    ),
    Recipe(
        "seq",
        "Sequential",
        "joint",
        "white box",
        "one word, then pixels against the attacked text",
        "after Zhang et al., Towards Adversarial Attack on Vision-Language Pre-training Models",
        2022,
        "https://arxiv.org/abs/2206.09391",
        {"epsilon": "2/255", "steps": 10, "step_size": "0.5/255", "words": 1, "top": 10},
        "sep and co-attack at the same budget",
        _joint("seq", _schedule(Sequential, steps=10, step_size=0.5 / 255), _SGA_TEXT, _scheduled(Sequential)),
    ),
    Recipe(
        "co-attack",
        "Co-Attack",
        "joint",
        "white box",
        "one word, then pixels away from the clean image and the attacked text",
        "Zhang et al., Towards Adversarial Attack on Vision-Language Pre-training Models",
        2022,
        "https://arxiv.org/abs/2206.09391",
        {"epsilon": "2/255", "steps": 10, "step_size": "0.5/255", "words": 1, "top": 10, "alpha": 3, "loss": "KL"},
        "SGA table 1, row Co-Attack (93.25 TR@1, 95.86 IR@1 on CLIP ViT-B/16, Flickr30k); ours maximises −S_c in its "
        "text step, where the original's is a KL divergence",
        _joint(
            "co-attack",
            _schedule(Sequential, steps=10, step_size=0.5 / 255, image_objective=_KL),
            _SGA_TEXT,
            _scheduled(Sequential),
            keep="last",
        ),
    ),
    Recipe(
        "sga",
        "Set-level guidance attack",
        "joint",
        "white box",
        "one word and pixels, over scales and sets of captions",
        "Lu et al., Set-level Guidance Attack: Boosting Adversarial Transferability of Vision-Language Pre-training "
        "Models",
        2023,
        "https://arxiv.org/abs/2307.14061",
        {
            "epsilon": "2/255",
            "steps": 10,
            "step_size": "0.5/255",
            "scales": [0.5, 0.75, 1.0, 1.25, 1.5],
            "noise": 0.05,
            "words": 1,
            "top": 10,
        },
        "SGA table 1 (99.08 TR@1, 98.94 IR@1 on CLIP ViT-B/16, Flickr30k; with mode='as_published', least=0.3, "
        "lexicon=None and five captions an image)",
        _joint("sga", _schedule(SGA, steps=10, step_size=0.5 / 255), _SGA_TEXT, _scheduled(SGA), keep="last"),
    ),
    Recipe(
        "alternating",
        "Alternating",
        "joint",
        "white box",
        "pixels and words in turn",
        "",
        None,
        "",
        {"rounds": 4},
        "sga at an equal number of image gradients (50)",
        _joint("alternating", _schedule(Alternating, steps=50), _SGA_TEXT, _scheduled(Alternating)),
    ),
    Recipe(
        "joint-cmai",
        "Best-response joint search",
        "joint",
        "white box",
        "pixels against the worst allowed words at every step",
        "",
        None,
        "",
        {"steps": 50, "momentum": 0.75},
        "sga at an equal number of image gradients (50) and the same threat; it scores more texts, each a product of "
        "two embeddings",
        _joint("joint-cmai", _best_response, _SGA_TEXT, (*option_names(BestResponse), *_MASKED_LM)),
    ),
)

TEXT_RECIPES: dict[str, Recipe] = {
    recipe.slug: replace(recipe, norm="linf", epsilon=_EPSILON, norms=tuple(JOINT_NORMS))
    if recipe.modality == "joint"
    else recipe
    for recipe in _RECIPES
}
"""Text and joint recipes by slug; `recipes.RECIPES` has them all."""
