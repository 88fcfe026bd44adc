"""What every task answers, clean and adversarial, for both models, with ✓ and ✗ where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from app.components.common.theme import escape, label, mark, show
from app.components.common.visitor_words import plain_reason
from app.services.pictures import picture_url
from cmai_core.lab.result import Answer, PairPrediction, SecondPicture
from cmai_core.tasks import TASKS


def sign(correct: bool | None) -> str:
    """Return ✓, ✗ or · (truth unknown), with words for people who do not see them."""
    if correct is None:
        return '<span class="cm-muted" title="truth unknown">·</span>'
    return '<span role="img" aria-label="right">✓</span>' if correct else '<span role="img" aria-label="wrong">✗</span>'


def _ranking(answer: Answer) -> str:
    if len(answer.ranking) < 2:
        return ""
    rows = "".join(
        f'<div>{sign(true)} {escape(text)}</div><div class="p">{probability:.1%}</div>'
        for text, probability, true in answer.ranking
    )
    return f'<details><summary>top {len(answer.ranking)}</summary><div class="cm-rank">{rows}</div></details>'


def _say(answer: Answer, role: str, changed: bool) -> str:
    text = escape(answer.text or "(nothing)")
    if changed:
        text = f'<span class="cm-changed">{text}</span>'
    return f'<div class="say">{mark(role)}{sign(answer.correct)} {text}{_ranking(answer)}</div>'


def _two_pictures(own: np.ndarray, second: SecondPicture) -> str:
    """Return both pictures of a statement: this pair's, which is attacked, and the other, which is not."""
    sides = [("this picture, attacked", own), ("the second picture, stays clean", second.image)]
    if second.left:
        sides.reverse()
    figures = "".join(
        f'<figure><img src="{picture_url(image, "WEBP", 90, 96)}" alt="{place.capitalize()}: {words}">'
        f"<figcaption><b>{place}</b>: {words}</figcaption></figure>"
        for place, (words, image) in zip(("left", "right"), sides, strict=True)
    )
    return f'<div class="cm-pictures">{figures}</div>'


def answers_view(
    predictions: Mapping[str, PairPrediction],
    pictures: Mapping[str, np.ndarray] | None = None,
    second: SecondPicture | None = None,
) -> None:
    """Draw one card a model, one row a task: clean → adversarial, changed answers underlined.

    Args:
        pictures: role → the clean picture that model was shown. second: the other one of a statement about two.
    """
    cards = []
    for role, prediction in predictions.items():
        rows = "".join(_row(prediction, task, (pictures or {}).get(role), second) for task in TASKS)
        cards.append(
            f'<div class="cm-card"><div class="cm-row"><span class="cm-h grow">{label(role, role.capitalize())} '
            f'<span class="cm-muted" style="font-weight:400">· {escape(prediction.name)}</span></span>'
            f'<span class="cm-tag">{_summary(prediction)}</span></div>{rows}</div>'
        )
    show(f'<div class="cm-answers">{"".join(cards)}</div>')


def _row(prediction: PairPrediction, task: str, picture: np.ndarray | None, second: SecondPicture | None) -> str:
    """Return what a model answers to one task, or why it was not asked; "" if the task does not concern it."""
    info = TASKS[task]
    title = f'<div class="cm-small cm-muted">{escape(info.title)}</div>'
    if task in prediction.answers:
        clean, adversarial = prediction.answers[task]
        prompt = f'<div class="cm-small">“{escape(clean.prompt)}”</div>' if clean.prompt else ""
        if info.pictures == 2 and second is not None and second.image is not None and picture is not None:
            prompt += _two_pictures(picture, second)
        return (
            f'<div class="cm-answer">{title}{prompt}<div class="cm-two">'
            f'{_say(clean, "clean", False)}<div class="arrow" aria-label="after the attack">→</div>'
            f"{_say(adversarial, 'adversarial', clean.text != adversarial.text)}</div></div>"
        )
    if task in prediction.skipped:
        reason = escape(plain_reason(prediction.skipped[task]))
        return f'<div class="cm-answer">{title}<div class="cm-small">Not asked: {reason}</div></div>'
    return ""


def _summary(prediction: PairPrediction) -> str:
    """Return how many right answers were lost, or why there are none."""
    broken, right = prediction.broken_tasks()
    if not prediction.attacked:
        return "not attacked"
    if right:
        return f"{broken} of {right} right answers lost"
    if not prediction.answers:
        return "not asked"
    if all(clean.correct is None for clean, _ in prediction.answers.values()):
        return "truth unknown for this pair"
    return "no right answer even when clean"


def answers_table(predictions: Mapping[str, PairPrediction]) -> list[dict[str, object]]:
    """Return the answers as rows, for a table and CSV."""
    return [
        {
            "model": prediction.name,
            "role": role,
            "task": task,
            "asked": clean.prompt,
            "clean": clean.text,
            "clean right": clean.correct,
            "adversarial": adversarial.text,
            "adversarial right": adversarial.correct,
            "transferred": prediction.transferred,
        }
        for role, prediction in predictions.items()
        for task, (clean, adversarial) in prediction.answers.items()
    ]
