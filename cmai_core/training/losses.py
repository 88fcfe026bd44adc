"""The losses of one step, all from one pass over its images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.data.tabletop.sampling import HALF_DEPTH, HALF_WIDTH
from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, MAX_OBJECTS, SHAPES, SIZES
from cmai_core.models import fused_forward as fast
from cmai_core.models.heads import word_evidence
from cmai_core.training import packed
from cmai_core.training.batches import TrainingBatch
from cmai_core.training.settings import Weights

PATCH_CLASSES = (1 + len(SHAPES), len(COLOURS), len(MATERIALS), len(SIZES), MAX_OBJECTS, MAX_OBJECTS)
IGNORED = -100


@dataclass(frozen=True)
class Parts:
    """A CoCa taken apart for training: its towers and the input normalisation.

    Attributes:
        visual, text, decoder: open_clip modules; logit_scale: their log temperature.
        mean, std: 3×1×1.
        two_images: joins the tokens of two images (the wrapper's `two_image_tokens`).
        pad, bos, eos: ids of padding and of the tokens around a text. punctuation: bool V.
    """

    visual: nn.Module
    text: nn.Module
    decoder: nn.Module
    logit_scale: Tensor
    mean: Tensor
    std: Tensor
    two_images: object
    pad: int = 0
    bos: int = 1
    eos: int = 2
    punctuation: Tensor | None = None

    def counted(self, ids: Tensor) -> Tensor:
        """Return which tokens are words: bool, shaped as `ids`."""
        words = (ids != self.pad) & (ids != self.bos) & (ids != self.eos)
        return words if self.punctuation is None else words & ~self.punctuation[ids]

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
        """Return mean cross entropy over the six attributes; a background patch counts a tenth of one with an object.

        Nine of ten patches are background: with equal weights the shapes were still at chance after 100,000 images.
        The objects' places are asked because nothing else insists on them: without, a linear map reads no horizontal
        position off the tokens (see `placement`), and questions about left and right stay at chance.

        Args:
            tokens: B×P×W.
            targets: int64 B×P×6, −100 where a patch has no such attribute.
        """
        logits = self.linear(tokens).float().split(PATCH_CLASSES, dim=-1)
        losses = []
        for k, part in enumerate(logits):
            target = targets[..., k].flatten()
            each = F.cross_entropy(part.flatten(0, 1), target, ignore_index=IGNORED, reduction="none")
            counted = (target != IGNORED).to(each.dtype)
            if k == 0:
                counted = torch.where(target == 0, 0.1 * counted, counted)
            losses.append((each * counted).sum() / counted.sum().clamp(min=1))
        return torch.stack(losses).mean()


class PlaceHead(nn.Module):
    """Where the objects stand that a question names, from the state that gives its answer; used in training only.

    Answers about left and right come from places that the decoder has to look up first, and the answer alone says
    little about them: base-2 saw 800,000 pairs and answered such questions at chance.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None):
        super().__init__()
        self.linear = nn.Linear(width, 4)
        with torch.no_grad():
            self.linear.weight.normal_(std=width**-0.5, generator=generator)
            self.linear.bias.zero_()

    def forward(self, states: Tensor, places: Tensor) -> Tensor:
        """Return the mean squared error over the coordinates that are known, in halves of the table; 0 where none is.

        Args:
            states: N×W. places: N×4, NaN where a question names no such object.
        """
        known = ~places.isnan()
        places = places / places.new_tensor([HALF_WIDTH, HALF_DEPTH] * 2)
        # Normalised, as the states are long: else the first steps would teach this head alone.
        normal = F.layer_norm(states, states.shape[-1:])
        error = (self.linear(normal).float() - places.nan_to_num(0.0)).square()
        return (error * known).sum() / known.sum().clamp(min=1)


def unit(x: Tensor) -> Tensor:
    """Return rows at unit length, in single precision."""
    return F.normalize(x.float(), dim=-1)


def pairs_consistency(heads: nn.Module | None, image: fast.Vision, scored: Tensor) -> Tensor:
    """Return S_c of N images with N texts: `scored` are P_t's outputs, or text embeddings where there are no heads."""
    if heads is None:
        return (unit(image.pooled) * unit(scored)).sum(dim=-1)
    return (heads.image(image.pooled, image.tokens) * scored).sum(dim=-1)


def word_odds(
    parts: Parts, heads: nn.Module, tokens: Tensor, ids: Tensor, states: Tensor, *, detached: bool = False
) -> tuple[Tensor, Tensor]:
    """Return log odds of the heads' verifier for each word, T×L, and which positions are words (bool T×L).

    Args:
        tokens: N×P×W image tokens. ids: int64 T×L, the texts, T/N of each image in a row; states: T×L×W, their token
            states. detached: no gradient goes into the decoder.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
        (decoded,) = fast.decode(parts.decoder, tokens, [states])
        evidence = word_evidence(fast.vocabulary_logits(parts.decoder, decoded), ids)
    return heads.words(tokens, states, evidence)[0], parts.counted(ids)


def encode_classes(parts: Parts, batch: TrainingBatch) -> Tensor:
    """Return the class prompts' embeddings, C×D, unit length."""
    return unit(fast.text_embedding(parts.text, fast.trim(batch.class_ids, parts.pad), parts.pad)[0])


def class_losses(parts: Parts, pooled: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Return cross entropy over the classes, N values; any class that the scene holds is right (targets: bool N×C)."""
    logits = (parts.logit_scale.exp() * unit(pooled) @ classes.T).float()  # half precision within autocast
    return logits.logsumexp(dim=-1) - logits.masked_fill(~targets, float("-inf")).logsumexp(dim=-1)


def contrastive_logits(images: Tensor, texts: Tensor, log_scale: Tensor, truth: Tensor) -> Tensor:
    """Return scaled cosines B×B; a caption that is true of another image too is no negative (−inf off the diagonal).

    Args:
        images, texts: B×D, not normalised.
        truth: bool B×B, caption j (column) is true of image i (row).
    """
    logits = log_scale.exp() * unit(images) @ unit(texts).T
    others = truth & ~torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    return logits.masked_fill(others, float("-inf"))


def contrastive_loss(logits: Tensor) -> Tensor:
    """Return symmetric InfoNCE of `contrastive_logits`."""
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _answer_loss(logits: Tensor, target: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean cross entropy and accuracy over the rows to keep."""
    losses = F.cross_entropy(logits.float(), target, reduction="none")
    right = (logits.detach().argmax(dim=-1) == target).float()
    weight = torch.ones_like(losses) if keep is None else keep.to(losses.dtype)
    total = weight.sum().clamp(min=1)
    return (losses * weight).sum() / total, (right * weight).sum() / total


def vision_losses(
    parts: Parts, head: PatchHead, batch: TrainingBatch, pixels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the patch loss alone, for the steps in which only the image tower learns."""
    image = parts.vision(pixels)
    loss = head(image.grid, batch.patches)
    return loss, {"patch": loss}


@dataclass(frozen=True)
class Step:
    """What the losses of a step read: B images (clean or perturbed) and their captions, encoded once.

    Attributes:
        image: features of the batch's pixels. text: pooled captions B×D. words: token states B×L×W of the captions and
            their ids B×L. logits: contrastive, B×B, false negatives −inf.
    """

    parts: Parts
    batch: TrainingBatch
    pixels: Tensor
    image: fast.Vision
    text: Tensor
    words: Tensor
    ids: Tensor
    logits: Tensor


def step_losses(
    parts: Parts,
    head: PatchHead | None,
    batch: TrainingBatch,
    pixels: Tensor,
    weights: Weights,
    place: PlaceHead | None = None,
) -> tuple[Tensor, dict[str, Tensor], Step]:
    """Return the weighted sum of the tasks' losses, and what to log: each loss and the accuracies, as scalar tensors.

    Args:
        parts: the model; head: the patch head; place: the head of where things stand (None leaves their loss out).
        batch: on the model's device; pixels: its images, B×3×S×S, clean or perturbed.

    Returns:
        the sum, what to log, and what further losses read.
    """
    seen: dict[str, Tensor] = {}
    total = pixels.new_zeros(())
    image = parts.vision(pixels)
    texts = _laid_out(parts, batch, weights)
    text_pooled, states = packed.encode_texts(parts.text, texts)
    logits = contrastive_logits(image.pooled, text_pooled, parts.logit_scale, batch.truth)
    if weights.contrastive:
        seen["contrastive"] = contrastive_loss(logits)
        total = total + weights.contrastive * seen["contrastive"]
    with torch.no_grad():
        seen["batch_r1"] = (logits.argmax(dim=1) == torch.arange(len(pixels), device=logits.device)).float().mean()
    for name, loss, accuracy in _decoder_losses(parts, batch, image, texts, states, weights, place):
        seen[name] = loss
        seen |= {} if accuracy is None else {f"{name}_accuracy": accuracy}
        total = total + getattr(weights, name) * loss
    if weights.patch and head is not None and image.grid is not None:
        seen["patch"] = head(image.grid, batch.patches)
        total = total + weights.patch * seen["patch"]
    ids = fast.trim(batch.caption_ids, parts.pad)
    words = texts.captions.pad(states[: texts.caption_rows])[:, : ids.shape[1]]
    return total, seen, Step(parts, batch, pixels, image, text_pooled, words, ids, logits)


def _asked(batch: TrainingBatch, weights: Weights) -> tuple[bool, bool]:
    """Say whether the step has questions, and statements about two images."""
    return bool(weights.question) and len(batch.question_ids) > 0, bool(weights.nlvr) and len(batch.nlvr_ids) > 0


def _laid_out(parts: Parts, batch: TrainingBatch, weights: Weights) -> packed.Texts:
    """Lay out captions, questions and statements, so that one pass reads them all."""
    asked, judged = _asked(batch, weights)
    questions = (batch.question_ids, batch.answer_at) if asked else (batch.nlvr_ids[:0], batch.nlvr_at[:0])
    statements = [(batch.nlvr_ids, batch.nlvr_at)] if judged else []
    context = parts.text.context_length
    return packed.lay_out(batch.caption_ids, [questions, *statements], pad=parts.pad, context=context)


def _decoder_losses(
    parts: Parts,
    batch: TrainingBatch,
    image: fast.Vision,
    texts: packed.Texts,
    states: Tensor,
    weights: Weights,
    place: PlaceHead | None,
) -> list[tuple[str, Tensor, Tensor | None]]:
    """Return (name, loss, accuracy) of the captions, answers and verdicts that the decoder writes, and of places."""
    asked, judged = _asked(batch, weights)
    if not (weights.caption or asked or judged):
        return []
    items, out = len(batch.nlvr_ids), []
    joined = parts.two_images(image.tokens[:items], image.tokens[items : 2 * items]) if judged else None
    words, answers = packed.decode_texts(
        parts.decoder, texts, states, image.tokens, joined, with_words=bool(weights.caption)
    )
    if weights.caption:
        found = fast.vocabulary_logits(parts.decoder, words)
        out.append(("caption", F.cross_entropy(found.float(), texts.targets), None))
    found = fast.vocabulary_logits(parts.decoder, answers)
    if asked:
        target = batch.question_ids.gather(1, batch.answer_at[:, None])[:, 0]
        out.append(("question", *_answer_loss(found[: texts.questions], target, batch.has_question)))
        if place is not None:
            out.append(("place", place(answers[: texts.questions], batch.question_places), None))
    if judged:
        target = batch.nlvr_ids.gather(1, batch.nlvr_at[:, None])[:, 0]
        out.append(("nlvr", *_answer_loss(found[texts.questions :], target)))
    return out
