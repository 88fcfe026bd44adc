"""The methods of the page, with a sentence about each."""

from __future__ import annotations

METHOD_WORDS = {
    "attention flow": "Attention flow: where information may have come from. It does not depend on the sentence.",
    "relevance": "Relevance: the patches that S_c rests on (attention weighted by its gradient). It depends on "
    "the sentence.",
    "integrated gradients": "Integrated gradients: what each pixel adds to S_c (blue lowers it, orange raises it).",
}
METHODS = tuple(METHOD_WORDS)
