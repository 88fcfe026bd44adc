"""Captum's simple attributions say what their definitions say, and leave model and random state alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmai_core import explanations as explain

METHODS = {
    "saliency": explain.saliency,
    "input × gradient": explain.input_gradient,
    "GradientSHAP": lambda m, x, t: explain.gradient_shap(m, x, t, generator=torch.Generator().manual_seed(0)),
    "occlusion": explain.occlusion,
}


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_works_and_leaves_no_trace(name, coca, resnet, pixels, captions):
    for model in (coca(), resnet):
        state = torch.get_rng_state()
        found = METHODS[name](model, pixels, captions)
        assert found.map.shape == (3, 32, 32) and np.isfinite(found.map).all() and np.abs(found.map).max() > 0
        np.testing.assert_allclose(found.score, model.consistency(pixels, captions).detach(), atol=1e-5)
        assert torch.equal(state, torch.get_rng_state()) and pixels.grad is None
        assert all(p.grad is None for m in model.modules() for p in m.parameters(recurse=False))


def test_saliency_is_the_gradient(coca, pixels, captions):
    model, x = coca(), pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.consistency(x, captions).sum(), x)
    np.testing.assert_allclose(explain.saliency(model, pixels, captions).map, gradient.abs().amax(dim=1), atol=1e-6)
    expected = (pixels * gradient).sum(dim=1)
    np.testing.assert_allclose(explain.input_gradient(model, pixels, captions).map, expected, atol=1e-6)


def test_occlusion_finds_the_square(finder):
    model, squares = finder
    found = explain.occlusion(model, squares.pixels, squares.captions, cells=4).map
    cells = found.reshape(len(found), 4, 8, 4, 8).mean(axis=(2, 4)).reshape(len(found), -1)
    assert (cells.argmax(axis=1) == squares.cells.numpy()).mean() > 0.8


def test_the_head_grid_holds_the_last_layers_heads(coca, pixels):
    model = coca()
    grid = explain.attention_heads(model, pixels)
    last = explain.last_layer_attention(model, pixels)
    np.testing.assert_allclose(grid[:, -1], last.heads, atol=1e-6)
    assert grid.shape[1] == len(model.image_attention().blocks)
