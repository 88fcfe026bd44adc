"""The inner problem of adversarial training: perturbations that maximise α·L_task − β·S_c (DESIGN: MBAT).

What does not depend on the pixels is computed once a batch: texts are encoded without gradients, and no parameter gets
a gradient, since only the pixels are differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.models import fused_forward as fast
from cmai_core.models.heads import log_verified
from cmai_core.training.batches import TrainingBatch
from cmai_core.training.losses import Parts, class_losses, encode_classes, pairs_consistency, unit, word_odds
from cmai_core.training.rivals import Rivals
from cmai_core.training.settings import RANKED, Inner

Objective = Callable[[Tensor], Tensor]
"""Pixels (N×3×S×S) → one value an image, larger = worse for the model."""


def perturb(
    pixels: Tensor,
    objective: Objective,
    inner: Inner,
    *,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    previous: Tensor | None = None,
) -> Tensor:
    """Raise the objective by projected ascent (Madry et al. 2018, arXiv 1706.06083, sec. 2.1).

    Args:
        pixels: N×3×S×S in [0, 1], left unchanged.
        objective: what to raise; samples must not depend on each other's pixels for the result to be per sample.
        inner: norm, radius, steps, step size and start.
        scale: factor in [0, 1] on radius and step size (the warm-up of ε).
        generator: source of random starts, on the CPU; needed for "uniform" and "noise".
        previous: M×3×S×S, perturbations to start from under start="previous" (used in turn; None: from the image).

    Returns:
        perturbed pixels in the ball (after a noise start: within 3ε) and in [0, 1], detached.
    """
    radius, size = inner.epsilon * scale, inner.step_size * scale
    if radius <= 0 or inner.steps < 1:
        return pixels.detach()
    clean = pixels.detach()
    project = _linf if inner.norm == "linf" else _l2
    reach = 3 * radius if inner.start == "noise" else radius
    current = project(clean + _start(clean, inner, radius, generator, previous), clean, reach)
    for _ in range(inner.steps):
        current.requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(current).sum(), current)
        if inner.norm == "linf":
            step = gradient.sign_()
        else:
            step = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        current = project(current.detach().add(step, alpha=size), clean, reach)
    return current


def _start(
    clean: Tensor, inner: Inner, radius: float, generator: torch.Generator | None, previous: Tensor | None
) -> Tensor:
    if inner.start == "clean" or (inner.start == "previous" and previous is None):
        return torch.zeros_like(clean)
    if inner.start == "previous":
        turns = torch.arange(len(clean), device=clean.device) % len(previous)
        return previous.to(clean)[turns]
    noise = torch.rand(clean.shape, generator=generator).to(clean) * 2 - 1
    if inner.norm == "linf":
        return noise * radius * (2 if inner.start == "noise" else 1)
    # A random direction, at a random share of the radius.
    length = torch.rand(len(clean), 1, 1, 1, generator=generator).to(clean)
    return noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * length * radius


def _linf(x: Tensor, clean: Tensor, radius: float) -> Tensor:
    return torch.minimum(torch.maximum(x, clean - radius), clean + radius).clamp_(0.0, 1.0)


def _l2(x: Tensor, clean: Tensor, radius: float) -> Tensor:
    delta = x - clean
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    # Clipping to the box shortens the perturbation, never lengthens it.
    return (clean + delta * (radius / length.clamp(min=1e-12)).clamp(max=1.0)).clamp_(0.0, 1.0)


def allotted(count: int, shares: dict[str, float]) -> dict[str, Tensor]:
    """Return which of `count` images each loss is raised on: row numbers, spread evenly in proportion to the shares."""
    names, total = list(shares), sum(shares.values())
    owed = torch.zeros(len(names))
    taken: dict[str, list[int]] = {name: [] for name in names}
    weights = torch.tensor([shares[name] / total for name in names])
    for row in range(count):
        owed += weights
        most = int(owed.argmax())
        owed[most] -= 1
        taken[names[most]].append(row)
    return {name: torch.tensor(rows, dtype=torch.int64) for name, rows in taken.items() if rows}


def whole_pairs(rows: Tensor, items: int, share: float) -> Tensor:
    """Return which of the perturbed images a share of two-image items takes: places in `rows`, left ones, then right.

    Args:
        rows: int64 N, images of a batch of which i and `items` + i belong together. share: of the images, 0 to 1; less
            where fewer items have both of their images perturbed.
    """
    place = {int(row): k for k, row in enumerate(rows.tolist())}
    both = [(place[row], place[row + items]) for row in place if row < items and row + items in place]
    taken = both[: round(share * len(rows) / 2)]
    return torch.tensor([*(left for left, _ in taken), *(right for _, right in taken)], dtype=torch.int64)


def against_rivals(own: Tensor, rivals: Tensor, by_margin: Tensor) -> Tensor:
    """Return how far captions are from coming first: cross entropy of their own score, or the margin to the highest.

    Args:
        own: N scores of the captions. rivals: N×R, −inf where there is none. by_margin: bool N.
    """
    entropy = torch.cat([own[:, None], rivals], dim=1).logsumexp(dim=1) - own
    return torch.where(by_margin, rivals.amax(dim=1) - own, entropy)


@dataclass
class InnerProblem:
    """α·L_task − β·S_c of some of a batch's images; call `objective` with their pixels.

    Attributes:
        inner: which losses, α and β. parts, heads: the model. batch: of which `rows` (int64) are perturbed.
        start: the starting model's image tower, for "drift". clean: the unperturbed pixels of `rows`, for "drift" and
            for aimed questions. rivals: further captions, for "rank" and "verified".
    """

    inner: Inner
    parts: Parts
    batch: TrainingBatch
    rows: Tensor
    heads: nn.Module | None = None
    start: nn.Module | None = None
    clean: Tensor | None = None
    rivals: Rivals | None = None

    def __post_init__(self) -> None:
        with torch.no_grad():
            self._prepare()

    def _prepare(self) -> None:
        parts, batch, rows = self.parts, self.batch, self.rows
        device = rows.device
        self.groups = self._allotted()
        self.own = torch.ones(len(rows), dtype=torch.bool, device=device)
        if "accept" in self.groups:
            self.own[self.groups["accept"]] = False
        ids = fast.trim(batch.caption_ids, parts.pad)
        self.texts, states = fast.text_embedding(parts.text, ids, parts.pad)
        self.scored = self.texts[rows] if self.heads is None else self.heads.text(self.texts[rows])
        if not self.groups.keys().isdisjoint(RANKED):
            self._prepare_ranking()
        if "nlvr" in self.groups:
            items = rows[self.groups["nlvr"][: len(self.groups["nlvr"]) // 2]]
            ids = fast.trim(batch.nlvr_ids[items], parts.pad)
            self.statements = (fast.text_states(parts.text, ids), batch.nlvr_at[items])
            self.verdicts = ids.gather(1, batch.nlvr_at[items][:, None])[:, 0]
        if "contrastive" in self.groups:
            chosen = rows[self.groups["contrastive"]]
            hidden = batch.truth[chosen].clone()
            hidden[torch.arange(len(chosen), device=device), chosen] = False
            self.hidden = hidden
            self.toward, self.aimed = self._false_captions(chosen)
        if "question" in self.groups:
            chosen = rows[self.groups["question"]]
            first = chosen * (len(batch.question_ids) // len(batch.rows))
            ids = fast.trim(batch.question_ids[first], parts.pad)
            self.asked = (fast.text_states(parts.text, ids), batch.answer_at[first])
            self.answers = batch.question_ids[first].gather(1, batch.answer_at[first][:, None])[:, 0]
            self.has_question = batch.has_question[first]
            self.answers, self.asked_for = self._wrong_answers()
        if "caption" in self.groups:
            chosen = rows[self.groups["caption"]]
            toward, self.written = self._false_captions(chosen)
            meant = torch.where(self.written, toward, chosen)
            ids = batch.caption_ids[meant][:, : states.shape[1]]
            self.words = (states[meant][:, : ids.shape[1] - 1], ids[:, 1:])
        if "classes" in self.groups:
            self.classes = encode_classes(parts, batch)
        if "accept" in self.groups:
            false = fast.trim(batch.false_ids[rows[self.groups["accept"]]], parts.pad)
            pooled, words = fast.text_embedding(parts.text, false, parts.pad)
            self.false = (self.heads.text(pooled), false, words[:, : false.shape[1]])
        if "drift" in self.groups:
            self.goal = fast.vision(self.start, self.clean[self.groups["drift"]], parts.mean, parts.std)

    def _allotted(self) -> dict[str, Tensor]:
        """Return the images of each loss."""
        rows, shares = self.rows, dict(self.inner.losses)
        count, total = len(rows), sum(shares.values())
        share = shares.pop("nlvr", 0.0) / total
        paired = whole_pairs(rows, len(self.batch.nlvr_ids), share) if share else torch.zeros(0, dtype=torch.int64)
        alone = torch.ones(count, dtype=torch.bool)
        alone[paired] = False
        rest = alone.nonzero()[:, 0]
        groups = {name: rest[at] for name, at in allotted(len(rest), shares).items()} if sum(shares.values()) else {}
        if len(paired):
            groups["nlvr"] = paired
        return {name: at.to(rows.device) for name, at in groups.items()}

    def _prepare_ranking(self) -> None:
        """Put together what a picture may retrieve: the batch's captions, the queue's, and its own false variant."""
        parts, batch, rows = self.parts, self.batch, self.rows
        texts, ids, truth = [unit(self.texts)], [batch.caption_ids], [batch.truth[rows]]
        if self.rivals is not None:
            texts.append(self.rivals.texts)
            ids.append(self.rivals.ids)
            truth.append(self.rivals.truth[rows])
        variants = batch.false_ids[rows]
        pooled, _ = fast.text_embedding(parts.text, fast.trim(variants, parts.pad), parts.pad)
        none = variants[:, :1] == parts.pad
        self.gallery, self.gallery_ids = torch.cat(texts), torch.cat(ids)
        self.variants, self.variant_ids = unit(pooled), variants
        self.no_rivals = torch.cat([*truth, none], dim=1)
        self.by_margin, share = {}, self.inner.margin
        for name in self.groups.keys() & RANKED:
            turn = torch.arange(len(self.groups[name]), device=rows.device)
            self.by_margin[name] = ((turn + 1) * share).floor() > (turn * share).floor()
        self.shortlist: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def _aimed(self, count: int) -> Tensor:
        """Return which of a loss's images are drawn towards something: bool, the targeted share, the first of them."""
        return torch.arange(count, device=self.rows.device) < int(self.inner.targeted * count)

    def _false_captions(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next caption of the batch that is false of each image, and which images are drawn towards it."""
        truth = self.batch.truth
        order = (torch.arange(truth.shape[1], device=chosen.device) + 1 + chosen[:, None]) % truth.shape[1]
        false = ~truth[chosen].gather(1, order)
        toward = order.gather(1, false.float().argmax(dim=1, keepdim=True))[:, 0]
        return toward, self._aimed(len(chosen)) & false.any(dim=1)

    def _wrong_answers(self) -> tuple[Tensor, Tensor]:
        """Return the answers' tokens with wrong ones for the images that are drawn towards one, and which these are.

        Of the batch's answers, the one that the clean picture finds likeliest: one of the question's own kind.
        """
        aimed, at = self._aimed(len(self.answers)), self.groups["question"]
        if not bool(aimed.any()):
            return self.answers, aimed
        logits = self._answer_logits(self.parts.vision(self.clean[at]))
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[self.answers] = False
        wrong = logits.masked_fill(others, float("-inf")).scatter(1, self.answers[:, None], float("-inf"))
        aimed = aimed & wrong.isfinite().any(dim=1)
        return torch.where(aimed, wrong.argmax(dim=1), self.answers), aimed

    def objective(self, pixels: Tensor) -> Tensor:
        """Return one value an image (of `rows`, in their order)."""
        inner, image = self.inner, self.parts.vision(pixels)
        values = torch.zeros(len(pixels), device=pixels.device)
        if inner.alpha:
            for name, at in self.groups.items():
                if name != "accept":
                    values = values.index_add(0, at, inner.alpha * getattr(self, f"_{name}")(image, at))
        if inner.beta:
            score = pairs_consistency(self.heads, image, self.scored)
            values = values - inner.beta * torch.where(self.own, score, 0.0)
        if "accept" in self.groups:
            at = self.groups["accept"]
            values = values.index_add(0, at, self._accept(image, at))
        return values

    def _contrastive(self, image: fast.Vision, at: Tensor) -> Tensor:
        logits = self.parts.logit_scale.detach().exp() * unit(image.pooled[at]) @ unit(self.texts).T
        target = torch.where(self.aimed, self.toward, self.rows[at])
        hidden = self.hidden & ~self.aimed[:, None]
        loss = F.cross_entropy(logits.masked_fill(hidden, float("-inf")), target, reduction="none")
        return torch.where(self.aimed, -loss, loss)

    def _scores(self, image: fast.Vision, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of n images with their captions, n, and with all rivals, n×(B + Q + 1)."""
        scale, pictures = self.parts.logit_scale.detach().exp(), unit(image.pooled[at])
        own = (pictures * unit(self.texts[self.rows[at]])).sum(dim=-1)
        variant = (pictures * self.variants[at]).sum(dim=-1, keepdim=True)
        rivals = torch.cat([(pictures @ self.gallery.T).float(), variant], dim=1)
        return scale * own, (scale * rivals).masked_fill(self.no_rivals[at], float("-inf"))

    def _rank(self, image: fast.Vision, at: Tensor) -> Tensor:
        return against_rivals(*self._scores(image, at), self.by_margin["rank"])

    def _verified(self, image: fast.Vision, at: Tensor) -> Tensor:
        if self.shortlist is None:  # of where the search begins: a rival that changed in every step would be no goal
            with torch.no_grad():
                self.shortlist = self._shortlisted(image, at)
        texts, ids, states, none = self.shortlist
        count, options = none.shape
        pictures = unit(image.pooled[at])
        scores = self.parts.logit_scale.detach().exp() * (pictures[:, None] * texts).sum(dim=-1)
        odds, counted = word_odds(self.parts, self.heads, image.tokens[at], ids, states)
        log_v, words = log_verified(odds, counted).reshape(count, options), counted.sum(dim=1).reshape(count, options)
        fused = self.inner.answering.fuse(scores, log_v, words).masked_fill(none, float("-inf"))
        return against_rivals(fused[:, 0], fused[:, 1:], self.by_margin["verified"])

    def _shortlisted(self, image: fast.Vision, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode the captions of n images and the rivals that these rank highest, own ones first.

        Returns:
            embeddings n×(1 + k)×D; ids and token states of the n·(1 + k) texts; bool n×(1 + k), where no rival is.
        """
        parts, (_, rivals) = self.parts, self._scores(image, at)
        best = rivals.topk(min(self.inner.answering.shortlist, rivals.shape[1]), dim=1)
        last = len(self.gallery_ids)
        false = self.variant_ids[at][:, None].expand(-1, best.indices.shape[1], -1)
        ids = torch.where((best.indices == last)[..., None], false, self.gallery_ids[best.indices.clamp(max=last - 1)])
        ids = torch.cat([self.batch.caption_ids[self.rows[at]][:, None], ids], dim=1)
        none = torch.cat([torch.zeros_like(best.values[:, :1], dtype=torch.bool), best.values.isinf()], dim=1)
        flat = fast.trim(ids.flatten(0, 1), parts.pad)
        pooled, states = fast.text_embedding(parts.text, flat, parts.pad)
        return unit(pooled).unflatten(0, none.shape), flat, states[:, : flat.shape[1]], none

    def _nlvr(self, image: fast.Vision, at: Tensor) -> Tensor:
        left, right = at.chunk(2)
        joined = self.parts.two_images(image.tokens[left], image.tokens[right])
        states, where = self.statements
        (read,) = fast.decode(self.parts.decoder, joined, [states], [where - 1])
        loss = F.cross_entropy(
            fast.vocabulary_logits(self.parts.decoder, read).float(), self.verdicts, reduction="none"
        )
        return loss.repeat(2) / 2  # of both images together it is the loss once

    def _classes(self, image: fast.Vision, at: Tensor) -> Tensor:
        return class_losses(self.parts, image.pooled[at], self.classes, self.batch.classes[self.rows[at]])

    def _answer_logits(self, image: fast.Vision) -> Tensor:
        states, where = self.asked
        (read,) = fast.decode(self.parts.decoder, image.tokens, [states], [where - 1])
        return fast.vocabulary_logits(self.parts.decoder, read).float()

    def _question(self, image: fast.Vision, at: Tensor) -> Tensor:
        logits = self._answer_logits(fast.Vision(image.pooled[at], image.tokens[at], None))
        loss = F.cross_entropy(logits, self.answers, reduction="none")
        return torch.where(self.has_question, torch.where(self.asked_for, -loss, loss), 0.0)

    def _caption(self, image: fast.Vision, at: Tensor) -> Tensor:
        states, targets = self.words
        (read,) = fast.decode(self.parts.decoder, image.tokens[at], [states])
        logits = fast.vocabulary_logits(self.parts.decoder, read).float()
        loss = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=self.parts.pad, reduction="none")
        loss = loss.sum(dim=1) / (targets != self.parts.pad).sum(dim=1)
        return torch.where(self.written, -loss, loss)

    def _drift(self, image: fast.Vision, at: Tensor) -> Tensor:
        return feature_distance(image, self.goal, at)

    def _accept(self, image: fast.Vision, at: Tensor) -> Tensor:
        text, ids, states = self.false
        score = (self.heads.image(image.pooled[at], image.tokens[at]) * text).sum(dim=-1)
        odds, counted = word_odds(self.parts, self.heads, image.tokens[at], ids, states)
        return score + log_verified(odds, counted) / counted.sum(dim=1).clamp(min=1)


def feature_distance(image: fast.Vision, goal: fast.Vision, at: Tensor | None = None) -> Tensor:
    """Return squared distance of pooled features and patch tokens from `goal`'s, N values; tokens count by their mean.

    FARE (Schlarmann et al. 2024, arXiv 2402.12336, eq. 3) uses the class token; a decoder that reads the patch tokens
    needs those to stay too (as LLaVA's in their sec. 4).
    """
    pooled, tokens = (image.pooled, image.tokens) if at is None else (image.pooled[at], image.tokens[at])
    near = (pooled.float() - goal.pooled.float()).square().sum(dim=-1)
    return near + (tokens.float() - goal.tokens.float()).square().sum(dim=-1).mean(dim=-1)


def reference_consistency(
    parts: Parts,
    heads: nn.Module | None,
    batch: TrainingBatch,
    pixels: Tensor,
    inner: Inner,
    generator: torch.Generator,
    chunk: int = 64,
) -> Tensor:
    """Return S_c of a batch's pairs after an attack on S_c alone (`inner` with α = 0): N values."""
    out = []
    for start in range(0, len(pixels), chunk):
        rows = torch.arange(start, min(start + chunk, len(pixels)), device=pixels.device)
        problem = InnerProblem(inner, parts, batch, rows, heads)
        attacked = perturb(pixels[rows], problem.objective, inner, generator=generator)
        with torch.no_grad():
            out.append(pairs_consistency(heads, parts.vision(attacked), problem.scored))
    return torch.cat(out)
