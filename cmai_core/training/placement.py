"""What a model's image tokens tell of where things stand: `cmai placement tabletop`.

A linear map is fitted from the tokens of patches that show an object to their place in the picture, and to the object's
rank among the scene's objects from left to right and from front to back. R² of held-out scenes says what the tokens
hold: near 0, nothing that a linear map could read, and a decoder has to guess at "left of".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cmai_core.training.batches import NO_OBJECT, Arrays, places, to_pixels

NAMES = ("place, vertical", "place, horizontal", "rank, left to right", "rank, front to back")
_CHUNK = 64


def validation_arrays(scenes: int) -> Arrays:
    """Render the first scenes of Tabletop's validation split, where they are not in the cache."""
    from cmai_core.data.tabletop.arrays import training_arrays
    from cmai_core.models.tokenizer import bundled_tokenizer_dir

    return training_arrays(bundled_tokenizer_dir() / "tokenizer.json", "validation", scenes)


@torch.no_grad()
def placement(model: Any, arrays: Arrays, scenes: int = 500, held_out: float = 0.2) -> dict[str, float]:
    """Return R² of a least-squares map from patch tokens, by name, on the last `held_out` of the scenes.

    Args:
        model: a `VisionLanguageModel` whose image tower gives patch tokens in the order of the grid.
        arrays: rendered scenes; the first `scenes` of them are used.
    """
    from cmai_core.training.trainer import take_apart

    parts, count = take_apart(model), min(scenes, len(arrays))
    tokens = []
    for start in range(0, count, _CHUNK):
        images = torch.from_numpy(np.array(arrays.images[start : min(start + _CHUNK, count)]))
        tokens.append(parts.vision(to_pixels(images).to(model.device)).grid.float().cpu())
    found = torch.cat(tokens)
    labels = np.asarray(arrays.patch_labels[:count]).reshape(count, -1)
    side = int(labels.shape[1] ** 0.5)
    rows, columns = np.divmod(np.arange(labels.shape[1]), side)
    index = np.where(labels == NO_OBJECT, 0, labels).astype(np.int64)
    ranks = places(np.asarray(arrays.objects[:count]), np.asarray(arrays.frame[:count]))
    ranks = np.take_along_axis(ranks, index[:, :, None], axis=1)
    where = np.broadcast_to(np.stack([rows, columns], axis=1), (*labels.shape, 2))
    targets = torch.from_numpy(np.concatenate([where, ranks], axis=2).astype(np.float32))
    shown = torch.from_numpy(labels != NO_OBJECT)
    cut = count - max(1, round(count * held_out))

    def of(some: slice) -> tuple[torch.Tensor, torch.Tensor]:
        x = found[some][shown[some]]
        return torch.cat([x, torch.ones(len(x), 1)], dim=1).double(), targets[some][shown[some]].double()

    (x, y), (x_new, y_new) = of(slice(0, cut)), of(slice(cut, count))
    # A little ridge: tokens may be linearly dependent.
    penalty = 1e-6 * float(x.square().sum(dim=1).mean()) * torch.eye(x.shape[1], dtype=x.dtype)
    fitted = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    residual = (x_new @ fitted - y_new).square().mean(dim=0) / y_new.var(dim=0, unbiased=False)
    return dict(zip(NAMES, (1 - residual).tolist(), strict=True))


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["placement", *sys.argv[1:]]))
