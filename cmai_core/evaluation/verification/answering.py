"""Verified answering fitted on clean pairs: T, γ, κ and k of each task.

    calibration = calibrate_answering(model, load_dataset("tabletop", split="validation", limit=800))
    system = System(model, answering=calibration.rules)

One half of the pairs is fitted on, the other reported on; each half has a gallery of its own. Scores, log V_verify and
numbers of words of a generous shortlist are computed once (`gather`), and all settings are tried on these numbers.
T makes the model's own scores probabilities (temperature scaling: Guo et al. 2017, arXiv 1706.04599, §4.2); γ, κ and
k are those of a grid that answer most pairs rightly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from cmai_core.bootstrap import bootstrap_interval
from cmai_core.data.subset import Subset
from cmai_core.defenses.answering_calibration import AnsweringCalibration, TaskRule
from cmai_core.errors import DataError, OptionError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.models.scoring import has_heads
from cmai_core.progress import Progress, ProgressCallback
from cmai_core.tasks.registry import TASKS, get_task
from cmai_core.tasks.text_to_image import TextToImage
from cmai_core.tasks.verified import LARGEST, StatementCache, VerifiedAnswers

if TYPE_CHECKING:
    from cmai_core.data.pair import PairDataset
    from cmai_core.tasks.base import ChoiceTask

MOST = 20
"""Options of each pair that V_verify reads, the largest k that is tried."""
SHORTLISTS = (2, 3, 5, 10, MOST)
GAMMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
KAPPAS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Numbers:
    """What a rule answers N pairs by.

    Attributes:
        scores: N×C, the model's own; −inf where a pair has fewer options. right: bool N×C.
        shortlist: int64 N×K, the options with the highest scores, best first.
        log_v, words: N×K, of these options.
    """

    scores: Tensor
    right: Tensor
    shortlist: Tensor
    log_v: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def correct(self, rule: VerifiedAnswers | None) -> np.ndarray:
        """Return which pairs are answered rightly by a rule, bool N; None: by the model alone."""
        if rule is None:
            return self.right.gather(1, self.shortlist[:, :1])[:, 0].numpy()
        kept = self.shortlist.shape[1] if rule.shortlist is None else rule.shortlist
        inside = self.scores.gather(1, self.shortlist)
        fused = rule.fuse(inside, self.log_v, self.words)[:, :kept]
        return self.right.gather(1, self.shortlist.gather(1, fused.argmax(dim=1, keepdim=True)))[:, 0].numpy()


def verifiable_tasks(model: Any, dataset: PairDataset) -> dict[str, ChoiceTask]:
    """Return the tasks by name that a model can answer by verification about a dataset."""
    found = [get_task(name) for name in TASKS]
    choices = [task for task in found if getattr(task, "verifiable", False)]
    return {task.name: task for task in (*choices, TextToImage()) if not task.applies_to(dataset, model)}


def calibrate_answering(
    model: Any,
    dataset: PairDataset,
    tasks: Sequence[str] | None = None,
    *,
    size: int = 32,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> AnsweringCalibration:
    """Return the rule of each task, fitted on one half of some clean pairs and tried on the other.

    Args:
        model: a model with consistency heads, or a System of one that does not answer by verification.
        dataset: pairs that nothing else is reported on. tasks: names; None: all that can be answered so.
        size: pictures at a time. seed: of the bootstrap. progress: told of pairs read.

    Raises:
        OptionError: no consistency heads, or a task that cannot be answered so.
        DataError: too few pairs whose truth is known.
    """
    if not has_heads(model) or getattr(model, "answering", None) is not None:
        raise OptionError(
            f"Verified answering of {model.name} cannot be fitted.", "Give a model with consistency heads, as it is."
        )
    known = verifiable_tasks(model, dataset)
    wanted = list(known) if tasks is None else list(tasks)
    if unknown := [name for name in wanted if name not in known]:
        raise OptionError(f"{unknown[0]!r} cannot be answered by verification.", f"Accepted: {', '.join(known)}.")
    half = len(dataset) // 2
    if half < 2:
        raise DataError(f"{len(dataset)} pairs are too few to fit on.", "Give at least 4.")
    parts = (Subset(dataset, range(half)), Subset(dataset, range(half, len(dataset))))
    done, total = 0, len(dataset) * len(wanted)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(Progress(done, total, "calibrating"))

    found = {}
    for name in wanted:
        fit, rest = (gather(model, known[name].for_items(len(part)), part, size=size, tell=tell) for part in parts)
        found[name] = task_rule(fit, rest, seed=seed)
    return AnsweringCalibration(model.hash, f"{dataset.name}/{dataset.split}", found)


@torch.no_grad()
def gather(
    model: Any, task: ChoiceTask, dataset: PairDataset, *, most: int = MOST, size: int = 32, tell: Any = None
) -> Numbers:
    """Ask a task about all pairs of a dataset, and let V_verify read the likeliest options of each.

    Args:
        model: with consistency heads. task: made for the dataset (`for_items`). most: options of each pair that are
            read. size: pictures at a time. tell: told how many pairs each pass was about.

    Raises:
        DataError: of no pair the truth is known.
    """
    parts: list[list[Tensor]] = []
    reader = _Remembering(model)
    with evaluation_mode(model):
        for start in range(0, len(dataset), size):
            pairs = [dataset[k] for k in range(start, min(start + size, len(dataset)))]
            prepared = task.prepare(model, pairs, dataset)
            features = model.image_features(model.preprocess([pair.image for pair in pairs]))
            rows = (prepared.known & prepared.target.any(dim=1)).nonzero()[:, 0]
            if len(rows):
                prepared, features = prepared.select_rows(rows), features[rows]
                scores = task.scores(model, features, prepared).float()
                chosen = VerifiedAnswers(shortlist=most).chosen(scores)
                log_v, words = task.verification(reader, features, prepared, chosen)
                parts.append([x.cpu() for x in (scores, prepared.target, chosen, log_v.float(), words)])
            if tell is not None:
                tell(len(pairs))
    if not parts:
        raise DataError(f"Of no pair of {dataset.name} it is known what is right ({task.name}).", "Give other pairs.")
    fill = (-torch.inf, False, 0, 0.0, 1)
    return Numbers(*(_stacked(column, value) for column, value in zip(zip(*parts, strict=True), fill, strict=True)))


class _Remembering:
    """A model that encodes each statement once."""

    def __init__(self, model: Any):
        self._model, self._cache = model, StatementCache()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def statement_states(self, texts: Sequence[str]) -> Any:
        return self._cache.states(self._model, texts)


def _stacked(parts: Sequence[Tensor], fill: Any) -> Tensor:
    """Join batches that differ in their number of options."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1]), value=fill) for part in parts])


def task_rule(fit: Numbers, rest: Numbers, *, seed: int = 0) -> TaskRule:
    """Fit a rule on some pairs, and say what it gains on others."""
    rule = fit_rule(fit)
    before, after = (rest.correct(which).astype(float) for which in (None, rule))
    figures = (bootstrap_interval(values, seed=seed) for values in (before, after, after - before))
    return TaskRule(rule, len(fit), *figures)


def fit_rule(numbers: Numbers) -> VerifiedAnswers | None:
    """Return the rule that answers most pairs rightly; None where none answers more than the model alone does.

    Among equals the one with the smallest shortlist, then the smallest γ, then the smallest κ.
    """
    temperature, most = fit_temperature(numbers), numbers.shortlist.shape[1]
    best, right = None, int(numbers.correct(None).sum())
    lengths = sorted({min(k, most) for k in SHORTLISTS})
    for shortlist, gamma, kappa in itertools.product(lengths, GAMMAS, KAPPAS):
        rule = VerifiedAnswers(shortlist=shortlist, temperature=temperature, gamma=gamma, kappa=kappa)
        found = int(numbers.correct(rule).sum())
        if found > right:
            best, right = rule, found
    return best


def fit_temperature(numbers: Numbers) -> float:
    """Return the T at which the right options are likeliest by softmax(scores/T), 1/10000 to 10000."""
    right = torch.where(numbers.right, 0.0, -torch.inf).double()

    def loss(logarithm: float) -> float:
        chances = (numbers.scores.double() / np.exp(logarithm)).log_softmax(dim=1)
        return -float((chances + right).logsumexp(dim=1).mean())

    limit = np.log(LARGEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))
