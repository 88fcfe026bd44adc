"""Recipes that change a picture and its texts together."""

from __future__ import annotations

from cmai_core.attacks.specs import JOINT, Recipe

_MAKERS = "cmai_core.attacks.recipes.makers.text"
# Not l0: the schedules move all pixels a little at every step, of which a projection onto a few positions leaves next
# to nothing. 2/255 and one word are the budget of Co-Attack and SGA.
_JOINT = {
    "family": JOINT,
    "modality": "joint",
    "knowledge": "white box",
    "norms": ("linf", "l2", "patch"),
    "amounts": {"linf": 2.0},
    "counts": "steps",
    "needs": ("masked_lm",),
    "objective": "consistency",
}
_PUBLISHED = {"number": 10, "cited": ("steps", "step_size", "words", "top")}
_STEP = {"step_size": 0.5 / 255}

ROWS = (
    Recipe(
        slug="sep",
        title="Separate",
        word="separate",
        **_JOINT,
        **_PUBLISHED,
        threat="pixels and one word, each against the clean other side",
        make=f"{_MAKERS}:separate",
        paper="Lu et al., Set-level Guidance Attack (its baseline Sep)",
        year=2023,
        url="https://arxiv.org/abs/2307.14061",
        settings=_STEP,
        compare="SGA table 1, row Sep-Attack (79.75 TR@1, 86.79 IR@1 on CLIP ViT-B/16, Flickr30k)",
    ),
    Recipe(
        slug="seq",
        title="Sequential",
        word="sequential",
        **_JOINT,
        **_PUBLISHED,
        threat="one word, then pixels against the attacked text",
        make=f"{_MAKERS}:sequential",
        paper="after Zhang et al., Towards Adversarial Attack on Vision-Language Pre-training Models",
        year=2022,
        url="https://arxiv.org/abs/2206.09391",
        settings=_STEP,
        compare="sep and co-attack at the same budget",
    ),
    Recipe(
        slug="co-attack",
        title="Co-Attack",
        word="Co-Attack",
        **_JOINT,
        **_PUBLISHED,
        threat="one word, then pixels away from the clean image and the attacked text",
        make=f"{_MAKERS}:co_attack",
        paper="Zhang et al., Towards Adversarial Attack on Vision-Language Pre-training Models",
        year=2022,
        url="https://arxiv.org/abs/2206.09391",
        settings={**_STEP, "keep": "last"},
        remarks={"loss": "KL, alpha = 3"},
        compare="SGA table 1, row Co-Attack (93.25 TR@1, 95.86 IR@1 on CLIP ViT-B/16, Flickr30k); ours maximises −S_c "
        "in its text step, where the original's is a KL divergence",
    ),
    Recipe(
        slug="sga",
        title="Set-level guidance attack",
        word="SGA",
        **_JOINT,
        **{**_PUBLISHED, "cited": (*_PUBLISHED["cited"], "ratios", "noise")},
        threat="one word and pixels, over scales and sets of captions",
        make=f"{_MAKERS}:sga",
        paper="Lu et al., Set-level Guidance Attack: Boosting Adversarial Transferability of Vision-Language "
        "Pre-training Models",
        year=2023,
        url="https://arxiv.org/abs/2307.14061",
        settings={**_STEP, "keep": "last"},
        compare="SGA table 1 (99.08 TR@1, 98.94 IR@1 on CLIP ViT-B/16, Flickr30k; with mode='as_published', "
        "least=0.3, lexicon=None and five captions an image)",
    ),
    Recipe(
        slug="alternating",
        title="Alternating",
        word="alternating",
        **_JOINT,
        threat="pixels and words in turn",
        make=f"{_MAKERS}:alternating",
        cited=("rounds", "steps"),
        compare="sga at an equal number of image gradients (50)",
        number=50,
        least=4,
    ),
    Recipe(
        slug="joint-cmai",
        title="Best-response joint search",
        word="best response",
        **_JOINT,
        threat="pixels against the worst allowed words at every step",
        make=f"{_MAKERS}:best_response",
        cited=("steps", "momentum"),
        compare="sga at an equal number of image gradients (50) and the same threat; it scores more texts, each a "
        "product of two embeddings",
        number=50,
    ),
)
