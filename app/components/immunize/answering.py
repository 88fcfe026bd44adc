"""Verified answering of the chosen pair: shortlist, V_verify, fused answer; clean and attacked twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state, subject
from app.access import permissions
from app.components.common.exhibits import pictures
from app.components.common.fields import number_field
from app.components.common.theme import escape, show
from app.services.pairs import lab_pair
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.belonging import Difference
from cmai_core.lab.exhibits import Picture, Pictures
from cmai_core.lab.immunize.answering import RANGES, Asked
from cmai_core.lab.immunize.bundle import bundled
from cmai_core.lab.places import place_of

if TYPE_CHECKING:
    from cmai_core.lab.immunize.answering import Answering, Option, Side

_FIELDS = {"epsilon": "ε in 1/255", "steps": "Steps", "shortlist": "k, captions verified", "gamma": "γ, weight of V"}
_USUAL = {"epsilon": Asked().epsilon, "steps": Asked().steps, "shortlist": None, "gamma": None}


@dataclass(frozen=True)
class Request:
    """A pair, a model by role, and the terms; `upload` and `scene` as the session has them."""

    pair: str
    caption: str
    scene: str
    upload: Any
    role: str
    spec: str
    asked: Asked


def form() -> None:
    """Draw the terms, and which model verifies."""
    places, roles = st.columns([1.3, 1, 1, 1, 1]), list(subject.chosen_models())
    if "answering_role" not in st.session_state:
        st.session_state["answering_role"] = roles[-1]
    places[0].selectbox("Model", roles, key="answering_role", format_func=_named().get, persist_state="session")
    for place, (name, label) in zip(places[1:], _FIELDS.items(), strict=True):
        low, high = RANGES[name]
        st.session_state.setdefault(f"answering_{name}", _USUAL[name])
        if _USUAL[name] is None:
            place.number_input(
                label, key=f"answering_{name}", value=None, placeholder="the model's own", persist_state="session",
                help=f"Between {low:g} and {high:g}; empty: the rule of the model's card, else the usual one.",
            )  # fmt: skip
        else:
            number_field(place, label, f"answering_{name}", name, low=low, high=high, persist_state="session")
    st.caption(f"The pair is the one chosen in the attack lab: “{state.get(state.CAPTION)}”".replace("$", "\\$"))


def _named() -> dict[str, str]:
    """Return role → its words in the list."""
    return {role: f"{role} · {permissions.display_name(spec)}" for role, spec in subject.chosen_models().items()}


def query() -> str:
    """Return the form's numbers for the address, "" where they are the usual ones."""
    values = [st.session_state.get(f"answering_{name}", _USUAL[name]) for name in _FIELDS]
    usual = [_USUAL[name] for name in _FIELDS]
    return "" if values == usual else ",".join("" if value is None else f"{value:g}" for value in values)


def read_query(text: str) -> None:
    """Set the form to the numbers of an address; what is out of range or no number changes nothing."""
    try:
        values = dict(zip(_FIELDS, [float(v) if v else None for v in text[:80].split(",")], strict=True))
        asked = Asked(**{n: int(v) if v is not None and n in ("steps", "shortlist") else v for n, v in values.items()})
    except (ValueError, TypeError, OverflowError, CmaiError):
        return
    for name in _FIELDS:
        st.session_state[f"answering_{name}"] = getattr(asked, name)


def request() -> Request:
    """Return what the form asks for, validated.

    Raises:
        CmaiError: no pair or model is chosen, or a number is out of range.
    """
    wanted, models = subject.requested(), subject.requested_models()
    role = st.session_state.get("answering_role")
    role = role if role in models else next(iter(models))
    values = {name: st.session_state.get(f"answering_{name}") for name in _FIELDS}
    missing = [name for name in ("epsilon", "steps") if values[name] is None]
    if missing:
        raise OptionError(f"{missing[0]} is empty.", "Give a number.")
    values |= {name: int(values[name]) for name in ("steps", "shortlist") if values[name] is not None}
    upload = state.get(state.UPLOAD)
    return Request(wanted.pair, wanted.caption, wanted.scene, upload, role, models[role], Asked(**values))


def work(wanted: Request, models: Mapping[str, Any], progress: Any, cancel: Any) -> Answering:
    """Answer step by step; runs in the worker thread."""
    from app.services.datasets import lab_dataset
    from cmai_core.lab.immunize.answering import answer_step_by_step

    pair = lab_pair(wanted.pair, wanted.caption, wanted.upload, wanted.scene)
    items = lab_dataset(place_of(wanted.pair))
    model = models[wanted.role]
    return answer_step_by_step(model, pair, items, wanted.asked, progress=progress, cancel=cancel)


def said(made: Answering) -> str:
    """Return what a result belongs to."""
    return f"“{made.caption}”, ε = {made.asked.epsilon:g}/255, {made.asked.steps} steps, by {made.name}"


def moved_on(made: Answering) -> tuple[Difference, ...]:
    """Return how the form has moved on from a result."""
    try:
        wanted = request()
    except CmaiError:
        return ()
    found = []
    if (made.pair, made.caption) != (wanted.pair, wanted.caption):
        found.append(Difference("pair", "pair", made.caption, wanted.caption))
    if wanted.spec != made.name:
        found.append(Difference("model", "model", made.name, wanted.spec))
    for name, word in (("epsilon", "ε"), ("steps", "steps"), ("shortlist", "k"), ("gamma", "γ")):
        mine, theirs = getattr(made.asked, name), getattr(wanted.asked, name)
        if mine != theirs:
            found.append(Difference("setting", word, _word(mine), _word(theirs)))
    return tuple(found)


def _word(value: float | None) -> str:
    return "the model's own" if value is None else f"{value:g}"


def empty() -> None:
    """Draw the bundled example."""
    _, made = bundled()
    which = f"The bundled example, chosen because it is clear: {said(made)}."
    show(f'<p class="cm-small cm-muted">{escape(which)}</p>')
    view(made)


def view(made: Answering) -> None:
    """Draw the three sides beside each other, and the shortlist of the one that is chosen."""
    for place, side in zip(st.columns(3), made.sides, strict=True):
        with place:
            _side(side)
    names = [side.name for side in made.sides]
    name = st.segmented_control("Shortlist of", names, default=names[-1], key="answering_side", required=True)
    side = next(side for side in made.sides if side.name == name)
    rule = made.rule
    origin = "of the model's card" if made.calibrated else "not of the model's card, which holds none, or changed here"
    show(
        f'<p class="cm-small">Of the captions of {made.captions} pictures the {rule["shortlist"] or ""} likeliest by '
        f"cosine are verified; fused = score ÷ T + γ · log V ÷ words<sup>κ</sup> with T = {rule['temperature']:g}, γ = "
        f"{rule['gamma']:g}, κ = {rule['kappa']:g} ({origin}).</p>"
    )
    st.dataframe(_rows(side), hide_index=True, key="answering_shortlist")


def _side(side: Side) -> None:
    plain, verified = side.answers
    pictures(Pictures([Picture(side.picture, side.name, f"The picture: {side.name}")]))
    show(f"{_answer('by cosine alone', plain)}{_answer('verified', verified)}")


def _answer(how: str, option: Option) -> str:
    sign, word = ("✓", "true") if option.true else ("✗", "false")
    return (
        f'<div class="cm-answer"><div class="cm-small cm-muted">{how}</div><div>{sign} “{escape(option.text)}” '
        f'<span class="cm-small">({word})</span></div></div>'
    )


def _rows(side: Side) -> list[dict[str, Any]]:
    return [
        {
            "caption": o.text, "true": o.true, "cosine": round(o.cosine, 3), "V_verify": round(o.verified, 4),
            "words": o.words, "fused": round(o.fused, 2), "rank by cosine": k + 1,
            "answer": " and ".join(w for w, at in (("cosine", side.plain), ("verified", side.verified)) if at == k),
        }
        for k, o in enumerate(side.shortlist)
    ]  # fmt: skip
