"""Named attacks on texts and on image and text together: what each takes from which paper, and how it is built.

    from cmai_core.attacks.text_recipes import TEXT_RECIPES
    attack = TEXT_RECIPES["sga"].build(epsilon=4 / 255, truth="scene")
    result = attack(model, batch, seed=0)

Every `build` takes `objective` and `success` (default: −S_c of the pair as it is; success where it rose), the options
of `TextThreat` by name (words, characters, truth, …), for joint attacks `norm` and `epsilon`, and the options of its
search or schedule. An option nobody knows raises `OptionError`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cmai_core.attacks.joint import SGA, Alternating, BestResponse, JointAttack, Separate, Sequential
from cmai_core.attacks.masked_lm import MaskedLMProposer
from cmai_core.attacks.objectives import Objective
from cmai_core.attacks.proposers import Characters, Eda, Homoglyphs, Injection, Several, Synonyms
from cmai_core.attacks.success import Criterion, Raised
from cmai_core.attacks.text_attack import TextAttack
from cmai_core.attacks.text_objectives import Divergence, PairConsistency
from cmai_core.attacks.text_search import BeamSearch, ImportanceSearch
from cmai_core.attacks.text_threat import TextThreat
from cmai_core.attacks.threat import ThreatModel
from cmai_core.attacks.token_search import HotFlip, RelaxedPGD
from cmai_core.errors import OptionError

_THREAT_OPTIONS = frozenset(f.name for f in dataclasses.fields(TextThreat))


@dataclass(frozen=True)
class TextRecipe:
    """A named, cited attack.

    Attributes:
        slug, title: names. modality: "text" or "joint". knowledge: "white box" (gradients) or "scores".
        threat: what changes, in words. paper, year, url: where it comes from ("" for our own).
        constants: what is taken from there. compare: what its results may be compared with.
        build: options → attack.
    """

    slug: str
    title: str
    modality: str
    knowledge: str
    threat: str
    paper: str
    year: int | None
    url: str
    constants: Mapping[str, Any]
    compare: str
    build: Callable[..., TextAttack | JointAttack]


def _split(options: Mapping[str, Any], threat: Mapping[str, Any]) -> tuple[TextThreat, dict[str, Any]]:
    """The text threat of a recipe with its own defaults, and the options that are left for the search."""
    own = {name: value for name, value in options.items() if name in _THREAT_OPTIONS}
    return TextThreat(**{**threat, **own}), {k: v for k, v in options.items() if k not in _THREAT_OPTIONS}


def _text(slug: str, make: Callable[..., Any], threat: Mapping[str, Any]) -> Callable[..., TextAttack]:
    def build(*, objective: Objective | None = None, success: Criterion | None = None, **options: Any) -> TextAttack:
        region, rest = _split(options, threat)
        return TextAttack(
            threat=region,
            objective=-PairConsistency() if objective is None else objective,
            success=success or Raised(),
            search=make(**rest),
            name=slug,
        )

    return build


def _joint(
    slug: str, make: Callable[..., Any], threat: Mapping[str, Any], keep: str = "best"
) -> Callable[..., JointAttack]:
    def build(
        *,
        objective: Objective | None = None,
        success: Criterion | None = None,
        norm: str = "linf",
        epsilon: Any = 2 / 255,
        keep: str = keep,
        **options: Any,
    ) -> JointAttack:
        region, rest = _split(options, threat)
        return JointAttack(
            threat=ThreatModel(norm, epsilon),
            text_threat=region,
            objective=-PairConsistency() if objective is None else objective,
            success=success or Raised(),
            schedule=make(**rest),
            keep=keep,
            name=slug,
        )

    return build


def _masked_lm(options: dict[str, Any]) -> Any:
    """The proposer given, or masked-LM substitutes as asked for by `masked_lm`, `mode`, `top` and `least`."""
    names = {"masked_lm": "model", "mode": "mode", "top": "top", "least": "least", "lexicon": "lexicon"}
    given = {target: options.pop(name) for name, target in names.items() if name in options}
    proposer = options.pop("proposer", None)
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
        return make(proposer=options.pop("proposer", None) or proposer(**own), **options)

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
    given = options.pop("proposer", None)
    proposer = given or Several((_masked_lm(options), Synonyms(), Eda()))
    return BestResponse(text=BeamSearch(proposer=proposer), **options)


_SGA_TEXT = {"words": 1}
_KL = Divergence("image", "clean") + 3.0 * Divergence("image", "other")

_RECIPES = (
    TextRecipe(
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
        _text("bert-attack", _bert_attack, {"words": 1}),
    ),
    TextRecipe(
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
        _text("eda", _with_proposer(BeamSearch, Eda, "operations", "count"), {"words": 3, "rate": 0.1}),
    ),
    TextRecipe(
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
        _text("synonym", _with_proposer(BeamSearch, Synonyms, "lexicon"), {"words": 2}),
    ),
    TextRecipe(
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
        _text("hotflip", HotFlip, {"words": 1}),
    ),
    TextRecipe(
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
        ),
    ),
    TextRecipe(
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
        _text("homoglyph", _with_proposer(BeamSearch, Homoglyphs), {"words": 2, "characters": 2}),
    ),
    TextRecipe(
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
        _text("relaxed-pgd", RelaxedPGD, {"words": 2}),
    ),
    TextRecipe(
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
        ),
    ),
    TextRecipe(
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
        _joint("sep", _schedule(Separate, steps=10, step_size=0.5 / 255), _SGA_TEXT),
    ),
    TextRecipe(
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
        _joint("seq", _schedule(Sequential, steps=10, step_size=0.5 / 255), _SGA_TEXT),
    ),
    TextRecipe(
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
            keep="last",
        ),
    ),
    TextRecipe(
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
        _joint("sga", _schedule(SGA, steps=10, step_size=0.5 / 255), _SGA_TEXT, keep="last"),
    ),
    TextRecipe(
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
        _joint("alternating", _schedule(Alternating, steps=50), _SGA_TEXT),
    ),
    TextRecipe(
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
        _joint("joint-cmai", _best_response, _SGA_TEXT),
    ),
)

TEXT_RECIPES: dict[str, TextRecipe] = {recipe.slug: recipe for recipe in _RECIPES}
"""Text and joint recipes by slug, to be merged into the registry of all recipes."""
