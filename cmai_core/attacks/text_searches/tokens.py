"""Gradient searches over tokens: HotFlip, and PGD on relaxed distributions over tokens.

Both work on words that are one token each; a text's other tokens stay. What the gradient promises is always checked by
a forward pass of the real text, and by the threat model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cmai_core.attacks.text_searches.search import TextOutcome, TextProblem, first_pair
from cmai_core.attacks.text_searches.simplex import project_entropy, project_simplex
from cmai_core.attacks.text_searches.token_words import align, token_words
from cmai_core.attacks.threats.text import TextRegion
from cmai_core.data.words import Words, match_case
from cmai_core.errors import OptionError
from cmai_core.options import flag, number, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators


class _Vocabulary:
    """The words a search may put in, with their tokens: the tokenizer's own, narrowed to what the threat can accept."""

    def __init__(self, problem: TextProblem, words: tuple[str, ...] | None):
        model = problem.evaluator.model
        if not getattr(model, "reads_distributions", False):
            raise OptionError(
                "Gradient searches over tokens need a model that takes distributions over tokens.",
                "Choose a search by candidates, such as greedy.",
            )
        known = token_words(model)
        if words is not None:
            wanted = {word.lower() for word in words}
            known = tuple((token, word) for token, word in known if word.lower() in wanted)
        elif language := problem.region.vocabulary():
            known = tuple((token, word) for token, word in known if word in language)
        if not known:
            raise OptionError("None of the words is a single token of this model.", "Give other words, or none.")
        device = problem.evaluator.device
        self.ids = torch.tensor([token for token, _ in known], device=device)
        self.words = [word for _, word in known]


def _one_hot(ids: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(ids, size).to(torch.float32)


@strict_options
@dataclass(frozen=True, kw_only=True)
class HotFlip:
    """HotFlip with words as units (Ebrahimi et al. 2018, arXiv 1712.06751, §3 and §5).

    Replacing token a by b at a position changes the objective, to first order, by ∇_b − ∇_a, the gradient in the
    one-hot vector. In each round the flips are ranked by it, the first `candidates` that the threat allows are scored
    for real, and the best is taken if it raises the objective.

    Attributes:
        candidates: flips scored in a round; 1 is the paper's greedy HotFlip. rounds: None: the threat's word budget.
        words: the words that may be put in; None: every word that is one token (of the ground truth's language, where
            that decides).
        walk: how far down the ranking to look for allowed flips.
        stop_on_success: leave a pair as it is once it meets the criterion.
    """

    text_gradient = True
    candidates: int = 8
    rounds: int | None = None
    words: tuple[str, ...] | None = None
    walk: int = 1024
    stop_on_success: bool = False

    def __post_init__(self) -> None:
        whole("candidates", self.candidates, 1)
        whole("walk", self.walk, 1)
        if self.rounds is not None:
            whole("rounds", self.rounds, 1)
        flag("stop_on_success", self.stop_on_success)

    def describe(self) -> dict:
        return {"search": "hotflip", "candidates": self.candidates, "rounds": self.rounds, "walk": self.walk}

    def run(self, problem: TextProblem, *, seed: int, watch: Watch) -> TextOutcome:
        outcome, region = TextOutcome.begin(problem), problem.region
        vocabulary = _Vocabulary(problem, self.words)
        rounds = self.rounds or max(1, max(region.budget, default=0))
        live = [row for row in range(len(problem.start)) if region.budget[row]]
        watch.report(0, rounds, "flipping words", outcome.data, force=True)
        for done in range(rounds):
            live = [row for row in live if not (self.stop_on_success and bool(outcome.success[row]))]
            if not live:
                break
            if watch.cancelled:
                outcome.cancelled = True
                break
            current = [outcome.texts[row] for row in live]
            gains, places = token_gains(problem, current, live, vocabulary)
            outcome.backwards[live] += 1
            texts, rows = [], []
            for k, row in enumerate(live):
                for text in self._allowed(region, row, current[k], gains[k], places[k], vocabulary):
                    texts.append(text)
                    rows.append(row)
            watch.report(done, rounds, "flipping words", partial(outcome.data, first_pair(texts, rows)))
            scores = problem.score(texts, rows)
            if rows:
                outcome.queries += torch.bincount(torch.tensor(rows), minlength=len(outcome.texts))
            live = sorted(outcome.offer_best(texts, rows, scores))
            outcome.end_round()
            watch.report(done + 1, rounds, "flipping words", outcome.data, force=done + 1 == rounds)
        return outcome

    def _allowed(
        self,
        region: TextRegion,
        row: int,
        text: str,
        gain: torch.Tensor,
        places: list[int],
        vocabulary: _Vocabulary,
    ) -> list[str]:
        found: list[str] = []
        words = Words.split(text)
        for place, token in best_first(gain, self.walk):
            edited = str(words.replace(places[place], vocabulary.words[token]))
            if edited != text and edited not in found and region.allows(row, edited):
                found.append(edited)
                if len(found) == self.candidates:
                    break
        return found


def token_gains(
    problem: TextProblem, texts: list[str], rows: list[int], vocabulary: _Vocabulary
) -> tuple[list[torch.Tensor], list[list[int]]]:
    """Return for each text first-order gains W×M, of putting each of M words in the places of its W one-token words.

    With them come the indices of these W words; protected ones are left out.
    """
    evaluator = problem.evaluator
    ids, positions = align(evaluator.model, texts)
    ids = ids.to(evaluator.device)
    soft = _one_hot(ids, evaluator.model.vocabulary_size)
    _, gradient = evaluator.text_gradient(soft, padding(ids, evaluator.model), rows, problem.images)
    protected = problem.region.threat.protected
    gains, places = [], []
    for k, text in enumerate(texts):
        words = Words.split(text).words
        own = [i for i, at in enumerate(positions[k]) if at is not None and words[i].lower() not in protected]
        at = torch.tensor([positions[k][i] for i in own], dtype=torch.int64, device=ids.device)
        there = gradient[k, at]
        before = there.gather(1, ids[k, at].unsqueeze(1))
        gain = there[:, vocabulary.ids] - before
        gain = gain.masked_fill(vocabulary.ids.unsqueeze(0) == ids[k, at].unsqueeze(1), -torch.inf)
        gains.append(torch.nan_to_num(gain, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf))
        places.append(own)
    return gains, places


def padding(ids: torch.Tensor, model: Any) -> torch.Tensor:
    """Return which positions come after the end of their text: bool T×L."""
    _, _, end = model.token_ids()
    return ((ids == end).cumsum(dim=1) - (ids == end).long()) > 0


def best_first(gain: torch.Tensor, most: int) -> Iterator[tuple[int, int]]:
    """Yield (row, column) of the largest entries of a matrix, largest first; −∞ is left out."""
    flat = gain.flatten()
    values, order = flat.topk(min(most, len(flat)))
    width = max(1, gain.shape[1])
    for value, at in zip(values.tolist(), order.tolist(), strict=True):
        if value == -float("inf"):
            return
        yield at // width, at % width


@strict_options
@dataclass(frozen=True, kw_only=True)
class RelaxedPGD:
    """PGD on relaxed one-hot tokens with simplex and entropy projection (Geisler et al. 2024, arXiv 2402.09154).

    From that work: the relaxation, ascent with Adam, the projection of each position onto the simplex
    and onto an entropy ball, discretisation by the likeliest token at every step, and the best discrete
    text kept. Of our own, for a budget of words: only positions of one-token words move; each is a distribution over
    its own token and the `choices` the threat allows there that the gradient at the clean text ranks highest; and only
    as many words as the budget has, those that moved farthest, are discretised. Texts keep their length.

    Attributes:
        steps: gradient steps. step_size: Adam's. choices: words considered for each position.
        entropy: where the bound on the Gini entropy ends, as a share of the uniform distribution's; it falls from 1
            (no bound) at the first step to this at the last.
        candidates: discrete texts scored in a step.
        random_start: mix the clean one-hot with random distributions (share drawn up to a half), from the pair's own
            random numbers; restarts: starts (more than one needs random_start).
        words: as in `HotFlip`.
    """

    text_gradient = True
    steps: int = 20
    step_size: float = 0.1
    choices: int = 64
    entropy: float = 0.4
    candidates: int = 4
    random_start: bool = False
    restarts: int = 1
    words: tuple[str, ...] | None = None
    stop_on_success: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "choices", "candidates", "restarts"):
            whole(name, getattr(self, name), 1)
        number("step_size", self.step_size, 0.0, above_low=True)
        number("entropy", self.entropy, 0.0, 1.0)
        flag("random_start", self.random_start)
        flag("stop_on_success", self.stop_on_success)
        if self.restarts > 1 and not self.random_start:
            raise OptionError(
                f"restarts={self.restarts} without random_start would repeat one and the same run.",
                "Accepted: restarts=1, or random_start=True.",
            )

    def describe(self) -> dict:
        names = ("steps", "step_size", "choices", "entropy", "candidates", "random_start", "restarts")
        return {"search": "relaxed PGD"} | {name: getattr(self, name) for name in names}

    def run(self, problem: TextProblem, *, seed: int, watch: Watch) -> TextOutcome:
        outcome = TextOutcome.begin(problem)
        total = self.steps * self.restarts
        watch.report(0, total, "relaxing tokens", outcome.data, force=True)
        if watch.cancelled:
            outcome.cancelled = True
            return outcome
        space = _Space(problem, self, outcome)
        for restart in range(self.restarts):
            x, first, second = space.start(self, seed, restart), 0.0, 0.0
            for step in range(self.steps):
                live = [r for r in space.rows if not (self.stop_on_success and bool(outcome.success[r]))]
                if not live or watch.cancelled:
                    outcome.cancelled = watch.cancelled
                    return outcome
                gradient = space.gradient(x, outcome)
                # Adam (Kingma and Ba 2015), ascending.
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
                rate = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-3)
                x = project_simplex(x + self.step_size * rate, space.support)
                share = 1 - (1 - self.entropy) * (step + 1) / self.steps
                x = torch.where(space.moving, project_entropy(x, share * space.most, space.support), x)
                tried = partial(outcome.data, space.discretise(x, self.candidates, outcome, live))
                outcome.end_round()
                done = restart * self.steps + step + 1
                watch.report(done, total, "relaxing tokens", tried, force=done == total)
        return outcome


class _Space:
    """The relaxed texts of the pairs: which positions move, and over which tokens.

    Attributes:
        rows: the pairs. clean: K×L×V one-hot. support: bool K×L×V. moving: bool K×L×1. most: K×L, the Gini entropy of
            the uniform distribution over the support.
    """

    def __init__(self, problem: TextProblem, search: RelaxedPGD, outcome: TextOutcome):
        self.problem, model = problem, problem.evaluator.model
        region = problem.region
        self.vocabulary = _Vocabulary(problem, search.words)
        self.rows = [row for row in range(len(problem.start)) if region.budget[row]]
        texts = [problem.start[row] for row in self.rows]
        if not texts:
            self.support = torch.zeros(0)
            return
        ids, self.positions = align(model, texts)
        ids = ids.to(problem.evaluator.device)
        self.pad_mask = padding(ids, model)
        length = int((~self.pad_mask).sum(dim=1).max()) + (int(self.pad_mask.any()) and 1)
        length = min(length, ids.shape[1])
        self.ids, self.pad_mask = ids[:, :length], self.pad_mask[:, :length]
        self.clean = _one_hot(self.ids, model.vocabulary_size)
        gains, self.places = token_gains(problem, texts, self.rows, self.vocabulary)
        outcome.backwards[self.rows] += 1
        self.support = self.clean > 0
        self.word_of: list[dict[int, str]] = []
        for k, row in enumerate(self.rows):
            words, allowed = Words.split(texts[k]), {}
            for place, index in enumerate(self.places[k]):
                at, taken = self.positions[k][index], 0
                for _, token in best_first(gains[k][place : place + 1], 16 * search.choices):
                    word = self.vocabulary.words[token]
                    if taken == search.choices:
                        break
                    if region.allows(row, str(words.replace(index, word))):
                        identifier = int(self.vocabulary.ids[token])
                        self.support[k, at, identifier] = True
                        allowed[identifier] = word
                        taken += 1
            self.word_of.append(allowed)
        self.moving = self.support.sum(dim=2, keepdim=True) > 1
        self.most = 1 - 1 / self.support.sum(dim=2).to(self.clean)

    def start(self, search: RelaxedPGD, seed: int, restart: int) -> torch.Tensor:
        if not search.random_start or not self.rows:
            return self.clean if self.rows else self.support
        ids = [self.problem.ids[row] for row in self.rows]
        x = self.clean.clone()
        for k, generator in enumerate(sample_generators(seed, ids, restart)):
            for index in self.places[k]:
                at = self.positions[k][index]
                there = self.support[k, at].nonzero().squeeze(1)
                draw = torch.rand(len(there), generator=generator).to(x)
                share = float(torch.rand((), generator=generator)) / 2
                mixed = torch.zeros_like(x[k, at])
                mixed[there] = draw / draw.sum().clamp(min=1e-12)
                x[k, at] = (1 - share) * x[k, at] + share * mixed
        return project_simplex(x, self.support)

    def gradient(self, x: torch.Tensor, outcome: TextOutcome) -> torch.Tensor:
        """Return the gradient in the support, centred at each position (a shift changes no distribution), else 0."""
        _, gradient = self.problem.evaluator.text_gradient(x, self.pad_mask, self.rows, self.problem.images)
        outcome.backwards[self.rows] += 1
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        number_ = self.support.sum(dim=2, keepdim=True)
        mean = gradient.masked_fill(~self.support, 0.0).sum(dim=2, keepdim=True) / number_
        gradient = torch.where(self.support & self.moving, gradient - mean, 0.0)
        # Scaled to 1, so that Adam's small constant means the same everywhere and rounding is not blown up.
        largest = gradient.abs().amax(dim=(1, 2), keepdim=True)
        return gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny)

    def discretise(self, x: torch.Tensor, most: int, outcome: TextOutcome, live: list[int]) -> list[str]:
        """Score the likeliest discrete texts of each relaxed one, within its budget; return the first pair's."""
        region, texts, rows = self.problem.region, [], []
        for k, row in enumerate(self.rows):
            if row not in live:
                continue
            words = Words.split(self.problem.start[row])
            flips = []
            for index in self.places[k]:
                at = self.positions[k][index]
                own = int(self.ids[k, at])
                weights = x[k, at].clone()
                weights[own] = 0.0
                top = weights.topk(min(most, int((weights > 0).sum())))
                flips += [
                    (w, index, self.word_of[k][t])
                    for w, t in zip(top.values.tolist(), top.indices.tolist(), strict=True)
                ]
            flips.sort(key=lambda flip: -flip[0])
            found = list(dict.fromkeys([*_greedy(words, flips, region.budget[row]), *_single(words, flips, most)]))
            chosen = [text for text in found if text not in self._seen(row) and region.allows(row, text)][:most]
            self._seen(row).update(chosen)
            texts += chosen
            rows += [row] * len(chosen)
        if texts:
            scores = self.problem.score(texts, rows)
            outcome.queries += torch.bincount(torch.tensor(rows), minlength=len(outcome.texts))
            outcome.offer_best(texts, rows, scores)
        return first_pair(texts, rows)

    def _seen(self, row: int) -> set[str]:
        known = self.__dict__.setdefault("_known", {})
        return known.setdefault(row, {self.problem.start[row]})


def _greedy(words: Words, flips: list[tuple[float, int, str]], budget: int) -> list[str]:
    """Return texts with the 1, 2, … `budget` heaviest flips of different words, the longest first."""
    out, used, text = [], set(), words
    for _, index, word in flips:
        if index in used:
            continue
        text = text.spell(index, match_case(words.words[index], word))
        used.add(index)
        out.append(str(text))
        if len(used) == budget:
            break
    return out[::-1]


def _single(words: Words, flips: list[tuple[float, int, str]], most: int) -> list[str]:
    return [str(words.replace(index, word)) for _, index, word in flips[:most]]
