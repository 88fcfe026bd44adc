"""Statements about two images, true or false (the form of NLVR2: Suhr et al. 2019, arXiv 1811.00491).

Every pair gets a statement about itself and another image of the dataset. Only the pair's image is perturbed; the other
one is clean, and `detail["side"]` says on which side the pair's image stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cmai_core.data.text import FALSE, TRUE, statement_prompt
from cmai_core.errors import OptionError
from cmai_core.tasks.base import Choices, ChoiceTask, SecondPicture
from cmai_core.tasks.measuring import AnswerMeasurement, Measurement, MeasurementSetting, without_image
from cmai_core.tasks.vqa import answer_tokens

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset, TwoImageStatement
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel


@dataclass(frozen=True)
class NlvrChoices(Choices):
    """Prepared statements.

    Attributes:
        states: N×L×W token states of the statements. last: int64 N, position of their last token.
        other: N×P×W image tokens of the other, clean image. left: bool N, the pair's image is the left one.
        tokens: int64 2, ids of "true" and "false".
    """

    states: Tensor = field(default_factory=lambda: torch.empty(0))
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    other: Tensor = field(default_factory=lambda: torch.empty(0))
    left: Tensor = field(default_factory=lambda: torch.empty(0))
    tokens: Tensor = field(default_factory=lambda: torch.empty(0), metadata={"rows": False})


class Nlvr(ChoiceTask):
    """The decoder reads both images' tokens and the statement, and says "true" or "false"."""

    name = "nlvr"
    needs_decoder = True
    prompt_key = "statement"

    def _missing(self, dataset: PairDataset) -> str:
        return "" if len(dataset.statements) else f"{dataset.name} has no statements about two images."

    def identity(self, dataset: PairDataset) -> dict[str, Any]:
        """Return the dataset's statements."""
        return {"statements": [[s.left, s.right, s.text, s.truth] for s in dataset.statements]}

    def second_picture(self, pair: Pair, dataset: PairDataset) -> SecondPicture | None:
        """Return the other picture of the statement about a pair; None where there is no statement."""
        (statement,) = self.statements([pair], dataset)
        if statement is None:
            return None
        left = dataset[statement.left].id != pair.id
        return SecondPicture(dataset[statement.left if left else statement.right], left)

    def measurement(self, setting: MeasurementSetting) -> Measurement:
        """Return the accuracy over every statement about the pairs."""
        return NlvrMeasurement(self, setting)

    def statements(self, pairs: Sequence[Pair], dataset: PairDataset) -> list[TwoImageStatement | None]:
        """Return for each pair the first statement about it; None where the dataset has none."""
        wanted = {pair.id for pair in pairs}
        places = _places(dataset, wanted)
        first: dict[int, TwoImageStatement] = {}
        for item in dataset.statements:
            first.setdefault(item.left, item)
        for item in dataset.statements:
            first.setdefault(item.right, item)
        return [first.get(places.get(pair.id, -1)) for pair in pairs]

    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> NlvrChoices:
        """Prepare a statement for each pair. A pair about which there is none has no known truth.

        Raises:
            OptionError: no dataset, or it has no statement about any of the pairs.
        """
        if dataset is None:
            raise OptionError("Statements about two images need a dataset.", "Give the dataset that holds the pairs.")
        found = self.statements(pairs, dataset)
        if not any(found):
            raise OptionError("No statement is about these pairs.", "Choose other pairs or another task.")
        places = _places(dataset, {pair.id for pair in pairs})
        filler = next(item for item in found if item is not None)
        items = [item or filler for item in found]
        left = [item.left == places.get(pair.id, -1) for item, pair in zip(items, pairs, strict=True)]
        others = [item.right if on_left else item.left for item, on_left in zip(items, left, strict=True)]
        known = [item is not None for item in found]
        return self.prepare_items(model, items, [dataset[k].image for k in others], left, known)

    @torch.no_grad()
    def prepare_items(
        self,
        model: VisionLanguageModel,
        items: Sequence[TwoImageStatement],
        other_images: Sequence[Any],
        left: Sequence[bool],
        known: Sequence[bool] | None = None,
    ) -> NlvrChoices:
        """Prepare any statements, one a row, with the other image (uint8 H×W×3) of each and the row's own side."""
        pad, _, eos = model.token_ids()
        ids = model.tokenize([statement_prompt(item.text) for item in items])
        last = (ids == eos).int().argmax(dim=1) - 1
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) > last[:, None], pad)
        truth = torch.tensor([item.truth for item in items], dtype=torch.bool, device=model.device)
        return NlvrChoices(
            options=(TRUE, FALSE),
            target=torch.stack([truth, ~truth], dim=1),
            known=torch.tensor(known or [True] * len(items), dtype=torch.bool, device=model.device),
            asked=tuple(item.text for item in items),
            states=model.text_states(ids[:, : int(last.max()) + 1]),
            last=last,
            other=model.image_features(model.preprocess(list(other_images))).tokens,
            left=torch.tensor(left, dtype=torch.bool, device=model.device),
            tokens=torch.tensor([t[0] for t in answer_tokens(model, (TRUE, FALSE))], device=model.device),
        )

    def scores(self, model: VisionLanguageModel, features: ImageFeatures, prepared: NlvrChoices) -> Tensor:
        """Return the decoder's scores of "true" and "false"."""
        own, other = features.tokens, prepared.other.to(features.tokens.dtype)
        left = prepared.left[:, None, None]
        joined = model.two_image_tokens(torch.where(left, own, other), torch.where(left, other, own))
        scores = model.fusion_logits(joined, prepared.states)
        rows = torch.arange(len(scores), device=scores.device)
        return scores[rows, prepared.last].index_select(1, prepared.tokens)

    def extra(self, prepared: NlvrChoices, row: int) -> dict[str, Any]:
        """Return the side on which the pair's picture stands."""
        return {"side": "left" if bool(prepared.left[row]) else "right"}


class NlvrMeasurement(AnswerMeasurement):
    """Accuracy over every statement whose left picture is asked about. Chance is the commoner judgement."""

    def __init__(self, task: Nlvr, setting: MeasurementSetting):
        super().__init__(task, setting)
        self.truths: list[bool] = []
        self._about: dict[int, list[TwoImageStatement]] = defaultdict(list)
        for item in setting.dataset.statements:
            if item.left < setting.count:
                self._about[item.left].append(item)

    def ask(self, model: VisionLanguageModel, pairs: Sequence[Pair], features: ImageFeatures, start: int) -> None:
        """Ask every statement about the pairs."""
        items = [(k, item) for k in range(len(pairs)) for item in self._about[start + k]]
        for first in range(0, len(items), self.setting.batch):
            some = items[first : first + self.setting.batch]
            own = features[torch.tensor([k for k, _ in some], device=model.device)]
            others = [self.setting.dataset[item.right].image for _, item in some]
            prepared = self.task.prepare_items(model, [item for _, item in some], others, [True] * len(some))
            found = self.task.predict(model, own, prepared)
            self.answers += [(without_image(pairs[k]), p, None) for (k, _), p in zip(some, found, strict=True)]
            self.truths += [item.truth for _, item in some]

    def figures(self) -> dict[str, Any]:
        """Return the accuracy of all statements."""
        if not self.truths:
            return {}
        share = sum(self.truths) / len(self.truths)
        self.answers = [(pair, found, max(share, 1 - share)) for pair, found, _ in self.answers]
        return super().figures()


def _places(dataset: PairDataset, wanted: set[str]) -> dict[str, int]:
    """Where the pairs of these ids stand in the dataset: guessed by the number in the id, else looked for."""
    found: dict[str, int] = {}
    for name in wanted:
        number = name.rsplit("/", 1)[-1]
        for guess in (int(number) if number.isdecimal() else -1, 0):
            if 0 <= guess < len(dataset) and dataset[guess].id == name:
                found[name] = guess
                break
    missing = wanted - found.keys()
    for index in range(len(dataset)):
        if not missing:
            break
        name = dataset[index].id
        if name in missing:
            found[name] = index
            missing.discard(name)
    return found
