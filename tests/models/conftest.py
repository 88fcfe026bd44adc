"""Small real CoCa and CLIP models, built once a session."""

from __future__ import annotations

import pytest
from small_models import small_clip, small_coca


@pytest.fixture(scope="session")
def small():
    """A small CoCa in evaluation mode, no gradients. Treat as read-only."""
    model = small_coca()
    model.clip.eval().requires_grad_(False)
    return model


@pytest.fixture
def make():
    """`make(seed, **vision_cfg)` gives a small CoCa of the test's own."""
    return small_coca


@pytest.fixture(params=[True, False], ids=["CustomTextCLIP", "CLIP"])
def plain_clip(request):
    return small_clip(request.param)


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
