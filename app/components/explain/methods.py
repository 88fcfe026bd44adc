"""The methods of the page, with a sentence about each."""

from __future__ import annotations

METHOD_WORDS = {
    "attention flow": "Attention flow: where information may have come from. It does not depend on the sentence.",
    "relevance": "Relevance: the patches that S_c rests on (attention weighted by its gradient). It depends on "
    "the sentence.",
    "integrated gradients": "Integrated gradients: what each pixel adds to S_c (blue lowers it, orange raises it).",
    "saliency": "Saliency: how sharply S_c answers to each pixel, whichever way.",
    "input × gradient": "Input × gradient: each pixel times its gradient, against a black picture.",
    "GradientSHAP": "GradientSHAP: gradients at random points on the way from a grey picture.",
    "occlusion": "Occlusion: how far S_c falls when a square is covered with grey.",
    "grad-cam": "Grad-CAM at the last block's first layer norm. It was made for convolutions; on a transformer it is "
    "often nearly empty.",
}
METHODS = tuple(METHOD_WORDS)
USUAL = METHODS[:3]
"""The methods that are chosen to begin with."""
