"""Two small random CoCa models and sixteen rendered pairs in memory: everything real, only small."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import small_coca

SIZE = 16


COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 50, 210), "yellow": (220, 210, 40)}


class Coloured:
    """Pairs of plain coloured pictures with captions, questions and labels; no file, no renderer."""

    name = "coloured"
    classes = tuple(f"{colour} cube" for colour in COLOURS)
    statements = ()

    def __init__(self, size=SIZE, split="test"):
        self._size, self.split = size, split

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        from cmai_core.data.pair import Pair, Question

        colour = list(COLOURS)[index % 4]
        noise = np.random.default_rng([index, 7]).integers(-25, 26, (32, 32, 3))
        image = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        captions = (f"A small {colour} cube number {index} stands alone.", f"There is a {colour} cube.")
        return Pair(
            f"{self.name}/{self.split}/{index}",
            image,
            captions,
            (Question("What colour is the cube?", (colour,)),),
            label=f"{colour} cube",
        )

    def truth(self, captions, indices):
        return None


def make_models(count=2):
    """name → small CoCa with random weights."""
    models = {}
    for seed in range(count):
        model = small_coca(seed)
        model.clip.eval().requires_grad_(False)
        models[f"small-{seed}"] = model
    return models


@pytest.fixture(scope="session")
def models():
    return make_models()


@pytest.fixture(scope="session")
def fresh():
    """`fresh(count)`: models of the test's own."""
    return make_models


@pytest.fixture(scope="session")
def pairs():
    return Coloured()
