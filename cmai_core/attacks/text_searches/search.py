"""Searches among candidate texts: greedy and beam search, and BERT-Attack's order by importance.

All pairs of a batch go forward together: in each round the candidates of every pair are scored in one pass. A pair's
result depends on no other pair: its random numbers belong to its id, and ties go to the candidate proposed first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from cmai_core.attacks.engine.best import TIE, BestTracker
from cmai_core.attacks.engine.pair_evaluator import PairEvaluator, PairScores
from cmai_core.attacks.text_searches.proposers import Candidate, Proposer, Synonyms, check_proposer
from cmai_core.attacks.threats.text import TextRegion
from cmai_core.data.words import Words, word_distance
from cmai_core.errors import OptionError
from cmai_core.options import flag, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_seed


@dataclass
class TextProblem:
    """What a text search works on.

    Attributes:
        region: the allowed texts around the T clean ones. ids: one a pair. evaluator: bound to the pairs.
        images: features of the N images as they now are; pixels: what these were made from.
        start: texts to begin from; clean: scores of these with `images`.
        memory: what one search may leave for a later one on the same pairs (proposals do not depend on images).
    """

    region: TextRegion
    ids: Sequence[str]
    evaluator: PairEvaluator
    images: Any
    pixels: torch.Tensor
    start: Sequence[str]
    clean: PairScores
    memory: dict = field(default_factory=dict)

    def randoms(self, seed: int) -> list[random.Random]:
        return [random.Random(sample_seed(seed, sample_id, 0)) for sample_id in self.ids]

    def score(self, texts: Sequence[str], rows: Sequence[int]) -> PairScores:
        return self.evaluator.score(texts, rows, self.images, pixels=self.pixels)


@dataclass
class TextOutcome:
    """What a text search found. Tensors on the device; T pairs, R rounds.

    Attributes:
        texts: the best text of each pair (success first, then the objective; the start where nothing was better).
        best, consistency: its scores (T).
        objective_trace, consistency_trace: R+1 rows of T: the best text's scores after each round (row 0: the start).
        queries: texts scored for each pair; backwards: gradients taken for each pair (int64 T, on the CPU).
        steps_done: rounds. cancelled: whether it ended early because it was told to.
    """

    texts: list[str]
    best: BestTracker
    consistency: torch.Tensor
    objective_trace: list[torch.Tensor]
    consistency_trace: list[torch.Tensor]
    queries: torch.Tensor
    backwards: torch.Tensor
    steps_done: int = 0
    cancelled: bool = False

    @staticmethod
    def begin(problem: TextProblem) -> TextOutcome:
        clean, count = problem.clean, len(problem.start)
        success = clean.success
        if success is None:
            success = torch.zeros(count, dtype=torch.bool, device=clean.value.device)
        return TextOutcome(
            list(problem.start),
            BestTracker(None, clean.value.clone(), success.clone(), TIE),
            clean.consistency.clone(),
            [clean.value.clone()],
            [clean.consistency.clone()],
            torch.zeros(count, dtype=torch.int64),
            torch.zeros(count, dtype=torch.int64),
        )

    @property
    def value(self) -> torch.Tensor:
        """Objectives of the best texts (T)."""
        return self.best.value

    @property
    def success(self) -> torch.Tensor:
        """Which of them succeed (bool T)."""
        return self.best.success

    def offer(self, candidates: Mapping[int, int], texts: Sequence[str], scores: PairScores) -> set[int]:
        """Take over candidates where they are better than the best so far; return the pairs where they were.

        Args:
            candidates: pair → the place of its candidate in `texts` and `scores`.
        """
        if not candidates:
            return set()
        device = scores.value.device
        rows = torch.tensor(list(candidates), device=device)
        places = torch.tensor(list(candidates.values()), device=device)
        taken = self.best.offer(None, scores.value[places], scores.success[places], rows)
        self.consistency = self.consistency.index_copy(0, rows[taken], scores.consistency[places[taken]])
        improved = set(rows[taken].tolist())
        for row in improved:
            self.texts[row] = texts[candidates[row]]
        return improved

    def offer_best(self, texts: Sequence[str], rows: Sequence[int], scores: PairScores) -> set[int]:
        """Offer each pair the best of its candidates; return the pairs that took it. Candidate k is of `rows[k]`."""
        return self.offer({row: ranked(scores, own)[0] for row, own in by_pair(rows).items()}, texts, scores)

    def end_round(self) -> None:
        """Enter the best so far as the next row of the traces."""
        self.steps_done += 1
        self.objective_trace.append(self.value)
        self.consistency_trace.append(self.consistency)

    def data(self, trying: Sequence[str] = ()) -> dict:
        """Return what progress messages hold; `trying`: texts of the first pair that are about to be scored."""
        return {
            "step": self.steps_done,
            "restart": 0,
            "objective": torch.stack(self.objective_trace),
            "consistency": torch.stack(self.consistency_trace),
            "texts": tuple(self.texts),
            "trying": spread(trying),
        }


SHOWN = 8
"""Candidates that a message shows of those that are scored together."""


def spread(texts: Sequence[str], most: int = SHOWN) -> tuple[str, ...]:
    """Return at most so many texts, evenly chosen."""
    return tuple(texts[k * len(texts) // most] for k in range(most)) if len(texts) > most else tuple(texts)


def first_pair(texts: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the texts of the first pair; text k is of pair `rows[k]`."""
    return [text for text, row in zip(texts, rows, strict=True) if row == 0]


def by_pair(rows: Sequence[int]) -> dict[int, list[int]]:
    """Return, for each pair that occurs in `rows`, the places where it does."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    return places


def ranked(scores: PairScores, members: Sequence[int]) -> list[int]:
    """Return `members` (places in `scores`), best first; ties within rounding keep their order."""
    values = scores.value[list(members)].tolist()
    wins = scores.success[list(members)].tolist()

    def key(k: int) -> tuple:
        value = values[k]
        return (not wins[k], value != value, -round(value, 6) if value == value else 0.0, k)

    return [members[k] for k in sorted(range(len(members)), key=key)]


class TextSearch(Protocol):
    """How an allowed text with a high objective is found."""

    def run(self, problem: TextProblem, *, seed: int, watch: Watch) -> TextOutcome: ...

    def describe(self) -> dict: ...


@strict_options
@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """In each round every candidate of every kept text is scored, and the best `beam` texts of each pair are kept.

    Beam 1 is greedy search. A pair ends when nothing better was found (the kept texts compete with their candidates),
    when its budget is used up or, with `stop_on_success`, when it has succeeded.

    Attributes:
        proposer: where candidates come from. beam: texts kept for each pair.
        rounds: most rounds; None: as many as the threat allows edits (words; characters where these are limited).
        candidates: most candidates of a text in a round, taken in the order they are proposed (None: all).
        stop_on_success: leave a pair as it is once it meets the criterion.
    """

    proposer: Proposer = field(default_factory=Synonyms)
    beam: int = 1
    rounds: int | None = None
    candidates: int | None = None
    stop_on_success: bool = False

    def __post_init__(self) -> None:
        check_proposer(self.proposer)
        whole("beam", self.beam, 1)
        for name in ("rounds", "candidates"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        flag("stop_on_success", self.stop_on_success)

    def describe(self) -> dict:
        return {
            "search": "greedy" if self.beam == 1 else "beam",
            "proposer": self.proposer.describe(),
            "beam": self.beam,
            "rounds": self.rounds,
            "candidates": self.candidates,
            "stop_on_success": self.stop_on_success,
        }

    def run(self, problem: TextProblem, *, seed: int, watch: Watch) -> TextOutcome:
        outcome, randoms = TextOutcome.begin(problem), problem.randoms(seed)
        region = problem.region
        rounds = self.rounds or rounds_of(region)
        beams = {row: [text] for row, text in enumerate(problem.start) if region.budget[row]}
        values = {row: {text: None for text in texts} for row, texts in beams.items()}
        watch.report(0, rounds, "searching texts", outcome.data, force=True)
        for number in range(rounds):
            beams = {r: b for r, b in beams.items() if not (self.stop_on_success and bool(outcome.success[r]))}
            if not beams:
                break
            if watch.cancelled:
                outcome.cancelled = True
                break
            texts, rows = self._candidates(problem, beams, values, randoms)
            watch.report(number, rounds, "searching texts", partial(outcome.data, first_pair(texts, rows)))
            scores = problem.score(texts, rows)
            outcome.queries += torch.bincount(torch.tensor(rows, dtype=torch.int64), minlength=len(outcome.texts))
            beams = self._keep(outcome, beams, values, texts, rows, scores)
            outcome.end_round()
            watch.report(number + 1, rounds, "searching texts", outcome.data, force=number + 1 == rounds)
        return outcome

    def _candidates(
        self, problem: TextProblem, beams: dict, values: dict, randoms: list[random.Random]
    ) -> tuple[list[str], list[int]]:
        sources = [(row, text) for row, kept in beams.items() for text in kept]
        free = [_editable(problem.region, row, text) for row, text in sources]
        proposed = remembered(
            self.proposer, problem, [t for _, t in sources], free, [row for row, _ in sources], randoms
        )
        texts, rows = [], []
        for (row, _), candidates in zip(sources, proposed, strict=True):
            new = [c.text for c in candidates if c.text not in values[row]]
            fine = problem.region.filter([row] * len(new), new)
            new = [text for text, ok in zip(new, fine, strict=True) if ok][: self.candidates]
            for text in dict.fromkeys(new):
                values[row][text] = None
                texts.append(text)
                rows.append(row)
        return texts, rows

    def _keep(
        self, outcome: TextOutcome, beams: dict, values: dict, texts: list[str], rows: list[int], scores: PairScores
    ) -> dict:
        orders = {row: ranked(scores, members) for row, members in by_pair(rows).items()}
        improved = outcome.offer({row: order[0] for row, order in orders.items()}, texts, scores)
        going_on = [row for row in beams if row in orders and (row in improved or self.beam > 1)]
        return {row: [texts[k] for k in orders[row][: self.beam]] for row in going_on}


def _editable(region: TextRegion, row: int, text: str) -> list[int] | None:
    """Return indices of the words of a text that may be edited (None: all)."""
    protected = region.threat.protected
    return [i for i, word in enumerate(Words.split(text).words) if word.lower() not in protected] if protected else None


def remembered(
    proposer: Proposer,
    problem: TextProblem,
    texts: Sequence[str],
    words: Sequence[Sequence[int] | None],
    rows: Sequence[int],
    randoms: Sequence[random.Random],
) -> list[list[Candidate]]:
    """Return a proposer's candidates for texts of the given pairs, each proposed once: they do not depend on images."""
    memory = problem.memory
    keys = [
        (id(proposer), problem.ids[row], text, None if w is None else tuple(w))
        for text, w, row in zip(texts, words, rows, strict=True)
    ]
    missing = [k for k, key in enumerate(keys) if key not in memory]
    if missing:
        fresh = proposer.propose(
            [texts[k] for k in missing], [words[k] for k in missing], [randoms[rows[k]] for k in missing]
        )
        memory.update((keys[k], candidates) for k, candidates in zip(missing, fresh, strict=True))
    return [memory[key] for key in keys]


def rounds_of(region: TextRegion) -> int:
    """Return how often a text may be edited: its words, or its characters where these are limited and more."""
    words = max(region.budget, default=0)
    characters = region.threat.characters
    return max(1, words if characters is None else max(words, characters))


_STOP = """a an the and or of to is are was were be been being there this that these those it its with on in at by for
from"""
STOP_WORDS = frozenset(_STOP.split())


@strict_options
@dataclass(frozen=True, kw_only=True)
class ImportanceSearch:
    """BERT-Attack's search (Li et al. 2020, arXiv 2004.09984, §3.1): words in the order of their importance.

    A word's importance is how much the objective rises when the word is masked. Then, most important first, each word
    is replaced by the best of its candidates where that raises the objective, until the budget is used up or, with
    `stop_on_success`, the pair has succeeded. Candidates are proposed once, for the clean text.

    Attributes:
        proposer: masked-LM substitutes in the paper (`cmai_core.attacks.text_searches.masked_lm.MaskedLMProposer`).
        mask: what stands for a masked word: "[UNK]" in the paper (for BERT's vocabulary); "": the word is left out.
        skip: words that are never attacked (the paper filters stop words).
        stop_on_success: as the paper does.
    """

    proposer: Proposer = field(default_factory=Synonyms)
    mask: str = ""
    skip: frozenset[str] = STOP_WORDS
    stop_on_success: bool = False

    def __post_init__(self) -> None:
        check_proposer(self.proposer)
        flag("stop_on_success", self.stop_on_success)
        if not isinstance(self.mask, str):
            raise OptionError(f"mask={self.mask!r} is not accepted.", "Accepted: a string.")

    def describe(self) -> dict:
        return {
            "search": "importance",
            "proposer": self.proposer.describe(),
            "mask": self.mask,
            "stop_on_success": self.stop_on_success,
        }

    def run(self, problem: TextProblem, *, seed: int, watch: Watch) -> TextOutcome:
        outcome, region = TextOutcome.begin(problem), problem.region
        live = [
            row
            for row in range(len(problem.start))
            if region.budget[row] and not (self.stop_on_success and bool(outcome.success[row]))
        ]
        rounds = max([region.budget[row] for row in live], default=0)
        watch.report(0, rounds + 1, "ranking words", outcome.data, force=True)
        if watch.cancelled or not live:
            outcome.cancelled = watch.cancelled and bool(live)
            return outcome
        order = self._order(problem, live, outcome)
        randoms = problem.randoms(seed)
        starts, places = [problem.start[row] for row in live], [order[row] for row in live]
        found = remembered(self.proposer, problem, starts, places, live, randoms)
        substitutes = {
            row: _by_word(problem.start[row], candidates) for row, candidates in zip(live, found, strict=True)
        }
        waiting = {row: list(order[row]) for row in live}
        longest = max([len(words) for words in order.values()], default=0)
        for number in range(longest):
            if watch.cancelled:
                outcome.cancelled = True
                break
            texts, rows = [], []
            for row in [r for r in waiting if waiting[r]]:
                word = waiting[row].pop(0)
                current = Words.split(outcome.texts[row])
                options = dict.fromkeys(str(current.replace(word, w)) for w in substitutes[row].get(word, ()))
                fine = region.filter([row] * len(options), list(options))
                chosen = [t for t, ok in zip(options, fine, strict=True) if ok and t != outcome.texts[row]]
                texts += chosen
                rows += [row] * len(chosen)
            if texts:
                watch.report(number, longest, "replacing words", partial(outcome.data, first_pair(texts, rows)))
                scores = problem.score(texts, rows)
                outcome.queries += torch.bincount(torch.tensor(rows), minlength=len(outcome.texts))
                self._take(outcome, region, waiting, texts, rows, scores)
            outcome.end_round()
            watch.report(number + 1, longest, "replacing words", outcome.data, force=number + 1 == longest)
            if not any(waiting.values()):
                break
        return outcome

    def _order(self, problem: TextProblem, live: list[int], outcome: TextOutcome) -> dict[int, list[int]]:
        texts, rows, at = [], [], []
        for row in live:
            words = Words.split(problem.start[row])
            free = problem.region.changeable(row) if problem.start[row] == problem.region.clean[row] else None
            for i, word in enumerate(words.words):
                if (
                    word.lower() in self.skip
                    or word.lower() in problem.region.threat.protected
                    or (free and not free[i])
                ):
                    continue
                masked = words.spell(i, self.mask) if self.mask else words.delete(i)
                texts.append(str(masked))
                rows.append(row)
                at.append(i)
        scores = problem.score(texts, rows)
        if rows:
            outcome.queries += torch.bincount(torch.tensor(rows), minlength=len(outcome.texts))
        members = {row: [] for row in live} | by_pair(rows)
        # Importance is the objective alone: what success means for a text with a hole in it is not asked.
        plain = PairScores(scores.value, scores.consistency, torch.zeros_like(scores.value, dtype=torch.bool))
        return {row: [at[k] for k in ranked(plain, own)] for row, own in members.items()}

    def _take(
        self,
        outcome: TextOutcome,
        region: TextRegion,
        waiting: dict,
        texts: list[str],
        rows: list[int],
        scores: PairScores,
    ) -> None:
        improved = outcome.offer_best(texts, rows, scores)
        for row in set(rows):
            spent = word_distance(region.clean[row], outcome.texts[row]) >= region.budget[row]
            if spent or (row in improved and self.stop_on_success and bool(outcome.success[row])):
                waiting[row] = []


def _by_word(text: str, candidates: Sequence[Candidate]) -> dict[int, list[str]]:
    """Return which word each candidate puts in which place (those that change the number of words are left out)."""
    old = Words.split(text)
    found: dict[int, list[str]] = {}
    for candidate in candidates:
        new = Words.split(candidate.text)
        if len(new) == len(old):
            found.setdefault(candidate.word, []).append(new.words[candidate.word])
    return found
