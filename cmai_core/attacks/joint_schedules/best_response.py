"""This project's joint search: the image moves against the worst allowed texts, chosen anew at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import better
from cmai_core.attacks.engine.pair_evaluator import PairScores
from cmai_core.attacks.joint_schedules.schedules import Steps
from cmai_core.attacks.joint_schedules.state import JointState, finite, with_momentum
from cmai_core.attacks.text_searches.proposers import Proposer
from cmai_core.attacks.text_searches.search import TextProblem, remembered
from cmai_core.errors import OptionError
from cmai_core.models.features import take_rows
from cmai_core.options import number, strict_options, whole


@strict_options
@dataclass(frozen=True, kw_only=True)
class BestResponse(Steps):
    """A joint search of this project: texts answer every image step (max over texts inside max over pixels).

    SGA fixes the texts before it moves the image, and moves them once more when the image is done; the pair it returns
    was never optimised together. Here the candidates of every text are encoded once, and since an objective on the two
    embeddings costs nothing more than a product, the best text is chosen anew at *every* image step; by Danskin's
    theorem its gradient is a gradient of max over texts. To begin with, the gradient is that of a soft maximum over the
    candidates (temperature falling to 0), so that the image is not bound to the text that happens to be best on the
    clean image. Texts of more than one edit grow by rounds: `refresh` times on the way the search is run again from
    the texts that are best now, and its candidates join. Pixels move with momentum and a step that falls from
    ε/2 as a cosine; the best pair met is kept.

    At equal cost to SGA (5 scales × 10 steps = 50 image gradients) this takes 50 steps.

    Attributes:
        proposer: candidates; None: the text search's. pool: most candidates kept for each text.
        refresh: how often the pool grows. temperature: of the soft maximum at the start, as a share of the spread of
            the candidates' objectives. momentum: of the pixels.
    """

    slug = "best-response"
    steps: int = 50
    proposer: Proposer | None = None
    pool: int = 256
    refresh: int = 2
    temperature: float = 0.5
    momentum: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("pool", self.pool, 1)
        whole("refresh", self.refresh, 0)
        number("temperature", self.temperature, 0.0)
        number("momentum", self.momentum, 0.0, 1.0)
        if self.proposer is None and getattr(self.text, "proposer", None) is None:
            raise OptionError("There is no proposer.", "Give proposer=…, or a text search that has one.")

    def describe(self) -> dict:
        names = ("pool", "refresh", "temperature", "momentum")
        proposer = self.proposer or self.text.proposer
        return super().describe() | {"proposer": proposer.describe()} | {n: getattr(self, n) for n in names}

    def run(self, state: JointState) -> None:
        region = state.region
        pools = _Pools(state, self)
        pixels, velocity = self.begin(state), None
        largest = region.epsilon / 2 if self.step_size is None else self.step_size
        growth = {self.steps * (k + 1) // (self.refresh + 1) for k in range(self.refresh)}
        for step in range(self.steps):
            if state.stopped:
                break
            if step in growth:
                pools.grow(pixels)
            heat = self.temperature * (1 - step / max(1, self.steps // 2))
            value, consistency, gradient, texts, scores = pools.value_and_grad(pixels, max(0.0, heat))
            state.keep(pixels, texts, scores)
            state.forwards += 1
            state.backwards_image += 1
            gradient, velocity = with_momentum(finite(gradient), velocity, self.momentum)
            share = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / self.steps))).item()
            length = largest * max(share, 0.02)
            pixels = region.project(pixels + length * region.steepest_step(gradient, pixels))
            state.pixels, state.texts = pixels, texts
            state.step(value, consistency)
        if not state.stopped:
            pools.grow(pixels)
        state.texts = pools.best(pixels)
        state.pixels = pixels


class _Pools:
    """Candidate texts of each pair, with their embeddings."""

    def __init__(self, state: JointState, search: BestResponse):
        self.state, self.search = state, search
        self.proposer = search.proposer or search.text.proposer
        self.texts: list[list[str]] = [[text] for text in state.text_region.clean]
        self.grow(state.region.centre)

    def grow(self, pixels: torch.Tensor) -> None:
        """Add the allowed edits of the texts that are best with these images."""
        state, region = self.state, self.state.text_region
        current = self.best(pixels) if any(len(pool) > 1 for pool in self.texts) else list(region.clean)
        rows = [row for row in range(len(current)) if region.budget[row]]
        problem = TextProblem(
            region, state.evaluator.pairs.ids, state.evaluator, None, pixels, current, state.clean, state.memory
        )
        sources = [(row, text) for row in rows for text in dict.fromkeys((current[row], region.clean[row]))]
        found = remembered(
            self.proposer,
            problem,
            [text for _, text in sources],
            [None] * len(sources),
            [row for row, _ in sources],
            problem.randoms(state.seed),
        )
        for (row, _), candidates in zip(sources, found, strict=True):
            known = set(self.texts[row])
            new = [t for t in dict.fromkeys(c.text for c in candidates) if t not in known]
            fine = region.filter([row] * len(new), new)
            self.texts[row] += [t for t, ok in zip(new, fine, strict=True) if ok]
        self._narrow(pixels)
        self.rows = [row for row, pool in enumerate(self.texts) for _ in pool]
        self.flat = [text for pool in self.texts for text in pool]
        self.index = torch.tensor(self.rows, device=state.evaluator.device)
        self.embedded = state.evaluator.encode(self.flat)

    def _narrow(self, pixels: torch.Tensor) -> None:
        """Cut pools that are too large down to their clean text and the candidates that are best with these images."""
        most = self.search.pool
        wide = [row for row, pool in enumerate(self.texts) if len(pool) > most]
        if not wide:
            return
        state = self.state
        images = state.evaluator.images(pixels)
        for row in wide:
            pool = self.texts[row]
            scores = state.evaluator.score(pool, [row] * len(pool), images, pixels=pixels, success=False)
            state.queries[row] += len(pool)
            order = sorted(range(1, len(pool)), key=lambda k: (-float(scores.value[k]), k))[: most - 1]
            self.texts[row] = [pool[0], *(pool[k] for k in sorted(order))]

    def best(self, pixels: torch.Tensor) -> list[str]:
        """Return for each pair the best text of its pool with these images."""
        state = self.state
        images = state.evaluator.images(pixels)
        state.forwards += 1
        scores = state.evaluator.score(self.flat, self.rows, images, pixels=pixels)
        state.queries += torch.bincount(torch.tensor(self.rows), minlength=len(self.texts))
        return [self.flat[k] for k in chosen(scores, self.rows)]

    def value_and_grad(self, pixels: torch.Tensor, heat: float) -> tuple:
        """Return value, S_c, image gradient, best texts and their scores, from one image pass."""
        state = self.state

        def weigh(scores: PairScores, own: torch.Tensor) -> torch.Tensor:
            rows = self.index[own]
            return _soft(scores.value, rows, heat) if heat > 0 else _hard(scores, rows)

        scores, gradient = state.evaluator.candidates_value_and_grad(
            self.flat, self.index, self.embedded, pixels, weigh
        )
        state.queries += torch.bincount(self.index.cpu(), minlength=len(self.texts))
        places = chosen(scores, self.rows)
        own = take_rows(scores, torch.tensor(places, device=pixels.device))
        return own.value, own.consistency, gradient, [self.flat[k] for k in places], own


def chosen(scores: PairScores, rows: Sequence[int]) -> list[int]:
    """Return for each pair, by rising row, the place of its best candidate; candidate k is one of pair `rows[k]`."""
    values, wins = scores.value.tolist(), scores.success.tolist()
    found: dict[int, int] = {}
    for k, row in enumerate(rows):
        best = found.get(row)
        if best is None or better(values[k], wins[k], values[best], wins[best]):
            found[row] = k
    return [found[row] for row in sorted(found)]


def _hard(scores: PairScores, rows: torch.Tensor) -> torch.Tensor:
    """Return 1 for each pair's best candidate, 0 for the others."""
    weights = torch.zeros_like(scores.value)
    weights[chosen(scores, rows.tolist())] = 1.0
    return weights


def _soft(value: torch.Tensor, rows: torch.Tensor, heat: float) -> torch.Tensor:
    """Return weights of a soft maximum over each pair's candidates: temperature = heat × their standard deviation."""
    weights = torch.zeros_like(value)
    for row in rows.unique().tolist():
        own = (rows == row).nonzero()[:, 0]
        spread = value[own].std(unbiased=False).clamp(min=1e-12)
        weights[own] = ((value[own] - value[own].max()) / (heat * spread)).softmax(dim=0)
    return weights
