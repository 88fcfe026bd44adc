"""The state of a joint attack: pixels and texts, the best so far, passes spent; and the moves that schedules make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from cmai_core.attacks.engine.best import TIE, BestTracker
from cmai_core.attacks.engine.pair_evaluator import PairEvaluator, PairScores
from cmai_core.attacks.text_searches.search import TextProblem, TextSearch
from cmai_core.attacks.threats.regions.region import Region
from cmai_core.attacks.threats.text import TextRegion
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators


class JointState:
    """Where a joint attack stands: pixels and texts as they are, the best of each image so far, and the counts.

    Args:
        evaluator: bound to the pairs (N images, T texts). region: of pixels. text_region: of texts.
        clean: scores of the clean pairs. total: image steps, for progress.

    Attributes:
        pixels: N×3×H×W. texts: T. best, best_texts: for each image with its texts together, the best so far: most
            successes among its pairs first, then the mean objective.
        queries, backwards: texts scored and gradients in the text taken for each pair (T). forwards, backwards_image:
            image passes and image gradients spent on each image (N).
        memory: proposals that one text search leaves for the next.
    """

    def __init__(
        self,
        evaluator: PairEvaluator,
        region: Region,
        text_region: TextRegion,
        clean: PairScores,
        ids: Sequence[str],
        seed: int,
        watch: Watch,
        total: int,
    ):
        self.evaluator, self.region, self.text_region, self.clean = evaluator, region, text_region, clean
        self.ids, self.seed, self.watch, self.total = ids, seed, watch, total
        self.pixels, self.texts = region.centre, list(text_region.clean)
        self.best = BestTracker(region.centre.clone(), *self.worth(clean), TIE)
        self.best_texts = list(self.texts)
        self.objective_trace, self.consistency_trace = [clean.value], [clean.consistency]
        self.queries = torch.zeros(len(self.texts), dtype=torch.int64)
        self.backwards = self.queries.clone()
        self.forwards = torch.zeros(len(ids), dtype=torch.int64)
        self.backwards_image = self.forwards.clone()
        self.memory: dict = {}
        self.done, self.cancelled = 0, False

    def worth(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return for each image the mean objective of its pairs, and how many of them succeed (float64, int64 N)."""
        owner = self.evaluator.owner
        zeros = torch.zeros(len(self.ids), dtype=torch.float64, device=owner.device)
        pairs = zeros.index_add(0, owner, torch.ones_like(owner, dtype=torch.float64)).clamp(min=1)
        mean = zeros.index_add(0, owner, scores.value.double()) / pairs
        return mean, zeros.index_add(0, owner, scores.success.double()).long()

    def judge(self, pixels: torch.Tensor, texts: Sequence[str]) -> PairScores:
        """Score images with texts, and keep each image with its texts where they are the best so far."""
        evaluator = self.evaluator
        images = evaluator.images(pixels)
        self.forwards += 1
        scores = evaluator.score(texts, range(len(texts)), images, pixels=pixels)
        self.keep(pixels, texts, scores)
        return scores

    def keep(self, pixels: torch.Tensor, texts: Sequence[str], scores: PairScores) -> None:
        """Keep each image with its texts where their scores are the best so far."""
        taken = self.best.offer(pixels, *self.worth(scores)).tolist()
        owner = self.evaluator.owner.tolist()
        self.best_texts = [t if taken[o] else b for t, b, o in zip(texts, self.best_texts, owner, strict=True)]

    def step(self, value: torch.Tensor, consistency: torch.Tensor) -> None:
        """Enter an image step in the traces and send progress."""
        self.done += 1
        self.objective_trace.append(value)
        self.consistency_trace.append(consistency)
        self.watch.report(self.done, self.total, "attacking both", self.data, force=self.done == self.total)
        self.watch.pace(self.pixels.device)

    def data(self) -> dict:
        """Return what progress messages hold."""
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
        """Whether somebody cancelled; it is remembered."""
        self.cancelled = self.cancelled or self.watch.cancelled
        return self.cancelled

    def search_texts(self, search: TextSearch, pixels: torch.Tensor, start: Sequence[str] | None = None) -> list[str]:
        """Return the texts that a search finds against given images, from given texts (the clean ones when None)."""
        evaluator = self.evaluator
        images = evaluator.images(pixels)
        self.forwards += 1
        start = list(self.text_region.clean if start is None else start)
        scores = evaluator.score(start, range(len(start)), images, pixels=pixels)
        names = evaluator.pairs.ids
        problem = TextProblem(self.text_region, names, evaluator, images, pixels, start, scores, self.memory)
        outcome = search.run(problem, seed=self.seed, watch=_Inner(self, pixels))
        self.queries += outcome.queries
        self.backwards += outcome.backwards
        self.cancelled = self.cancelled or outcome.cancelled
        return outcome.texts

    def random_start(self) -> torch.Tensor:
        """Return a random image of the region for each clean one."""
        return self.region.random_start(sample_generators(self.seed, self.ids, 0))

    def ascend(
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
        """Take `steps` of projected gradient ascent with the texts fixed; return the last iterate, as the papers do.

        Args:
            step_size: None: 2.5·ε/total. total: steps of the whole attack (None: `steps`).
            views: draws maps of the pixels, over which the gradient is averaged (`Scales`).
        """
        evaluator, region = self.evaluator, self.region
        embedded, velocity = evaluator.encode(texts), None
        length = 2.5 * region.epsilon / (total or steps) if step_size is None else step_size
        for _ in range(steps):
            if self.stopped:
                break
            seen = () if views is None else views.draw(self.seed, self.ids, self.done)
            value, consistency, gradient = evaluator.value_and_grad(pixels, embedded, texts, seen)
            self.forwards += max(1, len(seen))
            self.backwards_image += max(1, len(seen))
            gradient, velocity = with_momentum(finite(gradient), velocity, momentum)
            pixels = region.project(pixels + length * region.steepest_step(gradient, pixels))
            self.pixels, self.texts = pixels, list(texts)
            self.step(value, consistency)
        return pixels


class _Inner(Watch):
    """The watch of a text search within an attack: its messages show its sentences at the attack's own progress."""

    def __init__(self, state: JointState, pixels: torch.Tensor):
        super().__init__(None, None)
        self._state, self._pixels = state, pixels

    @property
    def cancelled(self) -> bool:
        return self._state.watch.cancelled

    def report(
        self, done: int, total: int, stage: str, data: Callable[[], Mapping[str, Any]], *, force: bool = False
    ) -> None:
        state = self._state

        def shown() -> dict:
            inner = data()
            words = {"texts": inner["texts"], "trying": inner["trying"]}
            return state.data() | {"pixels": self._pixels} | words

        state.watch.report(state.done, state.total, stage, shown)


def finite(gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient with 0 for images that have a number in it that is not finite."""
    fine = gradient.flatten(1).isfinite().all(dim=1).view(-1, *[1] * (gradient.dim() - 1))
    return torch.where(fine, gradient, 0.0)


def with_momentum(gradient: torch.Tensor, velocity: torch.Tensor | None, momentum: float) -> tuple:
    """Return the direction of a step and the velocity to go on with, gradients scaled to a mean size of 1."""
    if not momentum:
        return gradient, None
    scale = gradient.flatten(1).abs().mean(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    unit = gradient / scale.view(-1, *[1] * (gradient.dim() - 1))
    velocity = unit if velocity is None else momentum * velocity + unit
    return velocity, velocity
