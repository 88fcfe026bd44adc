"""Detectors around a model as attacks see them: the score, its threshold, and what of the system can be seen.

A system (`cmai_core.defenses.system.System`) is attacked like a model. Attacks see of it what the protocols below say;
they import nothing from the defences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import torch

from cmai_core.attacks.objectives.objective import Consistency, Objective, TaskRows, prepare_task
from cmai_core.attacks.objectives.success import Criterion, Scored
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.models.heads import TextStates
from cmai_core.models.scoring import has_heads, image_vectors, text_vectors
from cmai_core.options import flag, number, one_of
from cmai_core.tasks.consistency import AnswerTexts, answer_consistency, answered

KNOWLEDGE = ("white-box", "scores", "decisions")


@runtime_checkable
class Detector(Protocol):
    """Flags a picture whose score lies below a threshold: `consistency` (not yet bound) < `tau`."""

    @property
    def tau(self) -> float: ...

    @property
    def consistency(self) -> Objective: ...


@runtime_checkable
class SampledModel(Protocol):
    """A model with randomness of its own, which belongs to samples: bound to a batch and a seed before it is attacked.

    `passes`: forward passes that one call of `image_features` takes of the model inside.
    """

    passes: int

    def for_samples(self, batch: Batch, seed: int) -> SampledView: ...


class SampledView(Protocol):
    """A `SampledModel` for certain samples; everything else is the model's own."""

    def image_features(self, pixels: torch.Tensor) -> Any: ...

    def select_rows(self, rows: torch.Tensor) -> SampledView:
        """Return the view for some of these samples (int64, rows may recur). They share the count of draws."""
        ...

    def advance(self, rows: torch.Tensor | None = None) -> None:
        """Use new random numbers from now on for these samples (None: all)."""
        ...


@dataclass(frozen=True)
class Guard:
    """A detector as an attacker writes it down.

    Attributes:
        tau: threshold. consistency: the score (default: S_c of the given pair).
    """

    tau: float
    consistency: Objective = field(default_factory=Consistency)

    def __post_init__(self) -> None:
        number("tau", self.tau, -1.0, 1.0)


def detectors_of(model: Any, given: Sequence[Detector]) -> tuple[Detector, ...]:
    """Return the detectors given, or the system's own; none where a system has none.

    Raises:
        OptionError: none was given, and the model is no system.
    """
    if given:
        return tuple(given)
    if not hasattr(model, "detector"):
        raise OptionError("The model has no detector around it.", "Attack a System, or give a detector (Guard(tau)).")
    return () if model.detector is None else (model.detector,)


@dataclass(frozen=True)
class AnswerConsistency(Objective):
    """S_c of the picture with the text that the model's own answer amounts to (`tasks.consistency`), in [−1, 1].

    Attributes: as in `TaskObjective`.
    """

    task: Any
    prepared: Any = None
    dataset: Any = None

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        prepared = prepare_task(self.task, self.prepared, model, batch, self.dataset, shared)
        texts = self.task.answer_texts(model, batch.pairs, prepared, encode=not has_heads(model))
        return _BoundAnswers(self.task, TaskRows(self.task, texts, len(batch.ids)), {})

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"consistency:{self.task.name}"


@dataclass(frozen=True)
class _BoundAnswers(Objective):
    """`vectors`: what S_c compares of the answers given so far, by text; shared by all selections."""

    task: Any
    rows: TaskRows
    vectors: dict[str, torch.Tensor]

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundAnswers(self.task, self.rows.select(rows), self.vectors)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        def score(f: Any, texts: AnswerTexts) -> torch.Tensor:
            if texts.vectors is not None or texts.strings is None:  # encoded already, or written anew
                return answer_consistency(self.task, model, f, texts)
            said = answered(self.task, model, f, texts)
            if not said:
                return f.embedding.new_zeros(0)
            chosen = self._encoded(model, said)
            return (image_vectors(model, f) * chosen).sum(dim=-1)

        return self.rows.apply(score, features)

    @torch.no_grad()
    def _encoded(self, model: Any, texts: list[str]) -> torch.Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        if new:
            with torch.autocast(model.device.type, enabled=False):  # passes in single precision read them too
                self.vectors.update(zip(new, text_vectors(model, new), strict=True))
        return torch.stack([self.vectors[text] for text in texts])

    def describe(self) -> str:
        return f"consistency:{self.task.name}"


@dataclass(frozen=True, eq=False)
class Verification(Objective):
    """The probability of consistency V_verify that a learned verifier gives, in [0, 1].

    Raising `-Verification()` gets a true pair rejected, raising `Verification()` a false one accepted;
    `Guard(0.5, Verification())` makes it a detector. With several texts for an image, their mean.

    Attributes:
        verify: None: the attacked model's own (`model.verify`). Else a function of the towers' outputs, differentiable,
            (h_v T×D, h_t T×D) → probabilities T.
        part: what such a function is given: "pooled" (the towers' outputs) or "embedding" (unit length).
        log: log V_verify instead. It has the same order and thresholds, and a gradient where V_verify rounds to 0.
    """

    verify: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    part: str = "pooled"
    log: bool = False

    def __post_init__(self) -> None:
        one_of("part", self.part, ("pooled", "embedding"))
        flag("log", self.log)
        if self.verify is not None and not callable(self.verify):
            raise OptionError(
                f"verify={self.verify!r} is not accepted.", "Accepted: a function of (h_v, h_t), or None."
            )

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        missing = set(range(len(batch.ids))) - set(batch.image_of_text)
        if missing:
            raise OptionError(f"Image {batch.ids[min(missing)]!r} has no text.", "Give at least one each.")
        with torch.no_grad():
            texts = list(batch.texts)
            if self.verify is None:
                features = _verifier(model).text_features(texts)
                read = model.verification_states(texts, features=features)
                if shared is not None and "texts" not in shared:  # S_c of the same texts needs no pass of its own
                    shared["texts"] = model.consistency_text(features).detach()
            elif self.part == "embedding":
                read = model.encode_text(texts)
            else:
                read = model.encode_text(texts, normalize=False)
        device = read.counted.device if self.verify is None else read.device
        owners = torch.tensor(list(batch.image_of_text), device=device)
        return _BoundVerification(self, read, owners, len(batch.ids))

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return "verification"


@dataclass(frozen=True, eq=False)
class _BoundVerification(Objective):
    """`read`: what the verifier reads of the texts, h_t or token states."""

    kind: Verification
    read: torch.Tensor | TextStates
    owners: torch.Tensor
    count: int

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        # Every (new row, text of the old row); a row may be asked for repeatedly.
        row, text = (rows.to(self.owners.device)[:, None] == self.owners[None, :]).nonzero(as_tuple=True)
        return _BoundVerification(self.kind, self.read[text], row, len(rows))

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        value = self._each(model, features)
        texts = torch.bincount(self.owners, minlength=self.count).to(value)
        return value.new_zeros(self.count).index_add(0, self.owners, value) / texts

    def _each(self, model: Any, features: Any) -> torch.Tensor:
        """Return one value a text."""
        if self.kind.verify is None:
            return model.verify(features, self.read, self.owners, log=self.kind.log)
        h_v = getattr(features, self.kind.part)[self.owners]
        probability = self.kind.verify(h_v, self.read.to(h_v))
        if probability.shape != self.owners.shape:
            raise OptionError(
                f"The verifier gave {tuple(probability.shape)} for {len(self.owners)} pairs.",
                "Expected one probability a pair.",
            )
        return probability.log() if self.kind.log else probability

    def describe(self) -> str:
        return "verification"


def _verifier(model: Any) -> Any:
    """Return the model, checked to have a verifier."""
    if getattr(model, "heads", None) is None:
        raise OptionError("The model has no verifier of its own.", "Use a model with heads, or give verify=….")
    return model


@dataclass(frozen=True)
class AnswerVerification(Objective):
    """log V_verify of the picture with the text that the model's own answer amounts to (`tasks.consistency`), ≤ 0.

    Attributes: as in `TaskObjective`.
    """

    task: Any
    prepared: Any = None
    dataset: Any = None

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        prepared = prepare_task(self.task, self.prepared, model, batch, self.dataset, shared)
        texts = self.task.answer_texts(_verifier(model), batch.pairs, prepared, encode=False)
        return _BoundAnswerVerification(self.task, TaskRows(self.task, texts, len(batch.ids)), {})

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"verification:{self.task.name}"


@dataclass(frozen=True)
class _BoundAnswerVerification(Objective):
    """`read`: what the verifier reads of the answers' texts, by text; shared by all selections."""

    task: Any
    rows: TaskRows
    read: dict[str, TextStates]

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundAnswerVerification(self.task, self.rows.select(rows), self.read)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        def score(f: Any, texts: AnswerTexts) -> torch.Tensor:
            said = answered(self.task, model, f, texts)
            read = said if texts.strings is None else self._states(model, said)  # what is written anew is not kept
            return model.verify(f, read, log=True)

        return self.rows.apply(score, features)

    @torch.no_grad()
    def _states(self, model: Any, texts: list[str]) -> TextStates:
        # At one length, so that texts encoded at different steps stand side by side.
        missing = [text for text in dict.fromkeys(texts) if text not in self.read]
        if missing:
            with torch.autocast(model.device.type, enabled=False):  # as above
                whole = model.verification_states(missing).at_length(model.context_length)
            self.read.update((text, whole[k : k + 1]) for k, text in enumerate(missing))
        rows = [self.read[text] for text in texts]
        found = TextStates(*(torch.cat([getattr(row, f.name) for row in rows]) for f in fields(TextStates)))
        used = found.counted.any(dim=0).nonzero()
        return found.at_length(int(used.amax()) + 1 if len(used) else 1)

    def describe(self) -> str:
        return f"verification:{self.task.name}"


@dataclass(frozen=True)
class Slack(Objective):
    """How far a picture is from being flagged: the smallest of score − τ over the detectors; accepted where ≥ 0.

    Raising `Slack()` gets a false caption accepted, raising `-Slack()` a true pair rejected.

    Attributes:
        detectors: none: the attacked system's own.
    """

    detectors: tuple[Detector, ...] = ()

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        found = detectors_of(model, self.detectors)
        if not found:
            raise OptionError("The system has no detector.", "Give one (Guard(tau)).")
        shared = {} if shared is None else shared
        # The last first: V_verify, which stands after S_c in `defenses.detector`, reads what S_c then need not read.
        scores = [d.consistency.bind(model, batch, shared) for d in reversed(found)][::-1]
        return _BoundSlack(tuple(d.tau for d in found), tuple(scores))

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return "slack"


@dataclass(frozen=True)
class _BoundSlack(Objective):
    taus: tuple[float, ...]
    scores: tuple[Objective, ...]

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundSlack(self.taus, tuple(score.select(rows) for score in self.scores))

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        found = [s(model, pixels, features) - tau for s, tau in zip(self.scores, self.taus, strict=True)]
        return found[0] if len(found) == 1 else torch.stack(found).amin(dim=0)

    def describe(self) -> str:
        return "slack"


@dataclass(frozen=True)
class Accepted(Criterion):
    """No detector flags the picture, or the system answers all the same; `~Accepted()` is rejection.

    Attributes:
        detectors: none: the attacked system's own, as its policy has it.
    """

    detectors: tuple[Detector, ...] = ()

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Criterion:
        found = detectors_of(model, self.detectors)
        if not found or not (self.detectors or model.rejects):
            return _BoundAccepted(None)
        return _BoundAccepted(Slack(found).bind(model, batch, shared))

    def select(self, rows: torch.Tensor) -> Criterion:
        raise TypeError("bind the criterion first")

    def __call__(self, scored: Scored) -> torch.Tensor:
        raise TypeError("bind the criterion first")

    def describe(self) -> str:
        return "accepted"


@dataclass(frozen=True)
class _BoundAccepted(Criterion):
    slack: Objective | None

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Criterion:
        return self

    def select(self, rows: torch.Tensor) -> Criterion:
        return self if self.slack is None else _BoundAccepted(self.slack.select(rows))

    def __call__(self, scored: Scored) -> torch.Tensor:
        if self.slack is None:
            return torch.ones_like(scored.value, dtype=torch.bool)
        return self.slack(scored.model, scored.pixels, scored.features) >= 0

    def describe(self) -> str:
        return "accepted"


@dataclass(frozen=True)
class Decided(Objective):
    """1 where a criterion is met, else 0: all that an attacker who sees only decisions has to go by.

    Attributes:
        criterion: not yet bound.
    """

    criterion: Criterion

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return Decided(self.criterion.bind(model, batch, shared))

    def select(self, rows: torch.Tensor) -> Objective:
        return Decided(self.criterion.select(rows))

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        nothing = torch.zeros(len(pixels), dtype=pixels.dtype, device=pixels.device)
        return self.criterion(Scored(model, pixels, features, nothing)).to(pixels.dtype)

    def describe(self) -> str:
        return f"decision: {self.criterion.describe()}"
