"""Cross-modal consistency verification (CMCV): does this text belong to this picture, and if not, what of it does not?

    judge = Cmcv(load_model("tabletop"), calibration)
    judge(pixels, ["A red cube."])[0]          # S_c, V_verify, probability, verdict, and which part disagrees

It works on any model. With consistency heads, S_c compares their vectors and V_verify reads the text word by word;
without, S_c is the cosine of the contrastive embeddings and parts are left out one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cmai_core.defenses.calibration import Calibration, Thresholds
from cmai_core.defenses.disagreement import Disagreement, disagreement
from cmai_core.defenses.temperature import Scaling
from cmai_core.errors import DataError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.models.heads import log_opposite
from cmai_core.models.scoring import has_heads


@dataclass(frozen=True, eq=False)
class Verdict:
    """What CMCV says of one pair.

    Attributes:
        text: the pair's text.
        s_c: in [−1, 1].
        log_v: log V_verify, ≤ 0; None without a verifier.
        probability: calibrated probability that the pair is consistent; None without a calibration.
        thresholds: what it was held against; None likewise.
        consistent: whether it was accepted: with a verifier neither score lies below its threshold of the rule
            "either", else S_c does not lie below τ. None without a calibration.
        parts: which words and patches disagree; None where it was not asked for.
    """

    text: str
    s_c: float
    log_v: float | None = None
    probability: float | None = None
    thresholds: Thresholds | None = None
    consistent: bool | None = None
    parts: Disagreement | None = None

    @property
    def v(self) -> float | None:
        """V_verify in [0, 1]."""
        return None if self.log_v is None else float(np.exp(self.log_v))


@dataclass(frozen=True)
class Cmcv:
    """CMCV of one model.

    Attributes:
        model: a `VisionLanguageModel`; left as found. calibration: of that model; None: scores without a verdict.
        fpr: the stated false-positive rate, one that was calibrated.

    Raises:
        DataError: the calibration has a verifier and the model has none, or the other way round.
        OptionError: `fpr` was not calibrated.
    """

    model: Any
    calibration: Calibration | None = None
    fpr: float = 0.05

    def __post_init__(self) -> None:
        if self.calibration is None:
            return
        if (self.calibration.at(self.fpr).log_tau_v is not None) != has_heads(self.model):
            raise DataError("The calibration is of another kind of model.", "Calibrate this model.")

    @torch.no_grad()
    def __call__(
        self,
        pixels: torch.Tensor,
        texts: Sequence[str],
        image_of_text: Sequence[int] | None = None,
        *,
        parts: bool = True,
    ) -> list[Verdict]:
        """Return one verdict a text.

        Args:
            pixels: N×3×S×S in [0, 1]. image_of_text: T row numbers; None: row by row.
            parts: also which words and patches disagree; without a verifier about 64 passes of pictures a pair.
        """
        model, texts = self.model, list(texts)
        owners = list(range(len(pixels))) if image_of_text is None else [int(row) for row in image_of_text]
        if len(owners) != len(texts) or not all(0 <= row < len(pixels) for row in owners):
            raise DataError(f"{len(owners)} image numbers for {len(texts)} texts.", "Give image_of_text.")
        with evaluation_mode(model):
            features = model.image_features(pixels)
            s_c = model.consistency(features, texts, owners).double().cpu().numpy()
            log_v = None
            if has_heads(model):
                log_v = model.verify(features, texts, owners, log=True).double().cpu().numpy()
            found = [
                disagreement(model, pixels[row : row + 1], text) if parts else None
                for row, text in zip(owners, texts, strict=True)
            ]
        return [
            self._verdict(text, float(s_c[k]), None if log_v is None else float(log_v[k]), found[k])
            for k, text in enumerate(texts)
        ]

    def _verdict(self, text: str, s_c: float, log_v: float | None, parts: Disagreement | None) -> Verdict:
        if self.calibration is None:
            return Verdict(text, s_c, log_v, parts=parts)
        known = self.calibration.at(self.fpr)
        probability = float(probability_of(self.calibration.scaling, s_c, log_v))
        return Verdict(text, s_c, log_v, probability, known, known.accepts(s_c, log_v), parts)


def log_odds(log_v: np.ndarray | float) -> np.ndarray:
    """Return log V − log(1 − V) of log V_verify, float64; V = 1 counts as 1 − 10⁻⁶."""
    x = torch.as_tensor(np.asarray(log_v, dtype=np.float64)).clamp(max=-1e-6)
    return (x - log_opposite(x)).numpy()


def probability_of(scaling: Scaling, s_c: np.ndarray | float, log_v: np.ndarray | float | None) -> np.ndarray:
    """Return the calibrated probability that pairs with these scores are consistent."""
    return scaling.probability(log_odds(log_v) if scaling.score == "V" else np.asarray(s_c))
