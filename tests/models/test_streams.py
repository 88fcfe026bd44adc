"""A tower written out as a stream is the tower, from any layer on; what is patched is what the pass goes on with."""

from __future__ import annotations

import pytest
import torch
from small_models import small_clip, small_coca

from cmai_core.errors import ModelError

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
PLAIN = {"attentional_pool": False, "pool_type": "tok", "width": 32, "head_width": 16}
KINDS = {
    "CoCa": lambda: small_coca(0, HALF, **PLAIN),
    "CoCa pooler": lambda: small_coca(0, HALF, attentional_pool=True, width=24, head_width=12),
    "CoCa mean": lambda: small_coca(0, HALF, **{**PLAIN, "pool_type": "avg"}),
    "CustomTextCLIP": lambda: small_clip(True, None, HALF),
    "CLIP": lambda: small_clip(False, None, HALF),
}
TEXTS = ["A red cube.", "A blue ring beside a small cone."]


@pytest.fixture(scope="module", params=list(KINDS))
def model(request):
    made = KINDS[request.param]()
    made.clip.eval().requires_grad_(False)
    return made


@pytest.fixture
def pixels(model):
    return torch.rand(2, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_the_written_out_towers_are_the_models_own(model, pixels):
    image, text = model.image_stream(pixels), model.text_stream(TEXTS)
    expected = model.image_features(pixels)
    found = image.finish(image.run())
    torch.testing.assert_close(found.embedding, expected.embedding, atol=2e-6, rtol=0)
    if expected.tokens is not None:
        torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        text.finish(text.run()).embedding, model.text_features(TEXTS).embedding, atol=2e-6, rtol=0
    )


@torch.no_grad()
def test_a_pass_may_begin_at_any_layer_and_with_any_number_of_rows(model):
    stream = model.text_stream(TEXTS[:1])
    states = []

    def keep(layer, part, value):
        if part == "residual":
            states.append(value)
        return value

    end = stream.run(tap=keep)
    assert len(states) == stream.depth + 1
    for layer, state in enumerate(states):
        again = stream.run(state.expand(3, -1, -1), first=layer)
        torch.testing.assert_close(again, end.expand(3, -1, -1), atol=2e-6, rtol=1e-5)
        assert stream.finish(again).embedding.shape == (3, model.embed_dim)


@torch.no_grad()
def test_nothing_is_put_into_the_model(model, pixels):
    before = [set(m.__dict__) for m in model.modules()]
    stream = model.image_stream(pixels)
    stream.run(tap=lambda layer, part, value: value * 0)
    assert [set(m.__dict__) for m in model.modules()] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_gradients_reach_every_state(model, pixels):
    stream, states = model.image_stream(pixels), []

    def leaf(layer, part, value):
        states.append(value if value.requires_grad else value.detach().requires_grad_())
        return states[-1]

    out = stream.finish(stream.run(tap=leaf)).embedding[:, 0].sum()
    gradients = torch.autograd.grad(out, states)
    assert len(gradients) == 4 * stream.depth + 1 and gradients[0].abs().sum() > 0


@pytest.mark.parametrize("vision", ["resnet", "timm"])
def test_towers_that_are_not_covered_say_so(vision):
    settings = {
        "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "timm": {"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 32},
    }[vision]
    made = small_clip(True, settings, HALF)
    with pytest.raises(ModelError, match="No causal trace"):
        made.image_stream(torch.zeros(1, 3, 32, 32))
    assert not made.capabilities.image_stream and made.capabilities.text_stream
