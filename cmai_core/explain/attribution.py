"""How much each pixel and each word contributes to S_c: integrated gradients, through Captum.

Sundararajan, Taly and Yan 2017 (arXiv 1703.01365): attributions along the straight path from a baseline to the input
add up to the change of the score, ΔS = S_c(input) − S_c(baseline). The integral is taken by Gauss–Legendre quadrature,
and how far the sum is off, |Σ − ΔS| / |ΔS|, comes with every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from cmai_core.errors import OptionError
from cmai_core.explain.fills import FILLS, fill_image
from cmai_core.explain.recording import batches, evaluation
from cmai_core.explain.relevance import text_explanation, text_ids
from cmai_core.explain.result import Explanation, TextExplanation, read_only
from cmai_core.explain.towers import matched, paired, text_parts

if TYPE_CHECKING:
    from cmai_core.models.wrapper import ImageFeatures, VisionLanguageModel

TEXT_BASELINES = ("pad", "zero", "mean")


def pixel_attribution(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    baseline: str = "grey",
    n_steps: int = 20,
    internal_batch_size: int = 64,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
) -> Explanation:
    """Integrated gradients of S_c with respect to the pixels. Works with every image tower.

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T strings, ids or normalised embeddings T×D.
        baseline: what "nothing" looks like: "grey", "blur" or "mean" (see `fill_image`).
        n_steps: nodes of the quadrature, 2 to 1000.
        internal_batch_size: images that go through the model at once, at most.
        image_of_text: T image numbers; None pairs row by row.

    Returns:
        Signed maps T×S×S, summed over the colour channels. `checks`: "completeness_error" (relative), "delta" (ΔS),
        "baseline_score".

    Raises:
        OptionError: unknown baseline, numbers out of range.
        DataError: images and texts that do not pair up.
    """
    _check_steps(n_steps, internal_batch_size)
    if baseline not in FILLS:
        raise OptionError(f"Unknown baseline {baseline!r}.", f"Choose from {', '.join(FILLS)}.")
    pixels, embedded = paired(model, pixels, texts, image_of_text)
    maps, ends, starts, sums = [], [], [], []
    with evaluation(model.clip):
        for part in batches(len(pixels), max(1, internal_batch_size // n_steps)):
            inputs, text = pixels[part], embedded[part]
            nothing = fill_image(inputs, baseline)
            found = _integrate(model.consistency, inputs, nothing, text, n_steps, internal_batch_size)
            with torch.no_grad():
                ends.append(model.consistency(inputs, text).double().cpu())
                starts.append(model.consistency(nothing, text).double().cpu())
            sums.append(found.double().sum(dim=(1, 2, 3)).cpu())
            maps.append(found.sum(dim=1).float().cpu())
    size = tuple(pixels.shape[-2:])
    return Explanation(
        "integrated gradients",
        read_only(torch.cat(maps).numpy() if maps else np.zeros((0, *size))),
        signed=True,
        depends_on_text=True,
        depth=0,
        score=read_only(_joined(ends)),
        checks=_completeness(_joined(sums), _joined(ends), _joined(starts)),
        notes=(
            f"Integrated gradients of S_c from the baseline “{baseline}”, {n_steps} Gauss–Legendre steps. "
            "Positive values raise S_c against that baseline; with another baseline the map differs.",
        ),
    )


def token_attribution(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    baseline: str = "pad",
    n_steps: int = 20,
    internal_batch_size: int = 64,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
) -> TextExplanation:
    """Integrated gradients of S_c with respect to the token embeddings of the text.

    The start token, the end token and the padding are the same in the baseline and get exactly 0; where the text ends
    and which positions are masked stays as in the text itself.

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T strings or ids, int64 T×L.
        baseline: what stands for each of the other tokens: "pad" (the padding token; in CLIP's vocabulary token 0,
            "!"), "zero" (a zero vector), "mean" (the mean of all token embeddings).
        n_steps, internal_batch_size, image_of_text: as for `pixel_attribution`.

    Returns:
        Signed values by token and by word; `checks` as for `pixel_attribution`.

    Raises:
        ModelError: a text tower that is not open_clip's own.
        OptionError, DataError: as for `pixel_attribution`, or texts already embedded.
    """
    _check_steps(n_steps, internal_batch_size)
    if baseline not in TEXT_BASELINES:
        raise OptionError(f"Unknown baseline {baseline!r}.", f"Choose from {', '.join(TEXT_BASELINES)}.")
    parts = text_parts(model)
    ids = text_ids(model, texts)
    pixels, ids = matched(pixels.detach(), ids, image_of_text)
    values: list[np.ndarray] = []
    ends, starts, sums = [], [], []
    table = parts.tower.token_embedding.weight.detach()
    filler = {"pad": table[parts.tower.pad_id], "zero": torch.zeros_like(table[0]), "mean": table.mean(dim=0)}[baseline]
    kept = _kept(ids, *model.token_ids())
    with evaluation(model.clip):
        for part in batches(len(ids), max(1, internal_batch_size // n_steps)):
            some = ids[part]
            with torch.no_grad():
                features = model.image_features(pixels[part])
                inputs = parts.tower.token_embedding(some).detach()
            nothing = torch.where(kept[part].unsqueeze(-1), inputs, filler)
            rows = torch.arange(len(some), device=some.device)

            def score(
                x: torch.Tensor, which: torch.Tensor, features: ImageFeatures = features, some: torch.Tensor = some
            ) -> torch.Tensor:
                return model.consistency(features[which], parts.forward(some[which], x))

            found = _integrate(score, inputs, nothing, rows, n_steps, internal_batch_size)
            with torch.no_grad():
                ends.append(score(inputs, rows).double().cpu())
                starts.append(score(nothing, rows).double().cpu())
            by_token = found.double().sum(dim=2).cpu()
            sums.append(by_token.sum(dim=1))
            values += list(by_token.numpy())
    return text_explanation(
        model,
        "integrated gradients (text)",
        ids,
        values,
        signed=True,
        depth=0,
        score=_joined(ends),
        checks=_completeness(_joined(sums), _joined(ends), _joined(starts)),
        notes=(
            f"Integrated gradients of S_c from the baseline “{baseline}” for every token but the first and the last, "
            f"{n_steps} Gauss–Legendre steps.",
        ),
    )


def _integrate(
    forward, inputs: torch.Tensor, baseline: torch.Tensor, extra: torch.Tensor, n_steps: int, internal_batch_size: int
) -> torch.Tensor:
    """Captum's integrated gradients of `forward(inputs, extra)`, without its gradients left behind."""
    from captum.attr import IntegratedGradients

    inputs = inputs.clone().requires_grad_()
    with torch.enable_grad():
        found = IntegratedGradients(forward).attribute(
            inputs,
            baseline,
            additional_forward_args=(extra,),
            n_steps=n_steps,
            method="gausslegendre",
            internal_batch_size=max(internal_batch_size, len(inputs)),
        )
    return found.detach()


def _kept(ids: torch.Tensor, pad: int, bos: int, eos: int) -> torch.Tensor:
    """bool T×L: start, end, padding and everything after the end."""
    after = (ids == eos).int().cumsum(dim=1) > 0
    return after | (ids == bos) | (ids == pad) & (after.any(dim=1, keepdim=True).logical_not())


def _completeness(total: np.ndarray, end: np.ndarray, start: np.ndarray) -> dict[str, np.ndarray]:
    delta = end - start
    error = np.abs(total - delta) / np.maximum(np.abs(delta), 1e-12)
    return {
        "completeness_error": read_only(error),
        "delta": read_only(delta),
        "baseline_score": read_only(start),
    }


def _joined(parts: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]).numpy()


def _check_steps(n_steps: int, internal_batch_size: int) -> None:
    if not 2 <= n_steps <= 1000 or internal_batch_size < 1:
        raise OptionError(
            f"n_steps={n_steps}, internal_batch_size={internal_batch_size}.",
            "n_steps is 2 to 1000, internal_batch_size at least 1.",
        )
