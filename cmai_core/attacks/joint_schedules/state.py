"""Where a joint attack stands: pixels and texts, the best met, what was spent; and the moves that schedules make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cmai_core.attacks.engine.pair_evaluator import PairEvaluator, PairScores
from cmai_core.attacks.text_searches.search import TextProblem, better
from cmai_core.attacks.threats.image import Region
from cmai_core.attacks.threats.text import TextRegion
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators


@dataclass
class JointState:
    """Where a joint attack stands: pixels and texts as they are, the best of each image so far, and the counts.

    Attributes:
        pixels: N×3×H×W. texts: T. region: of pixels. text_region: of texts. evaluator: bound to the pairs.
        clean: scores of the clean pairs. best_pixels, best_texts: for each image with its texts together, the best so
            far: most successes among its pairs first, then the mean objective.
        done, total: image steps, for progress.
    """

    evaluator: PairEvaluator
    region: Region
    text_region: TextRegion
    clean: PairScores
    ids: Sequence[str]
    seed: int
    watch: Watch
    total: int
    pixels: torch.Tensor = None
    texts: list[str] = None
    best_pixels: torch.Tensor = None
    best_texts: list[str] = None
    best: list[tuple[int, float]] = None
    scores: PairScores = None
    objective_trace: list[torch.Tensor] = field(default_factory=list)
    consistency_trace: list[torch.Tensor] = field(default_factory=list)
    queries: torch.Tensor = None
    backwards: torch.Tensor = None
    forwards: torch.Tensor = None
    backwards_image: torch.Tensor = None
    memory: dict = field(default_factory=dict)
    done: int = 0
    cancelled: bool = False

    def __post_init__(self) -> None:
        count = len(self.ids)
        self.pixels = self.best_pixels = self.region.centre
        self.texts, self.best_texts = list(self.text_region.clean), list(self.text_region.clean)
        self.scores = self.clean
        self.best = self.worth(self.clean)
        for name, length in (("queries", len(self.texts)), ("backwards", len(self.texts))):
            setattr(self, name, torch.zeros(length, dtype=torch.int64))
        for name in ("forwards", "backwards_image"):
            setattr(self, name, torch.zeros(count, dtype=torch.int64))
        self.objective_trace.append(self.clean.value)
        self.consistency_trace.append(self.clean.consistency)

    def worth(self, scores: PairScores) -> list[tuple[int, float]]:
        """For each image: how many of its pairs are won, and their mean objective."""
        owner, count = self.evaluator.owner, len(self.ids)
        zeros = torch.zeros(count, dtype=torch.float64, device=owner.device)
        number_ = zeros.index_add(0, owner, torch.ones_like(owner, dtype=torch.float64)).clamp(min=1)
        mean = zeros.index_add(0, owner, scores.value.double()) / number_
        won = zeros.index_add(0, owner, scores.success.double())
        return [(int(w), m) for w, m in zip(won.tolist(), mean.tolist(), strict=True)]

    def judge(self, pixels: torch.Tensor, texts: Sequence[str]) -> PairScores:
        """Scores images with texts, and keeps each image with its texts where they are the best so far."""
        evaluator = self.evaluator
        images = evaluator.images(pixels)
        self.forwards += 1
        scores = evaluator.score(texts, range(len(texts)), images, pixels=pixels)
        self.keep(pixels, texts, scores)
        return scores

    def keep(self, pixels: torch.Tensor, texts: Sequence[str], scores: PairScores) -> None:
        owner = self.evaluator.owner.tolist()
        wins = []
        for image, ((won, mean), (best_won, best_mean)) in enumerate(zip(self.worth(scores), self.best, strict=True)):
            if won > best_won or (won == best_won and better(mean, True, best_mean, True)):
                wins.append(image)
                self.best[image] = (won, mean)
        if wins:
            self.best_pixels = self.best_pixels.clone()
            self.best_pixels[wins] = pixels[wins]
            chosen = set(wins)
            self.best_texts = [t if o in chosen else b for t, b, o in zip(texts, self.best_texts, owner, strict=True)]

    def step(self, value: torch.Tensor, consistency: torch.Tensor) -> None:
        """One image step is over: traces and progress."""
        self.done += 1
        self.objective_trace.append(value)
        self.consistency_trace.append(consistency)
        self.watch.report(self.done, self.total, "attacking both", self.data, force=self.done == self.total)
        self.watch.pace(self.pixels.device)

    def data(self) -> dict:
        return {
            "step": self.done,
            "restart": 0,
            "objective": torch.stack(self.objective_trace),
            "consistency": torch.stack(self.consistency_trace),
            "pixels": self.pixels,
            "texts": tuple(self.texts),
        }

    @property
    def stopped(self) -> bool:
        self.cancelled = self.cancelled or self.watch.cancelled
        return self.cancelled

    def search_texts(self, search: Any, pixels: torch.Tensor, start: Sequence[str] | None = None) -> list[str]:
        """Texts found by a search against given images, from given texts (the clean ones when None)."""
        evaluator = self.evaluator
        images = evaluator.images(pixels)
        self.forwards += 1
        start = list(self.text_region.clean if start is None else start)
        scores = evaluator.score(start, range(len(start)), images, pixels=pixels)
        names = evaluator.pairs.ids
        problem = TextProblem(self.text_region, names, evaluator, images, pixels, start, scores, self.memory)
        outcome = search.run(problem, seed=self.seed, watch=_Silent(self.watch))
        self.queries += outcome.queries
        self.backwards += outcome.backwards
        self.cancelled = self.cancelled or outcome.cancelled
        return outcome.texts

    def random_start(self, restart: int = 0) -> torch.Tensor:
        return self.region.random(sample_generators(self.seed, self.ids, restart))

    def climb_images(
        self,
        pixels: torch.Tensor,
        texts: Sequence[str],
        steps: int,
        step_size: float | None,
        *,
        views: Any = None,
        momentum: float = 0.0,
        total: int | None = None,
    ) -> torch.Tensor:
        """`steps` of projected gradient ascent with the texts fixed; the last iterate, as the schedules' papers do."""
        evaluator, region = self.evaluator, self.region
        embedded, velocity = evaluator.encode(texts), None
        length = 2.5 * region.epsilon / (total or steps) if step_size is None else step_size
        for _ in range(steps):
            if self.stopped:
                break
            seen = () if views is None else views.draw(self.seed, self.ids, self.done)
            value, consistency, gradient = evaluator.climb(pixels, embedded, texts, seen)
            self.forwards += max(1, len(seen))
            self.backwards_image += max(1, len(seen))
            gradient, velocity = with_momentum(finite(gradient), velocity, momentum)
            pixels = region.project(pixels + length * region.direction(gradient))
            self.pixels, self.texts = pixels, list(texts)
            self.step(value, consistency)
        return pixels


class _Silent(Watch):
    """Cancels with another watch and reports nothing: a search within a step of a schedule."""

    def __init__(self, watch: Watch):
        super().__init__(None, None)
        self._watch = watch

    @property
    def cancelled(self) -> bool:
        return self._watch.cancelled


def finite(gradient: torch.Tensor) -> torch.Tensor:
    """A gradient in which images with a number that is not finite stand still."""
    fine = gradient.flatten(1).isfinite().all(dim=1).view(-1, *[1] * (gradient.dim() - 1))
    return torch.where(fine, gradient, 0.0)


def with_momentum(gradient: torch.Tensor, velocity: torch.Tensor | None, momentum: float) -> tuple:
    if not momentum:
        return gradient, None
    scale = gradient.flatten(1).abs().mean(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    unit = gradient / scale.view(-1, *[1] * (gradient.dim() - 1))
    velocity = unit if velocity is None else momentum * velocity + unit
    return velocity, velocity
