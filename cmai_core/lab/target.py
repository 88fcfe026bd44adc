"""What a person wants a model to see (a class, an answer to the question, or any caption), and how near it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmai_core.errors import OptionError
from cmai_core.tasks import TASKS, get_task

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import ChoiceTask


@dataclass(frozen=True)
class Target:
    """A typed target, and what it is read as.

    Attributes:
        text: as typed. task: whose answer it shall become. option: the answer as that task writes it.
        why: in a sentence, what it is read as. true: whether it is true of the picture already; None: nobody can say.
    """

    text: str
    task: str
    option: str
    why: str
    true: bool | None = None

    @property
    def refusal(self) -> str:
        """Why there is nothing to attack for; "" where there is."""
        return f"“{self.option}” is true of this picture already." if self.true else ""

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Target:
        """Inverse of `dataclasses.asdict`."""
        return Target(**raw)


@dataclass(frozen=True)
class TargetReading:
    """How near one model is to the target, clean and attacked.

    Attributes:
        margin: the target's score minus that of the best other option, in nats (the logarithm of how many times
            likelier the target is); positive exactly where it is reached.
        reached: whether the model answers the target.
    """

    margin: tuple[float, float]
    reached: tuple[bool, bool]

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> TargetReading:
        """Inverse of `dataclasses.asdict`."""
        return TargetReading(tuple(raw["margin"]), tuple(raw["reached"]))


def read_target(text: str, pair: Pair, dataset: PairDataset) -> Target:
    """Say what a target is read as: an answer that a task offers for this pair, else a caption.

    Args:
        pair: its captions, question and scene decide what is true already. dataset: whose classes are offered.

    Raises:
        OptionError: it is empty, or no task takes it.
    """
    if not text.strip():
        raise OptionError("The target is empty.", "Type a class, an answer or a caption.")
    for name in sorted(TASKS, key=lambda name: get_task(name).open_options):
        task = get_task(name)
        found = task.option_of(text, pair, dataset)
        if found is not None:
            asked = f" “{found.asked}”" if found.asked else ""
            return Target(text, name, found.text, f"Read as {task.option_word}{asked}: “{found.text}”.", found.true)
    raise OptionError(f"“{text}” can be no answer here.", "Type a class, an answer to the question, or a caption.")


def possible_target(text: str, pair: Pair, dataset: PairDataset) -> Target:
    """Return `read_target`.

    Raises:
        OptionError: also where the target is true of the picture already.
    """
    target = read_target(text, pair, dataset)
    if target.refusal:
        raise OptionError(target.refusal, "Type something that the picture does not show.")
    return target


def place_of(target: Target, task: ChoiceTask, model: VisionLanguageModel, pair: Pair, dataset: PairDataset) -> int:
    """Return where the target stands among the task's options for a pair."""
    return task.prepare(model, [pair], dataset).options.index(target.option)


def near_target(
    target: Target,
    task: ChoiceTask,
    model: VisionLanguageModel,
    pair: Pair,
    dataset: PairDataset,
    features: ImageFeatures,
) -> TargetReading:
    """Say how near a model is to the target on two pictures of a pair, clean and attacked.

    Args:
        task: as asked with the target among its options. features: of the two pictures.
    """
    import torch

    from cmai_core.models.evaluation_mode import evaluation_mode

    with torch.no_grad(), evaluation_mode(model):
        prepared = task.prepare(model, [pair] * len(features), dataset)
        scores = task.logits(model, features, prepared).double()
    place = prepared.options.index(target.option)
    others = scores.clone()
    others[:, place] = -torch.inf
    clean, attacked = (scores[:, place] - others.amax(dim=1)).tolist()
    return TargetReading((clean, attacked), (clean > 0, attacked > 0))
