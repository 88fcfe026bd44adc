"""What a lesson is: at most five steps, each a prediction, then what is the case.

    LESSON = Lesson("s_c", "What S_c is", "…", minutes=8, steps=(Step(...), ...), notes="…")

A lesson is one file with one such object and one row in `registry.py`. All that it claims is computed when it is asked:
from bundled data, from the published results, or on a model of a few numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cmai_core.errors import OptionError
from cmai_core.lab.exhibits import Exhibit, Pictures

MOST_STEPS = 5
MOST_OPTIONS = 8
BINS = 6
"""Into how many groups the guesses of a class at a number are counted."""
Setting = Mapping[str, float]
"""Knob → where it stands."""


@dataclass(frozen=True)
class Mark:
    """What a check says of an answer. right: None where there is a score instead of a right answer."""

    right: bool | None
    said: str


@dataclass(frozen=True)
class Choice:
    """One of some options is right.

    Attributes:
        options: as people read them. right: the place of the right one. because: why, said with the mark.
    """

    prompt: str
    options: Sequence[str]
    right: int
    because: str

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= MOST_OPTIONS or not 0 <= self.right < len(self.options):
            raise OptionError(f"{self.prompt!r} has no right answer among its options.")

    def mark(self, answer: str) -> Mark:
        """Mark an answer: the option's place, as text.

        Raises:
            OptionError: no option.
        """
        place = _among(answer, len(self.options))
        verdict = "Right." if place == self.right else f"Not so: “{self.options[self.right]}”."
        return Mark(place == self.right, f"{verdict} {self.because}")

    def groups(self) -> tuple[str, ...]:
        """Return what answers are counted as."""
        return tuple(self.options)

    def group(self, answer: str) -> int:
        """Return the place of an answer in `groups`; OptionError where it is none."""
        return _among(answer, len(self.options))

    @property
    def solution(self) -> str:
        """The right answer as people read it."""
        return self.options[self.right]

    @property
    def right_answer(self) -> str:
        """The right answer as `mark` takes it."""
        return str(self.right)


@dataclass(frozen=True)
class Number:
    """A number is guessed; right within `tolerance`.

    Attributes:
        low, high, step: of the scale that it is guessed on. right: the value. unit: written after it.
    """

    prompt: str
    low: float
    high: float
    step: float
    right: float
    tolerance: float
    because: str
    unit: str = ""

    def mark(self, answer: str) -> Mark:
        """Mark an answer: the number, as text.

        Raises:
            OptionError: no number, or one outside the scale.
        """
        off = self._read(answer) - self.right
        close = abs(off) <= self.tolerance + 1e-9
        apart = self.said(abs(off)).replace("%", "points")
        far = f"{apart} {'too high' if off > 0 else 'too low'}"
        verdict = "Right" if close else f"Not quite: {far}"
        return Mark(close, f"{verdict}. It is {self.solution}. {self.because}")

    def said(self, value: float) -> str:
        """Return a value of this scale as people read it."""
        return f"{value:.3g}".replace("-", "−") + (f" {self.unit}" if self.unit else "")

    def groups(self) -> tuple[str, ...]:
        """Return what answers are counted as: equal parts of the scale."""
        ends = [self.low + k * (self.high - self.low) / BINS for k in range(BINS + 1)]
        return tuple(f"{ends[k]:.3g} to {ends[k + 1]:.3g}{f' {self.unit}' if self.unit else ''}" for k in range(BINS))

    def group(self, answer: str) -> int:
        """Return the place of an answer in `groups`; OptionError where it is none."""
        share = (self._read(answer) - self.low) / (self.high - self.low)
        return min(BINS - 1, int(share * BINS))

    def _read(self, answer: str) -> float:
        try:
            value = float(answer)
        except (TypeError, ValueError):
            raise OptionError("An answer here is a number.") from None
        if not self.low <= value <= self.high:  # false for what is not a number
            raise OptionError(f"The answer lies between {self.low:g} and {self.high:g}.")
        return value

    @property
    def solution(self) -> str:
        """The right answer as people read it."""
        return self.said(self.right)

    @property
    def right_answer(self) -> str:
        """The value as `mark` takes it, kept on the scale."""
        return repr(min(self.high, max(self.low, self.right)))


@dataclass(frozen=True)
class Trial:
    """Two pictures, one of them attacked: 0 the first, 1 the second. group: what its score is counted under."""

    pictures: Pictures
    attacked: int
    group: str


@dataclass(frozen=True)
class Trials:
    """A blind test: in each trial one of two pictures is pointed at; an answer is one character a trial, "0" or "1"."""

    prompt: str
    trials: Sequence[Trial]
    because: str

    def mark(self, answer: str) -> Mark:
        """Score the answers against chance, with the interval of the share.

        Raises:
            OptionError: not one answer a trial.
        """
        found = self.share(answer)
        by_chance = found["low"] <= 0.5 <= found["high"]
        verdict = "Guessing would do as well" if by_chance else "That is not guessing"
        said = (
            f"{found['hits']} of {found['total']} right: {found['value']:.0%}, 95 % interval "
            f"{found['low']:.0%} to {found['high']:.0%}. {verdict}: chance is 50 %. {self.because}"
        )
        return Mark(None, said)

    def share(self, answer: str, group: str | None = None) -> dict[str, float]:
        """Return the share right with its interval: value, low, high, hits, total; of one group, or of all trials."""
        from cmai_core.evaluation.figures.intervals import share_interval

        read = self._read(answer)
        right = [said == t.attacked for said, t in zip(read, self.trials, strict=True) if group in (None, t.group)]
        hits, total = sum(right), len(right)
        low, high = share_interval(hits, total)
        return {"value": hits / total, "low": float(low), "high": float(high), "hits": hits, "total": total}

    def groups(self) -> tuple[str, ...]:
        """Return what answers are counted as: how many are right, in three parts."""
        most = len(self.trials)
        return (f"up to {most // 3} right", f"up to {2 * most // 3} right", f"up to {most} right")

    def group(self, answer: str) -> int:
        """Return the place of an answer in `groups`; OptionError where it is none."""
        most, hits = len(self.trials), self.share(answer)["hits"]
        return 0 if hits <= most // 3 else 1 if hits <= 2 * most // 3 else 2

    def _read(self, answer: str) -> list[int]:
        if not isinstance(answer, str) or len(answer) != len(self.trials) or set(answer) - {"0", "1"}:
            raise OptionError("Each of the trials wants one answer.")
        return [int(mark) for mark in answer]

    @property
    def solution(self) -> str:
        """The right answers as people read them."""
        return ", ".join(("left", "right")[trial.attacked] for trial in self.trials)

    @property
    def right_answer(self) -> str:
        """The right answers as `mark` takes them."""
        return "".join(str(trial.attacked) for trial in self.trials)


Question = Choice | Number | Trials


@dataclass(frozen=True)
class Knob:
    """A number of the step that may be turned, before and after the answer."""

    name: str
    label: str
    low: float
    high: float
    step: float
    start: float


def _nothing(*_: object) -> tuple[Exhibit, ...]:
    return ()


@dataclass(frozen=True)
class Step:
    """One prediction and what is the case. All functions take where the knobs stand.

    Attributes:
        do: what to do now, in a sentence. ask: the question, with its answer computed. before: what is shown with the
            question. after: (setting, answer) → what is shown once it has been answered.
    """

    title: str
    do: str
    ask: Callable[[Setting], Question]
    before: Callable[[Setting], tuple[Exhibit, ...]] = _nothing
    after: Callable[[Setting, str], tuple[Exhibit, ...]] = _nothing
    knobs: tuple[Knob, ...] = ()

    def start(self) -> dict[str, float]:
        """Return where the knobs stand at first."""
        return {knob.name: knob.start for knob in self.knobs}


@dataclass(frozen=True)
class Lesson:
    """A lesson.

    Attributes:
        name: in addresses. title, goal: for learners. minutes: it takes. notes: for whoever teaches it.
        source: where its figures come from, in words.
    """

    name: str
    title: str
    goal: str
    minutes: int
    steps: tuple[Step, ...] = field(repr=False)
    notes: str = field(repr=False)
    source: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= MOST_STEPS:
            raise OptionError(f"The lesson {self.name!r} has {len(self.steps)} steps.", f"At most {MOST_STEPS}.")


def _among(answer: str, count: int) -> int:
    if not isinstance(answer, str) or answer not in {str(k) for k in range(count)}:
        raise OptionError("That is none of the options.")
    return int(answer)
