"""Where a model looks: attention flow to the image embedding, the last layer's heads, and the decoder's words.

None of these depends on how the score would change, so none is an attribution; see `relevance` for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cmai_core.errors import OptionError
from cmai_core.explanations.pairing import matched
from cmai_core.explanations.recording import batches, recording_mode
from cmai_core.explanations.result import Explanation, TokenMaps, read_only
from cmai_core.models.recording import recorded_attention
from cmai_core.models.words import merge_words, token_strings

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


def roll_out(attentions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928, section 3): N×L×L from layers of N×heads×L×L.

    Ã = (mean over heads + identity) / 2, multiplied from the first layer to the last. Each row sums to 1: the shares of
    the input tokens in each output token, if only attention and the skip connection moved anything.
    """
    length = attentions[0].shape[-1]
    identity = torch.eye(length, dtype=attentions[0].dtype, device=attentions[0].device)
    total = identity.expand(len(attentions[0]), length, length)
    for weights in attentions:
        total = 0.5 * (weights.mean(dim=1) + identity) @ total
    return total


def attention_flow(
    model: VisionLanguageModel, pixels: torch.Tensor, *, depth: int | None = None, batch_size: int = 32
) -> Explanation:
    """Return how much attention flows from the image embedding back to each patch, through all layers (rollout).

    The same for every caption. With an attentional pooler, its attention is multiplied with the tower's rollout.

    Args:
        pixels: N×3×S×S in [0, 1].
        depth: last layers used; None: all.
        batch_size: images per pass.

    Returns:
        Maps on the patch grid, ≥ 0. Map and class token's share sum to 1; `checks` holds "class_token_share" and
        "flow_error" (how far the sum is from 1).

    Raises:
        ModelError: the image tower gives out no attention (ResNet, timm).
    """
    parts = model.image_attention()
    names = parts.last(depth)
    rows: list[torch.Tensor] = []
    with torch.no_grad(), recording_mode(model):
        for part in batches(len(pixels), batch_size):
            with recorded_attention(parts.modules) as weights:
                model.image_features(pixels[part].detach())
            flow = roll_out([weights[name] for name in names])
            if parts.pooler is not None:
                flow = weights["pooler"].mean(dim=1) @ flow
            rows.append(parts.start(flow).float().cpu())
    row = torch.cat(rows).numpy() if rows else np.zeros((0, 1 + parts.grid[0] * parts.grid[1]), np.float32)
    return Explanation(
        "attention flow",
        read_only(row[:, 1:].reshape(-1, *parts.grid)),
        signed=False,
        depends_on_text=False,
        depth=len(names),
        checks={
            "class_token_share": read_only(row[:, 0]),
            "flow_error": read_only(np.abs(row.sum(axis=1, dtype=np.float64) - 1)),
        },
        notes=(
            "Attention rollout: where information may have come from. It does not depend on the caption.",
            f"Computed over {len(names)} of {len(parts.blocks)} layers"
            + (" and the attentional pooler." if parts.pooler is not None else "."),
        ),
    )


def last_layer_attention(model: VisionLanguageModel, pixels: torch.Tensor, *, batch_size: int = 32) -> Explanation:
    """Return raw attention weights of the step that makes the image embedding, for each head.

    The class token's row of the last block or, in a model with an attentional pooler, the pooler's first query.

    Args:
        pixels: N×3×S×S in [0, 1].

    Returns:
        `heads` N×K×h×w, `map` their mean; each head's map sums to 1 minus its weight on the class token.

    Raises:
        ModelError: the image tower gives out no attention.
    """
    parts = model.image_attention()
    name = "pooler" if parts.pooler is not None else list(parts.blocks)[-1]
    rows: list[torch.Tensor] = []
    with torch.no_grad(), recording_mode(model):
        for part in batches(len(pixels), batch_size):
            with recorded_attention({name: parts.modules[name]}) as weights:
                model.image_features(pixels[part].detach())
            rows.append(parts.start(weights[name]).float().cpu())
    heads = parts.modules[name].num_heads
    row = torch.cat(rows).numpy() if rows else np.zeros((0, heads, 1 + parts.grid[0] * parts.grid[1]), np.float32)
    maps = row[..., 1:].reshape(-1, heads, *parts.grid)
    return Explanation(
        "last-layer attention",
        read_only(maps.mean(axis=1)),
        signed=False,
        depends_on_text=False,
        depth=1,
        heads=read_only(maps),
        checks={"class_token_share": read_only(row[..., 0].mean(axis=1))},
        notes=(
            f"Weights of the {'attentional pooler' if parts.pooler is not None else 'last block'}, {heads} heads. "
            "The tokens attended to have mixed with others in earlier layers.",
        ),
    )


def attention_heads(model: VisionLanguageModel, pixels: torch.Tensor, *, batch_size: int = 32) -> np.ndarray:
    """Return where each head of each layer of the image tower looks from the token of the image embedding.

    From the class token, or in the mean over the patches where these are pooled.

    Args:
        pixels: N×3×S×S in [0, 1].

    Returns:
        float32 N×layers×heads×h×w, raw weights; each map sums to 1 minus the weight on the class token.

    Raises:
        ModelError: the image tower gives out no attention.
    """
    parts = model.image_attention()
    found: list[torch.Tensor] = []
    with torch.no_grad(), recording_mode(model):
        for part in batches(len(pixels), batch_size):
            with recorded_attention(parts.blocks) as weights:
                model.image_features(pixels[part].detach())
            rows = torch.stack([parts.start(weights[name]) for name in parts.blocks], dim=1)
            found.append(rows[..., 1:].float().cpu())
    joined = torch.cat(found)
    return read_only(joined.numpy().reshape(*joined.shape[:3], *parts.grid))


def decoder_attention(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    image_of_text: Sequence[int] | None = None,
    batch_size: int = 16,
) -> TokenMaps:
    """Map where the multimodal decoder looks while it predicts each token of a text (CoCa).

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T texts, teacher-forced; None: the caption that the model writes for each image.
        layer: of the decoder, 0 is the first; None: the mean over all. Heads are averaged.
        image_of_text: as in `VisionLanguageModel.consistency`.

    Returns:
        Per text, one map per predicted token. With an attentional pooler the decoder sees queries, not patches; its
        attention is then multiplied with the pooler's.

    Raises:
        ModelError: the model has no decoder, or an image tower without patches.
        OptionError: a layer that the decoder does not have.
    """
    cross = model.decoder_attention()
    names = list(cross)
    if layer is not None:
        if not 0 <= layer < len(names):
            raise OptionError(f"Layer {layer} of the decoder.", f"It has layers 0 to {len(names) - 1}.")
        names = [names[layer]]
    modules = {name: cross[name] for name in names}
    texts = tuple(model.generate(pixels) if texts is None else texts)
    pixels, ids = matched(pixels.detach(), model.tokenize(texts), image_of_text)
    texts = texts * len(ids) if len(texts) == 1 < len(ids) else texts
    _, _, eos = model.token_ids()
    found: list[_TextMaps] = []
    with torch.no_grad(), recording_mode(model):
        for part in batches(len(ids), batch_size):
            some = model.trim(ids[part])
            looked = _looked_at(model, pixels[part], some, modules)
            found += [_of_text(model, r, k, eos) for r, k in zip(looked, some.tolist(), strict=True)]
    layers = f"the decoder, mean of {len(names)} layers" if layer is None else names[0]
    return TokenMaps(
        texts,
        tuple(text.tokens for text in found),
        tuple(text.maps for text in found),
        tuple(text.words for text in found),
        tuple(text.word_maps for text in found),
        tuple(text.outside for text in found),
        len(names),
        (
            f"Cross-attention of {layers}, mean of all heads. The image tokens attended to have mixed with others in "
            "the image tower.",
        ),
    )


@dataclass(frozen=True)
class _TextMaps:
    """What `TokenMaps` has of one text."""

    tokens: Any
    maps: np.ndarray
    words: Any
    word_maps: np.ndarray
    outside: np.ndarray


def _looked_at(model: VisionLanguageModel, pixels: torch.Tensor, ids: torch.Tensor, modules: dict) -> np.ndarray:
    """Return the decoder's attention to the patches, N×L×h×w, mean of heads and of the modules (its layers)."""
    parts = model.image_attention()
    with recorded_attention(parts.modules | modules) as weights:
        features = model.image_features(pixels)
        model.fusion_logits(features.tokens, ids)
    looked = torch.stack([weights[name].mean(dim=1) for name in modules]).mean(dim=0)
    if parts.pooler is not None:
        # the decoder gets every query but the first, each a mixture of class token and patches
        looked = (looked @ weights["pooler"].mean(dim=1)[:, 1:])[..., 1:]
    return looked.float().cpu().numpy().reshape(*looked.shape[:2], *parts.grid)


def _of_text(model: VisionLanguageModel, looked: np.ndarray, ids: list[int], eos: int) -> _TextMaps:
    """Cut the maps L×h×w of one text at its end, and merge its tokens into words."""
    last = ids.index(eos) if eos in ids else len(ids) - 1
    predicted, maps = ids[1 : last + 1], looked[:last]
    words, groups = merge_words(model, predicted)
    word_maps = np.stack([maps[group].mean(axis=0) for group in groups]) if groups else maps[:0]
    outside = np.clip(1 - maps.sum(axis=(1, 2)), 0, None)
    tokens = token_strings(model, predicted)
    return _TextMaps(tokens, read_only(maps), words, read_only(word_maps), read_only(outside))
