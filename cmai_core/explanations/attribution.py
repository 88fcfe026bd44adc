"""How much each pixel and each word contributes to S_c: integrated gradients, through Captum.

Sundararajan, Taly and Yan 2017 (arXiv 1703.01365): attributions along the straight path from a baseline to the input
add up to the change of the score, ΔS = S_c(input) − S_c(baseline). The integral is taken by Gauss–Legendre quadrature,
and how far the sum is off, |Σ − ΔS| / |ΔS|, comes with every result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from cmai_core.errors import OptionError
from cmai_core.explanations.chefer import text_explanation, text_ids
from cmai_core.explanations.fills import FILLS, fill_image
from cmai_core.explanations.pairing import matched, paired
from cmai_core.explanations.recording import batches, recording_mode
from cmai_core.explanations.result import Explanation, TextExplanation, read_only

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

TEXT_BASELINES = ("pad", "zero", "mean")


def pixel_attribution(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    baseline: str = "grey",
    n_steps: int = 20,
    max_steps: int = 320,
    tolerance: float = 0.01,
    internal_batch_size: int = 64,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
) -> Explanation:
    """Integrate gradients of S_c with respect to the pixels. Works with every image tower.

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T strings, ids or vectors T×d of `consistency_text`.
        baseline: what "nothing" looks like: "grey", "blur" or "mean" (see `fill_image`).
        n_steps: nodes of the quadrature, 2 to 1000. Enough for a smooth score; the path away from a flat image, where
            layer norms turn sharply, can need more.
        max_steps: nodes are doubled, up to this number, for each pair whose sum is off by more than `tolerance` times
            |ΔS| (or times 0.01 where |ΔS| is smaller).
        tolerance: see `max_steps`.
        internal_batch_size: images that go through the model at once, at most.
        image_of_text: T image numbers; None pairs row by row.

    Returns:
        Signed maps T×S×S, summed over the colour channels. `checks`: "completeness_error" (relative), "delta" (ΔS),
        "baseline_score", "steps" (nodes used).

    Raises:
        OptionError: unknown baseline, numbers out of range.
        DataError: images and texts that do not pair up.
    """
    settings = _Settings(n_steps, max_steps, tolerance, internal_batch_size)
    if baseline not in FILLS:
        raise OptionError(f"Unknown baseline {baseline!r}.", f"Choose from {', '.join(FILLS)}.")
    pixels, embedded = paired(model, pixels, texts, image_of_text)
    done = _Done()
    maps: list[np.ndarray] = []
    with recording_mode(model):
        for part in batches(len(pixels), max(1, internal_batch_size // n_steps)):
            nothing = fill_image(pixels[part], baseline)
            found = done.integrate(model.consistency, pixels[part], nothing, embedded[part], settings)
            maps += list(found.sum(dim=1).float().cpu().numpy())
    size = tuple(pixels.shape[-2:])
    return Explanation(
        "integrated gradients",
        read_only(np.stack(maps) if maps else np.zeros((0, *size))),
        signed=True,
        depends_on_text=True,
        depth=0,
        score=read_only(_joined(done.ends)),
        checks=done.checks(),
        notes=(
            f"Integrated gradients of S_c from the baseline “{baseline}”, at least {n_steps} Gauss–Legendre steps. "
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
    max_steps: int = 320,
    tolerance: float = 0.01,
    internal_batch_size: int = 64,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
) -> TextExplanation:
    """Integrate gradients of S_c with respect to the token embeddings of the text.

    The start token, the end token and the padding are the same in the baseline and get exactly 0; where the text ends
    and which positions are masked stays as in the text itself.

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T strings or ids, int64 T×L.
        baseline: what stands for each of the other tokens: "pad" (the padding token; in CLIP's vocabulary token 0,
            "!"), "zero" (a zero vector), "mean" (the mean of all token embeddings).
        n_steps, max_steps, tolerance, internal_batch_size, image_of_text: as for `pixel_attribution`.

    Returns:
        Signed values by token and by word; `checks` as for `pixel_attribution`.

    Raises:
        ModelError: a text tower that is not open_clip's own.
        OptionError, DataError: as for `pixel_attribution`, or texts already embedded.
    """
    settings = _Settings(n_steps, max_steps, tolerance, internal_batch_size)
    if baseline not in TEXT_BASELINES:
        raise OptionError(f"Unknown baseline {baseline!r}.", f"Choose from {', '.join(TEXT_BASELINES)}.")
    ids = text_ids(model, texts)
    pixels, ids = matched(pixels.detach(), ids, image_of_text)
    values: list[np.ndarray] = []
    done = _Done()
    with recording_mode(model):
        for part in batches(len(ids), max(1, internal_batch_size // n_steps)):
            found = _integrate_texts(model, pixels[part], ids[part], baseline, done, settings)
            values += list(found.double().sum(dim=2).cpu().numpy())
    return text_explanation(
        model,
        "integrated gradients (text)",
        ids,
        values,
        signed=True,
        depth=0,
        score=_joined(done.ends),
        checks=done.checks(),
        notes=(
            f"Integrated gradients of S_c from the baseline “{baseline}” for every token but the first and the last, "
            f"at least {n_steps} Gauss–Legendre steps.",
        ),
    )


def _integrate_texts(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    ids: torch.Tensor,
    baseline: str,
    done: _Done,
    settings: _Settings,
) -> torch.Tensor:
    """Return the attributions of token embeddings, N×L×W, of N texts with their images."""
    parts = model.text_attention()
    table = parts.table
    filler = {"pad": table[parts.pad], "zero": torch.zeros_like(table[0]), "mean": table.mean(dim=0)}[baseline]
    with torch.no_grad():
        features = model.image_features(pixels)
        inputs = parts.embed(ids)
    nothing = torch.where(_kept(ids, *model.token_ids()).unsqueeze(-1), inputs, filler)

    def score(embedded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return model.consistency(features[rows], parts.forward(ids[rows], embedded))

    return done.integrate(score, inputs, nothing, torch.arange(len(ids), device=ids.device), settings)


@dataclass(frozen=True)
class _Settings:
    n_steps: int
    max_steps: int
    tolerance: float
    internal_batch_size: int

    def __post_init__(self) -> None:
        if not 2 <= self.n_steps <= 1000 or self.max_steps > 1000 or self.internal_batch_size < 1 or self.tolerance < 0:
            raise OptionError(
                f"n_steps={self.n_steps}, max_steps={self.max_steps}, tolerance={self.tolerance}, "
                f"internal_batch_size={self.internal_batch_size}.",
                "n_steps is 2 to 1000, max_steps at most 1000, internal_batch_size at least 1, tolerance at least 0.",
            )


@dataclass
class _Done:
    """What has been integrated so far, chunk by chunk: float64 tensors on the CPU."""

    ends: list[torch.Tensor] = field(default_factory=list)
    starts: list[torch.Tensor] = field(default_factory=list)
    sums: list[torch.Tensor] = field(default_factory=list)
    steps: list[torch.Tensor] = field(default_factory=list)

    def integrate(
        self,
        forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        inputs: torch.Tensor,
        baseline: torch.Tensor,
        extra: torch.Tensor,
        settings: _Settings,
    ) -> torch.Tensor:
        """Return attributions of one chunk, of the shape of `inputs`, with as many steps as each row needs."""
        with torch.no_grad():
            end = forward(inputs, extra).double().cpu()
            start = forward(baseline, extra).double().cpu()
        found = torch.zeros_like(inputs)
        total, steps = torch.zeros_like(end), torch.zeros_like(end)
        rows, n_steps = torch.arange(len(inputs)), settings.n_steps
        while len(rows):
            where = rows.to(inputs.device)
            new = _integrate(
                forward, inputs[where], baseline[where], extra[where], n_steps, settings.internal_batch_size
            )
            found[where], steps[rows] = new, float(n_steps)
            total[rows] = new.double().flatten(1).sum(dim=1).cpu()
            delta = (end - start)[rows]
            n_steps *= 2
            if n_steps > settings.max_steps:
                break
            rows = rows[(total[rows] - delta).abs() > settings.tolerance * delta.abs().clamp(min=0.01)]
        self.ends.append(end)
        self.starts.append(start)
        self.sums.append(total)
        self.steps.append(steps)
        return found

    def checks(self) -> dict[str, np.ndarray]:
        end, start = _joined(self.ends), _joined(self.starts)
        delta = end - start
        error = np.abs(_joined(self.sums) - delta) / np.maximum(np.abs(delta), 1e-12)
        return {
            "completeness_error": read_only(error),
            "delta": read_only(delta),
            "baseline_score": read_only(start),
            "steps": read_only(_joined(self.steps)),
        }


def _integrate(
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    baseline: torch.Tensor,
    extra: torch.Tensor,
    n_steps: int,
    internal_batch_size: int,
) -> torch.Tensor:
    """Return Captum's integrated gradients of `forward(inputs, extra)`, without a graph."""
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
    """Return bool T×L: start, end, padding and everything after the end."""
    after = (ids == eos).int().cumsum(dim=1) > 0
    return after | (ids == bos) | (ids == pad) & (after.any(dim=1, keepdim=True).logical_not())


def _joined(parts: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]).numpy()
