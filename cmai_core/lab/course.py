"""The course of an attack step by step: its iterates as 8-bit pictures, bounded in memory, and what models read there.

A picture is kept as its difference to the clean one, modulo 256 and deflated, so that nothing is lost of it.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.lab.result import Answer, Course, CourseReading
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.tasks import TASKS, get_task

if TYPE_CHECKING:
    from cmai_core.lab.run import Setting
    from cmai_core.models.protocol import VisionLanguageModel

MOST_FRAMES = 24
"""Pictures kept of one attack, the clean one and the attacked one among them."""
TOGETHER = 8
"""Pictures that go through a model at once."""
TELL_EVERY = 0.05
"""Seconds between two messages of a running attack."""


@dataclass
class CourseRecorder:
    """Listens to one attack on one pair and keeps its steps, evenly thinned; messages go on at a bounded rate.

    Messages that bring sentences which are being tried all go on: there are few, and they come close after others.

    Args:
        clean: uint8 H×W×3. sentence: the clean one. shot: turns an attack's pixels 1×3×H×W into such a picture.
        tell: who else listens; told of every first and last step, and of others at most every `TELL_EVERY` seconds.
    """

    clean: np.ndarray
    sentence: str
    shot: Callable[[Any], np.ndarray]
    tell: ProgressCallback | None = None
    _kept: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    _stride: int = 1
    _told: float = -np.inf

    def __call__(self, update: Progress) -> None:
        """Take one step of the attack. `update.data` is as the attack's `Watch` sends it."""
        data, step = update.data, update.done
        if step > 0 and step % self._stride == 0 and ("pixels" in data or "texts" in data):
            picture = self.shot(data["pixels"][:1]) if data.get("pixels") is not None else self.clean
            self._kept[step] = (_packed(picture, self.clean), data["texts"][0] if "texts" in data else self.sentence)
            while len(self._kept) > 2 * MOST_FRAMES:
                self._stride *= 2
                self._kept = {k: kept for k, kept in self._kept.items() if k % self._stride == 0}
        now = time.perf_counter()
        due = now - self._told >= TELL_EVERY or step in (0, update.total) or data.get("trying")
        if self.tell is not None and due:
            self.tell(update)
            self._told = now

    def course(self, adversarial: np.ndarray, sentence: str, steps: int) -> Course:
        """Return what was kept: the clean pair first, then iterates, and last the pair that the attack handed back.

        Args:
            adversarial, sentence: of that pair. steps: how many were taken.
        """
        last = max([steps, *self._kept, 1])
        between = [step for step in sorted(self._kept) if step < last]
        if len(between) > MOST_FRAMES - 2:
            places = np.linspace(0, len(between) - 1, MOST_FRAMES - 2).round().astype(int)
            between = [between[k] for k in places]
        ends = ((0, self.clean, self.sentence), (last, adversarial, sentence))
        first, end = ((step, (_packed(picture, self.clean), text)) for step, picture, text in ends)
        kept = [first, *((step, self._kept[step]) for step in between), end]
        sentences = tuple(text for _, (_, text) in kept)
        return Course(
            tuple(step for step, _ in kept),
            tuple(packed for _, (packed, _) in kept),
            sentences if any(text != self.sentence for text in sentences) else (),
        )


def _packed(picture: np.ndarray, clean: np.ndarray) -> bytes:
    return zlib.compress((picture - clean).tobytes(), 1)  # uint8 wraps around


def read_course(
    course: Course,
    clean: np.ndarray,
    sentence: str,
    setting: Setting,
    model: VisionLanguageModel,
    cancel: CancelToken | None = None,
) -> CourseReading:
    """Read S_c and the short answers of a model at every kept step; each picture is encoded once for all of them.

    What a model writes is left out: that takes long, and the first and the last step's captions stand with the result.
    Where the sentence changes, tasks that read the pair's sentences find each step's own; a cancelled reading is empty.

    Args:
        clean: uint8 H×W×3. sentence: the clean one. setting: the pair among its kind.
    """
    import torch

    from cmai_core.evaluation.runs.predictor import predict_pairs

    count = len(course.steps)
    texts = list(course.sentences or (sentence,) * count)
    with torch.no_grad():
        shown, place = _different(course, clean)
        once = _encoded(shown, model, cancel)
        if once is None:
            return CourseReading()
        seen = once.picked(place)
        rows = Batch(tuple(map(str, range(count))), seen.pixels, tuple(texts), tuple(range(count)))
        (found,) = predict_pairs(model, None, None, rows, [(seen, texts)])
        answers: dict[str, tuple[Answer, ...]] = {}
        for name in TASKS:
            if cancel is not None and cancel.cancelled:
                break
            if TASKS[name].has_classes and TASKS[name].pictures == 1:
                said = _asked(name, setting, model, sentence, texts, seen)
                answers |= {} if said is None else {name: said}
    return CourseReading(tuple(row.consistency for row in found), answers)


def _different(course: Course, clean: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
    """Return the different pictures of a course, and for each step the place of its own among them."""
    different = list(dict.fromkeys(course.packed))
    frames = [course.frame(course.packed.index(packed), clean) for packed in different]
    return frames, [different.index(packed) for packed in course.packed]


def _encoded(shown: Sequence[np.ndarray], model: VisionLanguageModel, cancel: CancelToken | None) -> Any:
    """Encode pictures a few at a time, so that Cancel is heard between large models' passes; None when cancelled."""
    import torch

    from cmai_core.evaluation.runs.predictor import Encoded, encode
    from cmai_core.models.features import join_features

    parts = []
    for start in range(0, len(shown), TOGETHER):
        if cancel is not None and cancel.cancelled:
            return None
        parts.append(encode(model, shown[start : start + TOGETHER]))
    return Encoded(torch.cat([part.pixels for part in parts]), join_features([part.features for part in parts]))


def _asked(
    name: str, setting: Setting, model: VisionLanguageModel, clean: str, texts: Sequence[str], seen: Any
) -> tuple[Answer, ...] | None:
    """Ask one task at every step; None where it does not apply. Steps with one sentence are asked together."""
    searched = get_task(name).text_field == "query"  # the others do not read the sentence
    by_text: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        by_text.setdefault(text if searched else clean, []).append(row)
    answers: dict[int, Answer] = {}
    try:
        for text, rows in by_text.items():
            about = setting if text == clean else setting.saying(text)
            found = about.asked(name, model, seen.picked(rows))
            answers |= {row: short(one.prediction) for row, one in zip(rows, found, strict=True)}
    except OptionError:
        return None
    return tuple(answers[row] for row in range(len(texts)))


def short(prediction: Any) -> Answer:
    """Return a task's prediction without its ranking."""
    return Answer(prediction.answer, prediction.correct, float(prediction.score))
