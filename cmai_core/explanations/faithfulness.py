"""Does a map say what the model rests on? Deletion and insertion, infidelity, maximal sensitivity.

Scores here are S_c; the maps may come from any method. A map is only as good as it is better than a random one, so the
random control is measured with the same fills and the same number of steps, and reported beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from cmai_core.errors import DataError, OptionError
from cmai_core.explanations.fills import FILLS, fill_image
from cmai_core.explanations.pairing import paired
from cmai_core.explanations.recording import batches
from cmai_core.explanations.result import Explanation, enlarge, read_only
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

ExplainFunction = Callable[["VisionLanguageModel", torch.Tensor, torch.Tensor], Explanation]
"""(model, pixels N×3×S×S, normalised text embeddings N×D) → N maps, e.g. `relevance`."""

_MAX_CELLS = 16


@dataclass(frozen=True)
class DeletionInsertion:
    """Curves of S_c as cells of the image are removed, or put back, in the order of the map; one fill.

    Attributes:
        fill: what removed cells show ("blur", "mean", "grey").
        fractions: K+1 shares of cells, 0 to 1.
        deletion_curve: N×(K+1), S_c with that share removed, highest cells first.
        insertion_curve: N×(K+1), S_c with that share put on the filled image, highest cells first.
        random_curve: N×(K+1), S_c with that share removed in random order, mean of the draws.
        deletion, insertion, random: N areas under those curves (mean S_c along the way). Removing in random order and
            putting back in random order have the same expected area, so `random` controls both.
        random_sd: N, standard deviation of the area between random orders.
    """

    fill: str
    fractions: np.ndarray
    deletion_curve: np.ndarray
    insertion_curve: np.ndarray
    random_curve: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random: np.ndarray
    random_sd: np.ndarray

    @property
    def deletion_gain(self) -> np.ndarray:
        """Return random − deletion, N: positive where the map finds what S_c rests on better than chance."""
        return self.random - self.deletion

    @property
    def insertion_gain(self) -> np.ndarray:
        """Return insertion − random, N: positive likewise."""
        return self.insertion - self.random


def deletion_insertion(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    maps: Explanation | np.ndarray,
    *,
    generator: torch.Generator,
    fills: Sequence[str] = ("blur", "mean"),
    steps: int = 16,
    controls: int = 8,
    grid: tuple[int, int] | None = None,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, DeletionInsertion]:
    """Measure deletion and insertion areas (RISE: Petsiuk, Das and Saenko 2018, arXiv 1806.07421) with a control.

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T strings, ids or vectors T×d of `consistency_text`.
        maps: T maps, signed or not; the highest value is removed first, equal ones in random order.
        generator: CPU generator for ties and the random orders.
        fills: one result each.
        steps: K, the parts in which the cells are removed (at most the number of cells is used).
        controls: random orders per pair, at least 2.
        grid: cells (h, w) that are removed as a whole; None: the map's own, or 8×8 for maps finer than 16×16 (their
            values are averaged over each cell).
        image_of_text: T image numbers; None pairs row by row.
        progress, cancel: as everywhere.

    Returns:
        fill → `DeletionInsertion`.

    Raises:
        DataError: maps, images and texts that do not fit together, maps that are not finite.
        OptionError: unknown fill, numbers out of range.
        Cancelled: when `cancel` was called.
    """
    if steps < 1 or controls < 2 or not fills or any(fill not in FILLS for fill in fills):
        raise OptionError(
            f"fills={tuple(fills)}, steps={steps}, controls={controls}.",
            f"Fills are {', '.join(FILLS)}; steps at least 1; controls at least 2.",
        )
    pixels, embedded = paired(model, pixels, texts, image_of_text)
    cells = to_cells(maps, len(pixels), grid)
    total = cells.shape[1] * cells.shape[2]
    removed = np.unique(np.linspace(0, total, min(steps, total) + 1).round().astype(int))
    ranks = _ranks(cells, generator)
    orders = [ranks, total - 1 - ranks, *(_ranks(np.zeros_like(cells), generator) for _ in range(controls))]
    counter = _Counter(len(fills) * len(orders) * len(cells), progress, cancel)
    results: dict[str, DeletionInsertion] = {}
    for fill in fills:
        counter.stage = f"Faithfulness: removing cells ({fill})"
        filled = fill_image(pixels, fill)
        curves = np.stack(
            [_removal_curves(model, pixels, filled, embedded, o, removed, batch_size, counter) for o in orders]
        )
        results[fill] = _areas(fill, curves, removed, total)
    return results


@dataclass
class _Counter:
    """Curves measured so far; tells of them, and stops when cancelled."""

    total: int
    progress: ProgressCallback | None
    cancel: CancelToken | None
    done: int = 0
    stage: str = ""

    def tick(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(Progress(self.done, self.total, self.stage, {}))

    def check(self) -> None:
        if self.cancel is not None:
            self.cancel.check()


def _removal_curves(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    filled: torch.Tensor,
    embedded: torch.Tensor,
    order: np.ndarray,
    removed: np.ndarray,
    batch_size: int,
    counter: _Counter,
) -> np.ndarray:
    """Measure S_c as cells are filled in an order.

    Args:
        order: N×h×w ranks, 0 goes first. removed: K+1 numbers of cells.

    Returns:
        N×(K+1).
    """
    curves = np.zeros((len(pixels), len(removed)))
    for row in range(len(pixels)):
        counter.check()
        gone = torch.from_numpy(order[row][None] < removed[:, None, None]).float()
        mask = F.interpolate(gone.unsqueeze(1), pixels.shape[-2:], mode="nearest-exact").to(pixels)
        images = torch.where(mask > 0.5, filled[row : row + 1], pixels[row : row + 1])
        curves[row] = _scores(model, images, embedded[row : row + 1], batch_size)
        counter.tick()
    return curves


def _areas(fill: str, curves: np.ndarray, removed: np.ndarray, total: int) -> DeletionInsertion:
    """Sum curves up: order 0 removes the highest cells first, order 1 the lowest, the others are random."""
    fractions = removed / total
    areas = np.trapezoid(curves, fractions, axis=2)
    # read backwards, order 1 puts the highest cells back first
    return DeletionInsertion(
        fill,
        read_only(fractions),
        read_only(curves[0]),
        read_only(_backwards(curves[1], removed, total)),
        read_only(curves[2:].mean(axis=0)),
        read_only(areas[0]),
        read_only(areas[1]),
        read_only(areas[2:].mean(axis=0)),
        read_only(areas[2:].std(axis=0, ddof=1)),
    )


def to_cells(maps: Explanation | np.ndarray, count: int, grid: tuple[int, int] | None = None) -> np.ndarray:
    """Return maps as float64 count×h×w on the cells that faithfulness is measured with (see `deletion_insertion`).

    Raises:
        DataError: another number of maps, or values that are not finite.
    """
    values = np.asarray(maps.map if isinstance(maps, Explanation) else maps, dtype=np.float64)
    if values.ndim != 3 or len(values) != count:
        raise DataError(f"Maps of the shape {values.shape} for {count} pairs.", "Give one H×W map a pair.")
    if not np.isfinite(values).all():
        raise DataError("A map with values that are not finite cannot be checked.")
    own = values.shape[1:]
    if grid is None:
        grid = own if max(own) <= _MAX_CELLS else (8, 8)
    if tuple(grid) == own:
        return values
    return F.adaptive_avg_pool2d(torch.from_numpy(values.copy()), tuple(grid)).numpy()


def infidelity(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    maps: Explanation | np.ndarray,
    *,
    generator: torch.Generator,
    samples: int = 50,
    share: float = 0.25,
    fill: str = "blur",
    grid: tuple[int, int] | None = None,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Measure how badly the map foretells what removing random cells does to S_c (Yeh et al. 2019, 1901.09392).

    Random cells are filled; the map's sum over them is compared with the fall of S_c. The map is scaled by the best
    factor first, so maps of any unit compare. The mean squared error is divided by the mean squared fall: 0 is perfect,
    1 is as good as knowing nothing.

    Args:
        samples: random subsets per pair, at least 2.
        share: mean share of the cells that is removed, in (0, 1).
        others: as for `deletion_insertion`.

    Returns:
        N values ≥ 0 (NaN where nothing that was removed changed S_c).
    """
    if samples < 2 or not 0 < share < 1 or fill not in FILLS:
        raise OptionError(f"samples={samples}, share={share}, fill={fill!r}.", f"Fills are {', '.join(FILLS)}.")
    pixels, embedded = paired(model, pixels, texts, image_of_text)
    cells = to_cells(maps, len(pixels), grid)
    size = pixels.shape[-1]
    blocks = torch.from_numpy(enlarge(cells, size)).to(pixels)
    # Captum multiplies the mask N×3×S×S with attributions of that shape: share each cell's value among its pixels.
    attributions = (blocks / (3 * size * size / cells[0].size)).unsqueeze(1).expand_as(pixels)
    values = []
    for row in range(len(pixels)):
        one, text = pixels[row : row + 1], embedded[row : row + 1]
        remove = _remover(fill_image(one, fill), cells.shape[1:], share, generator)
        values.append(_relative_infidelity(model, one, text, attributions[row : row + 1], remove, samples, batch_size))
    return np.maximum(np.asarray(values, dtype=np.float32), 0)


def _remover(
    filled: torch.Tensor, cells: tuple[int, ...], share: float, generator: torch.Generator
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Make Captum's perturbation: (mask of random cells, the picture with these filled)."""

    def remove(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = (torch.rand(len(x), *cells, generator=generator) < share).to(x)
        mask = F.interpolate(chosen.unsqueeze(1), x.shape[-2:], mode="nearest-exact").expand_as(x)
        return mask, torch.where(mask > 0.5, filled, x)

    return remove


def _relative_infidelity(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    text: torch.Tensor,
    attributions: torch.Tensor,
    remove: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    samples: int,
    batch_size: int,
) -> float:
    """Return Captum's infidelity of one pair, divided by the mean squared fall of S_c."""
    from captum.metrics import infidelity as captum_infidelity

    falls: list[torch.Tensor] = []

    def score(x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        found = model.consistency(x, text)
        falls.append(found)
        return found

    found = captum_infidelity(
        score,
        remove,
        pixels,
        attributions,
        additional_forward_args=(text,),
        n_perturb_samples=samples,
        max_examples_per_batch=min(samples, max(1, batch_size)),
        normalize=True,
    )
    # Captum scores the perturbed copies and then the pair itself, batch by batch.
    perturbed, clean = torch.cat(falls[0::2]), falls[1]
    fall = float((clean - perturbed).double().square().mean())
    return float(found) / fall if fall > 0 else float("nan")


def max_sensitivity(
    explain: ExplainFunction,
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    generator: torch.Generator,
    radius: float = 2 / 255,
    samples: int = 8,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
) -> np.ndarray:
    """Measure how far a map moves at most under small noise on the image (Yeh et al. 2019, arXiv 1901.09392).

    Args:
        explain: the method, e.g. `relevance` (a `lambda` sets its options).
        radius: of the uniform noise on each pixel, in [0, 1] units; the noisy image stays in [0, 1].
        samples: noisy copies per pair.

    Returns:
        N values: the largest ‖map(x′) − map(x)‖ / ‖map(x)‖ (Euclidean); 0 is perfectly stable.
    """
    if not 0 < radius <= 1 or samples < 1:
        raise OptionError(f"radius={radius}, samples={samples}.", "0 < radius ≤ 1 and at least one sample.")
    from captum.metrics import sensitivity_max

    pixels, embedded = paired(model, pixels, texts, image_of_text)

    def perturb(x: torch.Tensor, radius: float) -> torch.Tensor:
        noise = (2 * torch.rand(x.shape, generator=generator) - 1) * radius
        return (x + noise.to(x)).clamp(0, 1)

    def maps(inputs: Any, additional_forward_args: Any) -> tuple[torch.Tensor]:
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        return (torch.from_numpy(np.array(explain(model, x, additional_forward_args[0]).map)),)

    found = sensitivity_max(
        maps, pixels, perturb, perturb_radius=radius, n_perturb_samples=samples, additional_forward_args=(embedded,)
    )
    return found.float().cpu().numpy()


def summary(results: Mapping[str, DeletionInsertion]) -> dict[str, np.ndarray]:
    """Return fill and kind → N gains over the random control, e.g. "deletion gain (blur)"."""
    gains = {f"deletion gain ({fill})": found.deletion_gain for fill, found in results.items()}
    return gains | {f"insertion gain ({fill})": found.insertion_gain for fill, found in results.items()}


def _ranks(cells: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Return N×h×w ranks, 0 for the highest cell; equal cells in random order."""
    flat = cells.reshape(len(cells), -1)
    noise = torch.rand(flat.shape, generator=generator, dtype=torch.float64).numpy()
    ranks = np.empty(flat.shape, dtype=np.int64)
    for k in range(len(flat)):
        ranks[k, np.lexsort((noise[k], -flat[k]))] = np.arange(flat.shape[1])
    return ranks.reshape(cells.shape)


def _backwards(curve: np.ndarray, removed: np.ndarray, cells: int) -> np.ndarray:
    """Return S_c by share put back instead of share removed, at the same shares (steps may be uneven by one cell)."""
    return np.stack([np.interp(removed, cells - removed[::-1], row[::-1]) for row in curve])


@torch.no_grad()
def _scores(model: VisionLanguageModel, images: torch.Tensor, text: torch.Tensor, batch_size: int) -> np.ndarray:
    """Return S_c of many versions of one image with one text."""
    scores = [
        model.consistency(images[part], text.expand(part.stop - part.start, -1))
        for part in batches(len(images), batch_size)
    ]
    return torch.cat(scores).double().cpu().numpy()
