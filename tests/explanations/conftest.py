"""Small real models for explanations: untrained ones of every kind, and one trained to see a coloured square."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from small_models import small_clip, small_coca

SIZE, PATCH, GRID = 32, 8, 4
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
PLAIN = {"attentional_pool": False, "pool_type": "tok", "width": 32, "head_width": 16}
POOLER = {"attentional_pool": True, "width": 24, "head_width": 12}
CAPTIONS = ("A red cube.", "naïve <eos> zebra!", "There are two small cyan balls in front of a cone.")
SQUARE_CAPTIONS = ("a red cube.", "a green cube.", "a blue cube.")


def make_coca(seed=0, **vision):
    model = small_coca(seed, HALF, **{**PLAIN, **vision})
    model.clip.eval().requires_grad_(False)
    return model


def make_clip(custom_text=True, vision=None):
    return small_clip(custom_text, vision, HALF)


BUILDERS = {
    "CoCa": lambda: make_coca(),
    "CoCa pooler": lambda: make_coca(**POOLER),
    "CoCa mean": lambda: make_coca(pool_type="avg"),
    "CustomTextCLIP": lambda: make_clip(True),
    "CLIP": lambda: make_clip(False),
}


@pytest.fixture(scope="session", params=list(BUILDERS))
def any_model(request):
    """One model of each kind. Treat as read-only."""
    return BUILDERS[request.param]()


@pytest.fixture(scope="session", params=["CoCa", "CoCa pooler", "CoCa mean"])
def any_coca(request):
    return BUILDERS[request.param]()


@pytest.fixture
def coca():
    """`coca(seed, **vision_cfg)` builds a small CoCa of the test's own."""
    return make_coca


@pytest.fixture
def squares():
    """`squares(count, generator)` draws images with a coloured square."""
    return make_squares


@pytest.fixture(scope="session")
def resnet():
    """A CLIP with a ResNet image tower."""
    return make_clip(vision={"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None})


@pytest.fixture(scope="session")
def timm():
    """A CLIP with one of timm's image towers."""
    return make_clip(vision={"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": SIZE})


@pytest.fixture
def pixels(generator):
    import torch

    return torch.rand(3, 3, SIZE, SIZE, generator=generator)


@pytest.fixture
def captions():
    return list(CAPTIONS)


@dataclass(frozen=True)
class Squares:
    """Images N×3×32×32 of noise with one coloured square that fills a patch; its cell and its caption."""

    pixels: object
    cells: object
    captions: list[str]


def make_squares(count, generator):
    import torch

    x = 0.5 + 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    cells = torch.randint(GRID * GRID, (count,), generator=generator)
    colours = torch.randint(3, (count,), generator=generator)
    for k, (cell, colour) in enumerate(zip(cells.tolist(), colours.tolist(), strict=True)):
        top, left = PATCH * (cell // GRID), PATCH * (cell % GRID)
        square = x[k, :, top : top + PATCH, left : left + PATCH]
        square[:] = 0.1
        square[colour] = 0.9
    return Squares(x.clamp(0, 1), cells, [SQUARE_CAPTIONS[c] for c in colours.tolist()])


@pytest.fixture(scope="session")
def finder():
    """(model, test images): a CoCa trained for about a second to tell the colour of the square, wherever it is."""
    import torch
    import torch.nn.functional as F

    model = make_coca(seed=1)
    generator = torch.Generator().manual_seed(11)
    model.clip.requires_grad_(True).train()
    used = [*model.clip.visual.parameters(), *model.clip.text.parameters()]
    optimiser = torch.optim.AdamW(used, lr=3e-3, weight_decay=0.0)
    ids = model.tokenize(SQUARE_CAPTIONS)
    for _ in range(80):
        batch = make_squares(24, generator)
        target = torch.tensor([SQUARE_CAPTIONS.index(c) for c in batch.captions])
        logits = 5 * model.encode_image(batch.pixels) @ model.encode_text(ids).T
        optimiser.zero_grad()
        F.cross_entropy(logits, target).backward()
        optimiser.step()
    model.clip.eval().requires_grad_(False)
    for parameter in model.clip.parameters():
        parameter.grad = None
    return model, make_squares(24, generator)
