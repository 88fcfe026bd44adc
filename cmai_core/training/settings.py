"""The settings a training recipe is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cmai_core.defenses.constraint import ConstraintSettings
from cmai_core.defenses.controller import ControllerSettings
from cmai_core.defenses.verified import VerifiedAnswers
from cmai_core.errors import OptionError

INNER_LOSSES = ("contrastive", "classes", "question", "caption", "drift", "accept", "rank", "verified", "nlvr")
RANKED = ("rank", "verified")
TEXT_LOSSES = ("contrastive", "caption", "drift")
STARTS = ("clean", "uniform", "noise", "previous")
NORMS = ("linf", "l2")
PRECISIONS = ("auto", "bf16", "fp32")
PARTS = ("visual", "text", "decoder")
LATER: dict[str, dict[str, Any]] = {
    "": {"queue": 0, "detached_heads": False, "on_policy": False, "projector_share": 0.0, "balance": 0.0},
    "weights": {"place": 0.0, "prompts": 0.0, "text_drift": 0.0},
    "inner": {
        "text_losses": {"contrastive": 1.0},
        "margin": 0.0,
        "answering": asdict(VerifiedAnswers()),
        "exhaustive": False,
        "question_words": 0,
    },
}
"""Settings that came after results were published and trainings begun, with the values that leave a training as it was
without them: such a value is no part of what tells two recipes apart (`terms`)."""


@dataclass(frozen=True)
class Weights:
    """Factors of the losses; 0 leaves a loss out (and its work with it).

    Attributes:
        contrastive: symmetric InfoNCE between images and captions.
        caption: cross entropy of the caption's tokens in the decoder.
        question: cross entropy of the answer's token.
        nlvr: cross entropy of "true" or "false" after a statement about two images.
        patch: what each image patch shows, by a linear head that is thrown away after training.
        place: where the objects stand that a question names, by a linear head on the state that gives the answer.
        classes: cross entropy over the class prompts; a class is right when the scene holds one.
        prompts: InfoNCE of the images with class prompts and short statements, of which several are true of an image.
        drift: squared distance of the image features from those that the starting model gives the clean image.
        text_drift: the same of the captions' features, whose words may have been replaced, from those of the words as
            they were.
        agreement: Jensen-Shannon divergence between what two views of a scene retrieve (needs `views=2`).
        hard: hinge on the hardest negative of the batch and on the caption's false variant.
        masked: prediction of hidden patches with the caption's help and of hidden words with the picture's.
        cycle: image → texts → image and text → images → text come back to where they began.
        verify: the consistency heads: InfoNCE of S_c and binary cross entropy of V_verify.
    """

    contrastive: float = 1.0
    caption: float = 1.0
    question: float = 1.0
    nlvr: float = 0.5
    patch: float = 1.0
    place: float = 0.0
    classes: float = 0.0
    prompts: float = 0.0
    drift: float = 0.0
    text_drift: float = 0.0
    agreement: float = 0.0
    hard: float = 0.0
    masked: float = 0.0
    cycle: float = 0.0
    verify: float = 0.0


@dataclass(frozen=True)
class Inner:
    """The inner problem: max over the perturbation of α·L_task − β·S_c, on images (in [0, 1] pixel units) and texts.

    Attributes:
        losses: L_task as a mixture: loss → the share of the perturbed images that is attacked through it.
            "contrastive": image→text InfoNCE in the batch; "classes": over class prompts; "question": the answer to the
            first question; "caption": the caption's tokens; "drift": distance from the clean features; "accept": S_c
            and V_verify of the scene's *false* caption, which is raised (no L_task, and β does not apply).
            "rank": the caption against all that are false of the picture, of the batch and of the recipe's queue, and
            against its own false variant. "verified": the same by the score that `answering` fuses, against the few of
            these that the picture ranks highest where the search begins. "nlvr": the verdict on a statement about two
            pictures, of both at once; its share of the images goes to whole pairs, as far as there are any.
        margin: share of the "rank" and "verified" images that go by the margin, the highest rival's score minus the
            caption's; the others go by cross entropy.
        answering: how "verified" fuses the model's score and V_verify, and how many rivals it looks at.
        alpha, beta: of the formula. S_c is that of the consistency heads where the recipe trains them.
        text_losses: the same mixture for the captions whose words may change. "contrastive": text→image InfoNCE in the
            batch; "caption": the caption's tokens in the decoder; "drift": distance from the starting model's features
            of the words as they were, the farthest of some edits drawn at random (β does not apply).
        targeted: share of the "contrastive" images, and of such captions, that are drawn towards a caption (an image)
            that does not belong to them instead; of the "caption" images, towards writing such a caption; of the
            "question" images, towards the likeliest wrong one of the batch's answers.
        norm, epsilon: the ball; steps, step_size: projected ascent (sign for linf, unit gradient for l2).
        start: "clean"; "uniform" in the ball; "noise": uniform within ±2ε and no projection, for single steps (N-FGSM:
            de Jorge et al. 2022, arXiv 2202.01181); "previous": the perturbation of the batch before (FGSM-BP: Jia et
            al. 2022, arXiv 2207.08859, sec. 3.2).
        warmup: share of the training over which ε (and the step size with it) grows linearly from 0.
        words: words of each caption of a perturbed image that may be replaced such that it stays true: 0 or 1.
        exhaustive: every such replacement is tried (a caption of Tabletop has six on average); else the gradient says
            which promises most.
        question_words: words of each question about a perturbed image that may be replaced by others of the same
            meaning, such that the answer's loss rises: 0 or 1.
    """

    losses: Mapping[str, float] = field(default_factory=lambda: {"contrastive": 1.0})
    alpha: float = 1.0
    beta: float = 0.0
    targeted: float = 0.0
    norm: str = "linf"
    epsilon: float = 2 / 255
    steps: int = 2
    step_size: float = 1.5 / 255
    start: str = "uniform"
    warmup: float = 0.1
    words: int = 0
    text_losses: Mapping[str, float] = field(default_factory=lambda: {"contrastive": 1.0})
    margin: float = 0.0
    answering: VerifiedAnswers = field(default_factory=VerifiedAnswers)
    exhaustive: bool = False
    question_words: int = 0

    def __post_init__(self) -> None:
        shares, text_shares = self.losses.values(), self.text_losses.values()
        checks = (
            (set(self.losses) <= set(INNER_LOSSES), f"losses={dict(self.losses)}", f"Some of {INNER_LOSSES}."),
            (_a_mixture(shares), "losses", "Shares of 0 or more, one above 0."),
            (
                set(self.text_losses) <= set(TEXT_LOSSES),
                f"text_losses={dict(self.text_losses)}",
                f"Some of {TEXT_LOSSES}.",
            ),
            (_a_mixture(text_shares), "text_losses", "Shares of 0 or more, one above 0."),
            (self.alpha >= 0 and self.beta >= 0, f"alpha={self.alpha}, beta={self.beta}", "Give 0 or more."),
            (self.alpha > 0 or self.beta > 0, "alpha=0 and beta=0", "Nothing would be raised: give one of them."),
            (0 <= self.targeted <= 1, f"targeted={self.targeted}", "A share from 0 to 1."),
            (0 <= self.margin <= 1, f"margin={self.margin}", "A share from 0 to 1."),
            (self.answering.shortlist is not None, "answering.shortlist=None", "Give a number of rivals."),
            (self.norm in NORMS, f"norm={self.norm!r}", f"One of {', '.join(NORMS)}."),
            (self.epsilon >= 0 and self.step_size >= 0, "epsilon or step_size", "Give 0 or more."),
            (self.steps >= 0, f"steps={self.steps}", "Give 0 or more."),
            (self.start in STARTS, f"start={self.start!r}", f"One of {', '.join(STARTS)}."),
            (self.start != "noise" or (self.norm, self.steps) == ("linf", 1), "start='noise'", "One linf step."),
            (0 <= self.warmup <= 1, f"warmup={self.warmup}", "A share from 0 to 1."),
            (self.words in (0, 1), f"words={self.words}", "0 or 1."),
            (self.question_words in (0, 1), f"question_words={self.question_words}", "0 or 1."),
        )
        for good, what, hint in checks:
            if not good:
                raise OptionError(f"Inner problem: {what} is not possible.", hint)


def _a_mixture(shares: Collection[float]) -> bool:
    return min(shares, default=-1) >= 0 and sum(shares) > 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training computes, apart from the seed, the length and the data.

    Attributes:
        name, summary, source: for people; the source cites the paper. model_name: of the bundled model it makes.
        architecture: a key of `models.architectures.ARCHITECTURES`; with `start`, that model's.
        start: "" for a new model, else the name of the bundled model that is fine-tuned.
        trained: which parts learn ("visual", "text", "decoder"); heads learn where `weights.verify` is not 0.
        adapters: rank of low-rank updates that learn in the trained parts' matrices instead of these; 0: none.
        batch: scenes a step; pairs: default length of a training, in image-caption pairs seen.
        views: 2 puts every scene twice into a batch, augmented and attacked separately.
        captions: captions a scene and step; those beyond the first have a contrastive loss of their own (1:N).
        eda: share of the words of these further captions that easy data augmentation changes.
        nlvr_share: two-image items a step, as a share of the batch (each takes two of its images).
        questions: questions a scene and step.
        vision_share: share of the training, at its start, in which only the image tower learns, from the patch labels:
            texts teach nothing before shapes are seen, and these steps cost a third.
        learning_rate: peak, reached after `warmup_steps`, then a cosine down to `final_share` of it.
        heads_rate: factor on the learning rate of the consistency heads, which begin from nothing.
        ema: decay of the averaged weights, which are the ones evaluated and saved.
        brightness: images are scaled by a random factor within 1 ± brightness; shift: moved by up to that many pixels.
        precision: of the matrix products; "auto" takes bf16 where the processor has it.
        adversarial_share: λ, the share of a batch's images that are perturbed by `inner`: the outer loss is
            (1 − λ)·L(clean) + λ·L(perturbed), in expectation over which scenes are perturbed.
        projector_share: share of the training, at its start, in which only what leads from the image tower to the
            decoder learns (`projector`), by `drift` on images perturbed to drift (ProEAT's first stage).
        balance: 0, or the momentum of moving averages m of the clean and of the perturbed loss: every scene is then in
            each step clean and perturbed (all of them with λ = 1), and the outer loss is their mean weighted by
            m_clean/(m_clean + m_perturbed), and likewise (ProEAT's dynamic weights).
        queue: captions of earlier steps that the inner losses "rank" and "verified" rank beside those of the batch.
        detached_heads: the consistency heads learn on the towers' outputs as they are: their losses move no tower.
        on_policy: V_verify learns to refuse the false caption of batch and queue that each picture, attacked or not,
            ranks highest (after rectified rejection: Pang et al. 2022, arXiv 2105.14785); else one that is false by
            chance.
        controller: ARM: steers β, ε and λ while training, by S_c or under constraints. replay: the name of a bundled
            model whose recorded schedule of β, ε and λ is followed instead, whatever this training's own S_c does.
    """

    name: str
    model_name: str
    summary: str
    source: str = ""
    architecture: str = "tabletop"
    start: str = ""
    trained: tuple[str, ...] = PARTS
    adapters: int = 0
    batch: int = 128
    pairs: int = 620_000
    views: int = 1
    captions: int = 1
    eda: float = 0.0
    nlvr_share: float = 0.25
    questions: int = 2
    weights: Weights = field(default_factory=Weights)
    vision_share: float = 0.0
    learning_rate: float = 2e-3
    warmup_steps: int = 500
    final_share: float = 0.02
    heads_rate: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema: float = 0.999
    brightness: float = 0.1
    shift: int = 0
    precision: str = "auto"
    adversarial_share: float = 0.0
    inner: Inner | None = None
    projector_share: float = 0.0
    balance: float = 0.0
    queue: int = 0
    detached_heads: bool = False
    on_policy: bool = False
    controller: ControllerSettings | ConstraintSettings | None = None
    replay: str = ""

    def __post_init__(self) -> None:
        inner, w = self.inner, self.weights
        attacked = frozenset() if inner is None else frozenset(inner.losses)
        checks = (
            (self.batch >= 4, f"batch={self.batch}", "Give at least 4 scenes a step."),
            (self.pairs > 0, f"pairs={self.pairs}", "Give a positive number."),
            (set(self.trained) <= set(PARTS), f"trained={self.trained}", f"Some of {', '.join(PARTS)}."),
            (bool(self.trained) or w.verify > 0, "trained=()", "Something has to learn: give a part, or verify."),
            (self.adapters >= 0, f"adapters={self.adapters}", "Give a rank, 0 for none."),
            (self.views in (1, 2), f"views={self.views}", "1 or 2."),
            (self.views == 2 or not w.agreement, "agreement", "Needs views=2."),
            (self.views == 1 or self.batch % 4 == 0, f"batch={self.batch}", "With views=2, a multiple of 4."),
            (
                self.views == 1 or self.nlvr_share <= 0.25,
                f"nlvr_share={self.nlvr_share}",
                "With views=2, at most 0.25: pairs of two images stand in the first half of the batch.",
            ),
            (1 <= self.captions <= 6, f"captions={self.captions}", "Give 1 to 6."),
            (0 <= self.eda < 1, f"eda={self.eda}", "Give a share in [0, 1)."),
            (0 <= self.nlvr_share <= 0.5, f"nlvr_share={self.nlvr_share}", "Two images each: 0 to 0.5."),
            (0 <= self.vision_share < 1, f"vision_share={self.vision_share}", "Give a share in [0, 1)."),
            (self.questions >= 0, f"questions={self.questions}", "Give 0 or more."),
            (0 <= self.ema < 1, f"ema={self.ema}", "Give a decay in [0, 1)."),
            (self.precision in PRECISIONS, f"precision={self.precision!r}", f"One of {', '.join(PRECISIONS)}."),
            (0 <= self.adversarial_share <= 1, f"adversarial_share={self.adversarial_share}", "Give 0 to 1."),
            ((self.adversarial_share > 0) == (inner is not None), "inner and adversarial_share", "Both or none."),
            (0 <= self.projector_share < 1, f"projector_share={self.projector_share}", "Give a share in [0, 1)."),
            (0 <= self.balance < 1, f"balance={self.balance}", "Give a momentum in [0, 1)."),
            (
                inner is not None or not (self.projector_share or self.balance),
                "projector_share or balance",
                "Needs an inner problem.",
            ),
            (
                w.verify > 0 or not attacked & {"accept", "verified"},
                "the inner loss 'accept' or 'verified'",
                "Needs heads: weights.verify above 0.",
            ),
            ("nlvr" not in attacked or w.nlvr > 0, "the inner loss 'nlvr'", "Needs statements: weights.nlvr above 0."),
            (self.queue >= 0, f"queue={self.queue}", "Give 0 (none) or more captions."),
            (not self.queue or inner is not None, f"queue={self.queue}", "Needs an inner problem, which fills it."),
            (w.verify > 0 or not self.on_policy, "on_policy", "Needs heads: weights.verify above 0."),
            (not (self.controller or self.replay) or inner is not None, "a controller", "Needs an inner problem."),
            (not (self.controller and self.replay), "controller and replay", "One or the other."),
        )
        for good, what, hint in checks:
            if not good:
                raise OptionError(f"Recipe {self.name}: {what} is not possible.", hint)

    @property
    def defended(self) -> bool:
        return self.adversarial_share > 0

    @property
    def has_heads(self) -> bool:
        return self.weights.verify > 0

    @property
    def reads_false_captions(self) -> bool:
        """Whether its losses need captions made false."""
        attacked = self.inner is not None and bool({"accept", *RANKED} & set(self.inner.losses))
        return attacked or self.weights.verify > 0 or self.weights.hard > 0

    @property
    def validation_pairs(self) -> int:
        """Validation pairs that it measures itself by while training."""
        return self.controller.clean_pairs if isinstance(self.controller, ConstraintSettings) else 0

    @property
    def reads_things(self) -> bool:
        """Whether its losses need to know which objects a question names."""
        return self.weights.place > 0 and self.weights.question > 0

    @property
    def reads_classes(self) -> bool:
        return self.weights.classes > 0 or (self.inner is not None and "classes" in self.inner.losses)

    @property
    def reads_short_texts(self) -> bool:
        return self.weights.prompts > 0

    @property
    def reads_start(self) -> bool:
        """Whether its losses need the starting model's features of images."""
        drifts = self.inner is not None and "drift" in self.inner.losses
        return self.weights.drift > 0 or self.projector_share > 0 or drifts

    @property
    def reads_start_texts(self) -> bool:
        """Whether its losses need the starting model's features of captions."""
        drifts = self.inner is not None and self.inner.words > 0 and "drift" in self.inner.text_losses
        return self.weights.text_drift > 0 or drifts

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, equal for equal recipes."""
        return asdict(self)


def terms(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's plain data (`Recipe.to_dict`, or as an earlier version wrote it) without what `LATER` names."""
    out = dict(plain)
    for owner, later in LATER.items():
        inside = out if not owner else out.get(owner)
        if inside:
            kept = {name: value for name, value in inside.items() if name not in later or value != later[name]}
            out = kept if not owner else {**out, owner: kept}
    return out
