"""Visual question answering: the decoder's most probable answer among the task's vocabulary of answers.

One question a pair: its only one, or else one chosen by the pair's id, the same every time. `prepare_questions` asks
any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmai_core.data.text import question_prompt, question_with_answer
from cmai_core.data.truth import ground_truth_of
from cmai_core.errors import OptionError
from cmai_core.tasks.base import Choices, ChoiceTask, Option
from cmai_core.tasks.consistency import AnswerTexts, row_texts
from cmai_core.tasks.measuring import Measurement, MeasurementSetting, entry, metric_figures, without_image
from cmai_core.tasks.metrics import Records, bootstrap_interval, normalise_answer, vqa_accuracy

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset, Question
    from cmai_core.data.truth import GroundTruth
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import Prediction

QUESTIONS_PER_PAIR = 4
_CHUNK, _ASKED = 64, 128


@dataclass(frozen=True)
class VqaChoices(Choices):
    """Prepared questions.

    Attributes:
        states: N×L×W token states of the questions. last: int64 N, position of the last token of each.
        ids: int64 N×L. answers: the options' token ids. single: int64 C where every answer is one token, else None.
        truth: what makes statements of questions and answers, if anything. said: (question, answer) → statement, so
            far.
    """

    states: Tensor = field(default_factory=lambda: torch.empty(0))
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    ids: Tensor = field(default_factory=lambda: torch.empty(0))
    answers: tuple[tuple[int, ...], ...] = ()
    single: Tensor | None = field(default=None, metadata={"rows": False})
    truth: GroundTruth | None = None
    said: dict[tuple[str, str], str] = field(default_factory=dict)


class Vqa(ChoiceTask):
    """Args: answers: the vocabulary of answers; None: all that the pairs' ground truth knows, and the accepted ones."""

    name = "vqa"
    verifiable = True
    needs_decoder = True
    text_field = "question"
    option_word = "an answer to the question"
    metrics = ()

    def __init__(self, answers: Sequence[str] | None = None):
        self.answers = tuple(answers) if answers is not None else None

    def _missing(self, dataset: PairDataset) -> str:
        some = range(min(8, len(dataset)))
        return "" if any(dataset[k].questions for k in some) else f"{dataset.name} has no questions."

    def answer_texts(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: VqaChoices, *, encode: bool = True
    ) -> AnswerTexts:
        """Return the statement that each answer makes; where there is none, the question followed by the answer."""
        rows = [statements(pair, asked, prepared.options) for pair, asked in zip(pairs, prepared.asked, strict=True)]
        return row_texts(model, prepared, rows, encode=encode)

    def measurement(self, setting: MeasurementSetting) -> Measurement:
        """Return VQAv2's accuracy over several questions a pair."""
        return VqaMeasurement(self, setting)

    def question(self, pair: Pair) -> Question:
        """Return the question that is asked about a pair.

        Raises:
            OptionError: it has none.
        """
        if not pair.questions:
            raise OptionError(f"The pair {pair.id} has no question.", "Add one, or choose another task.")
        return pair.questions[crc32(pair.id.encode()) % len(pair.questions)]

    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> VqaChoices:
        """Prepare one question a pair. A question without accepted answers has no known truth."""
        return self.prepare_questions(model, pairs, [self.question(pair) for pair in pairs])

    def option_of(self, text: str, pair: Pair, dataset: PairDataset) -> Option | None:
        """Return the answer to the pair's question that a text is; None also for one of another kind (red)."""
        if not pair.questions:
            return None
        question, answer = self.question(pair), normalise_answer(text)
        options = self.options([pair], [question])
        found = next((option for option in options if normalise_answer(option) == answer), None)
        truth = ground_truth_of([pair])
        if found is None or (truth is not None and truth.statement(question.text, found) is None):
            return None
        right = {normalise_answer(accepted) for accepted in question.answers}
        return Option(found, answer in right if right else None, question.text)

    @torch.no_grad()
    def prepare_questions(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], questions: Sequence[Question]
    ) -> VqaChoices:
        """Prepare any questions, one a row: `pairs[i]` is asked `questions[i]` (a pair may stand in several rows)."""
        options = self.options(pairs, questions)
        place = {text: k for k, text in enumerate(options)}
        target = torch.zeros(len(pairs), len(options), dtype=torch.bool)
        for row, question in enumerate(questions):
            for answer in question.answers:
                if answer.strip().lower() in place:
                    target[row, place[answer.strip().lower()]] = True
        known = torch.tensor([bool(q.answers) for q in questions], dtype=torch.bool)
        pad, _, eos = model.token_ids()
        ids = model.tokenize([question_prompt(q.text) for q in questions])
        last = (ids == eos).int().argmax(dim=1) - 1
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) > last[:, None], pad)
        ids = ids[:, : int(last.max()) + 1]
        answers = answer_tokens(model, options)
        single = torch.tensor([a[0] for a in answers], device=ids.device) if max(map(len, answers)) == 1 else None
        prepared = VqaChoices(
            options=options,
            target=target.to(model.device),
            known=known.to(model.device),
            asked=tuple(q.text for q in questions),
            states=model.text_states(ids),
            last=last,
            ids=ids,
            answers=answers,
            single=single,
            truth=ground_truth_of(pairs),
        )
        return self.stand_in(model, pairs, prepared)

    def options(self, pairs: Sequence[Pair], questions: Sequence[Question]) -> tuple[str, ...]:
        """Return the vocabulary of answers for these questions."""
        if self.answers is not None:
            return self.answers
        accepted = dict.fromkeys(a.strip().lower() for q in questions for a in q.answers)
        truth = ground_truth_of(pairs)
        known = () if truth is None else truth.answers()
        return tuple(dict.fromkeys([*(known or ("yes", "no")), *accepted]))

    def statement(self, prepared: VqaChoices, row: int, option: int) -> str:
        """Return the statement that an answer makes; where there is none, the question followed by the answer."""
        asked = (prepared.asked[row], prepared.options[option])
        if asked not in prepared.said:
            prepared.said[asked] = _statement(prepared.truth, *asked)
        return prepared.said[asked]

    def scores(self, model: VisionLanguageModel, features: ImageFeatures, prepared: VqaChoices) -> Tensor:
        """Return the log-probability of each answer after the question, per token."""
        if prepared.single is None:
            return self._long_answers(model, features, prepared)
        scores = model.fusion_logits(features.tokens, prepared.states)
        rows = torch.arange(len(scores), device=scores.device)
        return scores[rows, prepared.last].index_select(1, prepared.single)

    def _long_answers(self, model: VisionLanguageModel, features: ImageFeatures, prepared: VqaChoices) -> Tensor:
        """Score answers of several tokens: each is appended to the question and scored, by the mean over its tokens."""
        pad = model.token_ids()[0]
        longest = max(map(len, prepared.answers))
        padded = torch.full((len(prepared.answers), longest), pad, device=prepared.ids.device)
        for k, tokens in enumerate(prepared.answers):
            padded[k, : len(tokens)] = torch.tensor(tokens, device=padded.device)
        lengths = torch.tensor([len(a) for a in prepared.answers], device=padded.device)
        width = min(prepared.ids.shape[1] + longest, model.context_length)
        rows = []
        for row in range(len(prepared)):
            start = int(prepared.last[row]) + 1
            room = min(longest, width - start)
            texts = F.pad(prepared.ids[row], (0, width - prepared.ids.shape[1]), value=pad).repeat(len(padded), 1)
            texts[:, start : start + room] = padded[:, :room]
            parts = []
            for k in range(0, len(texts), _CHUNK):
                some = texts[k : k + _CHUNK, : start + room]
                tokens = features.tokens[row].expand(len(some), -1, -1)
                scores = model.fusion_logits(tokens, some)[:, start - 1 : start + room - 1].float().log_softmax(dim=-1)
                parts.append(scores.gather(2, some[:, start:, None])[..., 0])
            kept = torch.arange(room, device=padded.device) < lengths[:, None]
            rows.append((torch.cat(parts) * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1))
        return torch.stack(rows)


def answer_tokens(model: VisionLanguageModel, answers: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of each answer as it stands after a question, without begin and end tokens."""
    _, bos, eos = model.token_ids()
    out = []
    for row in model.tokenize(list(answers)).tolist():
        out.append(tuple(row[1 if row[0] == bos else 0 : row.index(eos) if eos in row else len(row)]))
    return tuple(out)


def statements(pair: Pair, question: str, answers: Sequence[str]) -> list[str]:
    """Return the text that each answer to a question amounts to: a statement where the ground truth makes one."""
    truth = ground_truth_of([pair])
    return [_statement(truth, question, answer) for answer in answers]


def _statement(truth: GroundTruth | None, question: str, answer: str) -> str:
    made = None if truth is None else truth.statement(question, answer)
    return question_with_answer(question, answer) if made is None else made


class VqaMeasurement(Measurement):
    """VQAv2's accuracy over up to four questions a pair, and by family. Chance is the family's commonest answer."""

    def __init__(self, task: Vqa, setting: MeasurementSetting):
        super().__init__(task, setting)
        self.found: list[tuple[Pair, Question, Prediction]] = []

    def ask(self, model: VisionLanguageModel, pairs: Sequence[Pair], features: ImageFeatures, start: int) -> None:
        """Ask the questions of each pair that have an accepted answer."""
        asked = [(k, question) for k, pair in enumerate(pairs) for question in _spread(pair.questions)]
        for first in range(0, len(asked), _ASKED):
            some = asked[first : first + _ASKED]
            rows = [k for k, _ in some]
            prepared = self.task.prepare_questions(model, [pairs[k] for k in rows], [q for _, q in some])
            own = features[torch.tensor(rows, device=model.device)]
            answers = self.task.predict(model, own, prepared)
            self.found += [(without_image(pairs[k]), q, p) for (k, q), p in zip(some, answers, strict=True)]

    def figures(self) -> dict[str, Any]:
        """Return the accuracy of all questions, and of each family."""
        groups: dict[str, list[tuple[Question, Prediction]]] = defaultdict(list)
        for _, question, prediction in self.found:
            groups[question.family].append((question, prediction))
        seed, out, scores, guesses = self.setting.seed, {}, [], []
        for family, entries in sorted(groups.items()):
            answers = [normalise_answer(q.answers[0]) for q, _ in entries]
            common = max(sorted(set(answers)), key=answers.count)
            right = [vqa_accuracy(p.answer, q.answers) for q, p in entries]
            guess = [vqa_accuracy(common, q.answers) for q, _ in entries]
            scores, guesses = scores + right, guesses + guess
            if family:
                out[f"accuracy_{family}"] = entry(bootstrap_interval(right, seed=seed), float(np.mean(guess)))
        if not scores:
            return {}
        whole = {"accuracy": entry(bootstrap_interval(scores, seed=seed), float(np.mean(guesses)))}
        return whole | out | metric_figures(self.task, self._records())

    def _records(self) -> Records:
        pairs, questions, found = zip(*self.found, strict=True)
        accepted = tuple(question.answers for question in questions)
        return Records(found, pairs, (None,) * len(found), accepted=accepted, seed=self.setting.seed)


def _spread(questions: Sequence[Question]) -> list[Question]:
    """Up to four of a pair's questions, spread evenly, without those that nobody knows the answer to."""
    last = len(questions) - 1
    places = sorted({round(k * last / (QUESTIONS_PER_PAIR - 1)) for k in range(QUESTIONS_PER_PAIR)})
    return [questions[k] for k in places if 0 <= k <= last and questions[k].answers]
