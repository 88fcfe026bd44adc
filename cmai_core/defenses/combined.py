"""CMCV as one detector: a small logistic model over what `defenses.evidence` sees of a picture.

    combination = combination_of(model)                       # from the card, where one was fitted
    System(model, detector=CombinedDetector(combination, task, dataset, fpr=0.05))

The score is the log odds that the picture is clean. It is plain numbers all through (means, scales, weights): stored as
JSON, checked when read, and differentiable in the pixels, so that an attacker who knows it can climb it.
`evaluation.verification.combined` fits one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from cmai_core.attacks.objectives.objective import Objective
from cmai_core.data.pair import Batch
from cmai_core.defenses.evidence import ANSWER, GIVEN, BoundEvidence, Evidence
from cmai_core.defenses.views import NAMES, Views
from cmai_core.errors import CmaiError, DataError, ModelError, OptionError

COMBINED_KEY = "combined"
_MOST_COLUMNS, _MOST, _LEAST_SCALE = 64, 1e6, 1e-6


@dataclass(frozen=True)
class Combination:
    """A fitted logistic model of the evidence.

    Attributes:
        model: hash of the weights. dataset: what it was fitted on, such as "tabletop/validation".
        task: name of the task whose options are shortlisted. scores, views, shortlist: as in `Evidence`.
        names: F columns. mean, scale, weights: F numbers each; scale at least 1e-6. bias: one more.
        thresholds: stated false-positive rate, such as "0.05" → τ in log odds.
        epsilon: of the attacks, in units of 1/255. families: attacks that it was fitted on; held_out: those left out.
        figures: what it realises, as the fit reported it.

    Raises:
        DataError: values that no fit gives.
    """

    model: str
    dataset: str
    task: str
    scores: str
    views: Views
    shortlist: int
    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    thresholds: Mapping[str, float]
    epsilon: float
    families: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := next(_wrong(self), ""):
            raise DataError(f"This is no combined detector: {wrong}.", "Fit it again (cmai detector).")

    def at(self, fpr: float) -> float:
        """Return τ of a stated false-positive rate.

        Raises:
            OptionError: there is none for it.
        """
        for known, tau in self.thresholds.items():
            if math.isclose(float(known), fpr):
                return float(tau)
        raise OptionError(f"No threshold for a rate of {fpr:g}.", f"There are: {', '.join(self.thresholds)}.")

    def log_odds(self, evidence: torch.Tensor) -> torch.Tensor:
        """Return N log odds of being clean, differentiable in the evidence N×F."""
        mean, scale, weights = (evidence.new_tensor(values) for values in (self.mean, self.scale, self.weights))
        return ((evidence - mean) / scale) @ weights + self.bias

    def evidence(self, task: Any, dataset: Any = None) -> Evidence:
        """Return what it looks at.

        Raises:
            OptionError: another task than the one it was fitted for.
        """
        if task.name != self.task:
            raise OptionError(
                f"The detector was fitted for {self.task}, not for {task.name}.", "Fit one for this task."
            )
        return Evidence(task, dataset, self.scores, self.views, self.shortlist)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Combination:
        """Return the inverse of `to_dict`; the values may come from a stranger.

        Raises:
            DataError: other values.
        """
        try:
            known = dict(values)
            views = Views(**known.pop("views"))
            for name in ("names", "mean", "scale", "weights", "families", "held_out"):
                if not isinstance(known[name], (list, tuple)):
                    raise TypeError(f"{name} is no list")
                known[name] = tuple(known[name])
            return Combination(views=views, **known)
        except DataError:
            raise
        except (CmaiError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"This is no combined detector: {error}.", "Fit it again (cmai detector).") from error


@dataclass(frozen=True)
class CombinedDetector:
    """Flags a picture whose log odds of being clean lie below τ.

    Attributes:
        combination: fitted. task: of the name it was fitted for. dataset: handed to the task's `prepare`.
        fpr: the stated false-positive rate on clean validation pairs, one of its thresholds.
    """

    combination: Combination
    task: Any
    dataset: Any = None
    fpr: float = 0.05

    def __post_init__(self) -> None:
        self.combination.at(self.fpr)
        self.combination.evidence(self.task, self.dataset)

    @property
    def tau(self) -> float:
        return self.combination.at(self.fpr)

    @property
    def consistency(self) -> Objective:
        """The score, not yet bound to a model and a batch."""
        return CombinedScore(self.combination, self.task, self.dataset)

    def describe(self) -> dict:
        """Return plain values for reports."""
        known = self.combination
        return {"detector": "combined", "tau": self.tau, "fpr": self.fpr, "scores": known.scores, "task": known.task}


@dataclass(frozen=True)
class CombinedScore(Objective):
    """The log odds that a picture is clean. Raising it evades the detector, raising its negative gets it flagged.

    Attributes: as in `CombinedDetector`.
    """

    combination: Combination
    task: Any
    dataset: Any = None

    @property
    def extra_forwards(self) -> int:
        return len(NAMES)

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        evidence, known = self.combination.evidence(self.task, self.dataset), self.combination
        if evidence.names(model) != known.names:
            raise OptionError(
                "The combined detector was fitted on a model with other parts (heads, decoder).", "Fit one for this."
            )
        return _BoundCombined(known, evidence.bind(model, batch, shared))

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return "combined score"


@dataclass(frozen=True, eq=False)
class _BoundCombined(Objective):
    combination: Combination
    evidence: BoundEvidence

    @property
    def extra_forwards(self) -> int:
        return len(NAMES)

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundCombined(self.combination, self.evidence.select(rows))

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return self.combination.log_odds(self.evidence(model, pixels, features))

    def describe(self) -> str:
        return "combined score"


def combination_of(model: Any) -> Combination | None:
    """Return what the model's card holds; None where it holds none.

    Raises:
        ModelError: it belongs to other weights. DataError: it cannot be read.
    """
    values = getattr(model, "card", {}).get(COMBINED_KEY)
    if not values:
        return None
    found = Combination.from_dict(values)
    if found.model != model.hash:
        raise ModelError(f"The combined detector in the card of {model.name} is of other weights.", "Fit it again.")
    return found


def _wrong(known: Combination) -> Iterator[str]:
    """Yield what is strange about the values."""
    texts = [getattr(known, name) for name in ("model", "dataset", "task", "scores")]
    texts += [*known.names, *known.families, *known.held_out]
    if not all(isinstance(text, str) and text for text in texts):
        yield "a name is no text"
    if known.scores not in (GIVEN, ANSWER):
        yield f"scores is {known.scores!r}"
    count = len(known.names)
    if not 0 < count <= _MOST_COLUMNS or len(set(known.names)) != count:
        yield f"{count} columns, or one of them twice"
    for name in ("mean", "scale", "weights"):
        values = getattr(known, name)
        if len(values) != count or not all(map(_fits, values)):
            yield f"{name} is not {count} ordinary numbers"
    if not all(_fits(value) and value >= _LEAST_SCALE for value in known.scale):
        yield f"a scale is below {_LEAST_SCALE:g}"
    if not _fits(known.bias) or not _fits(known.epsilon) or not 0 < known.epsilon <= 255:
        yield "bias or epsilon is no ordinary number"
    if isinstance(known.shortlist, bool) or not isinstance(known.shortlist, int) or known.shortlist < 2:
        yield f"shortlist is {known.shortlist!r}"
    if not isinstance(known.thresholds, Mapping) or not known.thresholds or not isinstance(known.figures, Mapping):
        yield "there are no thresholds, or the figures are no object"
        return
    for rate, tau in known.thresholds.items():
        if not (isinstance(rate, str) and 0 <= float(rate) <= 1 and _fits(tau)):
            yield f"the threshold {str(rate)[:20]!r} is none"
    if set(known.families) & set(known.held_out):
        yield "a family is fitted on and left out"


def _fits(value: Any) -> bool:
    """Say whether a value is a finite number of at most a million."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST
