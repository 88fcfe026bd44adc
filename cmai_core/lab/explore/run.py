"""What a run holds: for each pair, model and ε the scores, answers and embeddings; pictures stay in the dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from cmai_core.errors import OptionError
from cmai_core.lab.experiment import Experiment

CLEAN, ADVERSARIAL = SIDES = ("clean", "adversarial")
HELD, FOOLED, WRONG, OPEN = OUTCOMES = ("held", "fooled", "wrong", "open")
"""Right before and after; right before, wrong after; wrong when clean; nothing known or the task was not asked."""
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model makes of N pictures with their texts.

    Attributes:
        score: S_c, float32 N. right: int8 N, 1 or 0, UNKNOWN where the truth is. answer: int32 N, places in the run's
            `answers`. image: unit vectors, float16 N×D.
    """

    score: np.ndarray
    right: np.ndarray
    answer: np.ndarray
    image: np.ndarray


@dataclass(frozen=True, eq=False)
class ModelRun:
    """One model's part: `attacked` holds a reading for each ε, of pictures attacked on this very model (white box).

    Attributes:
        spec, name, hash: of the model. text: unit vectors of the texts, float16 N×D.
        maps: layout ("pca", "umap", "umap3") → group ("clean", "text", "adversarial 0", …) → float16 N×k.
        notes: layout → what is to be known of it (`layout.py`).
    """

    spec: str
    name: str
    hash: str
    text: np.ndarray
    clean: Reading
    attacked: tuple[Reading, ...]
    maps: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    notes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def reading(self, side: str, level: int) -> Reading:
        """Return the clean reading, or that at the ε of this place."""
        return self.clean if side == CLEAN else self.attacked[level]

    def outcome(self, level: int) -> np.ndarray:
        """Return what became of each pair at an ε: int N, places in OUTCOMES."""
        before, after = self.clean.right, self.attacked[level].right
        found = np.where(after == 1, 0, 1)
        found = np.where(before == 0, 2, found)
        return np.where((before == UNKNOWN) | ((before == 1) & (after == UNKNOWN)), 3, found)


@dataclass(frozen=True, eq=False)
class ExploreRun:
    """An attack on N pairs of a dataset, by the models of `parts` (role → ModelRun).

    Attributes:
        experiment: the attack; its pair and sentence are those of nobody. epsilons: in the units of its norm, rising.
        ids, captions: of the pairs, in the dataset's order. rows: their indices in the dataset.
        attributes: name → N tuples of values that a pair has (several things may have several colours).
        answers: the texts that models answered. asked: how many pairs there were to be. seconds: the making took.
        versions: of the libraries.
    """

    experiment: Experiment
    epsilons: tuple[float, ...]
    ids: tuple[str, ...]
    captions: tuple[str, ...]
    rows: tuple[int, ...]
    attributes: Mapping[str, tuple[tuple[str, ...], ...]]
    answers: tuple[str, ...]
    parts: Mapping[str, ModelRun]
    asked: int = 0
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def place(self) -> str:
        """Where the pairs are: "<dataset>/<split>"."""
        return self.experiment.pair.rpartition("/")[0]

    @cached_property
    def key(self) -> str:
        """Names this run: a digest of models, attack, pairs and scores."""
        asked = [self.experiment.to_dict(), self.epsilons, self.ids, {r: p.hash for r, p in self.parts.items()}]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
        for part in self.parts.values():
            for reading in (part.clean, *part.attacked):
                digest.update(np.ascontiguousarray(reading.score).tobytes())
        return digest.hexdigest()[:16]

    def part(self, role: str) -> ModelRun:
        """Return a model's part.

        Raises:
            OptionError: the run has no such model.
        """
        if role not in self.parts:
            raise OptionError(f"This run has no model {role[:8]!r}.", f"It has {', '.join(self.parts)}.")
        return self.parts[role]

    def experiment_of(self, row: int, level: int) -> Experiment:
        """Return the attack on one pair at one ε, as the attack lab runs it: on each model for itself."""
        return replace(
            self.experiment, pair=self.ids[row], caption=self.captions[row], epsilon=self.epsilons[level]
        ).checked()

    def rows_table(self, rows: Sequence[int], level: int) -> list[dict[str, object]]:
        """Return one row a pair, for tables and CSV."""
        found = []
        for k in rows:
            line: dict[str, object] = {"id": self.ids[k], "caption": self.captions[k]}
            for role, part in self.parts.items():
                after = part.attacked[level]
                line |= {
                    f"{role} outcome": OUTCOMES[part.outcome(level)[k]],
                    f"{role} S_c clean": round(float(part.clean.score[k]), 4),
                    f"{role} S_c attacked": round(float(after.score[k]), 4),
                    f"{role} answer clean": self.said(part.clean, k),
                    f"{role} answer attacked": self.said(after, k),
                }
            line |= {name: ", ".join(values[k]) for name, values in self.attributes.items()}
            found.append(line)
        return found

    def said(self, reading: Reading, row: int) -> str:
        """Return what was answered; "" where nothing was asked."""
        place = int(reading.answer[row])
        return self.answers[place] if place >= 0 else ""
