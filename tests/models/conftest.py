"""Small real CoCa and CLIP models, built once a session."""

from __future__ import annotations

from copy import deepcopy

import pytest

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 24,
        "layers": 2,
        "head_width": 12,
        "output_tokens": True,
        "attentional_pool": True,
        "attn_pooler_queries": 6,
        "attn_pooler_heads": 4,
    },
    "text_cfg": {
        "context_length": 48,
        "vocab_size": 1024,
        "hf_tokenizer_name": "cmai-tabletop",
        "width": 32,
        "heads": 4,
        "layers": 2,
        "embed_cls": True,
        "output_tokens": True,
        "pad_id": 0,
        "eos_id": 2,
    },
    "multimodal_cfg": {"context_length": 48, "vocab_size": 1024, "width": 32, "heads": 4, "layers": 2},
    "custom_text": True,
}
PREPROCESS = {
    "size": [32, 32],
    "mode": "RGB",
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def make_small(seed: int = 0, **vision):
    """A fresh small CoCa in its wrapper, training mode, gradients on."""
    import torch

    from cmai_core.models import OpenClipModel
    from cmai_core.models.architectures import build_from_config
    from cmai_core.models.families.bundled import bundled_tokenizer

    config = {"model_cfg": deepcopy(SMALL), "preprocess_cfg": deepcopy(PREPROCESS)}
    config["model_cfg"]["vision_cfg"] |= vision
    generator = torch.Generator().manual_seed(seed)
    clip = build_from_config(config["model_cfg"], config["preprocess_cfg"], generator)
    return OpenClipModel(clip, bundled_tokenizer(), spec="small", config=config, card={"domain": "tabletop"})


def make_small_clip(custom_text: bool):
    """A fresh small plain CLIP (`CustomTextCLIP` or the older `CLIP`) in its wrapper, evaluation mode."""
    import open_clip
    import torch
    from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg

    from cmai_core.models import OpenClipModel

    vision = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "head_width": 12}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        clip = (CustomTextCLIP if custom_text else CLIP)(16, vision, text)
    set_model_preprocess_cfg(clip, dict(PREPROCESS))
    return OpenClipModel(clip.eval(), open_clip.get_tokenizer("ViT-B-32"), spec="small-clip")


@pytest.fixture(scope="session")
def small():
    """A small CoCa in evaluation mode, no gradients. Treat as read-only."""
    model = make_small()
    model.clip.eval().requires_grad_(False)
    return model


@pytest.fixture
def make():
    """`make(seed, **vision_cfg)` gives a small CoCa of the test's own."""
    return make_small


@pytest.fixture(params=[True, False], ids=["CustomTextCLIP", "CLIP"])
def plain_clip(request):
    return make_small_clip(request.param)


@pytest.fixture
def pixels(generator):
    import torch

    return torch.rand(3, 3, 32, 32, generator=generator)


CAPTIONS = [
    "A red cube.",
    "There are two small shiny cyan balls in front of a large matte violet cone, and no pyramid on the table.",
    "naïve <eos> zebra!",
]


@pytest.fixture
def captions():
    return list(CAPTIONS)
