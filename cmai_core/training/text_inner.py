"""The inner problem on texts: one word of a caption or question is replaced such that it stays true and hurts most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.models import fused_forward as fast
from cmai_core.training.batches import TrainingBatch
from cmai_core.training.edits import TrueEdits
from cmai_core.training.inner import allotted
from cmai_core.training.losses import Parts, pairs_consistency, unit
from cmai_core.training.settings import Inner

TRIED = 8
"""Edits of a caption that are drawn to find a far one (LEAF, arXiv 2506.03355, draws 50 characters)."""


def worst_words(
    parts: Parts,
    heads: nn.Module | None,
    batch: TrainingBatch,
    image: fast.Vision,
    rows: Tensor,
    inner: Inner,
    edits: TrueEdits,
    start: nn.Module | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the batch's captions with one word replaced in those of `rows`, where that raises α·L_task − β·S_c.

    The replacements are a small finite set: under `inner.exhaustive` every one is tried, and the one with the highest
    value taken. Else to first order (HotFlip: Ebrahimi et al. 2018, arXiv 1712.06751, eq. 2): of the permitted ones,
    that along which the gradient in the token's embedding rises most; a loss that also predicts the words is linear in
    which word is meant, and that part is exact. A caption where none rises stays as it is.

    Args:
        image: the features of the batch's (perturbed) images, without gradients.
        rows: int64, whose captions may change.
        start, generator: the starting model's text tower, and random numbers on the CPU, for "drift".

    Returns:
        int64 B×48.
    """
    shares = dict(inner.text_losses)
    at = allotted(len(rows), shares).get("drift")
    if at is not None:
        mine = torch.zeros(len(rows), dtype=torch.bool).index_fill_(0, at, True).to(rows.device)
        batch = replace(batch, caption_ids=farthest_words(parts, start, batch, rows[mine], edits, generator))
        rows, shares = rows[~mine], {name: share for name, share in shares.items() if name != "drift"}
        if not len(rows):
            return batch.caption_ids
    ids = fast.trim(batch.caption_ids[rows], parts.pad)
    options = edits.candidates(ids)
    search = _of_all if inner.exhaustive else _by_gradient
    problem = _Captions(parts, heads, batch, image, rows, inner, shares)
    changed = batch.caption_ids.clone()
    changed[rows, : ids.shape[1]] = edits.apply(ids, options, search(problem, ids, options, edits))
    return changed


def _of_all(problem: _Captions, ids: Tensor, options: Tensor, edits: TrueEdits) -> Tensor:
    """Return the best of all replacements in each caption, −1 where it is best as it is: int64 N."""
    owner, choice = (options.flatten(1) >= 0).nonzero(as_tuple=True)
    each = torch.arange(len(ids), device=ids.device)
    owner, choice = torch.cat([each, owner]), torch.cat([torch.full_like(each, -1), choice])
    tried = edits.apply(ids[owner], options[owner], choice)
    with torch.no_grad():
        value, _ = problem.value(owner, tried, options[owner])
    table = value.new_full((len(ids), options[0].numel() + 1), float("-inf"))
    table[owner, choice + 1] = value
    return table.argmax(dim=1) - 1


def _by_gradient(problem: _Captions, ids: Tensor, options: Tensor, edits: TrueEdits) -> Tensor:
    """Return the replacement in each caption that promises most, −1 where none promises anything: int64 N."""
    table = problem.parts.text.token_embedding.weight.detach()
    embedded = table[ids].requires_grad_(True)
    with torch.enable_grad():
        value, gain = problem.value(torch.arange(len(ids), device=ids.device), ids, options, embedded)
        (gradient,) = torch.autograd.grad(value.sum(), embedded)
    return _steepest(table, ids, options, gradient, gain)


def _steepest(table: Tensor, ids: Tensor, options: Tensor, gradient: Tensor, gain: Tensor | float = 0.0) -> Tensor:
    """Return the edit of each text along which the gradient in the tokens rises most, −1 where none does: int64 N.

    Args:
        table: V×W, the tokens' embeddings. ids: int64 N×L; options: int64 N×L×K, −1: none; gradient: N×L×W.
        gain: N×L×K, what an edit gains besides.
    """
    along = table[options.clamp(min=0)] - table[ids].unsqueeze(2)
    gain = gain + torch.einsum("blkw,blw->blk", along, gradient.to(table))
    best, where = gain.masked_fill(options < 0, float("-inf")).flatten(1).max(dim=1)
    return torch.where(best > 0, where, -1)


@dataclass
class _Captions:
    """α·L_task − β·S_c of the captions of `rows`, however they read."""

    parts: Parts
    heads: nn.Module | None
    batch: TrainingBatch
    image: fast.Vision
    rows: Tensor
    inner: Inner
    shares: dict[str, float]

    def value(
        self, owner: Tensor, ids: Tensor, options: Tensor, embedded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return T values, and what each gains (T×L×K) where another word is to be predicted.

        Args:
            owner: int64 T, of which of the rows' captions each text is a form. ids: int64 T×L; options: int64 T×L×K.
            embedded: T×L×W, in the place of the tokens' embeddings.
        """
        parts, inner, rows, count = self.parts, self.inner, self.rows[owner], len(self.rows)
        pooled, states = fast.text_embedding(parts.text, ids, parts.pad, embedded)
        own = fast.Vision(self.image.pooled[rows], self.image.tokens[rows], None)
        scored = pooled if self.heads is None else self.heads.text(pooled)
        value = -inner.beta * pairs_consistency(self.heads, own, scored)
        gain = torch.zeros(options.shape, device=ids.device)
        for name, among in allotted(count, self.shares).items() if inner.alpha else ():
            among = among.to(rows.device)
            at = torch.isin(owner, among).nonzero()[:, 0]
            if name == "contrastive":
                aimed = torch.isin(owner[at], among[: int(inner.targeted * len(among))])
                loss = _contrastive(parts, self.batch, self.image, rows[at], pooled[at], aimed)
            else:
                length = ids.shape[1]  # `states` is longer by a padding
                loss, meant = _caption(parts, own.tokens[at], ids[at], states[at, :length], options[at])
                gain = gain.index_add(0, at, inner.alpha * meant)
            value = value.index_add(0, at, inner.alpha * loss)
        return value, gain


@torch.no_grad()
def farthest_words(
    parts: Parts,
    start: nn.Module,
    batch: TrainingBatch,
    rows: Tensor,
    edits: TrueEdits,
    generator: torch.Generator,
    tried: int = TRIED,
) -> Tensor:
    """Return the batch's captions, those of `rows` with the edit that takes the embedding farthest from the start's.

    LEAF's inner problem (arXiv 2506.03355), over true word edits in the place of characters: `tried` edits of each
    caption are drawn, and each is tried. A gradient would not do: at the words as they are the distance is least.

    Args:
        start: the starting model's text tower. generator: on the CPU.

    Returns:
        int64 B×48.
    """
    ids = fast.trim(batch.caption_ids[rows], parts.pad)
    options = edits.candidates(ids)
    draws = torch.rand(options.flatten(1).shape, generator=generator).to(ids.device)
    drawn = draws.masked_fill(options.flatten(1) < 0, -1.0).topk(min(tried, draws.shape[1]), dim=1).indices
    number = drawn.shape[1]
    edited = edits.apply(
        ids.repeat_interleave(number, 0), options.repeat_interleave(number, 0), drawn.flatten()
    )  # a caption with fewer edits is among its own
    goal, _ = fast.text_embedding(start, ids, parts.pad)
    found, _ = fast.text_embedding(parts.text, edited, parts.pad)
    distance = (found.float().unflatten(0, (-1, number)) - goal.float()[:, None]).square().sum(dim=-1)
    best = distance.argmax(dim=1) + number * torch.arange(len(ids), device=ids.device)
    changed = batch.caption_ids.clone()
    changed[rows, : ids.shape[1]] = edited[best]
    return changed


def worst_question_words(
    parts: Parts, batch: TrainingBatch, image: fast.Vision, rows: Tensor, edits: TrueEdits
) -> Tensor:
    """Return the batch's questions, those about the images of `rows` with the word replaced that hurts the answer most.

    To first order, as `worst_words`; the answer itself stays.

    Args:
        image: the features of the batch's (perturbed) images, without gradients. rows: int64.

    Returns:
        int64 (B·K)×L.
    """
    each = len(batch.question_ids) // len(batch.rows)
    at = (rows[:, None] * each + torch.arange(each, device=rows.device)).flatten()
    ids, where = batch.question_ids[at], batch.answer_at[at]
    before = torch.arange(ids.shape[1], device=ids.device) < where[:, None]
    options = edits.candidates(ids).masked_fill(~(before & batch.has_question[at, None])[..., None], -1)
    table = parts.text.token_embedding.weight.detach()
    embedded = table[ids].requires_grad_(True)
    with torch.enable_grad():
        _, states = fast.text_embedding(parts.text, ids, parts.pad, embedded)
        (read,) = fast.decode(parts.decoder, image.tokens[rows], [states[:, : ids.shape[1]]], [where - 1])
        logits = fast.vocabulary_logits(parts.decoder, read).float()
        loss = F.cross_entropy(logits, ids.gather(1, where[:, None])[:, 0], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, embedded)
    changed = batch.question_ids.clone()
    changed[at] = edits.apply(ids, options, _steepest(table, ids, options, gradient))
    return changed


def _contrastive(
    parts: Parts, batch: TrainingBatch, image: fast.Vision, rows: Tensor, pooled: Tensor, aimed: Tensor
) -> Tensor:
    """Return text→image InfoNCE of the captions of `rows`; of those that are aimed, minus that towards a false picture.

    Args:
        pooled: their embeddings, not normalised. aimed: bool N.
    """
    logits = parts.logit_scale.detach().exp() * unit(pooled) @ unit(image.pooled).T
    each = torch.arange(len(rows), device=rows.device)
    hidden = batch.truth.T[rows].clone()
    hidden[each, rows] = False
    count = batch.truth.shape[0]
    # Drawn towards: the next picture of the batch that the caption is false of.
    order = (torch.arange(count, device=rows.device) + 1 + rows[:, None]) % count
    false = ~batch.truth.T[rows].gather(1, order)
    toward = order.gather(1, false.float().argmax(dim=1, keepdim=True))[:, 0]
    aimed = aimed & false.any(dim=1)
    hidden &= ~aimed[:, None]
    target = torch.where(aimed, toward, rows)
    loss = F.cross_entropy(logits.masked_fill(hidden, float("-inf")), target, reduction="none")
    return torch.where(aimed, -loss, loss)


def _caption(parts: Parts, tokens: Tensor, ids: Tensor, states: Tensor, options: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross entropy of each caption's tokens, and what it gains (T×L×K) when another token is predicted.

    Args:
        tokens: T×P×W, of the captions' images. ids: int64 T×L; states: T×L×W. options: int64 T×L×K, −1: none.
    """
    (read,) = fast.decode(parts.decoder, tokens, [states[:, :-1]])
    surprise = -fast.vocabulary_logits(parts.decoder, read).float().log_softmax(dim=-1)
    following = ids[:, 1:]
    own = surprise.gather(-1, following.unsqueeze(-1))
    counted = following != parts.pad
    number = counted.sum(dim=1).clamp(min=1)
    loss = own.squeeze(-1).masked_fill(~counted, 0.0).sum(dim=1) / number
    meant = (surprise.gather(-1, options[:, 1:].clamp(min=0)) - own).detach() / number.view(-1, 1, 1)
    return loss, F.pad(meant, (0, 0, 1, 0))
