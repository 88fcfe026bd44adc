"""The results of attacks on texts and of joint attacks, pair by pair."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmai_core.attacks.result import Rate, round_to_8bit, save_images, to_uint8
from cmai_core.data.words import Edit, distance, edits, word_distance
from cmai_core.errors import DataError


@dataclass(frozen=True, eq=False)
class TextAttackResult:
    """The outcome of an attack on texts. Tensors on the CPU; T pairs (an image with one text), R rounds.

    Attributes:
        ids: one a pair (the sample's id, with "#0", "#1", … where an image has several texts).
        image_of_text: T image rows of the batch.
        clean_texts, texts: before and after.
        clean_success, success: the criterion on the clean and the attacked pair (bool T). A pair with clean_success was
            lost before the attack: leave it out of success rates.
        clean_objective, objective; clean_consistency, consistency: the objective and S_c on the same two (T).
        objective_trace, consistency_trace: (R+1)×T, the best text's scores after each round (row 0: the start).
        label_changed: for each pair, whether its attacked text is false of the picture; None where nobody can say.
        queries: texts scored for each pair; backwards: gradients in the text taken for each pair (T).
        notes: why a pair is not as expected ("" where it is).
        steps_done: rounds; cancelled, seconds, seed, attack: as in `AttackResult`.
    """

    ids: tuple[str, ...]
    image_of_text: tuple[int, ...]
    clean_texts: tuple[str, ...]
    texts: tuple[str, ...]
    clean_success: torch.Tensor
    success: torch.Tensor
    clean_objective: torch.Tensor
    objective: torch.Tensor
    clean_consistency: torch.Tensor
    consistency: torch.Tensor
    objective_trace: torch.Tensor
    consistency_trace: torch.Tensor
    label_changed: tuple[bool | None, ...]
    queries: torch.Tensor
    backwards: torch.Tensor
    notes: tuple[str, ...]
    steps_done: int
    cancelled: bool
    seconds: float
    seed: int
    attack: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def edits(self) -> tuple[tuple[Edit, ...], ...]:
        """What was done to each text, word by word."""
        return tuple(edits(a, b) for a, b in zip(self.clean_texts, self.texts, strict=True))

    @property
    def words_changed(self) -> tuple[int, ...]:
        """Word edits of each text (as the threat model counts them)."""
        return tuple(word_distance(a, b) for a, b in zip(self.clean_texts, self.texts, strict=True))

    @property
    def characters_changed(self) -> tuple[int, ...]:
        return tuple(distance(a, b) for a, b in zip(self.clean_texts, self.texts, strict=True))

    def _won(self, rounded: bool) -> torch.Tensor:
        return self.success

    def success_rate(self, rounded: bool = True, *, truthful: bool = False) -> Rate:
        """Return ASR: among the samples that did not meet the criterion when clean, those that do after the attack.

        `rounded` is for joint attacks (pixels as a picture file holds them). `truthful`: a success counts only where
        the attacked text is known to be true still; pairs for which nobody can say count as none.
        """
        intact = ~self.clean_success
        won = self._won(rounded) & intact
        if truthful:
            won = won & torch.tensor([changed is False for changed in self.label_changed], dtype=torch.bool)
        return Rate(int(won.sum()), int(intact.sum()))

    @property
    def truth_is_known(self) -> bool:
        """Whether of any attacked text it can be said if it is still true."""
        return any(changed is not None for changed in self.label_changed)

    def label_change_rate(self) -> Rate:
        """Return, among the pairs whose attacked text differs and can be judged, those whose text is now false."""
        judged = [
            changed
            for changed, a, b in zip(self.label_changed, self.clean_texts, self.texts, strict=True)
            if changed is not None and a != b
        ]
        return Rate(sum(judged), len(judged))

    def records(self, traces: bool = True) -> list[dict[str, Any]]:
        """Return one dict of plain JSON values per pair."""
        columns = {
            f.name: _plain(getattr(self, f.name).T if f.name.endswith("_trace") else getattr(self, f.name))
            for f in fields(self)
            if isinstance(getattr(self, f.name), torch.Tensor) and f.name not in self._of_images()
            if traces or not f.name.endswith("_trace")
        }
        out = []
        for k, (sample_id, done) in enumerate(zip(self.ids, self.edits, strict=True)):
            values = {name: column[k] for name, column in columns.items()}
            values |= {
                "image": self.image_of_text[k],
                "clean_text": self.clean_texts[k],
                "text": self.texts[k],
                "edits": [{"kind": e.kind, "word": e.word, "before": e.before, "after": e.after} for e in done],
                "words_changed": self.words_changed[k],
                "characters_changed": self.characters_changed[k],
                "label_changed": self.label_changed[k],
            }
            out.append({"id": sample_id, **values, "note": self.notes[k]})
        return out

    def _of_images(self) -> tuple[str, ...]:
        return ()

    def to_json(self, traces: bool = True) -> str:
        """Return the description, totals and per-pair records as a JSON object; no pixels."""
        summary: dict[str, Any] = {
            "attack": dict(self.attack),
            "seed": self.seed,
            "seconds": self.seconds,
            "steps_done": self.steps_done,
            "cancelled": self.cancelled,
            "success_rate": self.success_rate().to_dict(),
            "label_change_rate": self.label_change_rate().to_dict(),
            "pairs": self.records(traces),
        }
        return json.dumps(summary, allow_nan=False)


@dataclass(frozen=True, eq=False)
class JointResult(TextAttackResult):
    """The outcome of a joint attack: `TextAttackResult` with images. N images, T pairs.

    `success`, `objective` and `consistency` are those of the attacked text with the float image; `*_8bit` with the
    image brought to 256 levels within the threat model, which is what counts in practice.

    Attributes:
        pixels: N×3×H×W. success_8bit, objective_8bit, consistency_8bit: T.
        linf, l2, l0, size; linf_8bit, …: of the perturbation, one an image (N), as in `AttackResult`.
        forwards, backwards_image: image passes and image gradients spent on each image (N).
        rounded: N×3×H×W, the images of 256 levels.
    """

    pixels: torch.Tensor = None
    success_8bit: torch.Tensor = None
    objective_8bit: torch.Tensor = None
    consistency_8bit: torch.Tensor = None
    linf: torch.Tensor = None
    l2: torch.Tensor = None
    l0: torch.Tensor = None
    size: torch.Tensor = None
    linf_8bit: torch.Tensor = None
    l2_8bit: torch.Tensor = None
    l0_8bit: torch.Tensor = None
    size_8bit: torch.Tensor = None
    forwards: torch.Tensor = None
    backwards_image: torch.Tensor = None
    rounded: torch.Tensor = None

    @property
    def pixels_8bit(self) -> torch.Tensor:
        """Adversarial images in multiples of 1/255."""
        return round_to_8bit(self.pixels) if self.rounded is None else self.rounded

    def images(self) -> np.ndarray:
        """Return adversarial images as a picture file holds them: uint8 N×H×W×3."""
        return to_uint8(self.pixels_8bit)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each adversarial image as a PNG named after its sample id; return the paths in the samples' order.

        Raises:
            DataError: the folder cannot be written.
        """
        names = {}
        for sample_id, row in zip(self.ids, self.image_of_text, strict=True):
            shared = self.image_of_text.count(row) > 1
            names.setdefault(row, sample_id.rsplit("#", 1)[0] if shared else sample_id)
        rows = sorted(names)
        paths = dict(zip(rows, save_images([names[row] for row in rows], self.images()[rows], folder), strict=True))
        return [paths[row] for row in self.image_of_text]

    def _won(self, rounded: bool) -> torch.Tensor:
        return self.success_8bit if rounded else self.success

    def _of_images(self) -> tuple[str, ...]:
        sizes = ("linf", "l2", "l0", "size")
        both = (*sizes, *(f"{name}_8bit" for name in sizes))
        return ("pixels", "rounded", *both, "forwards", "backwards_image")

    def records(self, traces: bool = True) -> list[dict[str, Any]]:
        out = super().records(traces)
        columns = {name: _plain(getattr(self, name)) for name in self._of_images() if name not in ("pixels", "rounded")}
        for record, row in zip(out, self.image_of_text, strict=True):
            record |= {name: column[row] for name, column in columns.items()}
        return out


def concatenate(results: list[TextAttackResult]) -> TextAttackResult:
    """Join results of several batches of one attack, in the order given; seconds and steps add up.

    Shorter traces are continued with their last row.

    Raises:
        DataError: nothing to concatenate.
    """
    if not results:
        raise DataError("There is no result to concatenate.")
    kind, merged, offset = type(results[0]), {}, 0
    owners: list[int] = []
    for result in results:
        owners += [row + offset for row in result.image_of_text]
        offset += len(result.pixels) if isinstance(result, JointResult) else max(result.image_of_text, default=-1) + 1
    for f in fields(kind):
        values = [getattr(result, f.name) for result in results]
        if f.name == "image_of_text":
            merged[f.name] = tuple(owners)
        elif f.name in ("seconds", "steps_done"):
            merged[f.name] = sum(values)
        elif f.name == "cancelled":
            merged[f.name] = any(values)
        elif f.name.endswith("_trace"):
            longest = max(len(v) for v in values)
            merged[f.name] = torch.cat([torch.cat([v, v[-1:].expand(longest - len(v), -1)]) for v in values], dim=1)
        elif isinstance(values[0], torch.Tensor):
            merged[f.name] = torch.cat(values)
        elif isinstance(values[0], tuple):
            merged[f.name] = tuple(item for value in values for item in value)
        else:
            merged[f.name] = values[0]
    return kind(**merged)


def _plain(values: torch.Tensor) -> list:
    def finite(value: Any) -> Any:
        if isinstance(value, list):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [finite(value) for value in values.tolist()]
