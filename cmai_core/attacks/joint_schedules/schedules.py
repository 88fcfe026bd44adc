"""Schedules of joint attacks: in which order pixels and texts move, and what each looks at.

    separate      both against the clean other side, then put together (the "Sep" of Lu et al. 2023)
    sequential    texts against the clean images, then images against the attacked texts
    co-attack     as sequential, the image with an objective of its own (Zhang et al. 2022)
    sga           texts, images over several scales against all texts of the image, texts again (Lu et al. 2023)
    alternating   rounds of a few image steps and a token search each, until the steps are used up

Our own, `BestResponse`, has a file to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F

from cmai_core.attacks.engine.best import TIE, BestTracker
from cmai_core.attacks.engine.pair_evaluator import View
from cmai_core.attacks.joint_schedules.state import JointState
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.text_searches.search import BeamSearch, TextSearch
from cmai_core.errors import OptionError
from cmai_core.options import flag, number, strict_options, whole
from cmai_core.seeds import sample_generators


class Schedule(Protocol):
    """In which order pixels and texts move."""

    @property
    def image_steps(self) -> int: ...

    def run(self, state: JointState) -> None: ...

    def describe(self) -> dict: ...


@strict_options
@dataclass(frozen=True, kw_only=True)
class Steps:
    """What all schedules have.

    Attributes:
        text: the text search. steps, step_size: of the image; step_size None: 2.5·ε/steps. random_start: of the image.
    """

    text: TextSearch = field(default_factory=BeamSearch)
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
class Separate(Steps):
    """Images against the clean texts, texts against the clean images; then both together."""

    slug = "separate"

    def run(self, state: JointState) -> None:
        clean = list(state.text_region.clean)
        texts = state.search_texts(self.text, state.region.centre)
        pixels = state.ascend(self.begin(state), clean, self.steps, self.step_size)
        state.pixels, state.texts = pixels, texts


@strict_options
@dataclass(frozen=True, kw_only=True)
class Sequential(Steps):
    """Texts against the clean images, then images against the attacked texts.

    With an image objective of its own this is Co-Attack (Zhang et al. 2022, arXiv 2206.09391, §4.2): there the image
    moves away from its clean embedding and from the attacked text's (`Divergence`).

    Attributes:
        image_objective: what the image raises; None: the attack's objective.
    """

    slug = "sequential"
    image_objective: Objective | None = None

    def run(self, state: JointState) -> None:
        texts = state.search_texts(self.text, state.region.centre)
        with state.evaluator.under(self.image_objective):
            pixels = state.ascend(self.begin(state), texts, self.steps, self.step_size)
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
        """Return the views of one step; their noise belongs to (seed, id, step)."""
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
class SGA(Steps):
    """Set-level guidance attack (Lu et al. 2023, arXiv 2307.14061, §4.2).

    1. Each text is attacked against its clean image. 2. The image takes `steps` steps against all its attacked texts
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
        pixels = state.ascend(self.begin(state), texts, self.steps, self.step_size, views=self.scales)
        state.pixels = pixels
        if not state.stopped:
            texts = state.search_texts(self.text, pixels)
        state.texts = texts

    def describe(self) -> dict:
        return super().describe() | {"scales": list(self.scales.ratios), "noise": self.scales.noise}


@strict_options
@dataclass(frozen=True, kw_only=True)
class Alternating(Steps):
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
            pixels = state.ascend(pixels, texts, share, self.step_size, total=self.steps)
            state.judge(pixels, texts)
        if not state.stopped:
            texts = _better_texts(state, pixels, texts, state.search_texts(self.text, pixels))
        state.pixels, state.texts = pixels, texts

    def describe(self) -> dict:
        return super().describe() | {"rounds": self.rounds}


def _better_texts(state: JointState, pixels: torch.Tensor, old: list[str], new: list[str]) -> list[str]:
    """Return for each pair the better of two texts with the images as they are."""
    evaluator, rows = state.evaluator, range(len(old))
    images = evaluator.images(pixels)
    state.forwards += 1
    a, b = (evaluator.score(texts, rows, images, pixels=pixels) for texts in (old, new))
    better = BestTracker(None, a.value, a.success, TIE).improves(b.value, b.success).tolist()
    return [n if wins else o for o, n, wins in zip(old, new, better, strict=True)]
