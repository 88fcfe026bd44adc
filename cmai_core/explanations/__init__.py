"""Explanations of the consistency score S_c, each with numbers that say how far it can be trusted.

Maps: `attention_flow`, `last_layer_attention`, `attention_heads` (no caption involved); `relevance`, `grad_cam`,
`pixel_attribution`, `saliency`, `input_gradient`, `gradient_shap`, `occlusion`.
Words: `text_relevance`, `token_attribution`; `decoder_attention` for what CoCa writes. Checks: `deletion_insertion`,
`infidelity`, `max_sensitivity`, `cascading_randomisation`. What may be called causal lies in `explanations.causal`.
Every method leaves the model as it found it. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.lazy import lazily

if TYPE_CHECKING:
    from cmai_core.explanations.attention import (
        attention_flow,
        attention_heads,
        decoder_attention,
        last_layer_attention,
    )
    from cmai_core.explanations.attribution import pixel_attribution, token_attribution
    from cmai_core.explanations.chefer import relevance, text_relevance
    from cmai_core.explanations.comparison import ExplanationShift, explanation_moved_but_prediction_did_not
    from cmai_core.explanations.faithfulness import DeletionInsertion, deletion_insertion, infidelity, max_sensitivity
    from cmai_core.explanations.gradcam import grad_cam
    from cmai_core.explanations.gradients import gradient_shap, input_gradient, occlusion, saliency
    from cmai_core.explanations.randomisation import Randomisation, cascading_randomisation
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
    "attention_heads",
    "cascading_randomisation",
    "decoder_attention",
    "deletion_insertion",
    "enlarge",
    "explanation_moved_but_prediction_did_not",
    "grad_cam",
    "gradient_shap",
    "infidelity",
    "input_gradient",
    "last_layer_attention",
    "max_sensitivity",
    "occlusion",
    "patch_sums",
    "pixel_attribution",
    "rank_correlation",
    "relevance",
    "saliency",
    "shared_scale",
    "text_relevance",
    "token_attribution",
]

_LAZY = {
    "DeletionInsertion": "cmai_core.explanations.faithfulness",
    "Explanation": "cmai_core.explanations.result",
    "ExplanationShift": "cmai_core.explanations.comparison",
    "Randomisation": "cmai_core.explanations.randomisation",
    "TextExplanation": "cmai_core.explanations.result",
    "TokenMaps": "cmai_core.explanations.result",
    "attention_flow": "cmai_core.explanations.attention",
    "attention_heads": "cmai_core.explanations.attention",
    "cascading_randomisation": "cmai_core.explanations.randomisation",
    "decoder_attention": "cmai_core.explanations.attention",
    "deletion_insertion": "cmai_core.explanations.faithfulness",
    "enlarge": "cmai_core.explanations.result",
    "explanation_moved_but_prediction_did_not": "cmai_core.explanations.comparison",
    "grad_cam": "cmai_core.explanations.gradcam",
    "gradient_shap": "cmai_core.explanations.gradients",
    "infidelity": "cmai_core.explanations.faithfulness",
    "input_gradient": "cmai_core.explanations.gradients",
    "last_layer_attention": "cmai_core.explanations.attention",
    "max_sensitivity": "cmai_core.explanations.faithfulness",
    "occlusion": "cmai_core.explanations.gradients",
    "patch_sums": "cmai_core.explanations.result",
    "pixel_attribution": "cmai_core.explanations.attribution",
    "rank_correlation": "cmai_core.explanations.result",
    "relevance": "cmai_core.explanations.chefer",
    "saliency": "cmai_core.explanations.gradients",
    "shared_scale": "cmai_core.explanations.result",
    "text_relevance": "cmai_core.explanations.chefer",
    "token_attribution": "cmai_core.explanations.attribution",
}

__getattr__ = lazily(__name__, _LAZY)
