"""What one model makes of the pair, in a few lines: what it sees, S_c with its verdict, and the other answers."""

from __future__ import annotations

from app.components.attack_lab.answers import sign
from app.components.attack_lab.detector import detector_line
from app.components.attack_lab.score_card import answers_lost, treatment, unread, verdict
from app.components.common.theme import badge, escape, label, mark, number, show, signed
from app.services.models import is_defended
from cmai_core.lab.result import Answer, Example, PairPrediction
from cmai_core.lab.seen import change_of
from cmai_core.tasks import TASKS

SEEN = "zero-shot"
"""The task whose answer heads the card."""


def model_card(
    prediction: PairPrediction,
    example: Example,
    tau: float | None,
    *,
    origin: str = "",
    unknown: str = "",
    outcome: str = "",
    besides: str = "",
) -> None:
    """Draw the card of one model; arguments as of `score_card.score_card`."""
    plain = tau is not None and prediction.attacked and not outcome  # the chip says the rest
    said = answers_lost(prediction) if plain else outcome or verdict(prediction, tau, unknown)
    notes = "".join(f'<p class="cm-small cm-muted cm-note">{escape(t)}</p>' for t in _notes(prediction, besides) if t)
    rest = "".join(_row(prediction, task) for task in TASKS if task != SEEN and task in prediction.answers)
    show(
        f"""<div class="cm-card cm-model-card" role="group" aria-label="Model {escape(prediction.role)}">
        <div class="cm-row"><span class="cm-h grow">{label(prediction.role)}
          <span style="font-weight:400">{escape(prediction.name)}</span> {badge(is_defended(prediction.spec))}</span>
          <span class="cm-small cm-muted">{treatment(prediction, example)}</span></div>
        {_sees(prediction)}{_near(prediction)}
        <div class="cm-row cm-score" title="{escape(origin or unknown)}"><span>S<sub>c</sub>
          <b>{number(prediction.clean)}</b> → <b>{number(prediction.adversarial)}</b></span>
          <span class="cm-muted">Δ {signed(prediction.change)}</span>
          <span class="cm-muted">τ {number(tau)}</span>{_chip(prediction, tau)}</div>
        <p class="cm-small cm-note">{escape(said)}</p>{notes}{rest}</div>"""
    )


def _notes(prediction: PairPrediction, besides: str) -> tuple[str, ...]:
    return besides, "" if prediction.tau is None else detector_line(prediction), unread(prediction)


def _chip(prediction: PairPrediction, tau: float | None) -> str:
    if tau is None or prediction.adversarial is None:
        return ""
    flagged = prediction.adversarial < tau
    word, kind = ("⚠ flagged", "flagged") if flagged else ("✓ no alarm", "passed")
    return f'<span class="cm-tag cm-chip-{kind}">{word}</span>'


def _sees(prediction: PairPrediction) -> str:
    """Return what the model sees, clean and attacked, with the probability of each as a bar."""
    if SEEN not in prediction.answers:
        return ""
    clean, attacked = prediction.answers[SEEN]
    change = change_of(SEEN, clean, attacked)
    arrow = f'<span class="cm-muted">→</span> {_word(attacked, change.changed)}' if prediction.attacked else ""
    shown = ("clean", "adversarial") if prediction.attacked else ("clean",)
    bars = "".join(_bar(role, share) for role, share in zip(shown, change.confidence, strict=False))
    return f'<div class="cm-sees">{_word(clean, False)} {arrow}</div><div class="cm-seen-bars">{bars}</div>'


def _near(prediction: PairPrediction) -> str:
    """Return whether the target of the attack is reached, and by how much."""
    if prediction.target is None:
        return ""
    (before, after), (_, reached) = prediction.target.margin, prediction.target.reached
    word = "✗ target reached" if reached else "✓ target not reached"
    return (
        f'<div class="cm-row cm-small"><b>{word}</b><span class="cm-muted" title="The target’s score minus the best '
        f'other’s, in nats">lead {signed(before)} → {signed(after)}</span></div>'
    )


def _word(answer: Answer, changed: bool) -> str:
    text = escape(answer.text or "(nothing)")
    return f'{sign(answer.correct)} <span class="{"cm-changed" if changed else ""}">{text}</span>'


def _bar(role: str, share: float) -> str:
    return (
        f'<div><div class="cm-bar" aria-hidden="true">'
        f'<span style="width:{100 * share:.1f}%;background:var(--cm-{role})"></span></div>'
        f'<div class="cm-bar-word cm-small">{mark(role)}{share:.0%}</div></div>'
    )


def _row(prediction: PairPrediction, task: str) -> str:
    """Return one task's answers in a line, with all of it on hover."""
    clean, attacked = prediction.answers[task]
    changed = clean.text != attacked.text
    whole = f"{clean.prompt} {clean.text} → {attacked.text}".strip()
    after = f'<span class="cm-muted">→</span> {_word(attacked, changed)}' if prediction.attacked else ""
    return (
        f'<div class="cm-line" title="{escape(whole)}">'
        f'<span class="cm-muted cm-ellipsis">{escape(TASKS[task].word)}</span>'
        f'<span class="cm-ellipsis">{_word(clean, False)} {after}</span></div>'
    )
