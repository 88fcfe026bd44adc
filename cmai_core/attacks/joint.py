"""Joint attacks: an image and its texts attacked together. Threat on pixels × threat on text × objective × schedule.

A schedule says in which order pixels and texts move and what each looks at:

    separate      both against the clean other side, then put together (the "Sep" of Lu et al. 2023)
    sequential    texts against the clean images, then images against the attacked texts
    co-attack     as sequential, the image with an objective of its own (Zhang et al. 2022)
    sga           texts, images over several scales against all texts of the image, texts again (Lu et al. 2023)
    alternating   rounds of a few image steps and a token search each, until the steps are used up
    best-response the image climbs against the worst allowed texts as they change (our own; see `BestResponse`)

The unit is the pair (an image with one text). An image with several texts moves along the mean of its pairs' gradients.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from cmai_core.attacks.evaluator import at_rest
from cmai_core.attacks.features import take_rows
from cmai_core.attacks.objectives import Objective
from cmai_core.attacks.options import flag, number, strict_options, whole
from cmai_core.attacks.pair_evaluator import PairEvaluator, PairScores, View
from cmai_core.attacks.result import round_to_8bit
from cmai_core.attacks.seeds import resolve_seed, sample_generators
from cmai_core.attacks.success import Criterion, Raised
from cmai_core.attacks.text_attack import check_batch, check_parts, region_of, text_fields
from cmai_core.attacks.text_objectives import PairConsistency
from cmai_core.attacks.text_result import JointResult
from cmai_core.attacks.text_search import BeamSearch, TextOutcome, TextProblem, better, remembered
from cmai_core.attacks.text_threat import TextRegion, TextThreat
from cmai_core.attacks.threat import Region, ThreatModel
from cmai_core.attacks.watch import Watch
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.progress import CancelToken, ProgressCallback


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
            gradient, velocity = _with_momentum(finite(gradient), velocity, momentum)
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


def _with_momentum(gradient: torch.Tensor, velocity: torch.Tensor | None, momentum: float) -> tuple:
    if not momentum:
        return gradient, None
    scale = gradient.flatten(1).abs().mean(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    unit = gradient / scale.view(-1, *[1] * (gradient.dim() - 1))
    velocity = unit if velocity is None else momentum * velocity + unit
    return velocity, velocity


class Schedule(Protocol):
    """In which order pixels and texts move."""

    @property
    def image_steps(self) -> int: ...

    def run(self, state: JointState) -> None: ...

    def describe(self) -> dict: ...


@strict_options
@dataclass(frozen=True, kw_only=True)
class _Steps:
    """What all schedules have.

    Attributes:
        text: the text search. steps, step_size: of the image; step_size None: 2.5·ε/steps. random_start: of the image.
    """

    text: Any = field(default_factory=BeamSearch)
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, above_low=True)
        flag("random_start", self.random_start)

    @property
    def image_steps(self) -> int:
        return self.steps

    def describe(self) -> dict:
        names = ("steps", "step_size", "random_start")
        return {"schedule": self.slug, "text_search": self.text.describe()} | {n: getattr(self, n) for n in names}

    def begin(self, state: JointState) -> torch.Tensor:
        return state.random_start() if self.random_start else state.region.centre


@strict_options
@dataclass(frozen=True, kw_only=True)
class Separate(_Steps):
    """Images against the clean texts, texts against the clean images; then both together."""

    slug = "separate"

    def run(self, state: JointState) -> None:
        clean = list(state.text_region.clean)
        texts = state.search_texts(self.text, state.region.centre)
        pixels = state.climb_images(self.begin(state), clean, self.steps, self.step_size)
        state.pixels, state.texts = pixels, texts


@strict_options
@dataclass(frozen=True, kw_only=True)
class Sequential(_Steps):
    """Texts against the clean images, then images against the attacked texts.

    With an image objective of its own this is Co-Attack (Zhang et al. 2022, arXiv 2206.09391, §4.2): there the image
    moves away from its clean embedding and from the attacked text's (`Divergence`).

    Attributes:
        image_objective: what the image climbs on; None: the attack's objective.
    """

    slug = "sequential"
    image_objective: Objective | None = None

    def run(self, state: JointState) -> None:
        texts = state.search_texts(self.text, state.region.centre)
        with state.evaluator.climbing_on(self.image_objective):
            pixels = state.climb_images(self.begin(state), texts, self.steps, self.step_size)
        state.pixels, state.texts = pixels, texts


@strict_options
@dataclass(frozen=True, kw_only=True)
class Scales:
    """SGA's augmentation: the image with noise, at several sizes, resized back to its own (Lu et al. 2023, §4.2).

    Attributes:
        ratios: sizes relative to the image. noise: standard deviation of the Gaussian noise added before resizing.
    """

    ratios: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    noise: float = 0.05

    def __post_init__(self) -> None:
        if not self.ratios:
            raise OptionError("There is no scale.", "Accepted: at least one ratio.")
        for ratio in self.ratios:
            number("ratios", ratio, 0.0, above_low=True)
        number("noise", self.noise, 0.0)

    def draw(self, seed: int, ids: Sequence[str], step: int) -> list[View]:
        """The views of one step; their noise belongs to (seed, id, step)."""
        generators = sample_generators(seed, ids, step + 1)
        return [self._view(ratio, generators) for ratio in self.ratios]

    def _view(self, ratio: float, generators: list[torch.Generator]) -> View:
        def view(pixels: torch.Tensor) -> torch.Tensor:
            if self.noise:
                shape, dtype = pixels.shape[1:], pixels.dtype
                drawn = torch.stack([torch.randn(shape, generator=g, dtype=dtype) for g in generators])
                pixels = (pixels + self.noise * drawn.to(pixels.device)).clamp(0, 1)
            if ratio == 1:
                return pixels
            height, width = pixels.shape[-2:]
            size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
            scaled = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)
            back = F.interpolate(scaled, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
            return back.clamp(0, 1)

        return view


@strict_options
@dataclass(frozen=True, kw_only=True)
class SGA(_Steps):
    """Set-level guidance attack (Lu et al. 2023, arXiv 2307.14061, §4.2).

    1. Each text is attacked against its clean image. 2. The image climbs `steps` steps against all its attacked texts
    at several scales (`Scales`). 3. Each clean text is attacked again, against the attacked image. Texts of one image
    form its set: give the batch several texts an image.

    Attributes:
        scales: the augmentation.
    """

    slug = "sga"
    scales: Scales = field(default_factory=Scales)

    @property
    def image_steps(self) -> int:
        return self.steps

    def run(self, state: JointState) -> None:
        texts = state.search_texts(self.text, state.region.centre)
        pixels = state.climb_images(self.begin(state), texts, self.steps, self.step_size, views=self.scales)
        state.pixels = pixels
        if not state.stopped:
            texts = state.search_texts(self.text, pixels)
        state.texts = texts

    def describe(self) -> dict:
        return super().describe() | {"scales": list(self.scales.ratios), "noise": self.scales.noise}


@strict_options
@dataclass(frozen=True, kw_only=True)
class Alternating(_Steps):
    """Rounds of a token search and a share of the image steps, each from where the other left off.

    Texts are searched afresh from the clean ones in each round (a budget is counted from there), and kept only where
    they are better than those before.

    Attributes:
        rounds: how many; the image steps are divided among them.
    """

    slug = "alternating"
    rounds: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("rounds", self.rounds, 1)
        if self.rounds > self.steps:
            raise OptionError(f"rounds={self.rounds} for {self.steps} steps.", "Accepted: at most one round a step.")

    def run(self, state: JointState) -> None:
        pixels, texts = self.begin(state), list(state.text_region.clean)
        done = 0
        for number_ in range(self.rounds):
            if state.stopped:
                break
            found = state.search_texts(self.text, pixels)
            texts = _better_texts(state, pixels, texts, found)
            share = self.steps * (number_ + 1) // self.rounds - done
            done += share
            pixels = state.climb_images(pixels, texts, share, self.step_size, total=self.steps)
            state.judge(pixels, texts)
        if not state.stopped:
            texts = _better_texts(state, pixels, texts, state.search_texts(self.text, pixels))
        state.pixels, state.texts = pixels, texts

    def describe(self) -> dict:
        return super().describe() | {"rounds": self.rounds}


def _better_texts(state: JointState, pixels: torch.Tensor, old: list[str], new: list[str]) -> list[str]:
    """For each pair the better of two texts with the images as they are."""
    evaluator, rows = state.evaluator, range(len(old))
    images = evaluator.images(pixels)
    state.forwards += 1
    a, b = (evaluator.score(texts, rows, images, pixels=pixels) for texts in (old, new))
    return [
        n if better(float(b.value[k]), bool(b.success[k]), float(a.value[k]), bool(a.success[k])) else o
        for k, (o, n) in enumerate(zip(old, new, strict=True))
    ]


@strict_options
@dataclass(frozen=True, kw_only=True)
class BestResponse(_Steps):
    """Our own joint search: the image climbs while its texts answer every step (max over texts inside max over pixels).

    SGA fixes the texts before it moves the image, and moves them once more when the image is done; the pair it returns
    was never optimised together. Here the candidates of every text are encoded once, and since an objective on the two
    embeddings costs nothing more than a product, the best text is chosen anew at *every* image step; by Danskin's
    theorem its gradient is a gradient of max over texts. To begin with, the gradient is that of a soft maximum over the
    candidates (temperature falling to 0), so that the image is not bound to the text that happens to be best on the
    clean image. Texts of more than one edit grow by rounds: `refresh` times in the climb the search is run again from
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
    proposer: Any = None
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
            value, consistency, gradient, texts, scores = pools.climb(pixels, max(0.0, heat))
            state.keep(pixels, texts, scores)
            state.forwards += 1
            state.backwards_image += 1
            gradient, velocity = _with_momentum(finite(gradient), velocity, self.momentum)
            share = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / self.steps))).item()
            length = largest * max(share, 0.02)
            pixels = region.project(pixels + length * region.direction(gradient))
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
        """Adds the allowed edits of the texts that are best with these images."""
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
        """Pools that are too large keep their clean text and the candidates that are best with these images."""
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
        """For each pair the best text of its pool with these images."""
        state = self.state
        images = state.evaluator.images(pixels)
        state.forwards += 1
        scores = state.evaluator.score(self.flat, self.rows, images, pixels=pixels)
        state.queries += torch.bincount(torch.tensor(self.rows), minlength=len(self.texts))
        return [self.flat[k] for k in chosen(scores, self.rows)]

    def climb(self, pixels: torch.Tensor, heat: float) -> tuple:
        """Value, S_c, image gradient, best texts and their scores, from one image pass."""
        state = self.state

        def weigh(scores: PairScores, own: torch.Tensor) -> torch.Tensor:
            rows = self.index[own]
            return _soft(scores.value, rows, heat) if heat > 0 else _hard(scores, rows)

        scores, gradient = state.evaluator.climb_flat(self.flat, self.index, self.embedded, pixels, weigh)
        state.queries += torch.bincount(self.index.cpu(), minlength=len(self.texts))
        places = chosen(scores, self.rows)
        own = take_rows(scores, torch.tensor(places, device=pixels.device))
        return own.value, own.consistency, gradient, [self.flat[k] for k in places], own


def chosen(scores: PairScores, rows: Sequence[int]) -> list[int]:
    """For each pair, by rising row, the place of its best candidate; candidate k is one of pair `rows[k]`."""
    values, wins = scores.value.tolist(), scores.success.tolist()
    found: dict[int, int] = {}
    for k, row in enumerate(rows):
        best = found.get(row)
        if best is None or better(values[k], wins[k], values[best], wins[best]):
            found[row] = k
    return [found[row] for row in sorted(found)]


def _hard(scores: PairScores, rows: torch.Tensor) -> torch.Tensor:
    """1 for each pair's best candidate, 0 for the others."""
    weights = torch.zeros_like(scores.value)
    weights[chosen(scores, rows.tolist())] = 1.0
    return weights


def _soft(value: torch.Tensor, rows: torch.Tensor, heat: float) -> torch.Tensor:
    """Weights of a soft maximum over each pair's candidates: temperature = heat × their standard deviation."""
    weights = torch.zeros_like(value)
    for row in rows.unique().tolist():
        own = (rows == row).nonzero()[:, 0]
        spread = value[own].std(unbiased=False).clamp(min=1e-12)
        weights[own] = ((value[own] - value[own].max()) / (heat * spread)).softmax(dim=0)
    return weights


@strict_options
@dataclass(frozen=True, kw_only=True)
class JointAttack:
    """Attacks images and their texts together. Calling it attacks a batch.

    Attributes:
        threat: on pixels. text_threat: on texts. objective: what both raise; it must follow the text.
        schedule: in which order they move. success: when a pair counts as fooled (default: its objective rose).
        keep: "best": for each image with its texts the best met (most pairs won, then the mean objective; the
            schedule's own end and the clean pair among them); "last": what the schedule ends with, as published code
            returns it.
        name: for reports.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    text_threat: TextThreat = field(default_factory=TextThreat)
    objective: Objective = field(default_factory=lambda: -PairConsistency())
    schedule: Any = field(default_factory=SGA)
    success: Criterion = field(default_factory=Raised)
    keep: str = "best"
    name: str = "joint attack"

    def __post_init__(self) -> None:
        check_parts(self.objective, self.success, self.schedule, self.text_threat)
        if not isinstance(self.threat, ThreatModel):
            raise OptionError(f"threat={self.threat!r} is not accepted.", "Accepted: a ThreatModel.")
        if self.keep not in ("best", "last"):
            raise OptionError(f"keep={self.keep!r} is not known.", "Accepted: best, last.")

    def describe(self) -> dict:
        """Plain values that name the attack in reports."""
        parts = {"name": self.name, "objective": self.objective.describe(), "success": self.success.describe()}
        parts |= self.threat.describe() | {"text_threat": self.text_threat.describe(), "keep": self.keep}
        return parts | self.schedule.describe()

    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        progress_interval: float = 0.05,
    ) -> JointResult:
        """Attacks every image and every text of the batch; arguments and promises as in `TextAttack` and `Attack`.

        Progress counts image steps; its data hold `pixels` and `texts` as they are.
        """
        seed = resolve_seed(seed, generator)
        check_batch(batch)
        watch = Watch(progress, cancel, progress_interval)
        with at_rest(model):
            evaluator = PairEvaluator(model, batch, self.objective, self.success)
            region, texts = self.threat.around(evaluator.pixels), region_of(self.text_threat, evaluator)
            start = time.perf_counter()
            images, rows = evaluator.images(evaluator.pixels), range(len(batch.texts))
            clean = evaluator.score(batch.texts, rows, images, pixels=evaluator.pixels)
            evaluator.clean_value = clean.value
            clean = evaluator.score(batch.texts, rows, images, pixels=evaluator.pixels)
            total = self.schedule.image_steps
            state = JointState(evaluator, region, texts, clean, batch.ids, seed, watch, total)
            watch.report(0, total, "attacking both", state.data, force=True)
            if not state.stopped:
                self.schedule.run(state)
            pixels, edited = state.pixels, state.texts
            if self.keep == "best":
                state.judge(pixels, edited)
                pixels, edited = state.best_pixels, state.best_texts
            if evaluator.pixels.device.type == "cuda":
                torch.cuda.synchronize(evaluator.pixels.device)
            seconds = time.perf_counter() - start
            rounded = round_to_8bit(pixels)
            final, final_8bit = (
                evaluator.score(edited, rows, evaluator.images(p), pixels=p) for p in (pixels, rounded)
            )
        state.objective_trace.append(final.value)
        state.consistency_trace.append(final.consistency)
        outcome = TextOutcome(
            list(edited),
            final.value,
            final.consistency,
            final.success,
            state.objective_trace,
            state.consistency_trace,
            state.queries,
            state.backwards,
            state.done,
            state.cancelled,
        )
        delta, delta_8bit = ((p - region.centre).flatten(1) for p in (pixels, rounded))
        tensors = {
            "pixels": pixels,
            "success_8bit": final_8bit.success,
            "objective_8bit": final_8bit.value,
            "consistency_8bit": final_8bit.consistency,
            "linf": delta.abs().amax(dim=1),
            "l2": delta.norm(dim=1),
            "linf_8bit": delta_8bit.abs().amax(dim=1),
            "l2_8bit": delta_8bit.norm(dim=1),
            "forwards": state.forwards,
            "backwards_image": state.backwards_image,
        }
        return JointResult(
            **text_fields(texts, evaluator, clean, outcome),
            **{name: tensor.detach().cpu() for name, tensor in tensors.items()},
            seconds=seconds,
            seed=seed,
            attack=self.describe(),
        )
