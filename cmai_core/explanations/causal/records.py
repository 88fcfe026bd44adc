"""What traces give back: effects of one pair, both ways. Without torch, so that stored traces open quickly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmai_core.errors import DataError


@dataclass(frozen=True)
class Attribution:
    """Estimated effects of the residual stream, held against the exact ones.

    Attributes:
        tokens: float32 (depth+1)×L, R̂ of each layer and token.
        rank_correlation: Spearman's with exact denoising over all layers and tokens; NaN where either is constant.
        by_layer: the same for each layer, depth+1 values.
        error: mean |R̂ − R|. total: mean |R|, to read it by.
    """

    tokens: np.ndarray
    rank_correlation: float
    by_layer: np.ndarray
    error: float
    total: float


@dataclass(frozen=True)
class Effects:
    """Effects of one direction, as shares of the gap: 1 all of it, 0 nothing, negative the other way.

    Layers of the stream are 0 (the embedded input) to depth (after the last block); of attention, MLP and heads 0 to
    depth − 1. Each is of that single layer, no window of several.

    Attributes:
        everything: depth+1, all tokens: 1 by definition, kept as a check.
        patches: depth+1, all tokens but the one that is read off at the end; of a pooled tower `everything`.
        summary: depth+1, the token that is read off at the end (the class token); 0 where there is none.
        tokens: (depth+1)×L, each token alone.
        attention, mlp: depth, what a layer's attention or MLP adds, at all tokens. heads: depth×H, each head.
        sets: name → depth+1, tokens patched together. random: name → depth+1, the mean over random sets of patches of
            the same size. random_sd: the standard deviation among these.
    """

    everything: np.ndarray
    patches: np.ndarray
    summary: np.ndarray
    tokens: np.ndarray
    attention: np.ndarray
    mlp: np.ndarray
    heads: np.ndarray
    sets: Mapping[str, np.ndarray]
    random: Mapping[str, np.ndarray]
    random_sd: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CausalTrace:
    """What carries an attack on one pair to the answer.

    Attributes:
        true, wrong, clean, attacked, fooled: as of `Gap`.
        denoising, noising: R and N.
        grid: (h, w) of the patches among the tokens; None for texts. labels: one a token.
        summary: positions of the token that is read off at the end.
        attribution: the estimate by gradients, with its error.
        norms: as of `Patching`. passes: how many passes this took.
    """

    true: str
    wrong: str
    clean: float
    attacked: float
    fooled: bool
    denoising: Effects
    noising: Effects
    grid: tuple[int, int] | None
    labels: tuple[str, ...]
    summary: tuple[int, ...]
    attribution: Attribution
    norms: tuple[float, float]
    passes: int

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.denoising.attention)

    @property
    def entry(self) -> int | None:
        """The first layer from which clean states at the patches bring back less than half; None: at every layer more.

        By then the attack has moved from the patches into the token that is read off.
        """
        below = np.flatnonzero(self.denoising.patches < 0.5)
        return int(below[0]) if len(below) else None

    def maps(self, direction: str = "denoising") -> np.ndarray:
        """Return the effects of the patches on their grid: float32 (depth+1)×h×w.

        Raises:
            DataError: a trace of words has no grid.
        """
        if self.grid is None:
            raise DataError("A trace of words has no patches.")
        return getattr(self, direction).tokens[:, 1:].reshape(-1, *self.grid)
