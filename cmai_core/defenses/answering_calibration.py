"""What a model's verified answering was fitted to: a rule for each task, and what it gains on other clean pairs.

Plain values, stored in the model's card under "answering". `evaluation.verification.answering` makes them;
`VerifiedAnswers.of_card` reads the rules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmai_core.bootstrap import Interval
from cmai_core.errors import DataError, OptionError
from cmai_core.tasks.verified import CARD_KEY, VerifiedAnswers, rule_from_dict


@dataclass(frozen=True)
class TaskRule:
    """How one task is answered best.

    Attributes:
        rule: None where verification does not answer more of the pairs rightly that it was fitted on.
        fitted: pairs that it was fitted on.
        before, after: accuracy on other clean pairs, of the model alone and with the rule. gain: their difference, pair
            by pair. All with 95 % bootstrap intervals and their denominator `n`.
    """

    rule: VerifiedAnswers | None
    fitted: int
    before: Interval
    after: Interval
    gain: Interval


@dataclass(frozen=True)
class AnsweringCalibration:
    """Verified answering of one model.

    Attributes:
        model: hash of the model's weights. dataset: what it was fitted and tried on, such as "tabletop/validation".
        tasks: by name.
    """

    model: str
    dataset: str
    tasks: Mapping[str, TaskRule]

    @property
    def rules(self) -> dict[str, VerifiedAnswers]:
        """The rules by task, as a `System` takes them."""
        return {task: found.rule for task, found in self.tasks.items() if found.rule is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> AnsweringCalibration:
        """Return the inverse of `to_dict`.

        Raises:
            DataError: other values.
        """
        try:
            tasks = {task: _task_rule(entry) for task, entry in values["tasks"].items()}
            return AnsweringCalibration(values["model"], values["dataset"], tasks)
        except (AttributeError, KeyError, TypeError, OptionError) as error:
            raise DataError(f"This is no calibration of answering: {error}.", "Calibrate the model again.") from error


def _task_rule(values: Mapping[str, Any]) -> TaskRule:
    figures = {name: Interval(**values[name]) for name in ("before", "after", "gain")}
    rule = None if values["rule"] is None else rule_from_dict(values["rule"])
    return TaskRule(rule, values["fitted"], **figures)


def store_answering(calibration: AnsweringCalibration, folder: str | Path) -> None:
    """Write it into the card of a saved model, in the place of an earlier one.

    Raises:
        ModelError: the folder holds no model, or its card cannot be read.
    """
    from cmai_core.models.save import add_to_card

    add_to_card(folder, {CARD_KEY: calibration.to_dict()})
