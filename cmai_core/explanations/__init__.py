"""Explanations of the consistency score S_c, each with numbers that say how far it can be trusted.

Maps: `attention_flow`, `last_layer_attention` (no caption involved); `relevance`, `grad_cam`, `pixel_attribution`.
Words: `text_relevance`, `token_attribution`; `decoder_attention` for what CoCa writes. Checks: `deletion_insertion`,
`infidelity`, `max_sensitivity`, `cascading_randomisation`. Every method leaves the model as it found it.
"""

from cmai_core.explanations.attention import attention_flow, decoder_attention, last_layer_attention
from cmai_core.explanations.attribution import pixel_attribution, token_attribution
from cmai_core.explanations.comparison import ExplanationShift, explanation_moved_but_prediction_did_not
from cmai_core.explanations.faithfulness import DeletionInsertion, deletion_insertion, infidelity, max_sensitivity
from cmai_core.explanations.gradcam import grad_cam
from cmai_core.explanations.randomisation import Randomisation, cascading_randomisation
from cmai_core.explanations.relevance import relevance, text_relevance
from cmai_core.explanations.result import (
    Explanation,
    TextExplanation,
    TokenMaps,
    enlarge,
    patch_sums,
    rank_correlation,
    shared_scale,
)

__all__ = [
    "DeletionInsertion",
    "Explanation",
    "ExplanationShift",
    "Randomisation",
    "TextExplanation",
    "TokenMaps",
    "attention_flow",
    "cascading_randomisation",
    "decoder_attention",
    "deletion_insertion",
    "enlarge",
    "explanation_moved_but_prediction_did_not",
    "grad_cam",
    "infidelity",
    "last_layer_attention",
    "max_sensitivity",
    "patch_sums",
    "pixel_attribution",
    "rank_correlation",
    "relevance",
    "shared_scale",
    "text_relevance",
    "token_attribution",
]
