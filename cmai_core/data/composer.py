"""Composing a scene from a few choices: what a dataset offers whose pictures can be made to order.

A dataset says in its row of `data.registry.DATASETS` that it has a `Composer`; the lab draws the form that it declares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.data.pair import Pair
    from cmai_core.data.truth import Scene


@dataclass(frozen=True)
class Choice:
    """One choice of a composer's form.

    Attributes:
        name: key of the value chosen. title: what people read.
        values: what can be chosen, in words. default: one of them.
        ordered: whether the values lie on a line, as on a slider.
    """

    name: str
    title: str
    values: tuple[str, ...]
    default: str
    ordered: bool = False


class Composer(ABC):
    """Makes scenes of one dataset.

    Attributes:
        most: how many objects a scene can hold. first: how many the form begins with.
        note: what a person must know of the picture shown, as a sentence.
    """

    most: int
    first: int = 1
    note: str = ""

    @abstractmethod
    def object_choices(self, number: int) -> tuple[Choice, ...]:
        """Return the choices about object `number` (from 0)."""

    @abstractmethod
    def scene_choices(self) -> tuple[Choice, ...]:
        """Return the choices about the scene as a whole."""

    @abstractmethod
    def compose(self, objects: Sequence[Mapping[str, str]], scene: Mapping[str, str]) -> tuple[Scene, str]:
        """Make a scene of choices; names that are left out take their default.

        Returns:
            The scene, and in a sentence what is not quite as chosen ("" where everything is).

        Raises:
            OptionError: a choice that does not exist, or objects that do not go together.
        """

    @abstractmethod
    def read(self, text: str) -> Scene:
        """Read a scene from what its `to_json` wrote, which anybody may have changed.

        Raises:
            DataError: anything else.
        """

    @abstractmethod
    def pair(self, scene: Scene, caption: str = "") -> Pair:
        """Make a pair of a scene: its picture, true captions and questions; `caption` goes first where given."""

    @abstractmethod
    def picture(self, scene: Scene, side: int) -> np.ndarray:
        """Draw a scene for people: uint8 side×side×3."""
