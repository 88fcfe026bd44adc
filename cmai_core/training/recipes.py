"""What each training is: one row of settings a recipe.

The defences of the comparison start from the same model, see the same number of pairs and the same ε, and keep the
losses that a CoCa's other tasks live on; a row says what is the defence's own. What helps one of them (half of the
batch clean, weight averaging, a linear warm-up of ε) is given to all. `docs/protocol.md` holds the terms of the
comparison.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from cmai_core.defenses.constraint import ConstraintSettings
from cmai_core.defenses.controller import ControllerSettings, Level, Range
from cmai_core.defenses.verified import VerifiedAnswers
from cmai_core.errors import OptionError
from cmai_core.registry import Registry
from cmai_core.training.settings import Inner, Recipe, Weights

PAIRS, PAIRS_2 = 40_000, 200_000
"""Image-caption pairs that each defence of the comparison sees, and of the second."""
REFERENCE_S_C = 0.62
"""What `cmai reference local-dir:runs/cmcv-mbat/model` prints: ARM's τ_c."""
REFERENCE_S_C_2 = 0.62
"""τ_c of `cmai-2`: the first comparison's, until `cmai reference --recipe cmai-2` can read it off `cmcv-mbat-2`."""

_BASE = Recipe(
    name="base",
    model_name="tabletop",
    summary="Undefended: contrastive, captioning, questions, two-image statements and patch labels on clean images.",
    source="CoCa: Yu et al. 2022, arXiv 2205.01917",
    vision_share=0.4,
)

_TUNED = replace(
    _BASE,
    name="",
    model_name="",
    start="tabletop",
    vision_share=0.0,
    pairs=PAIRS,
    learning_rate=5e-4,
    warmup_steps=100,
    heads_rate=6.0,
)
_MIXTURE = {"contrastive": 0.5, "question": 0.25, "caption": 0.25}
_MBAT = Inner(losses=_MIXTURE, beta=1.0, words=1)
_CMCV = Inner(losses={"contrastive": 0.5, "accept": 0.5}, beta=1.0)
_BOTH = replace(_MBAT, losses={"contrastive": 0.4, "question": 0.2, "caption": 0.2, "accept": 0.2})
_HEADS_ALONE = Weights(contrastive=0.0, caption=0.0, question=0.0, nlvr=0.0, patch=0.0, verify=1.0)


def _defence(name: str, summary: str, source: str = "", **changes: Any) -> Recipe:
    inner = changes.pop("inner", Inner())
    share = changes.pop("adversarial_share", 0.5 if inner is not None else 0.0)
    given = {"name": name, "model_name": f"tabletop-{name}", "summary": summary, "source": source, "inner": inner}
    return replace(_TUNED, **given, adversarial_share=share, **changes)


_CMAI = _defence(
    "cmai",
    "Full CMAI: CMCV and MBAT, with β, ε and λ steered by ARM.",
    inner=_BOTH,
    weights=Weights(verify=0.5),
    controller=ControllerSettings(
        tau=REFERENCE_S_C,
        every=8,
        after=48,
        patience=1,
        # It begins where the fixed recipe stands; ε and λ may fall and come back, but not exceed what the others have.
        epsilon=Range(1 / 255, 2 / 255, 0.25 / 255),
        share=Range(0.25, 0.5, 0.0625),
        start=Level(beta=1.0, epsilon=2 / 255, share=0.5),
    ),
)

_RANKING = Inner(
    losses={"rank": 7.0, "nlvr": 1.0},
    margin=0.5,
    beta=1.0,
    epsilon=3 / 255,
    step_size=2 / 255,
    words=1,
    exhaustive=True,
)
_ANSWERS = replace(_RANKING, losses={"rank": 5.0, "verified": 2.0, "nlvr": 1.0}, answering=VerifiedAnswers(shortlist=4))


def _second(name: str, summary: str, source: str = "", **changes: Any) -> Recipe:
    given = {"start": "tabletop-2", "architecture": "tabletop-2", "pairs": PAIRS_2, "queue": 8192}
    return _defence(name, summary, source, **{**given, **changes})


_CMCV_MBAT_2 = _second(
    "cmcv-mbat-2",
    "CMCV and MBAT on what answers: ranking and verified ranking are attacked, V_verify refuses what they retrieve.",
    "queue: He et al. 2020, arXiv 1911.05722; on policy: Pang et al. 2022, arXiv 2105.14785",
    inner=_ANSWERS,
    weights=Weights(hard=1.0, verify=0.5),
    detached_heads=True,
    on_policy=True,
)
_CMAI_2 = replace(
    _CMCV_MBAT_2,
    name="cmai-2",
    model_name="tabletop-cmai-2",
    summary="Full CMAI: the same, with ε, λ and β as high as clean accuracy on validation pairs allows.",
    source=f"{_CMCV_MBAT_2.source}; dual ascent: Stooke et al. 2020, arXiv 2007.03964",
    controller=ConstraintSettings(tau=REFERENCE_S_C_2, after=100),
)

_RECIPES = (
    _BASE,
    replace(
        _BASE,
        name="base-b",
        model_name="tabletop-b",
        architecture="tabletop-b",
        summary="Undefended, with another image tower (attentional pooling), for transfer attacks.",
    ),
    replace(
        _BASE,
        name="base-2",
        model_name="tabletop-2",
        architecture="tabletop-2",
        summary="Undefended, a layer deeper and trained longer: the base of the second comparison.",
        pairs=800_000,
        vision_share=0.35,
    ),
    replace(
        _BASE,
        name="base-3",
        model_name="tabletop-2",
        architecture="tabletop-2",
        start="tabletop-2",
        summary="Undefended: base-2 trained further, with more questions and the places of what they ask about.",
        pairs=480_000,
        batch=256,
        captions=2,
        questions=4,
        vision_share=0.0,
        learning_rate=1e-3,
        warmup_steps=100,
        weights=Weights(contrastive=2.0, question=3.0, patch=0.5, place=1.0),
    ),
    # Controls
    _defence("continued", "Undefended: as many further clean pairs as the defences see.", inner=None),
    _defence(
        "classifier",
        "Supervised classifier: the image tower and a fixed linear layer that holds the class prompts; no other text.",
        "head from the prompts: Wortsman et al. 2022, arXiv 2109.01903, sec. 2",
        inner=Inner(losses={"classes": 1.0}),
        trained=("visual",),
        weights=Weights(contrastive=0.0, caption=0.0, question=0.0, nlvr=0.0, patch=1.0, classes=1.0),
    ),
    # Published
    _defence(
        "pgd-at",
        "Adversarial training on images alone, against the tasks' own losses.",
        "Madry et al. 2018, arXiv 1706.06083, eq. 2.1",
        inner=Inner(losses=_MIXTURE),
    ),
    _defence(
        "tecoa-classes",
        "Text-guided contrastive adversarial training over class prompts.",
        "TeCoA: Mao et al. 2023, arXiv 2212.07016, sec. 3.3",
        inner=Inner(losses={"classes": 1.0}),
        weights=Weights(contrastive=0.0, classes=1.0),
    ),
    _defence(
        "tecoa",
        "Text-guided contrastive adversarial training over captions (TeCoA's retrieval form).",
        "TeCoA: Mao et al. 2023, arXiv 2212.07016, sec. 3.3, captions in the place of class prompts",
    ),
    _defence(
        "fare",
        "Unsupervised: features of perturbed images stay where the undefended model has the clean ones, tokens too.",
        "FARE: Schlarmann et al. 2024, arXiv 2402.12336, eq. 3",
        inner=Inner(losses={"drift": 1.0}),
        trained=("visual",),
        weights=Weights(contrastive=0.0, caption=0.0, question=0.0, nlvr=0.0, patch=0.0, drift=1.0),
    ),
    _defence(
        "mat",
        "Multimodal adversarial training: two-step PGD on images, one word on texts, two captions a scene.",
        "MAT: Waseda et al., arXiv 2405.18770; EDA: Wei and Zou 2019, arXiv 1901.11196",
        inner=Inner(words=1),
        captions=2,
        eda=0.1,
    ),
    _defence(
        "consistency",
        "Consistency training: two attacked views of a scene retrieve alike.",
        "Tack et al. 2022, arXiv 2103.04623, eq. 3",
        views=2,
        weights=Weights(agreement=1.0),
    ),
    _defence(
        "hard-negative",
        "Adversarial training with a hinge on the hardest negatives and on captions made false.",
        "VSE++: Faghri et al. 2018, arXiv 1707.05612, eq. 6",
        weights=Weights(hard=1.0),
    ),
    _defence(
        "hard-negative-mat",
        "Hard negatives with MAT's texts: two captions a scene, augmented, and one word replaced.",
        "VSE++: Faghri et al. 2018, arXiv 1707.05612, eq. 6; MAT: Waseda et al., arXiv 2405.18770",
        inner=Inner(words=1),
        captions=2,
        eda=0.1,
        weights=Weights(hard=1.0),
    ),
    _defence(
        "leaf",
        "FARE on images, LEAF on texts: features of perturbed images and words stay where the undefended model's are.",
        "LEAF: arXiv 2506.03355; FARE: Schlarmann et al. 2024, arXiv 2402.12336, eq. 3",
        inner=Inner(losses={"drift": 1.0}, words=1, text_losses={"drift": 1.0}),
        trained=("visual", "text"),
        weights=Weights(contrastive=0.0, caption=0.0, question=0.0, nlvr=0.0, patch=0.0, drift=1.0, text_drift=1.0),
    ),
    _defence(
        "proeat",
        "After ProEAT: the way to the decoder by FARE, then wrong answers and captions drawn near, losses in balance.",
        "ProEAT (later E²AT): arXiv 2503.04833",
        inner=Inner(
            losses={"question": 0.5, "caption": 0.5},
            targeted=1.0,
            words=1,
            text_losses={"caption": 1.0},
            question_words=1,
        ),
        adversarial_share=1.0,
        projector_share=0.2,
        balance=0.9,
    ),
    _defence(
        "ssl",
        "Self-supervised on clean images: contrastive, masked prediction across modalities, cycle consistency.",
        "masked prediction: He et al. 2022, arXiv 2111.06377; cycles: Dwibedi et al. 2019, arXiv 1904.07846",
        inner=None,
        weights=Weights(masked=0.5, cycle=0.5),
    ),
    _defence(
        "ssl-adversarial",
        "The self-supervised losses on perturbed images.",
        "masked prediction: He et al. 2022, arXiv 2111.06377; cycles: Dwibedi et al. 2019, arXiv 1904.07846",
        weights=Weights(masked=0.5, cycle=0.5),
    ),
    # Ours
    _defence(
        "cmcv",
        "CMCV alone: the towers stay as they were, the consistency heads learn.",
        inner=_CMCV,
        trained=(),
        weights=_HEADS_ALONE,
    ),
    _defence("mbat", "MBAT alone: perturbed images and words that raise task loss and inconsistency.", inner=_MBAT),
    _defence("mbat-beta0", "MBAT without the inconsistency term.", inner=replace(_MBAT, beta=0.0)),
    _defence(
        "cmcv-mbat",
        "CMCV and MBAT together, with fixed β, ε and λ.",
        inner=_BOTH,
        weights=Weights(verify=0.5),
    ),
    _CMAI,
    replace(
        _CMAI,
        name="cmai-replay",
        model_name="tabletop-cmai-replay",
        summary="CMAI's own schedule of β, ε and λ, followed without looking at S_c.",
        controller=None,
        replay="tabletop-cmai",
    ),
    replace(
        _CMAI,
        name="cmai-lora",
        model_name="tabletop-cmai-lora",
        summary="Full CMAI through low-rank updates of the towers' matrices, merged into them at the end.",
        source="LoRA: Hu et al. 2022, arXiv 2106.09685",
        adapters=8,
        learning_rate=2e-3,
    ),
    # Ours, second comparison
    _second(
        "mbat-2",
        "MBAT on what answers: pictures attacked through ranking among a queue of captions, all true words tried.",
        "queue: He et al. 2020, arXiv 1911.05722",
        inner=_RANKING,
        weights=Weights(hard=1.0),
    ),
    _second(
        "mbat-2-beta0",
        "MBAT on what answers, without the inconsistency term.",
        "queue: He et al. 2020, arXiv 1911.05722",
        inner=replace(_RANKING, beta=0.0),
        weights=Weights(hard=1.0),
    ),
    _CMCV_MBAT_2,
    _CMAI_2,
    replace(
        _CMAI_2,
        name="cmai-2-replay",
        model_name="tabletop-cmai-2-replay",
        summary="The schedule of β, ε and λ of `cmai-2`, followed without looking.",
        controller=None,
        replay="tabletop-cmai-2",
    ),
    # A robust model of the other architecture, to attack from
    _defence(
        "tecoa-b",
        "Text-guided contrastive adversarial training of the other image tower: a robust surrogate.",
        "TeCoA: Mao et al. 2023, arXiv 2212.07016, sec. 3.3, captions in the place of class prompts",
        start="tabletop-b",
        architecture="tabletop-b",
    ),
)


def _refuse(name: str, recipe: Any) -> str:
    if not isinstance(recipe, Recipe):
        return f"it is a {type(recipe).__name__}, not a cmai_core.training.settings.Recipe."
    return "" if recipe.name == name else f"its own name is {recipe.name!r}."


RECIPES: Registry[Recipe] = Registry(
    "training recipe", "cmai.recipes", {recipe.name: recipe for recipe in _RECIPES}, _refuse
)


def get_recipe(name: str, /, **changes: Any) -> Recipe:
    """Return a recipe by name, with settings changed. Names with a dot reach inside: `{"inner.beta": 0.0}`.

    Raises:
        OptionError: unknown recipe or setting, or a value that cannot be.
    """
    return _changed(RECIPES.find(name), changes, "")


def _changed(settings: Any, values: dict[str, Any], prefix: str) -> Any:
    plain = {key: value for key, value in values.items() if "." not in key}
    inside: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        owner, dot, setting = key.partition(".")
        if dot:
            inside.setdefault(owner, {})[setting] = value
    for owner, theirs in inside.items():
        part = getattr(settings, owner, None)
        if not is_dataclass(part):
            raise OptionError(f"This recipe has no {prefix + owner!r} to set anything in.", "Such as weights, inner.")
        plain[owner] = _changed(part, theirs, f"{prefix}{owner}.")
    known = {f.name for f in fields(settings)}
    for key in plain:
        if key not in known:
            raise OptionError(f"A recipe has no setting {prefix + key!r}.", f"Settings: {', '.join(sorted(known))}.")
    try:
        return replace(settings, **plain)
    except (AttributeError, TypeError, ValueError) as error:  # a word where a number belongs, and the like
        said = ", ".join(f"{prefix}{key}={value!r}" for key, value in plain.items())
        kinds = ", ".join(f"{prefix}{key}={getattr(settings, key)!r}" for key in plain)
        raise OptionError(f"{said} is of another kind than the setting.", f"The recipe has {kinds}.") from error
