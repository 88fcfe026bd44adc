"""What the models saw before and after an attack: their answers with confidences, and which stated facts changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cmai_core.data.truth import ground_truth_of, holds
from cmai_core.lab.result import Answer, LabResult
from cmai_core.tasks import TASKS

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair


@dataclass(frozen=True)
class Bar:
    """One option among the five likeliest of either side.

    Attributes:
        text: the option. true: of the picture; None where nobody can say.
        clean, attacked: its probability; None where it was none of that side's five.
    """

    text: str
    true: bool | None
    clean: float | None
    attacked: float | None


@dataclass(frozen=True)
class Fact:
    """Something that a written answer states. `true`: of the picture; None where nobody can say."""

    text: str
    true: bool | None


@dataclass(frozen=True)
class Change:
    """One task's answer before and after.

    Attributes:
        task: its name. prompt: what was asked, "" where nothing is.
        before, after: the answers. right: whether each is, None where nobody can say. confidence: their probabilities.
        bars: the likeliest options of both sides, the attacked side's first; () for what a model writes itself.
        gone, new: facts of a written answer that the attacked one states no more, and that only it states; () where
            no ground truth can read both.
    """

    task: str
    prompt: str
    before: str
    after: str
    right: tuple[bool | None, bool | None]
    confidence: tuple[float, float]
    bars: tuple[Bar, ...] = ()
    gone: tuple[Fact, ...] = ()
    new: tuple[Fact, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the answer is another."""
        return self.before != self.after

    @property
    def headline(self) -> str:
        """Return "yellow ring → white cone", or the answer alone where it stayed."""
        return f"{self.before} → {self.after}" if self.changed else self.after

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self) | {"changed": self.changed, "headline": self.headline}


def seen(result: LabResult, pair: Pair | None = None) -> dict[str, dict[str, Change]]:
    """Return role → task → what its answer was before and after, tasks in the order in which they are asked.

    Models that were shown no attack, and tasks without both answers, are left out.

    Args:
        pair: whose scene decides which stated facts are true; None: facts are left out.
    """
    found = {}
    for role, prediction in result.attacked.items():
        asked = [name for name in TASKS if len(prediction.answers.get(name, ())) == 2]
        found[role] = {name: change_of(name, *prediction.answers[name], pair) for name in asked}
    return found


def change_of(task: str, before: Answer, after: Answer, pair: Pair | None = None) -> Change:
    """Return what became of one task's answer; pair: as for `seen`."""
    written = not TASKS[task].has_classes
    gone, new = _facts(before.text, after.text, pair) if written and pair is not None else ((), ())
    return Change(
        task,
        before.prompt or after.prompt,
        before.text,
        after.text,
        (before.correct, after.correct),
        (before.score, after.score),
        () if written else _bars(before, after),
        gone,
        new,
    )


def _bars(before: Answer, after: Answer) -> tuple[Bar, ...]:
    clean, attacked = ({text: p for text, p, _ in answer.ranking} for answer in (before, after))
    truth: Mapping[str, bool | None] = {text: true for answer in (before, after) for text, _, true in answer.ranking}
    return tuple(Bar(text, truth[text], clean.get(text), attacked.get(text)) for text in {**attacked, **clean})


def _facts(before: str, after: str, pair: Pair) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    truth = ground_truth_of([pair])
    old, new = (None, None) if truth is None else (truth.facts(before), truth.facts(after))
    if old is None or new is None:
        return (), ()
    told = ([fact for fact in old if fact not in new], [fact for fact in new if fact not in old])
    gone, came = (tuple(Fact(fact, holds(fact, pair)) for fact in facts) for facts in told)
    return gone, came
