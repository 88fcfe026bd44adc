"""In half precision on a CPU the quick passes stand in for the towers' own, unless somebody records them."""

import pytest
import torch
from torch.nn import MultiheadAttention

from cmai_core.models import fused_forward as fast
from cmai_core.models import new_model
from cmai_core.models.recording import recorded_attention


@pytest.fixture(scope="module", params=["tabletop", "tabletop-b"])
def model(request):
    found = new_model(request.param, torch.Generator().manual_seed(0))
    found.clip.eval()
    return found


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def test_features_and_logits_are_near_those_of_single_precision(model, pixels, monkeypatch):
    ids = model.tokenize(["a red cube", "two blue balls"])
    used = []
    for name in ("encode", "decode"):
        whole = getattr(fast, name)
        monkeypatch.setattr(fast, name, lambda *a, whole=whole, name=name: (used.append(name), whole(*a))[1])
    with torch.no_grad():
        plain = model.image_features(pixels)
        logits = model.fusion_logits(plain.tokens[:2], ids)
        assert used == []
        with torch.autocast("cpu", torch.bfloat16):
            low = model.image_features(pixels)
            low_logits = model.fusion_logits(low.tokens[:2], ids)
    assert used == ["encode", "decode"]
    assert low.embedding.dtype == low_logits.dtype == torch.float32
    assert (low.embedding * plain.embedding).sum(dim=-1).min() > 0.999
    assert (low_logits - logits).abs().max() < 0.05 * logits.abs().max()


def test_what_is_recorded_goes_its_own_way(model, pixels):
    # All of it, so that PyTorch's own attention, whose pass in half precision differs by processor, does not run here.
    visual = model.clip.visual
    attention = {str(k): module for k, module in enumerate(visual.modules()) if isinstance(module, MultiheadAttention)}
    last = str(list(visual.modules()).index(visual.transformer.resblocks[-1].attn))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fast.pays(model.clip.visual, pixels)
        with recorded_attention(attention) as weights:
            assert not fast.pays(model.clip.visual, pixels)
            model.image_features(pixels)
        assert fast.pays(model.clip.visual, pixels)
    assert weights[last].shape[0] == len(pixels)
    assert not fast.pays(model.clip.visual, pixels)  # in single precision
