"""What happens around a model at inference: preprocessing, smoothing, consistency verification, and policies.

`System(model, detector=ConsistencyDetector(tau))` is attacked, asked and explained like the model inside it.
"""

from cmai_core.defenses.detector import ConsistencyDetector, clean_scores
from cmai_core.defenses.preprocessing import BlockCompression, Quantise
from cmai_core.defenses.system import Response, Smoothing, System

__all__ = [
    "BlockCompression",
    "ConsistencyDetector",
    "Quantise",
    "Response",
    "Smoothing",
    "System",
    "clean_scores",
]
