"""How one model's explanation of a pair is made: maps with their checks, heads, words, and the causal trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cmai_core import explanations as explain
from cmai_core.errors import CmaiError, DataError, ModelError
from cmai_core.explanations.causal import answer_gap, token_sets, trace_pair, trace_words
from cmai_core.explanations.faithfulness import to_cells
from cmai_core.explanations.result import rank_correlation
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.explanation import MapCheck, RoleExplanation, Sides, Wanted
from cmai_core.lab.pair_in_context import PairAmong
from cmai_core.lab.run import with_sentence
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.tasks import get_task

if TYPE_CHECKING:
    from cmai_core.explanations.causal import CausalTrace
    from cmai_core.explanations.result import Explanation
    from cmai_core.models.protocol import VisionLanguageModel

TRACED = ("retrieval", "zero-shot", "vqa")
"""Tasks whose answers are traced: a choice among options about one picture."""

MOST_PASSES = 8000
"""Of a trace in the lab: enough for ViT-B/16, too few for larger towers."""


@dataclass
class Course:
    """How far the work is; stops it when cancelled."""

    total: int
    progress: ProgressCallback | None
    cancel: CancelToken | None
    done: int = 0

    def tell(self, words: str) -> None:
        """Say what comes next."""
        if self.cancel is not None:
            self.cancel.check()
        if self.progress is not None:
            self.progress(Progress(min(self.done, self.total), self.total, words, {}))
        self.done += 1


def explain_role(
    experiment: Experiment, role: str, sides: Sides, model: VisionLanguageModel, wanted: Wanted, course: Course
) -> RoleExplanation:
    """Make everything that the page shows of one model."""
    caption = experiment.caption
    pixels = model.preprocess([sides.clean, sides.adversarial, _noisy(sides.clean, sides.adversarial)])
    texts = [caption, sides.attacked or caption, caption]
    found: dict[str, dict[str, Any]] = {name: {} for name in _BY_METHOD}
    for method in wanted.methods:
        course.tell(f"{method.capitalize()}, model {role}")
        _one_method(method, model, pixels, texts, sides, wanted, experiment.seed, role, course, found)
    missing: dict[str, str] = found["missing"]
    course.tell(f"Words, model {role}")
    words = _tried(
        missing, "words", lambda: explain.token_attribution(model, pixels[:2], texts[:2], n_steps=wanted.steps)
    )
    course.tell(f"Heads and decoder, model {role}")
    heads = _tried(missing, "heads", lambda: explain.attention_heads(model, pixels[:2]))
    written = _tried(missing, "decoder", lambda: explain.decoder_attention(model, pixels[:2]))
    said = _tried(missing, "decoder", lambda: explain.decoder_attention(model, pixels[:2], texts[:2]))
    course.tell(f"Causal trace, model {role}")
    trace, task = None, ""
    try:
        trace, task = _trace(experiment, sides, model, pixels, wanted, course.cancel)
    except (ModelError, DataError) as error:
        missing["trace"] = error.message
    return RoleExplanation(
        model.name,
        sides.clean,
        sides.adversarial,
        words=words,
        kept_answers=sides.kept,
        attacked=sides.attacked,
        heads=heads,
        written=written,
        said=said,
        trace=trace,
        trace_task=task,
        agreement=_agreement(trace, found["maps"]),
        **found,
    )


_BY_METHOD = ("maps", "missing", "checks", "similarity", "control", "warnings", "stability", "randomised")


def _one_method(
    method: str,
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: list[str],
    sides: Sides,
    wanted: Wanted,
    seed: int,
    role: str,
    course: Course,
    found: dict[str, dict[str, Any]],
) -> None:
    """Make the maps of one method and check them."""
    make = partial(_map, method, steps=wanted.steps)
    try:
        made = make(model, pixels, texts)
    except ModelError as error:
        found["missing"][method] = str(error)
        course.tell(f"{method.capitalize()} is not available for model {role}")
        return
    shift = explain.explanation_moved_but_prediction_did_not(
        made.map[:1], made.map[1:2], [bool(sides.kept)], control=made.map[2:3] if sides.changed else None
    )
    found["maps"][method] = made
    found["similarity"][method] = float(shift.correlation[0])
    if shift.control is not None:
        found["control"][method] = float(shift.control[0])
    if shift.warn[0]:
        found["warnings"][method] = shift.messages[0]
    course.tell(f"Checking {method}, model {role}")
    found["checks"][method] = _faithfulness(model, pixels[:2], texts[:2], made.map[:2], seed, course.cancel)
    if wanted.checks:
        course.tell(f"Stability and random weights of {method}, model {role}")
        random: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed)}
        steady = explain.max_sensitivity(make, model, pixels[:1], texts[:1], samples=4, **random)
        found["stability"][method] = float(steady[0])
        stages = explain.cascading_randomisation(make, model, pixels[:1], texts[:1], cancel=course.cancel, **random)
        found["randomised"][method] = tuple(
            (name, float(value[0])) for name, value in zip(stages.stages, stages.correlation, strict=True)
        )


def _tried(missing: dict[str, str], name: str, make: Callable[[], Any]) -> Any:
    """Return what `make` gives; None where the model has none, and why."""
    try:
        return make()
    except ModelError as error:
        missing[name] = str(error)
        return None


def _noisy(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """Return the clean picture with the attack's own changes in random order: as strong, and meaning nothing."""
    change = (adversarial.astype(np.int16) - clean.astype(np.int16)).ravel()
    shuffled = np.random.default_rng(0).permutation(change).reshape(clean.shape)
    return np.clip(clean.astype(np.int16) + shuffled, 0, 255).astype(np.uint8)


def _map(method: str, model: VisionLanguageModel, pixels: torch.Tensor, texts: Any, *, steps: int) -> Explanation:
    makers: dict[str, Callable[[], Explanation]] = {
        "attention flow": lambda: explain.attention_flow(model, pixels),
        "relevance": lambda: explain.relevance(model, pixels, texts),
        "integrated gradients": lambda: explain.pixel_attribution(model, pixels, texts, n_steps=steps),
        "saliency": lambda: explain.saliency(model, pixels, texts),
        "input × gradient": lambda: explain.input_gradient(model, pixels, texts),
        "GradientSHAP": lambda: explain.gradient_shap(model, pixels, texts, generator=torch.Generator().manual_seed(0)),
        "occlusion": lambda: explain.occlusion(model, pixels, texts),
        "grad-cam": lambda: explain.grad_cam(model, pixels, texts),
    }
    return makers[method]()


def _faithfulness(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: list[str],
    maps: np.ndarray,
    seed: int,
    cancel: CancelToken | None,
) -> tuple[tuple[MapCheck, ...], ...]:
    """Check the clean and the adversarial map, with two fills each."""
    generator = torch.Generator().manual_seed(seed)
    found = explain.deletion_insertion(
        model, pixels, texts, maps, generator=generator, controls=4, steps=12, cancel=cancel
    )
    return tuple(
        tuple(
            MapCheck(fill, *(float(v[row]) for v in (d.deletion, d.insertion, d.random))) for fill, d in found.items()
        )
        for row in (0, 1)
    )


def _trace(
    experiment: Experiment,
    sides: Sides,
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    wanted: Wanted,
    cancel: CancelToken | None,
) -> tuple[CausalTrace | None, str]:
    """Trace the attack on the picture through the image tower, or that on the words through the text tower.

    Raises:
        ModelError, DataError: there is nothing to trace; the message says why.
    """
    generator = torch.Generator().manual_seed(experiment.seed)
    if not sides.changed and sides.attacked:
        found = trace_words(model, pixels[:1], experiment.caption, sides.attacked, generator=generator, cancel=cancel)
        return found, "S_c"
    if not sides.changed:
        raise DataError("Nothing was attacked, so there are no two passes to compare.")
    if wanted.pair is None or wanted.dataset is None:
        raise DataError("The pair of this attack is not at hand any more.")
    stream = model.image_stream(pixels[:1])
    passes = 2 * (stream.depth + 1) * stream.start.shape[1]
    if passes > MOST_PASSES:
        raise DataError(f"A trace of this model takes {passes:,} passes, and the lab makes at most {MOST_PASSES:,}.")
    pair = with_sentence(wanted.pair, experiment.caption)
    among = PairAmong(pair, wanted.dataset)
    names = [experiment.task, *TRACED] if experiment.task in TRACED else TRACED
    name = next((name for name in names if not get_task(name).applies_to(among, model)), "")
    if not name:
        raise DataError("No task with a choice of answers applies to this pair.")
    task = get_task(name)
    try:
        prepared = task.prepare(model, [pair], among).select_rows(torch.zeros(1, dtype=torch.long))
    except ModelError:
        raise
    except CmaiError as error:
        raise DataError(error.message) from error
    found = trace_pair(
        model,
        pixels[:1],
        pixels[1:2],
        lambda clean, attacked: answer_gap(model, task, prepared, clean, attacked),
        generator=generator,
        sets=token_sets(pair, model.patch_grid or (1, 1), experiment.caption),
        cancel=cancel,
    )
    return found, name


def _agreement(trace: CausalTrace | None, maps: Mapping[str, Explanation]) -> dict[str, float]:
    """Return how maps of the adversarial picture rank the patches in comparison with R before the first layer."""
    if trace is None or trace.grid is None:
        return {}
    exact = trace.maps()[:1]
    return {
        method: float(rank_correlation(to_cells(made.map[1:2], 1, trace.grid), exact)[0])
        for method, made in maps.items()
    }
