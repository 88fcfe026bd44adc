"""What happens around a model at inference: preprocessing, smoothing, consistency verification, and policies.

`System(model, detector=ConsistencyDetector(tau))` is attacked, asked and explained like the model inside it. `Cmcv`
says of pairs whether they are consistent, how probable that is, and what of them is not.
"""

from cmai_core.defenses.calibration import Calibration, calibration_of, store_calibration
from cmai_core.defenses.cmcv import Cmcv, Verdict
from cmai_core.defenses.detector import AnyDetector, ConsistencyDetector, VerificationDetector, clean_scores
from cmai_core.defenses.pathways import Ensemble, Regime, Smoothing, shifted
from cmai_core.defenses.preprocessing import BlockCompression, Quantise
from cmai_core.defenses.review import ReviewQueue
from cmai_core.defenses.system import Response, System

__all__ = [
    "AnyDetector",
    "BlockCompression",
    "Calibration",
    "Cmcv",
    "ConsistencyDetector",
    "Ensemble",
    "Quantise",
    "Regime",
    "Response",
    "ReviewQueue",
    "Smoothing",
    "System",
    "Verdict",
    "VerificationDetector",
    "calibration_of",
    "clean_scores",
    "shifted",
    "store_calibration",
]
