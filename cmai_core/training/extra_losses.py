"""The losses that tell one defence from another, on top of the tasks' own (`losses.step_losses`)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.models import fused_forward as fast
from cmai_core.models.heads import ConsistencyHeads, log_verified, verification_loss
from cmai_core.training.inner import feature_distance
from cmai_core.training.losses import (
    Parts,
    Step,
    class_losses,
    contrastive_logits,
    contrastive_loss,
    encode_classes,
    unit,
    word_odds,
)
from cmai_core.training.rivals import Rivals
from cmai_core.training.settings import Recipe

MARGIN = 0.2
"""Of the hinge (VSE++: Faghri et al. 2018, arXiv 1707.05612, sec. 4.1)."""
HIDDEN_PATCHES, HIDDEN_WORDS = 0.4, 0.2
"""Shares that masked prediction hides."""
COARSE = 4
"""Hidden patches are predicted as COARSE×COARSE blocks of mean colour."""


class MaskedHead(nn.Module):
    """A hidden patch's blocks of colour from its image token and the caption; used in training only."""

    def __init__(self, width: int, text: int, generator: torch.Generator | None = None):
        super().__init__()
        self.linear = nn.Linear(width + text, 3 * COARSE**2)
        with torch.no_grad():
            self.linear.weight.normal_(std=(width + text) ** -0.5, generator=generator)
            self.linear.bias.zero_()

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return tokens B×P×W, pooled captions B×D → B×P×(3·COARSE²), in [0, 1] pixel units around 0.5."""
        return self.linear(torch.cat([tokens, text[:, None].expand(-1, tokens.shape[1], -1)], dim=-1)).float()


def drift_loss(step: Step, start: nn.Module, clean: Tensor) -> Tensor:
    """Return the mean squared distance of the features of the batch's pixels from the starting model's clean ones."""
    return features_drift(step.parts, step.image, start, clean)


def features_drift(parts: Parts, image: fast.Vision, start: nn.Module, clean: Tensor) -> Tensor:
    """Return the mean squared distance of features from those that the starting model gives the clean pixels."""
    with torch.no_grad():
        goal = fast.vision(start, clean, parts.mean, parts.std)
    return feature_distance(image, goal).mean()


def text_drift_loss(step: Step, start: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean squared distance of the captions' features from the starting model's of the words as they were.

    LEAF (arXiv 2506.03355) keeps the embedding; a decoder that reads the token states needs those to stay too, as for
    images (`inner.feature_distance`). An edit replaces words one for one, so states stand at the same places.

    Args:
        start: the starting model's text tower. ids: int64 B×48, the captions without edits.
    """
    pad = step.parts.pad
    ids = fast.trim(ids, pad)
    with torch.no_grad():
        pooled, states = fast.text_embedding(start, ids, pad)
    near = (step.text.float() - pooled.float()).square().sum(dim=-1)
    each = (step.words.float() - states[:, : ids.shape[1]].float()).square().sum(dim=-1)
    words = ids != pad
    return (near + (each * words).sum(dim=1) / words.sum(dim=1)).mean()


def agreement_loss(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence between what two views of each scene retrieve (rows i and i + B/2 of B×B logits).

    Consistency regularisation (Tack et al. 2022, arXiv 2103.04623, eq. 3), over the captions of the batch instead of
    classes. −inf logits (false negatives) lie in the same columns for both views, as truth belongs to the scene.
    """
    half = len(logits) // 2
    # A view's own caption is a false negative of the other view: both leave both out of the comparison.
    own = torch.eye(half, dtype=torch.bool, device=logits.device).repeat(1, 2)
    one, two = logits[:half], logits[half:]
    hidden = own | ~torch.isfinite(one) | ~torch.isfinite(two)
    p, q = (x.masked_fill(hidden, -1e9).softmax(dim=-1) for x in (one, two))
    mean = (p + q) / 2
    terms = [(x * (x.clamp(min=1e-12).log() - mean.clamp(min=1e-12).log())).sum(dim=-1) for x in (p, q)]
    return (terms[0] + terms[1]).mean() / 2


def hard_loss(step: Step, false_text: Tensor, has_false: Tensor) -> Tensor:
    """Return the max of hinges over cosines: the hardest image, the hardest caption, the caption's false variant."""
    cosines = unit(step.image.pooled) @ unit(step.text).T
    own = cosines.diagonal()
    hidden = ~torch.isfinite(step.logits) | torch.eye(len(own), dtype=torch.bool, device=own.device)
    others = cosines.masked_fill(hidden, float("-inf"))
    variant = (unit(step.image.pooled) * unit(false_text)).sum(dim=-1)
    hardest = [others.amax(dim=1), others.amax(dim=0)]
    losses = [(MARGIN + rival - own).clamp(min=0) for rival in hardest]
    losses.append(torch.where(has_false, (MARGIN + variant - own).clamp(min=0), 0.0))
    return torch.stack(losses).sum(dim=0).mean()


def cycle_loss(logits: Tensor) -> Tensor:
    """Return image → texts → image and back: cross entropy of coming home after two soft nearest-neighbour steps.

    After Dwibedi et al. 2019, arXiv 1904.07846, sec. 3.2 (cycle-back classification), across modalities.
    """
    there, back = logits.softmax(dim=1), logits.T.softmax(dim=1)
    home = [(there @ back).diagonal(), (back @ there).diagonal()]
    return -sum(h.clamp(min=1e-12).log().mean() for h in home) / 2


def masked_loss(step: Step, head: MaskedHead, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Predict hidden patches (masked autoencoding: He et al. 2022) and hidden words (MLM: Devlin et al. 2019).

    Each modality helps the other: patches are predicted from the image tokens and the caption, words from the image and
    the words before, some of them hidden too. The first half of the batch is used. Hidden patches are grey, hidden
    words are random others.

    Returns:
        the patches' mean squared error (in units of its variance about grey) and the words' cross entropy.
    """
    parts, count = step.parts, max(1, len(step.pixels) // 2)
    pixels, device = step.pixels[:count], step.pixels.device
    rows, columns = parts.visual.grid_size
    size = pixels.shape[-1] // columns
    hidden = (torch.rand(count, rows, columns, generator=generator) < HIDDEN_PATCHES).to(device)
    wide = hidden.repeat_interleave(size, 1).repeat_interleave(size, 2).unsqueeze(1)
    tokens = parts.vision(torch.where(wide, 0.5, pixels)).grid
    coarse = F.avg_pool2d(pixels, size // COARSE)
    target = F.unfold(coarse, COARSE, stride=COARSE).transpose(1, 2) - 0.5
    error = (head(tokens, step.text[:count]) - target).square().mean(dim=-1)
    chosen = hidden.flatten(1).float()
    patches = (error * chosen).sum() / (target.square().mean(dim=-1) * chosen).sum().clamp(min=1e-6)

    ids = fast.trim(step.batch.caption_ids[:count], parts.pad)
    draws = torch.rand(ids.shape, generator=generator).to(device)
    gone = parts.counted(ids) & (draws < HIDDEN_WORDS)
    # Random words of the batch's own captions: only the picture and the words around tell that they are wrong.
    pool = ids[parts.counted(ids)]
    other = pool[torch.randint(len(pool), ids.shape, generator=generator).to(device)]
    states = fast.text_states(parts.text, torch.where(gone, other, ids))
    (read,) = fast.decode(parts.decoder, step.image.tokens[:count], [states])
    if not bool(gone.any()):
        return patches, patches.new_zeros(())
    # A causal decoder says at each place what comes next, so the place before a hidden word is asked for it.
    found = fast.vocabulary_logits(parts.decoder, read[:, :-1][gone[:, 1:]])
    return patches, F.cross_entropy(found.float(), ids[:, 1:][gone[:, 1:]])


def detached(step: Step) -> Step:
    """Return what a step's losses read, without a way back into the towers."""
    image = fast.Vision(step.image.pooled.detach(), step.image.tokens.detach(), None)
    return replace(step, image=image, text=step.text.detach(), words=step.words.detach(), logits=step.logits.detach())


def retrieved(step: Step, rivals: Rivals | None, count: int) -> tuple[Tensor, Tensor]:
    """Return the false captions, of batch and queue, that the first `count` images rank highest.

    Returns:
        int64 count×48 ids, and bool count, whether there is one.
    """
    own = torch.eye(len(step.logits), dtype=torch.bool, device=step.logits.device)
    scores, ids = step.logits.detach().masked_fill(own, float("-inf"))[:count], step.batch.caption_ids
    if rivals is not None:
        more = step.parts.logit_scale.detach().exp() * unit(step.image.pooled[:count].detach()) @ rivals.texts.T
        scores = torch.cat([scores, more.float().masked_fill(rivals.truth[:count], float("-inf"))], dim=1)
        ids = torch.cat([ids, rivals.ids])
    best, where = scores.max(dim=1)
    return ids[where], best.isfinite()


def verify_losses(
    step: Step,
    heads: ConsistencyHeads,
    false: tuple[Tensor, Tensor, Tensor],
    has_false: Tensor,
    rivals: Rivals | None = None,
    *,
    frozen: bool = False,
    on_policy: bool = False,
) -> dict[str, Tensor]:
    """Return CMCV's losses: InfoNCE of S_c with the false variant as a further negative, and V_verify's cross entropy.

    Positives: each image (perturbed or not) with its true caption. Negatives: the caption's false variant, and another
    scene's caption that is false here: the next of the batch, or, on policy, the one that the image ranks highest.

    Args:
        false: pooled B×D, token states B×L×W and ids B×L of the false variants. has_false: bool B.
        rivals: captions beside the batch's, for `on_policy`. frozen: no gradient goes into towers and decoder.
    """
    if frozen:
        step, false = detached(step), (false[0].detach(), false[1].detach(), false[2])
    parts, batch, image = step.parts, step.batch, step.image
    p_v, p_t = heads.image(image.pooled, image.tokens), heads.text(step.text)
    pooled, states, false_ids = false
    scale = heads.log_scale.clamp(max=math.log(100.0))
    logits = contrastive_logits(p_v, p_t, scale, batch.truth)
    variant = (p_v * heads.text(pooled)).sum(dim=-1, keepdim=True) * scale.exp()
    variant = variant.masked_fill(~has_false[:, None], float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    contrast = (F.cross_entropy(torch.cat([logits, variant], dim=1), target) + F.cross_entropy(logits.T, target)) / 2

    some = slice(0, max(1, len(target) // 2))  # each needs a pass of the decoder of its own: half of the batch will do
    if on_policy:
        ids, wrong = retrieved(step, rivals, some.stop)
        ids = fast.trim(ids, parts.pad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            other = (fast.text_states(parts.text, ids), ids, wrong)
    else:  # the next of the batch that is false of the image
        order = (target[None, :] + 1 + target[:, None]) % len(target)
        found = ~batch.truth.gather(1, order)
        at = order.gather(1, found.float().argmax(dim=1, keepdim=True))[:, 0]
        other = (step.words[at], step.ids[at], found.any(dim=1))
    all_, none = torch.ones_like(has_false), torch.zeros_like(has_false)
    triples = (
        (step.words, step.ids, all_, all_),
        (states, false_ids, has_false, none),
        (*other, none),
    )
    losses, right = [], []
    for words, ids, kept, consistent in triples:
        odds, counted = word_odds(parts, heads, image.tokens[some], ids[some], words[some], detached=frozen)
        kept, consistent = kept[some], consistent[some]
        log_probability = log_verified(odds, counted)
        losses.append((verification_loss(log_probability, consistent) * kept).sum() / kept.sum().clamp(min=1))
        good = ((log_probability > math.log(0.5)) == consistent) & kept
        right.append(good.sum() / kept.sum().clamp(min=1))
    # As many positives as negatives.
    verifier = losses[0] + (losses[1] + losses[2]) / 2
    with torch.no_grad():
        s_c = (p_v * p_t).sum(dim=-1)
    return {
        "heads": contrast,
        "verifier": verifier,
        "s_c": s_c.mean(),
        "true_accepted": right[0],
        "variant_rejected": right[1],
        "other_rejected": right[2],
    }


def more_captions_loss(step: Step, ids: Tensor, truth: Tensor) -> Tensor:
    """Return contrastive loss with another caption of each scene (1:N); ids B×48, truth bool B×B of these captions."""
    parts = step.parts
    pooled, _ = fast.text_embedding(parts.text, fast.trim(ids, parts.pad), parts.pad)
    return contrastive_loss(contrastive_logits(step.image.pooled, pooled, parts.logit_scale, truth))


def prompts_loss(step: Step) -> Tensor:
    """Return InfoNCE over class prompts and short statements, images → texts and texts → images, averaged.

    Several texts are true of an image and several images of a text: the loss is the mean over all true pairs, each
    against what is false alone, so that true ones do not compete (supervised contrastive learning: Khosla et al. 2020,
    arXiv 2004.11362, eq. 2, there with the other positives in the denominator too).
    """
    parts, truth = step.parts, step.batch.short_truth
    texts, _ = fast.text_embedding(parts.text, fast.trim(step.batch.short_ids, parts.pad), parts.pad)
    logits = parts.logit_scale.exp() * unit(step.image.pooled) @ unit(texts).T
    losses = []
    for scores, true in ((logits, truth), (logits.T, truth.T)):
        rivals = scores.masked_fill(true, float("-inf")).logsumexp(dim=1, keepdim=True)
        usable = true & rivals.isfinite()  # what is true of all has nothing to be told from
        gap = torch.where(usable, rivals - scores, 0.0)
        losses.append((F.softplus(gap) * usable).sum() / usable.sum().clamp(min=1))
    return (losses[0] + losses[1]) / 2


def extra_losses(
    step: Step,
    recipe: Recipe,
    *,
    heads: ConsistencyHeads | None = None,
    masked: MaskedHead | None = None,
    start: nn.Module | None = None,
    clean: Tensor | None = None,
    start_text: nn.Module | None = None,
    clean_ids: Tensor | None = None,
    generator: torch.Generator | None = None,
    rivals: Rivals | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of a recipe's further losses, and what to log.

    Args:
        heads: for `verify`; masked: for `masked`; start: the starting model's image tower, for `drift`.
        clean: the batch's unperturbed pixels. start_text, clean_ids: the starting model's text tower and the captions
            without edits, for `text_drift`. generator: of what is hidden, on the CPU.
        rivals: captions beside the batch's, for `on_policy`.
    """
    parts, batch, weights = step.parts, step.batch, recipe.weights
    total, seen = step.image.pooled.new_zeros((), dtype=torch.float32), {}

    def add(name: str, weight: float, value: Tensor) -> None:
        nonlocal total
        seen[name] = value
        total = total + weight * value

    if weights.classes:
        add("classes", weights.classes, _classes(parts, step))
    if weights.prompts:
        add("prompts", weights.prompts, prompts_loss(step))
    if weights.drift:
        add("drift", weights.drift, drift_loss(step, start, clean))
    if weights.text_drift:
        add("text_drift", weights.text_drift, text_drift_loss(step, start_text, clean_ids))
    if weights.agreement:
        add("agreement", weights.agreement, agreement_loss(step.logits))
    if weights.cycle:
        add("cycle", weights.cycle, cycle_loss(step.logits))
    if weights.masked:
        patches, words = masked_loss(step, masked, generator)
        add("masked_patches", weights.masked, patches)
        add("masked_words", weights.masked, words)
    if weights.hard or weights.verify:
        ids = fast.trim(batch.false_ids, parts.pad)
        has_false = batch.false_ids[:, 0] != parts.pad
        pooled, states = fast.text_embedding(parts.text, ids, parts.pad)
        if weights.hard:
            add("hard", weights.hard, hard_loss(step, pooled, has_false))
        if weights.verify:
            false = (pooled, states[:, : ids.shape[1]], ids)
            how = {"frozen": recipe.detached_heads, "on_policy": recipe.on_policy}
            found = verify_losses(step, heads, false, has_false, rivals, **how)
            add("heads", weights.verify, found.pop("heads"))
            add("verifier", weights.verify, found.pop("verifier"))
            seen |= found
    for k, (ids, truth) in enumerate(zip(batch.more_ids, batch.more_truth, strict=True)):
        add(f"contrastive_{k + 2}", weights.contrastive / len(batch.more_ids), more_captions_loss(step, ids, truth))
    return total, seen


def _classes(parts: Parts, step: Step) -> Tensor:
    classes = encode_classes(parts, step.batch)
    return class_losses(parts, step.image.pooled, classes, step.batch.classes).mean()
