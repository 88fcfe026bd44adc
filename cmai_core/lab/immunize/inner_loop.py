"""MBAT's inner loop live: what training perturbs a batch by, step by step, with both terms of α·L − β·S_c.

The problem is `training.inner.InnerProblem` itself, raised by `training.inner.perturb`; here it is only watched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.errors import ModelError, OptionError
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from torch import Tensor

    from cmai_core.training.batches import TrainingBatch
    from cmai_core.training.inner import InnerProblem
    from cmai_core.training.settings import Inner

RANGES = {"alpha": (0.0, 2.0), "beta": (0.0, 4.0), "epsilon": (0.5, 16.0), "steps": (1, 20)}
SCENES, BATCH = 32, 8
"""Validation scenes that the batch is drawn from, and its pairs."""
SIZE_OF_STEP = 1.5
"""ε times this over the number of steps is the size of one, as in the recipes."""
_SEED = 0


@dataclass(frozen=True)
class Asked:
    """The terms of a loop: α, β, ε in 1/255 (L∞) and the number of steps.

    Raises:
        OptionError: one outside its range, or both α and β at 0.
    """

    alpha: float = 1.0
    beta: float = 1.0
    epsilon: float = 2.0
    steps: int = 10

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:  # false for what is not a number
                raise OptionError(f"{name} is {getattr(self, name)}.", f"It lies between {low:g} and {high:g}.")
        if self.alpha == self.beta == 0:
            raise OptionError("α and β are both 0: nothing would be raised.", "Give one of them.")

    def inner(self) -> Inner:
        """Return the same as a training's settings: one loss, from the clean picture on, so that all of it is seen."""
        from cmai_core.training.settings import Inner

        epsilon = self.epsilon / 255
        return Inner(
            losses={"contrastive": 1.0},
            alpha=self.alpha,
            beta=self.beta,
            epsilon=epsilon,
            steps=self.steps,
            step_size=SIZE_OF_STEP * epsilon / self.steps,
            start="clean",
        )


@dataclass(frozen=True, eq=False)
class InnerLoop:
    """A loop as it went; values are means over the batch, after 0, 1, … steps.

    Attributes:
        task: α·L_task. consistency: β·S_c. value: their difference, what is raised. s_c: S_c itself.
        size: mean absolute change of a value, in 1/255.
        pictures: uint8 (steps + 1)×H×W×3, the first pair's. caption: its sentence.
        name, hash: of the model. heads: whether S_c is that of consistency heads.
    """

    asked: Asked
    task: tuple[float, ...]
    consistency: tuple[float, ...]
    value: tuple[float, ...]
    s_c: tuple[float, ...]
    size: tuple[float, ...]
    pictures: np.ndarray
    caption: str
    pairs: int
    name: str
    hash: str
    heads: bool


class Watched:
    """An inner problem whose objective is noted each time that it is asked for."""

    def __init__(
        self,
        problem: InnerProblem,
        clean: Tensor,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ):
        self.problem, self.clean = problem, clean
        self._progress, self._cancel = progress, cancel
        self.task: list[float] = []
        self.consistency: list[float] = []
        self.s_c: list[float] = []
        self.size: list[float] = []
        self.pictures: list[np.ndarray] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the problem's objective, N values, and note its terms."""
        import torch

        from cmai_core.training.losses import pairs_consistency

        if self._cancel is not None:
            self._cancel.check()
        value, problem = self.problem.objective(pixels), self.problem
        with torch.no_grad():
            score = pairs_consistency(problem.heads, problem.parts.vision(pixels), problem.scored)
            weighed = problem.inner.beta * torch.where(problem.own, score, 0.0)
            self.task.append(float((value.detach() + weighed).mean()))
            self.consistency.append(float(weighed.mean()))
            self.s_c.append(float(score.mean()))
            self.size.append(255 * float((pixels.detach() - self.clean).abs().mean()))
            first = (pixels[0].detach() * 255).round().clamp(0, 255).byte()
            self.pictures.append(first.permute(1, 2, 0).cpu().numpy())
        if self._progress is not None:
            steps = problem.inner.steps
            data = {"image": self.pictures[-1], "score": tuple(self.s_c), "steps": steps}
            done = len(self.task) - 1
            self._progress(Progress(done, steps, "Raising α·L − β·S_c on the batch", data))
        return value


def live_batch(scenes: int = SCENES, size: int = BATCH) -> TrainingBatch:
    """Draw the batch: the same each time, of Tabletop's validation scenes, made when first asked for."""
    from cmai_core.training.batches import draw
    from cmai_core.training.placement import validation_arrays
    from cmai_core.training.recipes import get_recipe

    arrays = validation_arrays(scenes)
    recipe = get_recipe("mbat", batch=size, nlvr_share=0.0)
    return draw(arrays, recipe, _SEED, 0)


def run_inner_loop(
    model: Any,
    asked: Asked,
    batch: TrainingBatch | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> InnerLoop:
    """Perturb a batch as a training would, and note every step.

    Args:
        model: a bundled one, whose vocabulary the batch is written in. batch: None: `live_batch`.
        progress: units are steps; told with `image`, `score`, `steps`. cancel: looked at before every step.

    Raises:
        ModelError: a model that cannot be trained here, or of another vocabulary. Cancelled: when told to stop.
    """
    import torch

    from cmai_core.models.evaluation_mode import evaluation_mode
    from cmai_core.training.batches import to_pixels
    from cmai_core.training.inner import InnerProblem, perturb
    from cmai_core.training.trainer import take_apart

    if progress is not None:
        progress(Progress(0, asked.steps, "Drawing the batch", {}))
    parts, inner = take_apart(model), asked.inner()
    if batch is None:
        batch = live_batch()
    batch = batch.to(torch.device(model.device))
    if int(batch.caption_ids.max()) >= parts.text.token_embedding.num_embeddings:
        raise ModelError("The batch is written in another vocabulary than this model's.", "Choose a bundled model.")
    with evaluation_mode(model):
        pixels = to_pixels(batch.images)
        rows = torch.arange(len(pixels), device=pixels.device)
        problem = InnerProblem(inner, parts, batch, rows, getattr(model, "heads", None))
        watched = Watched(problem, pixels, progress, cancel)
        found = perturb(pixels, watched, inner)
        with torch.no_grad():
            watched(found)
    value = tuple(t - c for t, c in zip(watched.task, watched.consistency, strict=True))
    return InnerLoop(
        asked,
        tuple(watched.task),
        tuple(watched.consistency),
        value,
        tuple(watched.s_c),
        tuple(watched.size),
        np.stack(watched.pictures),
        _caption(batch),
        len(pixels),
        model.name,
        model.hash,
        getattr(model, "heads", None) is not None,
    )


def _caption(batch: TrainingBatch) -> str:
    """Return the first pair's caption."""
    from tokenizers import Tokenizer

    from cmai_core.models.tokenizer import bundled_tokenizer_dir

    tokenizer = Tokenizer.from_file(str(bundled_tokenizer_dir() / "tokenizer.json"))
    return tokenizer.decode([int(token) for token in batch.caption_ids[0] if token], skip_special_tokens=True).strip()
