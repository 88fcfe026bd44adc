"""The S_c card: two numbers, their difference, where they lie against the threshold, and the verdict in words."""

from __future__ import annotations

from app.components.attack_lab.detector import decision, detector_line
from app.components.common.theme import ROLES, escape, label, mark, number, show, signed, subscript
from cmai_core.lab.result import Example, PairPrediction


def treatment(prediction: PairPrediction, example: Example) -> str:
    """Return what was done to the model, for the card's tag."""
    if not prediction.attacked:
        return "not attacked: cancelled before its turn"
    words = "shown the transfer" if prediction.transferred else "white-box attack"
    if example.cancelled:
        words += f", cancelled after {example.steps_done} step{'' if example.steps_done == 1 else 's'}"
    return words


def verdict(prediction: PairPrediction, tau: float | None, unknown: str = "") -> str:
    """Return the finding in one sentence; `unknown` says why there is no τ."""
    if not prediction.attacked:
        return "Nothing was done to this model, so nothing can be said of how it holds out."
    parts = []
    if tau is not None:
        if prediction.clean < tau:
            parts.append("Below its threshold even when clean: this pair would be flagged anyway.")
        elif prediction.adversarial < tau:
            parts.append("Falls below its threshold: flagged as inconsistent.")
        else:
            parts.append("Stays above its threshold: no alarm.")
    else:
        verb = "falls" if prediction.change < -0.01 else "rises" if prediction.change > 0.01 else "hardly changes"
        amount = f" by {abs(prediction.change):.2f}" if verb != "hardly changes" else ""
        parts.append(f"S_c {verb}{amount}. {unknown or 'No threshold is known for this model.'}")
    return " ".join(part for part in (*parts, answers_lost(prediction)) if part)


def unread(prediction: PairPrediction) -> str:
    """Return what of the caption the model did not read, as a sentence; "" if it read all of it."""
    return (
        f"This model reads the sentence only up to “{prediction.cut[:60]}”, where its context ends."
        if prediction.cut
        else ""
    )


def answers_lost(prediction: PairPrediction) -> str:
    """Return how many right answers were lost, as a sentence; "" if none was right."""
    broken, right = prediction.broken_tasks()
    if not right:
        return ""
    return f"{broken} of {right} answers that were right are now wrong." if broken else "No right answer is lost."


def _percent(value: float) -> float:
    return round((min(1.0, max(-1.0, value)) + 1) * 50, 2)


def _track(clean: float, adversarial: float | None, tau: float | None) -> str:
    a, b = sorted((_percent(clean), _percent(clean if adversarial is None else adversarial)))
    pieces = ['<div class="line"></div>', f'<div class="span" style="left:{a}%;width:{b - a}%"></div>']
    if tau is not None:
        pieces.append(f'<div class="tau" style="left:{_percent(tau)}%"></div>')
        pieces.append(f'<div class="taulabel" style="left:{_percent(tau)}%">τ {number(tau)}</div>')
    for role, value in (("clean", clean), ("adversarial", adversarial)):
        if value is None:
            continue
        look = ROLES[role]
        pieces.append(f'<div class="dot" style="left:{_percent(value)}%;color:{look.colour}">{look.mark}</div>')
    for value in (-1, 0, 1):
        pieces.append(f'<div class="tick" style="left:{_percent(value)}%">{str(value).replace("-", "−")}</div>')
    return f'<div class="cm-track" aria-hidden="true">{"".join(pieces)}</div>'


def _decided(prediction: PairPrediction, side: int) -> str:
    """Return the detector's word under a number; "" without a detector."""
    if prediction.accepted is None:
        return ""
    accepted = prediction.accepted[side]
    return f'<div class="cm-small">{"✓" if accepted else "✗"} {decision(accepted)}</div>'


def score_card(
    prediction: PairPrediction,
    example: Example,
    tau: float | None = None,
    *,
    origin: str = "",
    unknown: str = "",
    outcome: str = "",
    besides: str = "",
) -> None:
    """Draw the card of one model.

    Args:
        craft: the picture it was shown. tau: its threshold; origin: its rate and where it comes from, as a sentence.
        unknown: why there is no τ. outcome: of an attack on the detector around it, as a sentence.
        besides: what consistency verification says, as a sentence.
    """
    notes = [
        text
        for text in (besides, detector_line(prediction) if prediction.tau is not None else origin, unread(prediction))
        if text
    ]
    note = "".join(f'<p class="cm-small cm-muted cm-note">{subscript(text)}</p>' for text in notes)
    show(
        f"""<div class="cm-card" role="group" aria-label="S_c of the {escape(prediction.role)} model">
        <div class="cm-row"><span class="cm-h grow">{label(prediction.role, prediction.role.capitalize())}
          <span class="cm-muted" style="font-weight:400">· {escape(prediction.name)}</span></span>
          <span class="cm-tag">{treatment(prediction, example)}</span></div>
        <div class="cm-numbers">
          <div><div class="label">{mark("clean")}S<sub>c</sub> clean</div>
            <div class="value">{number(prediction.clean)}</div>{_decided(prediction, 0)}</div>
          <div><div class="label">{mark("adversarial")}S<sub>c</sub> adversarial</div>
            <div class="value">{number(prediction.adversarial)}</div>{_decided(prediction, 1)}</div>
          <div><div class="label">change Δ</div><div class="value">{signed(prediction.change)}</div></div>
        </div>
        {_track(prediction.clean, prediction.adversarial, tau)}
        <p class="cm-verdict">{escape(outcome or verdict(prediction, tau, unknown))}</p>{note}</div>"""
    )
