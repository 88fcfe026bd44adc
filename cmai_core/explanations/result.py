"""What explanations give back, and how maps are put on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cmai_core.errors import DataError


@dataclass(frozen=True)
class Explanation:
    """One map an image (or an image–text pair).

    Attributes:
        method: short name, e.g. "relevance".
        map: float32 N×H×W, not normalised: H×W is the patch grid, or the pixels for pixel attribution. Colour all maps
            that are compared with one `shared_scale`.
        signed: whether negative values mean "lowers S_c"; otherwise the values are ≥ 0.
        depends_on_text: False for attention flow, which is the same whatever the text says.
        depth: how many layers were used (0: the method does not go through layers).
        score: S_c of each pair, float32 N; None where no text is involved.
        heads: float32 N×K×H×W, the map of each attention head, where the method has them.
        checks: name → N values, e.g. "completeness_error".
        notes: what a reader should know, in sentences.
    """

    method: str
    map: np.ndarray
    signed: bool
    depends_on_text: bool
    depth: int
    score: np.ndarray | None = None
    heads: np.ndarray | None = None
    checks: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.map)


@dataclass(frozen=True)
class TextExplanation:
    """One value a token and a word of each text.

    Attributes:
        method: short name.
        tokens: per text, the tokens as written, special ones included.
        token_values: per text, float32, one value a token.
        words: per text, the words (a mark such as "," is a word of its own where the vocabulary has it so).
        values: per text, float32, the sum over each word's tokens.
        signed, depth, score, checks, notes: as in `Explanation`.
    """

    method: str
    tokens: tuple[tuple[str, ...], ...]
    token_values: tuple[np.ndarray, ...]
    words: tuple[tuple[str, ...], ...]
    values: tuple[np.ndarray, ...]
    signed: bool
    depth: int
    score: np.ndarray
    checks: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class TokenMaps:
    """Where a decoder looks while it writes each token.

    Attributes:
        texts: the T texts.
        tokens: per text, the tokens that are predicted (the first after the start token to the end token).
        maps: per text, float32 tokens×H×W; each sums to at most 1 (`outside` is the rest).
        words, word_maps: the same, averaged over each word's tokens; the end token is left out.
        outside: per text, float32, one value a token: attention to what is not a patch.
        depth: decoder layers averaged over.
        notes: what a reader should know.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    maps: tuple[np.ndarray, ...]
    words: tuple[tuple[str, ...], ...]
    word_maps: tuple[np.ndarray, ...]
    outside: tuple[np.ndarray, ...]
    depth: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


def shared_scale(maps: Iterable[Explanation | np.ndarray], percentile: float = 100.0) -> float:
    """Return the one vmax for all maps that are shown side by side: colour from 0 (or −vmax, for signed maps) to vmax.

    Args:
        maps: explanations or arrays, of any shapes.
        percentile: of the absolute values of all maps together; 100 is the maximum, 99.5 leaves outliers clipped.

    Returns:
        A positive number; 1 where all maps are zero.

    Raises:
        DataError: no maps, or values that are not finite.
    """
    arrays = [np.abs(np.asarray(m.map if isinstance(m, Explanation) else m, dtype=np.float64)).ravel() for m in maps]
    values = np.concatenate([*arrays, np.zeros(0)])
    if not values.size or not np.isfinite(values).all():
        raise DataError("No maps, or maps with values that are not finite, have no common scale.")
    vmax = float(np.percentile(values, percentile))
    if vmax <= 0:
        vmax = float(values.max())
    return vmax if vmax > 0 else 1.0


def enlarge(maps: np.ndarray, size: int, smooth: bool = False) -> np.ndarray:
    """Enlarge maps N×H×W to float32 N×size×size for laying over an image; every cell keeps its value.

    Args:
        smooth: bilinear between cell centres instead of blocks. Blocks show what was computed, no more.
    """
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(np.array(maps, dtype=np.float32, copy=True)).unsqueeze(1)
    kind = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest-exact"}
    return F.interpolate(x, (size, size), **kind).squeeze(1).numpy()


def patch_sums(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Sum pixel maps N×S×S over the cells of a grid: float32 N×h×w; the total stays the same.

    Raises:
        DataError: the grid does not divide the map.
    """
    count, height, width = maps.shape
    h, w = grid
    if height % h or width % w:
        raise DataError(f"A map of {height}×{width} does not split into {h}×{w} cells.")
    cells = np.asarray(maps, dtype=np.float64).reshape(count, h, height // h, w, width // w)
    return cells.sum(axis=(2, 4)).astype(np.float32)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of map k of `a` with map k of `b` (both N×H×W): N values in [−1, 1].

    NaN where a map is constant: it ranks nothing.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 3:
        raise DataError(f"Maps of the shapes {a.shape} and {b.shape} cannot be compared.", "Give two N×H×W arrays.")
    from scipy.stats import rankdata

    out = np.full(len(a), np.nan)
    for k, (one, other) in enumerate(zip(a, b, strict=True)):
        x, y = rankdata(one), rankdata(other)
        x, y = x - x.mean(), y - y.mean()
        length = np.sqrt(np.square(x).sum() * np.square(y).sum())
        if length > 0:
            out[k] = float(np.clip((x * y).sum() / length, -1.0, 1.0))
    return out


def read_only(array: np.ndarray | Sequence[float]) -> np.ndarray:
    """Return a float32 copy that cannot be written to."""
    array = np.array(array, dtype=np.float32)
    array.setflags(write=False)
    return array
