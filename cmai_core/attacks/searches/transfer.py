"""Transfer: pictures made on a surrogate, shown to the model under attack, which is asked nothing meanwhile.

Source: Papernot et al. 2017, "Practical black-box attacks against machine learning", §3 (arXiv 1602.02697).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from cmai_core.attacks.engine.evaluator import Evaluation, Evaluator
from cmai_core.attacks.engine.problem import Outcome, Problem, Search
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.errors import OptionError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.options import strict_options
from cmai_core.reporting import Watch


@strict_options
@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Runs a search on a surrogate. Traces and counts are the surrogate's; the final scores the attacked model's.

    Attributes:
        surrogate: a model with `image_features(pixels)` and, where texts are used, `encode_text(texts)`. Pixels are
            resized on their way into it where its `image_size` is another.
        search: how. objective: what it raises on the surrogate.
    """

    surrogate: Any
    search: Search
    objective: Objective

    def __post_init__(self) -> None:
        if not callable(getattr(self.surrogate, "image_features", None)):
            raise OptionError(
                f"surrogate={self.surrogate!r} is not accepted.", "Accepted: a model with image_features(pixels)."
            )
        if not callable(getattr(self.search, "run", None)):
            raise OptionError(
                f"search={self.search!r} is not accepted.", "Accepted: a search, such as GradientSearch()."
            )
        if not isinstance(self.objective, Objective):
            raise OptionError(f"objective={self.objective!r} is not accepted.", "Accepted: an Objective.")

    @property
    def micro_batch(self) -> int | None:
        return getattr(self.search, "micro_batch", None)

    def describe(self) -> dict:
        identity = {name: getattr(self.surrogate, name, None) for name in ("spec", "hash")}
        return {"surrogate": identity, "surrogate_objective": self.objective.describe()} | self.search.describe()

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        known = problem.evaluator
        with evaluation_mode(self.surrogate):
            model, shared = _Resizing(self.surrogate), {}
            bound = self.objective.bind(model, known.batch, shared)
            evaluator = Evaluator(model, bound, None, None, self.micro_batch, batch=known.batch, shared=shared)
            if known.rows is not None:
                evaluator = evaluator.select(known.rows)
            clean = evaluator.score(problem.region.centre)
            evaluator.clean_value = clean.value
            start = Evaluation(clean.value, None, torch.zeros_like(clean.value, dtype=torch.bool))
            return self.search.run(Problem(problem.region, problem.ids, evaluator, start), seed=seed, watch=watch)


class _Resizing:
    """A model that takes pictures of another size."""

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def image_features(self, pixels: torch.Tensor) -> Any:
        size = getattr(self._model, "image_size", pixels.shape[-1])
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
        return self._model.image_features(pixels)
