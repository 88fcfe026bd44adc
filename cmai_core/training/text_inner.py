"""The inner problem on texts: one word of a caption is replaced such that it stays true and hurts most."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.models import fast
from cmai_core.training.batches import TrainingBatch
from cmai_core.training.edits import TrueEdits
from cmai_core.training.losses import Parts, pairs_consistency, unit
from cmai_core.training.settings import Inner


def worst_words(
    parts: Parts,
    heads: nn.Module | None,
    batch: TrainingBatch,
    image: fast.Vision,
    rows: Tensor,
    inner: Inner,
    edits: TrueEdits,
) -> Tensor:
    """The batch's captions with one word replaced in those of `rows`, where that raises α·L_contrastive − β·S_c.

    First order (HotFlip: Ebrahimi et al. 2018, arXiv 1712.06751, eq. 2): of the permitted replacements, the one along
    which the gradient in the token's embedding rises most; a caption where none rises stays as it is.

    Args:
        image: the features of the batch's (perturbed) images, without gradients.
        rows: int64, whose captions may change.

    Returns:
        int64 B×48.
    """
    ids = fast.trim(batch.caption_ids[rows], parts.pad)
    table = parts.text.token_embedding.weight.detach()
    embedded = table[ids].requires_grad_(True)
    with torch.enable_grad():
        pooled, _ = fast.text_embedding(parts.text, ids, parts.pad, embedded)
        logits = parts.logit_scale.detach().exp() * unit(pooled) @ unit(image.pooled).T
        others = batch.truth.T[rows].clone()
        others[torch.arange(len(rows), device=rows.device), rows] = False
        loss = F.cross_entropy(logits.masked_fill(others, float("-inf")), rows, reduction="none")
        own = fast.Vision(image.pooled[rows], image.tokens[rows], None)
        scored = pooled if heads is None else heads.text(pooled)
        value = inner.alpha * loss - inner.beta * pairs_consistency(heads, own, scored)
        (gradient,) = torch.autograd.grad(value.sum(), embedded)
    options = edits.candidates(ids)
    gain = torch.einsum("blkw,blw->blk", table[options.clamp(min=0)] - table[ids].unsqueeze(2), gradient.to(table))
    gain = gain.masked_fill(options < 0, float("-inf")).flatten(1)
    best, where = gain.max(dim=1)
    changed = batch.caption_ids.clone()
    changed[rows, : ids.shape[1]] = edits.apply(ids, options, torch.where(best > 0, where, -1))
    return changed
