"""All checks of a method in one table: a map that finds the square passes what a random one fails."""

from __future__ import annotations

import numpy as np
import pytest

from cmai_core.data.memory import InMemory
from cmai_core.errors import OptionError
from cmai_core.explanations import quality
from cmai_core.explanations.result import Explanation


@pytest.fixture
def pairs(finder):
    """Eight of the finder's pictures with their captions."""
    _, squares = finder
    images = (squares.pixels[:8].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return InMemory(list(images), squares.captions[:8])


def table(model, pairs, method):
    found = quality.explanation_quality(model, pairs, method)
    assert list(found.columns) == list(quality.COLUMNS) and (found["pairs"] == 8).all()
    assert (found["least"] <= found["mean"] + 1e-6).all() and (found["mean"] <= found["most"] + 1e-6).all()
    return found.set_index("check")["mean"]


def test_a_method_is_told_from_chance(finder, pairs, monkeypatch):
    def noise(model, pixels, texts):
        maps = np.random.default_rng(int(1e6 * float(pixels.sum()))).random((len(pixels), 4, 4))
        return Explanation("noise", maps, signed=False, depends_on_text=True, depth=0)

    monkeypatch.setitem(quality.METHODS, "noise", noise)
    good, bad = (table(finder[0], pairs, name) for name in ("integrated-gradients", "noise"))
    assert good["deletion gain (blur)"] > 0 and good["deletion gain (blur)"] > bad["deletion gain (blur)"]
    assert good["sensitivity"] < bad["sensitivity"]


def test_an_unknown_method_is_refused(finder, pairs):
    with pytest.raises(OptionError, match="relevance"):
        quality.explanation_quality(finder[0], pairs, "tea leaves")
