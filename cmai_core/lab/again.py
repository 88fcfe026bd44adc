"""An experiment made again, and held against what its file recorded, number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.data.plain import plain_line
from cmai_core.errors import DataError
from cmai_core.lab.experiment import present_role
from cmai_core.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.experiment_file import ExperimentFile
    from cmai_core.lab.result import LabResult

EQUAL, CLOSE, DIFFERENT, UNKNOWN = "equal", "close", "different", "not recorded"
SCORES = ("clean", "adversarial", "float_score", "jpeg_score")
SCORE_WORDS = dict(
    zip(SCORES, ("S_c clean", "S_c attacked", "S_c before rounding", "S_c after JPEG"), strict=True)
)  # fmt: skip
TOLERANCES = {"score": 0.005, "linf": 1.0, "l2": 0.01}
"""How far a number may be where machine or versions are others: S_c, and sizes in units of 1/255.

Another processor rounds otherwise, and a step by a gradient's sign carries that on: with other instructions S_c of
eight experiments lay up to 0.0006 off, none of their largest changes did. On the same machine with the same versions
numbers are equal, or different.
"""


@dataclass(frozen=True)
class Compared:
    """One value of a file beside the same value now.

    Attributes:
        name: in words. recorded, now: a number, a text, or None where there is none. kind: "score", "linf", "l2"
            (numbers that may be close), "count", "answer", "identity" (of models and versions) or "picture".
        outcome: EQUAL, CLOSE, DIFFERENT or UNKNOWN. distance: |now − recorded| of numbers, else None.
    """

    name: str
    recorded: Any
    now: Any
    kind: str
    outcome: str
    distance: float | None = None


def same_setup(numbers: Mapping[str, Any], result: LabResult) -> bool:
    """Tell whether a file was made with these versions on this kind of device."""
    return dict(numbers["versions"]) == dict(result.versions) and numbers["device"] == result.device


def compare_with_file(recorded: ExperimentFile, result: LabResult) -> tuple[Compared, ...]:
    """Hold the numbers of a file against a result of the same experiment.

    Raises:
        DataError: the result is of another experiment.
    """
    if recorded.experiment != result.experiment:
        raise DataError("The file is of another experiment than this result.", "Run the file's own.")
    before, now = recorded.numbers, result.to_dict()
    exact = same_setup(before, result)
    rows = [_row(name, old, new, kind, exact) for name, kind, old, new in _values(before, now)]
    rows += _pictures(recorded.result, result)
    return tuple(rows)


def _values(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (name, kind, recorded, now) of everything that is compared but pictures."""
    sides = [
        {part: {present_role(role): values for role, values in side[part].items()} for part in ("readings", "crafts")}
        for side in (before, now)
    ]
    for role in sides[1]["readings"]:
        old, new = (side["readings"].get(role, {}) for side in sides)
        for name in SCORES:
            yield f"{SCORE_WORDS[name]}, model {role}", "score", old.get(name), new.get(name)
        for task, answers in new["answers"].items():
            others = old.get("answers", {}).get(task, (None, None))
            for side, word in enumerate(("clean", "attacked")):
                yield f"{task}, {word}, model {role}", "answer", _said(others[side]), _said(answers[side])
        yield f"weights of model {role}", "identity", old.get("hash"), new.get("hash")
    for role in sides[1]["crafts"]:
        old, new = (side["crafts"].get(role, {}) for side in sides)
        for name, word, kind in (
            ("linf", "largest change (1/255)", "linf"), ("l2", "root mean square change (1/255)", "l2"),
            ("success", "success", "answer"), ("steps_done", "steps", "count"), ("queries", "queries", "count"),
            ("caption", "attacked sentence", "answer"),
        ):  # fmt: skip
            yield f"{word}, made on {role}", kind, old.get(name), new.get(name)
    for name in dict.fromkeys([*before["versions"], *now["versions"]]):
        yield f"version of {name}", "identity", before["versions"].get(name), now["versions"].get(name)
    yield "device", "identity", before["device"], now["device"]


def _said(answer: Mapping[str, Any] | None) -> str | None:
    return None if answer is None else plain_line(answer["text"])


def _row(name: str, recorded: Any, now: Any, kind: str, exact: bool) -> Compared:
    plain = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (recorded, now)]
    distance = abs(now - recorded) if all(plain) else None
    if recorded is None and now is not None:
        outcome = UNKNOWN
    elif recorded == now:
        outcome = EQUAL
    else:
        near = distance is not None and not exact and distance <= TOLERANCES.get(kind, 0.0)
        outcome = CLOSE if near else DIFFERENT
    return Compared(name, recorded, now, kind, outcome, distance)


def _pictures(recorded: LabResult | None, result: LabResult) -> list[Compared]:
    """Compare the attacked pictures, in values that differ; none where the file holds no pictures."""
    rows = []
    for role, example in result.examples.items() if recorded is not None else ():
        other = recorded.examples.get(role) if recorded is not None else None
        name = f"attacked picture, made on {role}"
        if other is None or other.adversarial.shape != example.adversarial.shape:
            rows.append(Compared(name, None, None, "picture", UNKNOWN if other is None else DIFFERENT))
            continue
        share = float(np.mean(other.adversarial != example.adversarial))
        words = "the same" if share == 0 else f"{share:.1%} of its values differ"
        rows.append(Compared(name, "as in the file", words, "picture", EQUAL if share == 0 else DIFFERENT, share))
    return rows


# --- made again without the lab ---------------------------------------------------------------------------------------


def run_again(
    recorded: ExperimentFile,
    *,
    device: Any = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LabResult:
    """Run the experiment of a file.

    Raises:
        DataError: its picture is not in the file, or there is no such pair. CmaiError: a model that cannot be loaded.
    """
    from cmai_core.evaluation.verification.calibration import calibration_for
    from cmai_core.lab.run import run_attack
    from cmai_core.models import load_model

    experiment = recorded.experiment
    pair, dataset = pair_of(experiment, recorded.picture)
    models = {role: load_model(spec, device=device) for role, spec in experiment.models.items()}
    bases = {}
    if experiment.has_detector:
        from cmai_core.data.registry import kind_of

        kind = kind_of(experiment.pair)
        bases = {role: calibration_for(model, kind, pairs=lambda: _spare(kind)) for role, model in models.items()}
    return run_attack(experiment, pair, models, dataset=dataset, bases=bases, progress=progress, cancel=cancel)


def pair_of(experiment: Experiment, upload: np.ndarray | None) -> tuple[Pair, PairDataset]:
    """Return the pair of an experiment, with its sentence first, and the dataset it stands among.

    Raises:
        DataError: the uploaded picture is not given, or there is no such pair.
    """
    import dataclasses

    from cmai_core.data.pair import Pair, item_id
    from cmai_core.data.registry import COMPOSED, DATASETS, composing_dataset
    from cmai_core.data.subset import first
    from cmai_core.lab.places import place_of

    name, _, split = place_of(experiment.pair).partition("/")
    dataset = first(DATASETS.find(name).dataset(split), DATASETS.find(name).most)
    caption = experiment.caption
    if experiment.pair == COMPOSED:
        composing = composing_dataset()
        if composing is None:
            raise DataError("There is no dataset here whose scenes are composed.", "Choose another experiment.")
        made: Any = composing.make_composer()
        return made.pair(made.read(experiment.scene), caption), dataset
    if experiment.pair.startswith("upload/"):
        if upload is None:
            raise DataError("The file lacks the picture that its experiment is about.", "Export it anew in the lab.")
        return Pair(experiment.pair, upload, (caption,), meta={"source": "uploaded"}), dataset
    place = next((k for k in range(len(dataset)) if item_id(dataset, k) == experiment.pair), None)
    if place is None:
        raise DataError(f"There is no picture {experiment.pair[:80]!r}.", "Choose an experiment on another pair.")
    found = dataset[place]
    return dataclasses.replace(found, captions=(caption, *(c for c in found.captions if c != caption))), dataset


def _spare(kind: str) -> PairDataset:
    from cmai_core.data.registry import calibrating_dataset, load_dataset
    from cmai_core.lab.choices import CALIBRATION_PAIRS

    info = calibrating_dataset(kind)
    if info is None:
        raise DataError(f"There are no pairs to set a threshold for {kind} on.", "Choose another pair.")
    return load_dataset(info.name, split=info.calibration, limit=CALIBRATION_PAIRS)
