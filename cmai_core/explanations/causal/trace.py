"""The trace of one pair: effects by layer, token, head and part, both ways, with their controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from cmai_core.errors import DataError
from cmai_core.explanations.causal.attribution import attribution
from cmai_core.explanations.causal.gap import Gap, score_gap
from cmai_core.explanations.causal.passes import Patching, Run
from cmai_core.explanations.causal.records import CausalTrace, Effects
from cmai_core.explanations.causal.sets import as_tokens, random_sets
from cmai_core.explanations.recording import recording_mode
from cmai_core.explanations.result import read_only
from cmai_core.models.words import token_strings
from cmai_core.progress import CancelToken

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.models.streams import Stream

MakeGap = Callable[["ImageFeatures", "ImageFeatures"], Gap]
"""(clean features, attacked features) of one picture → the quantity that is traced."""


def trace_pair(
    model: VisionLanguageModel,
    clean: torch.Tensor,
    attacked: torch.Tensor,
    gap: MakeGap,
    *,
    generator: torch.Generator,
    sets: Mapping[str, np.ndarray] | None = None,
    batch_size: int = 128,
    cancel: CancelToken | None = None,
) -> CausalTrace:
    """Trace an attack on a picture through the image tower; what a defended system does around it is not traced.

    Args:
        clean, attacked: 1×3×S×S in [0, 1]. gap: for example `answer_gap` of a task.
        generator: on the CPU, of the random sets. sets: name → bool h×w, patches that are also patched together.
        batch_size: passes at a time.

    Raises:
        ModelError: an image tower that is not covered (ResNet, timm). DataError: the gap is too small for a trace.
        Cancelled: when told to stop.
    """
    with recording_mode(model), torch.no_grad():
        runs = [Run.of(model.image_stream(pixels)) for pixels in (clean, attacked)]
        measured = gap(runs[0].features, runs[1].features)
        grid = model.patch_grid
        count = runs[0].stream.start.shape[1]
        patches = torch.ones(count, dtype=torch.bool)
        patches[: count - grid[0] * grid[1]] = False
        labels = ("class token", *(f"row {k // grid[1] + 1}, column {k % grid[1] + 1}" for k in range(count - 1)))
        return _trace(
            *runs, measured, patches, as_tokens(sets or {}, patches), labels, grid, generator, batch_size, cancel
        )


def trace_words(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    clean: str,
    attacked: str,
    *,
    generator: torch.Generator,
    batch_size: int = 128,
    cancel: CancelToken | None = None,
) -> CausalTrace:
    """Trace an edit of words through the text tower; m is S_c with the picture.

    Args:
        pixels: 1×3×S×S in [0, 1]. clean, attacked: texts of as many tokens.

    Raises:
        ModelError: a text tower that is not covered. DataError: texts of different lengths, or a gap that is too small.
    """
    ids = model.tokenize([clean, attacked])
    used = [int((row != model.token_ids()[0]).sum()) for row in ids]
    if used[0] != used[1]:
        raise DataError(
            f"The two sentences have {used[0]} and {used[1]} tokens, so their positions do not correspond.",
            "A trace of words needs an edit that keeps the number of tokens.",
        )
    with recording_mode(model), torch.no_grad():
        runs = [Run.of(model.text_stream(ids[row : row + 1])) for row in range(2)]
        image = model.consistency_image(model.image_features(pixels))
        measured = score_gap(model, image, runs[0].features, runs[1].features, (clean, attacked))
        count, own = runs[0].stream.start.shape[1], ids[:, : used[0]].tolist()
        words = [a if a == b else f"{a} → {b}" for a, b in zip(*(token_strings(model, r) for r in own), strict=True)]
        labels = tuple([*words, *(["padding"] * count)][:count])
        summary = runs[0].stream.summary
        labels = tuple("class token" if k in summary else label for k, label in enumerate(labels))
        content = torch.ones(count, dtype=torch.bool)
        content[list(summary)] = False
        content[used[0] :] = False
        edited = torch.zeros(count, dtype=torch.bool)
        edited[: used[0]] = (ids[0] != ids[1])[: used[0]].cpu()
        return _trace(*runs, measured, content, {"edited tokens": edited}, labels, None, generator, batch_size, cancel)


def _trace(
    clean: Run,
    attacked: Run,
    gap: Gap,
    patches: torch.Tensor,
    sets: Mapping[str, torch.Tensor],
    labels: tuple[str, ...],
    grid: tuple[int, int] | None,
    generator: torch.Generator,
    batch_size: int,
    cancel: CancelToken | None,
) -> CausalTrace:
    if gap.why_not:
        raise DataError(gap.why_not, "Choose a stronger attack, or another pair.")
    patching = Patching(clean, attacked, gap.measure, batch_size, cancel)
    controls = {name: random_sets(int(chosen.sum()), patches, generator) for name, chosen in sets.items()}

    def restored(part: str, layer: int, choose: torch.Tensor) -> np.ndarray:
        return (patching.denoised(part, layer, choose).numpy() - gap.attacked) / gap.span

    def lost(part: str, layer: int, choose: torch.Tensor) -> np.ndarray:
        return (gap.clean - patching.noised(part, layer, choose).numpy()) / gap.span

    denoising, noising = (_effects(clean.stream, effect, sets, controls) for effect in (restored, lost))
    return CausalTrace(
        gap.true,
        gap.wrong,
        gap.clean,
        gap.attacked,
        gap.fooled,
        denoising,
        noising,
        grid,
        labels,
        clean.stream.summary,
        attribution(patching, gap.span, denoising.tokens.astype(float)),
        patching.norms,
        patching.passes,
    )


def _effects(
    stream: Stream,
    effect: Callable[[str, int, torch.Tensor], np.ndarray],
    sets: Mapping[str, torch.Tensor],
    controls: Mapping[str, torch.Tensor],
) -> Effects:
    """Patch everything in one direction; `effect`: (part, layer, chosen tokens B×L) → B shares."""
    count, depth, heads = stream.start.shape[1], stream.depth, stream.heads
    everything = torch.ones(1, count, dtype=torch.bool)
    summary = torch.zeros(1, count, dtype=torch.bool)
    summary[0, list(stream.summary)] = True
    rows = torch.cat([everything, ~summary, summary, torch.eye(count, dtype=torch.bool), *_stacked(sets, controls)])
    stream_effects = np.stack([effect("residual", layer, rows) for layer in range(depth + 1)])
    parts = {part: np.array([effect(part, k, everything)[0] for k in range(depth)]) for part in ("attention", "mlp")}
    by_head = np.stack([effect("heads", layer, torch.eye(heads, dtype=torch.bool)) for layer in range(depth)])
    at, own, random, spread = 3 + count, {}, {}, {}
    for number, name in enumerate(sets):
        own[name] = read_only(stream_effects[:, at + number])
    at += len(sets)
    for name, control in controls.items():
        drawn = stream_effects[:, at : at + len(control)]
        random[name], spread[name] = read_only(drawn.mean(axis=1)), read_only(drawn.std(axis=1, ddof=1))
        at += len(control)
    return Effects(
        read_only(stream_effects[:, 0]),
        read_only(stream_effects[:, 1]),
        read_only(stream_effects[:, 2]),
        read_only(stream_effects[:, 3 : 3 + count]),
        read_only(parts["attention"]),
        read_only(parts["mlp"]),
        read_only(by_head),
        own,
        random,
        spread,
    )


def _stacked(sets: Mapping[str, torch.Tensor], controls: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    return [*(chosen[None] for chosen in sets.values()), *controls.values()]
