"""Cascading randomisation: sound methods forget, methods that ignore the model do not, the model stays whole."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from cmai_core.explanations import Explanation, cascading_randomisation, pixel_attribution, relevance
from cmai_core.explanations.randomisation import randomise, tower_groups
from cmai_core.progress import Cancelled, CancelToken


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def edges(model, pixels, text):
    """What Guided Backpropagation amounts to: a picture of the picture's edges."""
    values = (pixels[..., 1:, 1:] - pixels[..., :-1, :-1]).abs().sum(dim=1)
    return Explanation("edges", values.numpy(), False, False, 0)


@pytest.mark.parametrize("method", [relevance, pixel_attribution])
def test_a_sound_method_forgets_what_was_learnt(finder, method):
    model, test = finder
    found = cascading_randomisation(method, model, test.pixels[:8], test.captions[:8], generator=rng())
    assert found.stages == ("as trained", "head", "block 1", "block 0", "patch embedding")
    np.testing.assert_allclose(found.correlation[0], 1, atol=1e-6)
    assert abs(np.nanmean(found.final)) < 0.25


def test_a_method_that_ignores_the_model_is_found_out(finder):
    model, test = finder
    found = cascading_randomisation(edges, model, test.pixels[:4], test.captions[:4], generator=rng())
    np.testing.assert_allclose(found.correlation, 1, atol=1e-6)


def test_the_model_keeps_its_weights_to_the_last_bit(any_model, pixels, captions):
    state = {name: tensor.clone() for name, tensor in any_model.clip.state_dict().items()}
    versions = [p._version for p in any_model.clip.parameters()]
    tower, identity = any_model.clip.visual, any_model.hash
    with torch.no_grad():
        before = any_model.consistency(pixels, captions)
    first = cascading_randomisation(relevance, any_model, pixels, captions, generator=rng())
    assert any_model.clip.visual is tower and any_model.hash == identity
    assert [p._version for p in any_model.clip.parameters()] == versions
    assert all(torch.equal(tensor, state[name]) for name, tensor in any_model.clip.state_dict().items())
    with torch.no_grad():
        assert torch.equal(any_model.consistency(pixels, captions), before)
    again = cascading_randomisation(relevance, any_model, pixels, captions, generator=rng())
    np.testing.assert_array_equal(first.correlation, again.correlation)


def test_the_twin_shares_all_but_the_image_tower(any_model, pixels):
    twin = any_model.with_image_tower(copy.deepcopy(any_model.clip.visual))
    assert twin.clip is not any_model.clip and twin.clip.visual is not any_model.clip.visual
    shared = [(n, p) for n, p in twin.clip.named_parameters() if not n.startswith("visual.")]
    assert all(p is any_model.clip.get_parameter(n) for n, p in shared)
    assert torch.equal(twin.encode_image(pixels), any_model.encode_image(pixels))
    randomise(list(twin.clip.visual.parameters()), rng())
    assert not torch.allclose(twin.encode_image(pixels), any_model.encode_image(pixels), atol=0.01)


def test_stages_hold_every_parameter_once(any_model, resnet):
    for model in (any_model, resnet):
        visual = model.clip.visual
        staged = [id(p) for _, tensors in tower_groups(visual) for p in tensors]
        assert sorted(staged) == sorted(id(p) for p in visual.parameters())


def test_noise_keeps_mean_and_spread():
    weight = 3 + 0.5 * torch.randn(200, 50, generator=rng(1))
    copy = weight.clone()
    randomise([copy], rng(2))
    assert float(copy.mean()) == pytest.approx(3, abs=0.03) and float(copy.std()) == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(copy.ravel(), weight.ravel())[0, 1]) < 0.05
    constant = torch.ones(5)
    randomise([constant], rng())
    assert (constant == 1).all()


def test_progress_and_cancel(finder):
    model, test = finder
    seen, cancel = [], CancelToken()

    def listen(update):
        seen.append(update)
        cancel.cancel()

    with pytest.raises(Cancelled):
        cascading_randomisation(
            edges, model, test.pixels[:1], test.captions[:1], generator=rng(), progress=listen, cancel=cancel
        )
    assert len(seen) == 1 and (seen[0].done, seen[0].total) == (1, 4)
