"""The losses of one step, all from one pass over its images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, SHAPES, SIZES
from cmai_core.training import fast
from cmai_core.training.batches import TrainingBatch
from cmai_core.training.recipes import Weights

PATCH_CLASSES = (1 + len(SHAPES), len(COLOURS), len(MATERIALS), len(SIZES))
IGNORED = -100


@dataclass(frozen=True)
class Parts:
    """A CoCa taken apart for training: its towers and the input normalisation.

    Attributes:
        visual, text, decoder: open_clip modules; logit_scale: their log temperature.
        mean, std: 3×1×1. pad: id of padding.
        two_images: joins the tokens of two images (the wrapper's `two_image_tokens`).
    """

    visual: nn.Module
    text: nn.Module
    decoder: nn.Module
    logit_scale: Tensor
    mean: Tensor
    std: Tensor
    two_images: object
    pad: int = 0

    def vision(self, pixels: Tensor) -> fast.Vision:
        return fast.vision(self.visual, pixels, self.mean, self.std)


class PatchHead(nn.Module):
    """Per-patch attributes from image tokens, one linear layer; used in training only."""

    def __init__(self, width: int, generator: torch.Generator | None = None):
        super().__init__()
        self.linear = nn.Linear(width, sum(PATCH_CLASSES))
        with torch.no_grad():
            self.linear.weight.normal_(std=width**-0.5, generator=generator)
            self.linear.bias.zero_()

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over the four attributes.

        Args:
            tokens: B×P×W.
            targets: int64 B×P×4, −100 where a patch has no such attribute.
        """
        logits = self.linear(tokens).float().split(PATCH_CLASSES, dim=-1)
        losses = [
            F.cross_entropy(part.flatten(0, 1), targets[..., k].flatten(), ignore_index=IGNORED, reduction="sum")
            / (targets[..., k] != IGNORED).sum().clamp(min=1)
            for k, part in enumerate(logits)
        ]
        return torch.stack(losses).mean()


def contrastive_logits(images: Tensor, texts: Tensor, log_scale: Tensor, truth: Tensor) -> Tensor:
    """Scaled cosines B×B; a caption that is true of another image too is no negative of it (−inf off the diagonal).

    Args:
        images, texts: B×D, not normalised.
        truth: bool B×B, caption j (column) is true of image i (row).
    """
    logits = log_scale.exp() * F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
    others = truth & ~torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    return logits.masked_fill(others, float("-inf"))


def contrastive_loss(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE of `contrastive_logits`."""
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _answer_loss(logits: Tensor, target: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean cross entropy and accuracy over the rows to keep."""
    losses = F.cross_entropy(logits.float(), target, reduction="none")
    right = (logits.detach().argmax(dim=-1) == target).float()
    weight = torch.ones_like(losses) if keep is None else keep.to(losses.dtype)
    total = weight.sum().clamp(min=1)
    return (losses * weight).sum() / total, (right * weight).sum() / total


def step_losses(
    parts: Parts,
    head: PatchHead | None,
    batch: TrainingBatch,
    pixels: Tensor,
    weights: Weights,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of a step's losses, and what to log: each loss and the accuracies, as scalar tensors.

    Args:
        parts: the model; head: the patch head (None leaves its loss out).
        batch: on the model's device; pixels: its images, B×3×S×S, clean or perturbed.
    """
    seen: dict[str, Tensor] = {}
    total = pixels.new_zeros(())
    image = parts.vision(pixels)
    count = len(pixels)

    captions = fast.trim(batch.caption_ids, parts.pad)
    text_pooled, caption_states = fast.text_embedding(parts.text, captions, parts.pad)
    if weights.contrastive:
        logits = contrastive_logits(image.pooled, text_pooled, parts.logit_scale, batch.truth)
        seen["contrastive"] = contrastive_loss(logits)
        total = total + weights.contrastive * seen["contrastive"]
        with torch.no_grad():
            seen["batch_r1"] = (logits.argmax(dim=1) == torch.arange(count, device=logits.device)).float().mean()

    texts, readers = [], []
    if weights.caption:
        texts.append(caption_states[:, : captions.shape[1] - 1])
        readers.append(None)
    if weights.question and len(batch.question_ids):
        texts.append(fast.text_states(parts.text, batch.question_ids))
        readers.append(batch.answer_at - 1)
    states = fast.decode(parts.decoder, image.tokens, texts, readers) if texts else []
    if weights.caption:
        targets = captions[:, 1:]
        kept = targets != parts.pad
        logits = fast.vocabulary_logits(parts.decoder, states[0][kept])
        seen["caption"] = F.cross_entropy(logits.float(), targets[kept])
        total = total + weights.caption * seen["caption"]
    if weights.question and len(batch.question_ids):
        answers = batch.question_ids.gather(1, batch.answer_at[:, None])[:, 0]
        logits = fast.vocabulary_logits(parts.decoder, states[-1])
        seen["question"], seen["question_accuracy"] = _answer_loss(logits, answers, batch.has_question)
        total = total + weights.question * seen["question"]
    if weights.nlvr and len(batch.nlvr_ids):
        items = len(batch.nlvr_ids)
        both = parts.two_images(image.tokens[:items], image.tokens[items : 2 * items])
        text = fast.text_states(parts.text, batch.nlvr_ids)
        (state,) = fast.decode(parts.decoder, both, [text], [batch.nlvr_at - 1])
        answers = batch.nlvr_ids.gather(1, batch.nlvr_at[:, None])[:, 0]
        seen["nlvr"], seen["nlvr_accuracy"] = _answer_loss(fast.vocabulary_logits(parts.decoder, state), answers)
        total = total + weights.nlvr * seen["nlvr"]
    if weights.patch and head is not None and image.grid is not None:
        seen["patch"] = head(image.grid, batch.patches)
        total = total + weights.patch * seen["patch"]
    return total, seen
