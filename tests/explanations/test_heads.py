"""Explanations of S_c on a model with consistency heads explain the heads' score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmai_core.explanations import grad_cam, pixel_attribution, relevance, text_relevance, token_attribution
from cmai_core.models.heads import ConsistencyHeads


@pytest.fixture
def headed(coca):
    model = coca()
    model.heads = ConsistencyHeads(model.head_sizes(8), torch.Generator().manual_seed(5)).requires_grad_(False)
    return model


@pytest.mark.parametrize("method", [relevance, text_relevance, grad_cam, pixel_attribution, token_attribution])
def test_the_score_explained_is_the_heads(headed, pixels, captions, method):
    with torch.no_grad():
        expected = headed.consistency(pixels, captions).numpy()
        plain = (headed.encode_image(pixels) * headed.encode_text(captions)).sum(dim=1).numpy()
    found = method(headed, pixels, captions)
    np.testing.assert_allclose(found.score, expected, atol=1e-5)
    assert np.abs(expected - plain).min() > 1e-3
    values = found.map if hasattr(found, "map") else found.values[0]
    assert np.abs(values).max() > 0


def test_attribution_by_tokens_sums_to_what_the_heads_score_changes(headed, pixels, captions):
    found = token_attribution(headed, pixels, captions)
    ids = headed.tokenize(captions)
    pad, bos, eos = headed.token_ids()
    with torch.no_grad():
        table = headed.clip.text.token_embedding
        kept = (ids == bos) | (ids == eos)
        nothing = torch.where(kept.unsqueeze(-1), table(ids), table.weight[pad])
        start = headed.consistency(pixels, headed.text_attention().forward(ids, nothing)).numpy()
    sums = np.array([values.sum() for values in found.token_values])
    np.testing.assert_allclose(sums, found.score - start, atol=5e-3)


def test_relevance_says_what_it_does_not_follow(headed, coca, pixels, captions):
    assert any("heads" in note for note in relevance(headed, pixels, captions).notes)
    assert not any("heads" in note for note in relevance(coca(), pixels, captions).notes)
