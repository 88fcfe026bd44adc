"""Which patches and words S_c rests on: attention weighted by its gradient.

Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers" (arXiv 2103.15679), section 3: Ā = E_h[(∇A ⊙ A)⁺] (equation 5) and R ← R + Ā·R (equation 6), starting
from the identity. Here ∇A is the gradient of the consistency score S_c, so the map does depend on the caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from cmai_core.errors import DataError
from cmai_core.explanations.pairing import matched, paired
from cmai_core.explanations.recording import batches, recording_mode
from cmai_core.explanations.result import Explanation, TextExplanation, read_only
from cmai_core.models.recording import recorded_attention
from cmai_core.models.words import merge_words, per_word, token_strings, used_length

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


def positive_part(weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return Ā of equation 5: N×heads×Q×K, twice → N×Q×K."""
    return (gradient * weights).clamp(min=0).mean(dim=1)


def roll_relevance(weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return R of equation 6 from layers of N×heads×L×L: N×L×L."""
    length = weights[0].shape[-1]
    relevance = torch.eye(length, dtype=weights[0].dtype, device=weights[0].device)
    relevance = relevance.expand(len(weights[0]), length, length)
    for attention, gradient in zip(weights, gradients, strict=True):
        relevance = relevance + positive_part(attention, gradient) @ relevance
    return relevance


def without_identity(relevance: torch.Tensor) -> torch.Tensor:
    """Return R minus what it started from."""
    return relevance - torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device)


def relevance(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    depth: int | None = None,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
    batch_size: int = 16,
) -> Explanation:
    """Return relevance of each image patch for S_c.

    The identity that R starts from says that a token is its own source. It is subtracted again, which changes nothing
    for a class token and takes a constant from the map of a mean-pooled tower. With an attentional pooler, its own Ā
    (the paper's equation 10, without self-attention among the queries) is multiplied with the tower's R.

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T strings, ids or vectors T×d of `consistency_text`.
        depth: last layers used; None: all. The paper's code uses 1 for CLIP; state it when comparing.
        image_of_text: T image numbers; None pairs row by row.
        batch_size: pairs per pass.

    Returns:
        T maps on the patch grid, ≥ 0, with S_c as `score`.

    Raises:
        ModelError: the image tower gives out no attention (ResNet, timm).
        DataError: images and texts that do not pair up, a depth that the tower does not have.
    """
    parts = model.image_attention()
    names = parts.last(depth)
    keys = names + (["pooler"] if parts.pooler is not None else [])
    pixels, embedded = paired(model, pixels, texts, image_of_text)
    rows, scores = [torch.zeros(0, 1 + parts.grid[0] * parts.grid[1])], [torch.zeros(0)]
    with torch.enable_grad(), recording_mode(model):
        for part in batches(len(pixels), batch_size):
            with recorded_attention(parts.modules) as weights:
                score = model.consistency(pixels[part].clone().requires_grad_(), embedded[part])
            gradients = dict(zip(keys, torch.autograd.grad(score.sum(), [weights[k] for k in keys]), strict=True))
            found = roll_relevance([weights[k].detach() for k in names], [gradients[k] for k in names])
            if parts.pooler is not None:
                found = positive_part(weights["pooler"].detach(), gradients["pooler"]) @ found
            else:
                found = without_identity(found)
            rows.append(parts.start(found).float().cpu())
            scores.append(score.detach().float().cpu())
    row = torch.cat(rows).numpy()
    return Explanation(
        "relevance",
        read_only(row[:, 1:].reshape(-1, *parts.grid)),
        signed=False,
        depends_on_text=True,
        depth=len(names),
        score=read_only(torch.cat(scores).numpy()),
        notes=(
            "Gradient-weighted attention (Chefer et al. 2021) of S_c; only what raises S_c is shown.",
            f"Computed over {len(names)} of {len(parts.blocks)} layers"
            + (" and the attentional pooler." if parts.pooler is not None else "."),
            *(("The heads' own look at the patch tokens is not followed.",) if model.heads is not None else ()),
        ),
    )


def text_relevance(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    depth: int | None = None,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
    batch_size: int = 16,
) -> TextExplanation:
    """Return relevance of each token of the text for S_c, by the same rule in the text tower.

    Args:
        texts: T strings or ids, int64 T×L.
        pixels, depth, image_of_text, batch_size: as for `relevance`.

    Raises:
        ModelError: a text tower that is not open_clip's own.
        DataError: as for `relevance`, or texts already embedded.
    """
    parts = model.text_attention()
    names = parts.last(depth)
    ids = text_ids(model, texts)
    pixels, ids = matched(pixels.detach(), ids, image_of_text)
    values: list[np.ndarray] = []
    scores = [torch.zeros(0)]
    with torch.enable_grad(), recording_mode(model):
        for part in batches(len(ids), batch_size):
            some = ids[part]
            with torch.no_grad():
                features = model.image_features(pixels[part])
            embedded = parts.embed(some).requires_grad_()
            with recorded_attention(parts.blocks) as weights:
                score = model.consistency(features, parts.forward(some, embedded))
            used = [weights[k] for k in names]
            gradients = torch.autograd.grad(score.sum(), used)
            found = without_identity(roll_relevance([w.detach() for w in used], gradients))
            rows = parts.rows(some, found.shape[-1])
            picked = found[torch.arange(len(rows), device=rows.device), rows].float().cpu().numpy()
            values += list(picked)
            scores.append(score.detach().float().cpu())
    return text_explanation(
        model,
        "text relevance",
        ids,
        values,
        signed=False,
        depth=len(names),
        score=torch.cat(scores).numpy(),
        notes=(
            "Gradient-weighted attention (Chefer et al. 2021) of S_c; only what raises S_c is shown.",
            f"Computed over {len(names)} of {len(parts.blocks)} layers.",
        ),
    )


def text_ids(model: VisionLanguageModel, texts: Sequence[str] | torch.Tensor) -> torch.Tensor:
    """Return ids of texts given as strings or ids; embeddings hold no tokens to explain."""
    if not isinstance(texts, torch.Tensor):
        return model.tokenize(texts)
    if texts.is_floating_point() or texts.ndim != 2:
        raise DataError("Tokens can be explained only of texts given as strings or ids.")
    return texts


def text_explanation(
    model: VisionLanguageModel,
    method: str,
    ids: torch.Tensor,
    values: Sequence[np.ndarray],
    *,
    signed: bool,
    depth: int,
    score: np.ndarray,
    notes: tuple[str, ...],
    checks: dict[str, np.ndarray] | None = None,
) -> TextExplanation:
    """Make a `TextExplanation` of token values, cut at the end token and merged to words."""
    eos = model.token_ids()[2]
    tokens, token_values, words, word_values = [], [], [], []
    for row, found in zip(ids.tolist(), values, strict=True):
        length = used_length(row, eos)
        row, found = row[:length], np.asarray(found[:length], dtype=np.float32)
        merged, groups = merge_words(model, row)
        tokens.append(token_strings(model, row))
        token_values.append(read_only(found))
        words.append(merged)
        word_values.append(read_only(per_word(found, groups)))
    return TextExplanation(
        method,
        tuple(tokens),
        tuple(token_values),
        tuple(words),
        tuple(word_values),
        signed,
        depth,
        read_only(score),
        checks or {},
        notes,
    )
