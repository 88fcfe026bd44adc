"""What happens around a model at inference: preprocessing, smoothing, consistency verification, and policies.

`System(model, detector=ConsistencyDetector(tau))` is attacked, asked and explained like the model inside it. `Cmcv`
says of pairs whether they are consistent, how probable that is, and what of them is not. Nothing heavy is imported
before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.lazy import lazily

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis, stored_basis
    from cmai_core.defenses.calibration import Calibration, calibration_of, store_calibration
    from cmai_core.defenses.cmcv import Cmcv, Verdict
    from cmai_core.defenses.combined import Combination, CombinedDetector, combination_of
    from cmai_core.defenses.detector import AnyDetector, ConsistencyDetector, VerificationDetector, clean_scores
    from cmai_core.defenses.pathways import Ensemble, Regime, Smoothing, shifted
    from cmai_core.defenses.preprocessing import BlockCompression, Quantise
    from cmai_core.defenses.review import ReviewQueue
    from cmai_core.defenses.search_check import SearchDetector
    from cmai_core.defenses.system import Response, System
    from cmai_core.defenses.verified import VerifiedAnswers
    from cmai_core.defenses.verified_pathway import VerifiedPathway

__all__ = [
    "AnyDetector",
    "Basis",
    "BlockCompression",
    "Calibration",
    "Cmcv",
    "Combination",
    "CombinedDetector",
    "ConsistencyDetector",
    "Ensemble",
    "Quantise",
    "Regime",
    "Response",
    "ReviewQueue",
    "SearchDetector",
    "Smoothing",
    "System",
    "Verdict",
    "VerificationDetector",
    "VerifiedAnswers",
    "VerifiedPathway",
    "calibration_of",
    "clean_scores",
    "combination_of",
    "shifted",
    "store_calibration",
    "stored_basis",
]

_HOME = {
    "AnyDetector": "detector",
    "Basis": "basis",
    "BlockCompression": "preprocessing",
    "Calibration": "calibration",
    "Cmcv": "cmcv",
    "Combination": "combined",
    "CombinedDetector": "combined",
    "ConsistencyDetector": "detector",
    "Ensemble": "pathways",
    "Quantise": "preprocessing",
    "Regime": "pathways",
    "Response": "system",
    "ReviewQueue": "review",
    "SearchDetector": "search_check",
    "Smoothing": "pathways",
    "System": "system",
    "Verdict": "cmcv",
    "VerificationDetector": "detector",
    "VerifiedAnswers": "verified",
    "VerifiedPathway": "verified_pathway",
    "calibration_of": "calibration",
    "clean_scores": "detector",
    "combination_of": "combined",
    "shifted": "pathways",
    "store_calibration": "calibration",
    "stored_basis": "basis",
}

__getattr__ = lazily(__name__, {name: f"{__name__}.{module}" for name, module in _HOME.items()})
