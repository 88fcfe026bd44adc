"""A model with an optional defence around it: preprocessing, smoothing, a detector, and what is done about a flag.

    system = System(model, smoothing=Smoothing(Noise(sigma=8 / 255), copies=8), detector=ConsistencyDetector(tau))
    system.respond(task, batch)            # as deployed
    attack(system, batch, seed=0)          # white box: gradients through everything (EOT, BPDA)
    attack(system.view("scores"), batch)   # values without gradients; view("decisions"): success only

A system has the face of a model, so that every attack, task and explanation takes one for the other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.objectives.detectors import KNOWLEDGE, Accepted, Detector
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion, Untargeted
from cmai_core.data.pair import Batch
from cmai_core.defenses.pathways import Pathway, Smoothing
from cmai_core.defenses.preprocessing import Preprocessing
from cmai_core.defenses.review import ReviewQueue
from cmai_core.defenses.verified_pathway import VerifiedPathway
from cmai_core.errors import OptionError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.models.heads import TextStates
from cmai_core.models.scoring import has_heads
from cmai_core.options import flag, one_of, strict_options, whole
from cmai_core.seeds import sample_generators
from cmai_core.tasks.base import Prediction
from cmai_core.tasks.verified import Rule, StatementCache, VerifiedAnswers, check_answering, described

POLICIES = ("reject", "robust pathway", "flag")


@dataclass(frozen=True, eq=False)
class Response:
    """What a system answers about N pictures.

    Attributes:
        predictions: what the model says; it is withheld where `rejected`.
        scores: the detector's score, N; None without a detector. flagged, rejected: bool N.
    """

    predictions: tuple[Prediction, ...]
    scores: torch.Tensor | None
    flagged: torch.Tensor
    rejected: torch.Tensor


@strict_options
@dataclass(frozen=True, kw_only=True)
class _Options:
    """The defence.

    Attributes:
        preprocessing: applied to every picture, in order.
        smoothing: for every picture. pathway: for flagged pictures under the policy "robust pathway" (`pathways`).
        detector: flags pictures by a score.
        answering: the likeliest options are verified before one of them is the answer (`verified`): one rule for all
            tasks of choices, or rules by task (of captioning: `VerifiedCaptions`); None, and for tasks without a rule:
            the model's own scores decide.
        review: a `ReviewQueue` that `respond` hands flagged pairs to, whatever else happens to them.
        policy: what happens to a flagged picture. "reject": no answer. "robust pathway": it is answered by way of
            `pathway`. "flag": it is answered and shown to a person besides; who fools the system must not be flagged.
        seed: of the deployed system's random numbers, which an attacker does not know.
        knowledge: what an attacker sees: "white-box", "scores", "decisions".
        bpda: gradients pass preprocessing as if it changed nothing (backward pass differentiable approximation with
            the identity: Athalye et al. 2018, arXiv 1802.00420, §4.1); else they are preprocessing's own.
    """

    preprocessing: tuple[Preprocessing, ...] = ()
    smoothing: Smoothing | None = None
    pathway: Pathway | None = None
    detector: Detector | None = None
    answering: VerifiedAnswers | Mapping[str, Rule] | None = None
    review: ReviewQueue | None = None
    policy: str = "reject"
    seed: int = 0
    knowledge: str = "white-box"
    bpda: bool = True

    def __post_init__(self) -> None:
        one_of("policy", self.policy, POLICIES)
        one_of("knowledge", self.knowledge, KNOWLEDGE)
        whole("seed", self.seed, 0)
        flag("bpda", self.bpda)
        check_answering(self.answering)
        if not all(callable(step) for step in self.preprocessing):
            raise OptionError("A preprocessing step is not callable.", "Accepted: pixels → pixels, such as Quantise().")
        if (self.policy == "robust pathway") != (self.pathway is not None):
            raise OptionError(
                "The robust pathway needs a pathway, and no other policy takes one.", "Give both or none."
            )
        if self.policy == "robust pathway" and self.detector is None:
            raise OptionError("The robust pathway needs a detector.", "Give one, such as ConsistencyDetector(tau).")


class System:
    """A model with a defence around it; without options, the model itself.

    Args:
        model: a `VisionLanguageModel`. options: as in `_Options`.

    Attributes:
        model; preprocessing, smoothing, pathway, detector, policy, review, seed, knowledge: as given. Others are the
            model's own.

    Raises:
        OptionError: an unknown option, or options that contradict each other.
    """

    def __init__(self, model: Any, **options: Any):
        self.model = model
        self.options = _Options(**options)
        self._statements = StatementCache()
        if self.answering is not None and not has_heads(model):
            raise OptionError(
                "Verified answering needs a model with consistency heads, and this one has none.",
                "Choose a model trained with CMCV, or train heads for this one (recipe cmcv).",
            )

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "options", "_statements") or name.startswith("__"):  # not there yet while being copied
            raise AttributeError(name)
        if name in _Options.__dataclass_fields__:
            return getattr(self.options, name)
        return getattr(self.model, name)

    def __repr__(self) -> str:
        return f"System({self.model!r}, {self.options!r})"

    @property
    def answering(self) -> VerifiedAnswers | Mapping[str, VerifiedAnswers] | None:
        """The rule of answering by verification, or rules by task; with a verified pathway each has its rule too."""
        own, pathway = self.options.answering, self.options.pathway
        return pathway.answering(own) if isinstance(pathway, VerifiedPathway) else own

    @property
    def rejects(self) -> bool:
        """Whether a flag keeps an attacker from success."""
        return self.detector is not None and self.policy != "robust pathway"

    @property
    def passes(self) -> int:
        """Forward passes of the model in one pass of the system. An attacker who may only ask counts questions."""
        if self.knowledge != "white-box":
            return 1
        own = 1 if self.smoothing is None else self.smoothing.passes
        return own + (0 if self.pathway is None else self.pathway.passes)

    def describe(self) -> dict:
        """Return plain values for reports."""
        plain: dict[str, Any] = {"policy": self.policy, "knowledge": self.knowledge}
        plain |= {} if self.detector is None else self.detector.describe()
        own = self.options.answering
        plain |= {} if own is None else {"answering": described(own)}
        plain |= {} if self.smoothing is None else self.smoothing.describe()
        plain |= {} if self.pathway is None else {"pathway": self.pathway.describe()}
        return plain | {"preprocessing": [step.describe() for step in self.preprocessing]}

    def view(self, knowledge: str = "white-box", *, bpda: bool = True) -> System:
        """Return the same system as an attacker with this knowledge sees it.

        "white-box": everything but the deployed random numbers; differentiable. "scores": values without gradients.
        "decisions": attacks may only ask whether they succeeded (their objective is `Decided`).
        """
        return System(self.model, **{**self._given, "knowledge": knowledge, "bpda": bpda})

    @property
    def _given(self) -> dict[str, Any]:
        return {name: getattr(self.options, name) for name in _Options.__dataclass_fields__}

    def for_samples(self, batch: Batch, seed: int) -> SampledSystem:
        """Return the system for the samples of a batch, with random numbers from (seed, sample id, draw)."""
        score = None if self.detector is None else self.detector.consistency.bind(self, batch)
        return SampledSystem(self, batch.ids, seed, torch.zeros(len(batch.ids), dtype=torch.int64), score)

    def image_features(self, pixels: torch.Tensor) -> Any:
        """Return features of pictures that belong to no sample: their random numbers come from their own content.

        Under the robust pathway nothing is flagged then, since there is no text to measure S_c with.
        """
        generators = []
        if self.smoothing is not None:
            raw = pixels.detach().cpu().contiguous()
            names = [hashlib.blake2b(picture.numpy().tobytes(), digest_size=16).hexdigest() for picture in raw]
            generators = sample_generators(self.seed, [f"{name}/smoothing" for name in names], 0)
        return self._features(pixels, generators)

    def encode_image(self, pixels: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Return image embeddings N×D."""
        features = self.image_features(pixels)
        return features.embedding if normalize else features.pooled

    def consistency(self, pixels: Any, texts: Any, image_of_text: Any = None) -> torch.Tensor:
        """Return S_c of each text with its image as the system sees it; arguments as for the model's."""
        return self.model.consistency(self._seen_features(pixels), texts, image_of_text)

    def verify(self, pixels: Any, texts: Any, image_of_text: Any = None, *, log: bool = False) -> torch.Tensor:
        """Return V_verify of each text with its image as the system sees it; arguments as for the model's."""
        return self.model.verify(self._seen_features(pixels), texts, image_of_text, log=log)

    @torch.no_grad()
    def verify_words(self, pixels: Any, texts: Any, image_of_text: Any = None) -> list[Any]:
        """Return each text's words with how well the image that the system sees supports them."""
        return self.model.verify_words(self._seen_features(pixels), texts, image_of_text)

    @torch.no_grad()
    def generate(self, pixels: Any, *arguments: Any, **options: Any) -> list[str]:
        """Write a text about each image as the system sees it; arguments as for the model's."""
        return self.model.generate(self._seen_features(pixels), *arguments, **options)

    def _seen_features(self, pixels: Any) -> Any:
        """Return features of pictures; features that are there already stay."""
        return self.image_features(pixels) if isinstance(pixels, torch.Tensor) else pixels

    def statement_states(self, texts: Sequence[str]) -> TextStates:
        """Return what V_verify reads of statements, each encoded once."""
        return self._statements.states(self.model, texts)

    def respond(self, task: Any, batch: Batch, *, dataset: Any = None, prepared: Any = None) -> Response:
        """Answer about a batch's pictures as the deployed system does.

        Args:
            batch: pixels in [0, 1]; `pairs` for the task. prepared: `task.prepare(...)` of them, if at hand.
        """
        with torch.no_grad(), evaluation_mode(self):
            device = getattr(self.model, "device", None) or batch.pixels.device
            pixels = batch.pixels.detach().to(device)
            prepared = task.prepare(self.model, list(batch.pairs), dataset) if prepared is None else prepared
            sampled = self.for_samples(batch, self.seed)
            features, scores, flagged = sampled.judged(pixels)
            predictions = tuple(task.predict(sampled, features, prepared))
        rejected = flagged if self.policy == "reject" else torch.zeros_like(flagged)
        if self.review is not None:
            self._hand_over(batch, pixels, predictions, scores, flagged)
        return Response(predictions, scores, flagged, rejected)

    def _hand_over(
        self,
        batch: Batch,
        pixels: torch.Tensor,
        predictions: Sequence[Prediction],
        scores: torch.Tensor | None,
        flagged: torch.Tensor,
    ) -> None:
        """Put the flagged pairs into the review queue."""
        tau = None if self.detector is None else float(self.detector.tau)
        for row in flagged.nonzero()[:, 0].tolist():
            picture = (pixels[row] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            texts = [text for text, owner in zip(batch.texts, batch.image_of_text, strict=True) if owner == row]
            score = None if scores is None else float(scores[row])
            reason = f"score below the threshold; answered: {predictions[row].answer}"
            named = {"model": self.model.name, "reason": reason, "item": batch.ids[row]}
            self.review.add(picture, texts, score=score, tau=tau, once=True, **named)

    def fooled(self, task: Any, dataset: Any = None) -> Criterion:
        """Return an attack's success: the task's answer is wrong, and no flag keeps it from being given."""
        return Untargeted(task, dataset=dataset) & Accepted()

    def _features(
        self,
        pixels: torch.Tensor,
        generators: Sequence[torch.Generator],
        flagged: Callable[[Any], torch.Tensor] | None = None,
        more: Sequence[torch.Generator] = (),
        own: bool = False,
    ) -> Any:
        """Return features.

        Args:
            flagged: from the plain features, who takes the pathway (bool N); None: nobody. more: its generators.
            own: with gradients even where an attacker sees none.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and (own or self.knowledge == "white-box")):
            seen = self._seen(pixels)
            if self.smoothing is not None:
                plain = self.smoothing.features(self.model, seen, generators)
            else:
                plain = self.model.image_features(seen)
            if flagged is None:
                return plain
            rows = flagged(plain).nonzero()[:, 0]
            if not len(rows):
                return plain
            pathway, drawn = self.pathway, [more[row] for row in rows.tolist()]
            verified = isinstance(pathway, VerifiedPathway)
            if not verified or pathway.then is not None:
                plain = _replaced(plain, rows, pathway.features(self.model, seen[rows], drawn))
            return pathway.mark(plain, rows) if verified else plain

    def _seen(self, pixels: torch.Tensor) -> torch.Tensor:
        for step in self.preprocessing:
            changed = step(pixels)
            pixels = pixels + (changed - pixels).detach() if self.bpda else changed
        return pixels


class SampledSystem:
    """A system bound to samples: their random numbers belong to (seed, sample id, draw)."""

    def __init__(
        self,
        system: System,
        ids: Sequence[str],
        seed: int,
        draws: torch.Tensor,
        score: Objective | None,
        rows: torch.Tensor | None = None,
    ):
        self._system, self._ids, self._seed, self._draws, self._score = system, ids, seed, draws, score
        self._rows = torch.arange(len(ids)) if rows is None else rows

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._system, name)

    def select_rows(self, rows: torch.Tensor) -> SampledSystem:
        """Select some of these samples (int64; a row may occur repeatedly); draws are counted together."""
        score = None if self._score is None else self._score.select(rows)
        return SampledSystem(self._system, self._ids, self._seed, self._draws, score, self._rows[rows.cpu()])

    def advance(self, rows: torch.Tensor | None = None) -> None:
        """Draw new random numbers from now on for these samples (None: all)."""
        self._draws[(self._rows if rows is None else self._rows[rows.cpu()]).unique()] += 1

    def scores(self, pixels: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return the detector's scores (None without one) and who is flagged (bool N), without gradients.

        What is scored are the features before the pathway, since the score decides who takes it.
        """
        with torch.no_grad():
            if self._score is None:
                return None, torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
            score = self._score_of(pixels, self._system._features(pixels, self._generators("smoothing")))
            return score, score < self._system.detector.tau

    def plain_features(self, pixels: torch.Tensor) -> Any:
        """Return features of these samples' pictures before any pathway: what the detector scores.

        A detector that looks at further pictures takes these. Whether they have gradients depends on the knowledge.
        """
        return self._system._features(pixels, self._generators("smoothing"))

    def own_features(self, pixels: torch.Tensor) -> Any:
        """Return the same with gradients whatever the knowledge: for the system's own searches.

        Of what is computed with them nothing that has a gradient may leave the system.
        """
        return self._system._features(pixels, self._generators("smoothing"), own=True)

    def image_features(self, pixels: torch.Tensor) -> Any:
        """Return features of these samples' pictures, N rows.

        Pictures in another number are none of these samples' (such as a task's own): they go through the system as
        pictures that belong to no sample do, and nothing is flagged. Call `select_rows` first for some of the samples.
        """
        if len(pixels) != len(self._rows):
            return self._system.image_features(pixels)
        system = self._system
        if system.pathway is None:
            return system._features(pixels, self._generators("smoothing"))

        def flagged(features: Any) -> torch.Tensor:
            return self._score_of(pixels, features) < system.detector.tau

        return system._features(pixels, self._generators("smoothing"), flagged, self._generators("pathway"))

    def judged(self, pixels: torch.Tensor) -> tuple[Any, torch.Tensor | None, torch.Tensor]:
        """Return (`image_features`, *`scores`) from one pass of the model, and one of the pathway for those flagged."""
        system, found = self._system, []

        def flagged(features: Any) -> torch.Tensor:
            found.append(self._score_of(pixels, features))
            return found[0] < system.detector.tau

        if self._score is None:
            return self.image_features(pixels), None, torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
        if system.pathway is not None:
            features = system._features(pixels, self._generators("smoothing"), flagged, self._generators("pathway"))
            return features, found[0], found[0] < system.detector.tau
        features = system._features(pixels, self._generators("smoothing"))
        below = flagged(features)
        return features, found[0], below

    def _generators(self, purpose: str) -> list[torch.Generator]:
        """Return one a sample, where the system has such a part; none elsewhere."""
        if getattr(self._system, purpose) is None:
            return []
        rows = zip(self._rows.tolist(), self._draws[self._rows].tolist(), strict=True)
        return [g for row, draw in rows for g in sample_generators(self._seed, [f"{self._ids[row]}/{purpose}"], draw)]

    def _score_of(self, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        with torch.no_grad():
            return self._score(self, pixels, features)


def _replaced(features: Any, rows: torch.Tensor, others: Any) -> Any:
    """Return the features with some rows (int64) replaced by those of another record."""

    def put(name: str) -> torch.Tensor | None:
        values = getattr(features, name)
        return None if values is None else values.index_copy(0, rows, getattr(others, name).to(values))

    return dataclasses.replace(features, **{field.name: put(field.name) for field in dataclasses.fields(features)})
