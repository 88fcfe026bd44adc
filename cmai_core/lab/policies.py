"""What a flagged pair would be answered: plainly, and by way of the robust pathway, each with its measured latency."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmai_core.lab.result import Answer

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.protocol import VisionLanguageModel

RUNS = 2  # the faster one counts: the first may find its memory cold


@dataclass(frozen=True)
class PathwayAnswer:
    """One model's answer to one task about one picture.

    Attributes:
        task: which. plain: the model's own answer. robust: that from features averaged over `copies` noisy copies.
        plain_seconds, robust_seconds: from pixels to answer; texts are encoded before.
    """

    task: str
    plain: Answer
    robust: Answer
    plain_seconds: float
    robust_seconds: float
    copies: int


def pathway_answer(
    model: VisionLanguageModel,
    pair: Pair,
    dataset: PairDataset,
    task: str,
    picture: np.ndarray,
    caption: str,
    said: str,
) -> PathwayAnswer:
    """Asks a task about a picture, plainly and through `defenses.Smoothing()`.

    Args:
        pair, dataset: as `lab.run.run_attack` takes them. picture: uint8 H×W×3, the clean or the attacked one.
        caption: the pair's sentence. said: what stands in its place, where the attack has edited it.

    Raises:
        OptionError: the task does not apply.
    """
    import torch

    from cmai_core.defenses.pathways import Smoothing
    from cmai_core.lab.pair_in_context import PairAmong
    from cmai_core.lab.run import Setting, answer_of, with_sentence
    from cmai_core.models.evaluation_mode import evaluation_mode
    from cmai_core.seeds import sample_generators

    pair = with_sentence(pair, caption)
    setting = Setting(pair, PairAmong(pair, dataset))
    setting = setting if said == caption else setting.saying(said)
    smoothing = Smoothing()
    with torch.no_grad(), evaluation_mode(model):
        pixels = model.preprocess([picture])
        asked = setting.task(task, model)
        prepared = asked.prepare(model, [setting.pair], setting.dataset)

        def plain() -> Any:
            return asked.predict(model, model.image_features(pixels), prepared)

        def robust() -> Any:
            generators = sample_generators(0, [pair.id], 0)
            return asked.predict(model, smoothing.features(model, pixels, generators), prepared)

        (first, seconds), (second, more) = _timed(plain, model.device), _timed(robust, model.device)
    return PathwayAnswer(task, answer_of(first[0]), answer_of(second[0]), seconds, more, smoothing.copies)


def _timed(work: Any, device: Any) -> tuple[Any, float]:
    """Return what it returns, and the seconds of its fastest run."""
    import torch

    fastest, out = float("inf"), None
    for _ in range(RUNS):
        start = time.perf_counter()
        out = work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
    return out, fastest
