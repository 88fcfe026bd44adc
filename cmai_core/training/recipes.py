"""What each training is: one row of settings a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from cmai_core.errors import OptionError

INNER_OBJECTIVES = ("contrastive",)
PRECISIONS = ("auto", "bf16", "fp32")


@dataclass(frozen=True)
class Weights:
    """Factors of the losses; 0 leaves a loss out (and its work with it).

    Attributes:
        contrastive: symmetric InfoNCE between images and captions.
        caption: cross entropy of the caption's tokens in the decoder.
        question: cross entropy of the answer's token.
        nlvr: cross entropy of "true" or "false" after a statement about two images.
        patch: what each image patch shows, by a linear head that is thrown away after training.
    """

    contrastive: float = 1.0
    caption: float = 1.0
    question: float = 1.0
    nlvr: float = 0.5
    patch: float = 1.0


@dataclass(frozen=True)
class Inner:
    """The perturbation that a training image gets (L∞, in [0, 1] pixel units).

    Attributes:
        objective: what the perturbation raises; "contrastive" is the image→text InfoNCE loss within the batch.
        epsilon: radius; steps, step_size: projected sign-gradient ascent.
        random_start: start uniformly within the ball (else at the clean image).
        warmup: share of the training over which ε (and the step size with it) grows linearly from 0.
    """

    objective: str = "contrastive"
    epsilon: float = 2 / 255
    steps: int = 2
    step_size: float = 1.5 / 255
    random_start: bool = True
    warmup: float = 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training computes, apart from the seed, the length and the data.

    Attributes:
        name, summary, source: for people; the source cites the paper. model_name: of the bundled model it makes.
        architecture: a key of `models.architectures.ARCHITECTURES`; with `start`, that model's.
        start: "" for a new model, else the name of the bundled model that is fine-tuned.
        batch: scenes a step; pairs: default length of a training, in image-caption pairs seen.
        nlvr_share: two-image items a step, as a share of the batch (each takes two of its images).
        questions: questions a scene and step.
        vision_share: share of the training, at its start, in which only the image tower learns, from the patch labels:
            texts teach nothing before shapes are seen, and these steps cost a third.
        learning_rate: peak, reached after `warmup_steps`, then a cosine down to `final_share` of it.
        ema: decay of the averaged weights, which are the ones evaluated and saved.
        brightness: images are scaled by a random factor within 1 ± brightness; shift: moved by up to that many pixels.
        precision: of the matrix products; "auto" takes bf16 where the processor has it.
        adversarial_share: λ, the share of a batch's images that are perturbed by `inner`.
    """

    name: str
    model_name: str
    summary: str
    source: str = ""
    architecture: str = "tabletop"
    start: str = ""
    batch: int = 128
    pairs: int = 620_000
    nlvr_share: float = 0.25
    questions: int = 2
    weights: Weights = field(default_factory=Weights)
    vision_share: float = 0.0
    learning_rate: float = 2e-3
    warmup_steps: int = 500
    final_share: float = 0.02
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema: float = 0.999
    brightness: float = 0.1
    shift: int = 0
    precision: str = "auto"
    adversarial_share: float = 0.0
    inner: Inner | None = None

    def __post_init__(self) -> None:
        checks = (
            (self.batch >= 4, f"batch={self.batch}", "Give at least 4 scenes a step."),
            (self.pairs > 0, f"pairs={self.pairs}", "Give a positive number."),
            (0 <= self.nlvr_share <= 0.5, f"nlvr_share={self.nlvr_share}", "Two images each: 0 to 0.5."),
            (0 <= self.vision_share < 1, f"vision_share={self.vision_share}", "Give a share in [0, 1)."),
            (self.questions >= 0, f"questions={self.questions}", "Give 0 or more."),
            (0 <= self.ema < 1, f"ema={self.ema}", "Give a decay in [0, 1)."),
            (self.precision in PRECISIONS, f"precision={self.precision!r}", f"One of {', '.join(PRECISIONS)}."),
            (0 <= self.adversarial_share <= 1, f"adversarial_share={self.adversarial_share}", "Give 0 to 1."),
            ((self.adversarial_share > 0) == (self.inner is not None), "inner and adversarial_share", "Both or none."),
        )
        for good, what, hint in checks:
            if not good:
                raise OptionError(f"Recipe {self.name}: {what} is not possible.", hint)
        if self.inner is not None and self.inner.objective not in INNER_OBJECTIVES:
            raise OptionError(f"Unknown inner objective {self.inner.objective!r}.", f"One of {INNER_OBJECTIVES}.")

    @property
    def defended(self) -> bool:
        return self.adversarial_share > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, equal for equal recipes."""
        return asdict(self)


_BASE = Recipe(
    name="base",
    model_name="tabletop",
    summary="Undefended: contrastive, captioning, questions, two-image statements and patch labels on clean images.",
    source="CoCa: Yu et al. 2022, arXiv 2205.01917",
    vision_share=0.4,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
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
            name="tecoa",
            model_name="tabletop-tecoa",
            start="tabletop",
            vision_share=0.0,
            summary="Text-guided contrastive adversarial fine-tuning of `tabletop`, L∞ 2/255, with all tasks' losses.",
            source="TeCoA: Mao et al. 2023, arXiv 2212.07016, sec. 3.3, captions in the place of class prompts",
            pairs=90_000,
            learning_rate=5e-4,
            warmup_steps=200,
            adversarial_share=1.0,
            inner=Inner(epsilon=2 / 255, steps=2, step_size=1.5 / 255),
        ),
    )
}


def get_recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by name, with settings changed.

    Raises:
        OptionError: unknown recipe or setting, or a value that cannot be.
    """
    if name not in RECIPES:
        raise OptionError(f"Unknown recipe {name!r}.", f"Recipes: {', '.join(RECIPES)}.")
    known = {f.name for f in fields(Recipe)}
    for key in changes:
        if key not in known:
            raise OptionError(f"A recipe has no setting {key!r}.", f"Settings: {', '.join(sorted(known))}.")
    return replace(RECIPES[name], **changes)
