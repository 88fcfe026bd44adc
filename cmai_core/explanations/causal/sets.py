"""Sets of tokens that are patched together, and random sets of the same size to hold them against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair

NAMED, OTHERS, BACKGROUND = "named objects", "other objects", "background"
DRAWS = 8
"""Random sets for each set."""


def token_sets(pair: Pair, grid: tuple[int, int], caption: str) -> dict[str, np.ndarray]:
    """Return which patches show what of a pair whose dataset knows: name → bool h×w.

    Each object by its attributes, then together: those that the caption names, the others, and the background; empty
    without ground truth. Sets that no patch shows are left out.
    """
    if pair.scene is None:
        return {}
    truth = pair.scene.ground_truth
    shown = truth.patches(pair.scene, grid)
    if shown is None:
        return {}
    things, named = truth.things(pair.scene), set(truth.named(caption, pair.scene))
    found = {}
    for number, thing in enumerate(things):
        words = " ".join(value for name, value in thing.items() if name != "shape")
        found[f"{number + 1}: {words} {thing.get('shape', 'thing')}"] = shown == number
    objects = shown >= 0
    of_caption = np.isin(shown, sorted(named)) if named else np.zeros_like(objects)
    found |= {NAMED: of_caption, OTHERS: objects & ~of_caption, BACKGROUND: ~objects}
    return {name: patches for name, patches in found.items() if patches.any()}


def random_sets(size: int, patches: torch.Tensor, generator: torch.Generator, draws: int = DRAWS) -> torch.Tensor:
    """Return random sets of `size` patch tokens: bool draws×L.

    Args:
        patches: bool L, which tokens may be drawn. generator: on the CPU.
    """
    places = patches.nonzero()[:, 0]
    out = torch.zeros(draws, len(patches), dtype=torch.bool)
    for row in range(draws):
        out[row, places[torch.randperm(len(places), generator=generator)[:size]]] = True
    return out


def as_tokens(sets: Mapping[str, np.ndarray], patches: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return sets of patches, bool h×w each, as sets of tokens, bool L."""
    out = {}
    for name, chosen in sets.items():
        row = torch.zeros(len(patches), dtype=torch.bool)
        row[patches] = torch.from_numpy(np.ascontiguousarray(chosen).reshape(-1))
        out[name] = row
    return out
