"""What each scene came to under the attacks of one part: short strings that can be stored, counted and compared.

One character a scene, in the order of the split: "1" right, "0" wrong, "." not asked (a cascade leaves out who has
lost already, and not every scene has a two-image statement). So every share, interval and paired comparison can be
worked out again from a small file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.errors import DataError
from cmai_core.evaluation.figures.compare import paired_test
from cmai_core.evaluation.figures.intervals import share_interval

if TYPE_CHECKING:
    import pandas as pd

RIGHT, WRONG, UNASKED = "1", "0", "."


@dataclass(frozen=True)
class Verdict:
    """One model under the attacks of one part, for one task and budget.

    Attributes:
        task, norm, epsilon: epsilon in units of 1/255. source: whose examples they are; "" for the model's own.
        clean: right on the clean scenes. held: right on the clean scene and under every attack that asked.
        recipes: recipe → right under this one.
    """

    task: str
    norm: str
    epsilon: float
    clean: str
    held: str
    source: str = ""
    recipes: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.clean)

    @property
    def key(self) -> tuple[str, str, float, str]:
        return self.task, self.norm, self.epsilon, self.source

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("task", "norm", "epsilon", "clean", "held", "source")}
        return values | {"recipes": dict(self.recipes)}


def marks(right: Sequence[bool | None]) -> str:
    """Write truth values as characters; None was not asked."""
    return "".join(UNASKED if r is None else RIGHT if r else WRONG for r in right)


def rights(text: str) -> np.ndarray:
    """Return bool N, of the scenes that were asked about."""
    return np.frombuffer(text.replace(UNASKED, "").encode(), dtype=np.uint8) == ord(RIGHT)


def verdicts(
    frame: pd.DataFrame, target: str, items: Sequence[str], asked_of: Iterable[tuple[str, str, float, str]] = ()
) -> list[Verdict]:
    """Return verdicts on one target from the predictions of a part.

    Args:
        frame: of `evaluation.runs.predictions.frame`. items: the scenes' ids, in order.
        asked_of: (task, norm, ε, source) that were planned. Where a model gets nothing right, a cascade attacks
            nothing, and the frame has no row to tell of it.

    Returns:
        One for each task, norm, ε and source. A scene that the task has no question about is unasked throughout.

    Raises:
        DataError: a scene without a clean prediction, or one that still stands and was not attacked by every recipe.
    """
    place = {item: k for k, item in enumerate(items)}
    own = frame[(frame["target"] == target) & frame["item"].isin(place)]
    clean_rows = own[own["recipe"] == "clean"]
    out: dict[tuple, Verdict] = {}
    for (task, norm, epsilon, source), group in own[own["recipe"] != "clean"].groupby(
        ["task", "norm", "epsilon", "source"], sort=True
    ):
        asked = clean_rows[clean_rows["task"] == task]
        clean, unread = _read(asked, place), len(set(place) - set(asked["item"]))
        recipes = {str(name): _read(rows, place) for name, rows in group.groupby("recipe", sort=False)}
        held = list(clean)
        for answers in recipes.values():
            held = [stands and answer is not False for stands, answer in zip(held, answers, strict=True)]
        held = [None if before is None else stands for before, stands in zip(clean, held, strict=True)]
        open_ = [k for k, stands in enumerate(held) if stands and any(r[k] is None for r in recipes.values())]
        if unread or open_:
            raise DataError(
                f"{target}, {task}, {epsilon:g}/255: {unread} scenes without a clean answer, {len(open_)} "
                "that stand and were not attacked by all.",
                "Run the comparison to its end.",
            )
        named = {name: marks(answers) for name, answers in recipes.items()}
        whose = "" if source == target else str(source)
        found = Verdict(str(task), str(norm), float(epsilon), marks(clean), marks(held), whose, named)
        out[str(task), str(norm), float(epsilon), str(source)] = found
    for task, norm, epsilon, source in dict.fromkeys(asked_of):
        if (task, norm, epsilon, source) in out:
            continue
        clean = marks(_read(clean_rows[clean_rows["task"] == task], place))
        if RIGHT in clean:
            raise DataError(f"{target}, {task}, {epsilon:g}/255: no attack was run.", "Run the comparison to its end.")
        whose = "" if source == target else source
        out[task, norm, epsilon, source] = Verdict(task, norm, epsilon, clean, clean, whose)
    return list(out.values())


def _read(rows: pd.DataFrame, place: Mapping[str, int]) -> list[bool | None]:
    import pandas as pd

    out: list[bool | None] = [None] * len(place)
    for item, correct in zip(rows["item"], rows["correct"], strict=True):
        out[place[item]] = None if pd.isna(correct) else bool(correct)
    return out


def share(text: str) -> dict[str, float]:
    """Return the share right with its 95 % interval: value, low, high, hits, total; NaN where nobody was asked."""
    right = rights(text)
    return proportion(int(right.sum()), len(right))


def difference(a: str, b: str) -> dict[str, float]:
    """Return share right in a − share right in b over the same scenes: see `evaluation.compare.paired_test`.

    Raises:
        DataError: not the same scenes were asked about.
    """
    if [c == UNASKED for c in a] != [c == UNASKED for c in b]:
        raise DataError("The two were not asked about the same scenes.", "Compare results of one protocol.")
    return paired_test(rights(a), rights(b))


def success_rate(verdict: Verdict) -> dict[str, float]:
    """Attack success rate: of the scenes right when clean, the share lost; with its interval and denominator.

    Not a number where no scene is right: a model that gets nothing right does not withstand attacks.
    """
    clean, held = rights(verdict.clean), rights(verdict.held)
    return proportion(int((clean & ~held).sum()), int(clean.sum()))


def proportion(hits: int, total: int) -> dict[str, float]:
    """Return value, low and high (95 %), hits, total; not a number where there is nothing to count."""
    low, high = share_interval(hits, total)
    value = hits / total if total else float("nan")
    return {"value": value, "low": float(low), "high": float(high), "hits": hits, "total": total}
