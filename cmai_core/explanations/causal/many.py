"""Effects over many pairs: means with bootstrap intervals, and in how many pairs there was nothing to trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cmai_core.bootstrap import Interval, bootstrap_interval
from cmai_core.errors import DataError
from cmai_core.explanations.causal.gap import answer_gap
from cmai_core.explanations.causal.records import CausalTrace, Effects
from cmai_core.explanations.causal.sets import BACKGROUND, NAMED, OTHERS, token_sets
from cmai_core.explanations.causal.trace import trace_pair
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import ChoiceTask

GROUPS = (NAMED, OTHERS, BACKGROUND)
_CURVES = ("patches", "summary", "attention", "mlp")
_WORDS = {"patches": "all patches", "summary": "class token", "attention": "attention", "mlp": "MLP"}


@dataclass(frozen=True)
class Curve:
    """One effect by layer, over pairs.

    Attributes:
        direction: "denoising" or "noising". state: what was patched. layers: an interval for each layer.
        control: the same of random patches, as many of them; empty where that is no control.
    """

    direction: str
    state: str
    layers: tuple[Interval, ...]
    control: tuple[Interval, ...] = ()


@dataclass(frozen=True)
class MeanTrace:
    """Traces of many pairs, summed up.

    Attributes:
        pairs: given. held: of these not fooled (the answer was wrong before, or stayed right). small: fooled, with a
            gap that was too small. traced: what the curves are over.
        curves: see `Curve`; a set of patches counts the pairs that show it.
        entry: the mean first layer at which clean patches bring back less than half; None where it never is.
        agreement, error: of attribution patching with the exact effects: mean rank correlation, and mean |R̂ − R|.
    """

    model: str
    pairs: int
    held: int
    small: int
    traced: int
    curves: tuple[Curve, ...] = ()
    entry: Interval | None = None
    agreement: Interval | None = None
    error: Interval | None = None
    traces: tuple[CausalTrace, ...] = field(default=(), repr=False, compare=False)

    def rows(self) -> list[dict[str, Any]]:
        """Return the curves as rows: one a direction, state and layer."""
        return [
            {
                "direction": curve.direction,
                "state": curve.state,
                "layer": layer,
                "effect": found.value,
                "low": found.low,
                "high": found.high,
                "random": curve.control[layer].value if curve.control else None,
                "pairs": found.n,
            }
            for curve in self.curves
            for layer, found in enumerate(curve.layers)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single traces as JSON values."""
        named = {"entry": self.entry, "agreement": self.agreement, "error": self.error}
        counts = {name: getattr(self, name) for name in ("model", "pairs", "held", "small", "traced")}
        return counts | {k: None if v is None else v.to_dict() for k, v in named.items()} | {"curves": self.rows()}


def trace_pairs(
    model: VisionLanguageModel,
    task: ChoiceTask,
    pairs: Sequence[Pair],
    attacked: torch.Tensor,
    dataset: PairDataset,
    *,
    generator: torch.Generator,
    batch_size: int = 128,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> MeanTrace:
    """Trace an attack on many pictures; only pairs that it fooled, by a gap that is large enough, are counted.

    Args:
        attacked: N×3×S×S in [0, 1], one a pair. dataset: where the task takes classes and gallery from.
        generator: on the CPU, of the random sets.

    Raises:
        ModelError: an image tower that is not covered. DataError: other numbers of pairs and pictures.
    """
    if len(pairs) != len(attacked):
        raise DataError(f"{len(pairs)} pairs and {len(attacked)} attacked pictures.", "Give one picture a pair.")
    traces, held, small = [], 0, 0
    for number, pair in enumerate(pairs):
        if cancel is not None:
            cancel.check()
        if progress is not None:
            progress(Progress(number, len(pairs), "Tracing", {}))
        clean = model.preprocess([pair.image])
        prepared = task.prepare(model, [pair], dataset)
        with torch.no_grad():
            features = [model.image_features(pixels) for pixels in (clean, attacked[number : number + 1])]
        found = answer_gap(model, task, prepared, *features)
        held += not found.fooled
        small += found.fooled and bool(found.why_not)
        if not found.fooled or found.why_not:
            continue
        shown = token_sets(pair, model.patch_grid or (1, 1), pair.captions[0])
        traces.append(
            trace_pair(
                model,
                clean,
                attacked[number : number + 1],
                lambda *_, found=found: found,
                generator=generator,
                sets={name: chosen for name, chosen in shown.items() if name in GROUPS},
                batch_size=batch_size,
                cancel=cancel,
            )
        )
    return _summed_up(model.name, len(pairs), held, small, traces)


def _summed_up(name: str, pairs: int, held: int, small: int, traces: list[CausalTrace]) -> MeanTrace:
    if not traces:
        return MeanTrace(name, pairs, held, small, 0)
    curves = [
        Curve(direction, _WORDS[state], _intervals([getattr(effects, state) for effects in _of(traces, direction)]))
        for direction in ("denoising", "noising")
        for state in _CURVES
    ]
    for direction in ("denoising", "noising"):
        for group in GROUPS:
            shown = [effects for effects in _of(traces, direction) if group in effects.sets]
            if shown:
                own, random = ([getattr(e, kind)[group] for e in shown] for kind in ("sets", "random"))
                curves.append(Curve(direction, group, _intervals(own), _intervals(random)))
    entries = [trace.entry for trace in traces if trace.entry is not None]
    ranked = np.array([trace.attribution.rank_correlation for trace in traces])
    agreement = ranked[~np.isnan(ranked)]
    return MeanTrace(
        name,
        pairs,
        held,
        small,
        len(traces),
        tuple(curves),
        bootstrap_interval(entries) if entries else None,
        bootstrap_interval(agreement) if len(agreement) else None,
        bootstrap_interval([trace.attribution.error for trace in traces]),
        tuple(traces),
    )


def _of(traces: list[CausalTrace], direction: str) -> list[Effects]:
    return [getattr(trace, direction) for trace in traces]


def _intervals(values: list[np.ndarray]) -> tuple[Interval, ...]:
    """Return an interval of the mean for each layer, of arrays of one value a layer."""
    return tuple(bootstrap_interval(column) for column in np.stack(values).astype(float).T)
