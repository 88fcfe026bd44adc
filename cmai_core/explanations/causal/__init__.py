"""Activation patching between a clean and an attacked pass: which states of a model carry an attack to its answer.

One run is repeated with some of its states replaced by those of the other run, and the answer's gap is measured again:

* denoising, clean states into the attacked run: is a state *sufficient* to bring the answer back? R
* noising, attacked states into the clean run: is a state *necessary* to keep the answer? N

(Zhang and Nanda 2023, arXiv 2309.16042; Heimersheim and Nanda 2024, arXiv 2404.15255.) The two are no mirror images. A
state at a token is no object's pixels: after the first layer it has mixed with the others. Layer norms are computed
anew. `trace_pair` traces one pair, `trace_pairs` many with intervals, `trace_words` an edit of words; `attribution`
estimates all effects from one gradient and is checked against them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.lazy import lazily

if TYPE_CHECKING:
    from cmai_core.explanations.causal.gap import MINIMUM_GAP, Gap, answer_gap, score_gap
    from cmai_core.explanations.causal.many import MeanTrace, trace_pairs
    from cmai_core.explanations.causal.records import Attribution, CausalTrace, Effects
    from cmai_core.explanations.causal.sets import token_sets
    from cmai_core.explanations.causal.trace import trace_pair, trace_words

__all__ = [
    "MINIMUM_GAP",
    "Attribution",
    "CausalTrace",
    "Effects",
    "Gap",
    "MeanTrace",
    "answer_gap",
    "score_gap",
    "token_sets",
    "trace_pair",
    "trace_pairs",
    "trace_words",
]

_LAZY = {
    "Attribution": "cmai_core.explanations.causal.records",
    "CausalTrace": "cmai_core.explanations.causal.records",
    "Effects": "cmai_core.explanations.causal.records",
    "Gap": "cmai_core.explanations.causal.gap",
    "MINIMUM_GAP": "cmai_core.explanations.causal.gap",
    "MeanTrace": "cmai_core.explanations.causal.many",
    "answer_gap": "cmai_core.explanations.causal.gap",
    "score_gap": "cmai_core.explanations.causal.gap",
    "token_sets": "cmai_core.explanations.causal.sets",
    "trace_pair": "cmai_core.explanations.causal.trace",
    "trace_pairs": "cmai_core.explanations.causal.many",
    "trace_words": "cmai_core.explanations.causal.trace",
}

__getattr__ = lazily(__name__, _LAZY)
