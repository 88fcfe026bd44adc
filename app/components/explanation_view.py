"""The form, the maps and the words of the page Attention & attribution."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import streamlit as st

from app import services, state
from app.components.attack_form import described
from app.components.belongs import belongs_to, changed
from app.components.fields import number_field
from app.components.fold import fold_table
from app.components.guard import plain
from app.components.sentence import marked
from app.components.theme import escape, label, mark, number, show
from app.navigation import go
from app.pictures import picture_url
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.images import colour_map, overlay
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import content_key

STEPS = (4, 200)
METHODS = ("attention flow", "relevance", "integrated gradients")
METHOD_WORDS = {
    "attention flow": "Attention flow: where information may have come from. It does not depend on the sentence.",
    "relevance": "Relevance: the patches that S_c rests on (attention weighted by its gradient). It depends on "
    "the sentence.",
    "integrated gradients": "Integrated gradients: what each pixel adds to S_c (blue lowers it, orange raises it).",
}


def subject() -> LabResult | None:
    """The result that is explained: the attack made last, else the bundled example."""
    result = state.get(state.RESULT)
    bundle = services.showcase()
    if result is not None and result.attacked:
        return result
    return bundle.result if bundle else None


def form(result: LabResult | None) -> None:
    """What to explain, and how."""
    if result is None:
        st.info("There is no attacked pair yet: make an attack in the attack lab first.", icon="ℹ️")
        if st.button("To the attack lab", key="to_lab", icon=":material/experiment:"):
            go("attack_lab")
        return
    craft = result.first_craft
    pictures, settings = st.columns([1, 2.4], gap="medium")
    with pictures:
        show(
            '<div style="display:flex;gap:8px">'
            f'<img src="{picture_url(craft.clean)}" alt="The clean picture" style="width:48%;border-radius:6px">'
            f'<img src="{picture_url(craft.adversarial)}" alt="The adversarial picture" '
            'style="width:48%;border-radius:6px"></div>'
        )
    with settings:
        which = "the attack made last" if result is state.get(state.RESULT) else "the bundled example"
        show(
            f'<p class="cm-quote">{_sentence(result.experiment.caption, craft.caption)}</p>'
            f'<div class="cm-small cm-muted">{which}: {escape(belongs_to(result.experiment))}</div>'
        )
        left_behind(result)
        left, right = st.columns([2, 1])
        left.pills(
            "Methods",
            METHODS,
            selection_mode="multi",
            default=list(METHODS),
            key="explanation_methods",
            persist_state="session",
        )
        number_field(
            right, "Steps of integrated gradients", "explanation_steps", low=STEPS[0], high=STEPS[1], value=20,
            persist_state="session",
            help="Gauss–Legendre nodes; the completeness error beside the map says whether they suffice.",
        )  # fmt: skip


def left_behind(result: LabResult) -> None:
    """Says that the attack lab's form has moved on from what can be explained, with the way back there."""
    found = differences(result.experiment, described()) if state.get(state.PAIR) else ()
    if result is not state.get(state.RESULT):  # the bundled example has settings of its own
        found = tuple(difference for difference in found if difference.what in ("pair", "sentence"))
    if found:
        st.caption(f":material/history: The attack lab has moved on, and is not attacked yet. {plain(changed(found))}")
        if st.button("To the attack lab", key="to_lab_moved", icon=":material/experiment:"):
            go("attack_lab")


def asked() -> tuple[tuple[str, ...], int | None]:
    """(methods, steps) as the form stands."""
    chosen = st.session_state.explanation_methods or ()
    return tuple(m for m in METHODS if m in chosen), st.session_state.explanation_steps


def moved_on(made, result: LabResult | None) -> tuple[Difference, ...]:
    """How the pair that is to be explained, the methods or the attack lab's form have moved on from what is on show."""
    if result is None:
        return ()
    found = list(differences(made.experiment, result.experiment))
    if not found and made.key != content_key(result):
        found.append(Difference("pair", "attack", "an earlier one", "the one made last"))
    methods, steps = asked()
    if set(methods) != set(made.methods):
        found.append(Difference("setting", "methods", ", ".join(made.methods), ", ".join(methods) or "none"))
    if steps != made.steps:
        found.append(Difference("setting", "steps", f"{made.steps}", f"{steps}"))
    return tuple(found)


def start() -> None:
    """Validates and queues the explanation."""
    try:
        result = subject()
        if result is None or not result.attacked:
            raise OptionError("There is no attacked pair yet.", "Make an attack in the attack lab first.")
        methods, steps = asked()
        if not methods:
            raise OptionError("No method is chosen.", f"Choose some of: {', '.join(METHODS)}.")
        if steps is None or not STEPS[0] <= steps <= STEPS[1]:
            raise OptionError(f"steps is {steps}.", f"It lies between {STEPS[0]} and {STEPS[1]}.")
        shelf = services.shelf()
        handle = services.submit(
            "explanation",
            lambda progress, cancel: services.explanation_work(result, methods, steps, shelf, progress, cancel),
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.EXPLANATION_JOB, handle)


def result(made) -> None:
    """All maps of all models, one method under the other."""
    sentences(made)
    for method in METHODS:
        if any(method in role.maps or method in role.missing for role in made.roles.values()):
            with st.container(border=True, key=f"card_{method.replace(' ', '_')}"):
                one_method(made, method)
    with st.container(border=True, key="card_words"):
        words(made)
    st.caption(
        f"{made.seconds:.1f} s. Maps are computed for S_c of picture and sentence; one colour scale within each method."
    )


def _sentence(before: str, after: str) -> str:
    """HTML of a sentence; where it was attacked, with the changed words marked."""
    return marked(before, after) if after else escape(before)


def sentences(made) -> None:
    """What the maps are of: the sentence, and where it was attacked, which side has which."""
    attacked = {role: explained.attacked for role, explained in made.roles.items() if explained.attacked}
    if not attacked:
        show(f'<p class="cm-quote">{escape(made.caption)}</p>')
        return
    lines = [f"{mark('clean')}clean: {escape(made.caption)}"]
    for text in dict.fromkeys(attacked.values()):
        whose = [role for role, its in attacked.items() if its == text]
        note = "" if len(whose) == len(made.roles) else f" ({', '.join(whose)})"
        lines.append(f"{mark('adversarial')}adversarial{note}: {marked(made.caption, text)}")
    show(f'<p class="cm-quote">{"<br>".join(lines)}</p>')
    st.caption(
        "Clean maps are of the clean picture and sentence, adversarial ones of the attacked picture and sentence."
    )


def finding(made, method: str) -> str:
    """The title of a method's row: what it shows."""
    parts = []
    for role, explained in made.roles.items():
        if method in explained.similarity:
            value = explained.similarity[method]
            word = "hardly moves" if value > 0.8 else "moves in part" if value > 0.5 else "moves"
            noise = explained.control.get(method)  # none where only words were attacked
            beside = "" if noise is None else f"; under mere noise {noise:.2f}"
            parts.append(f"{role} {word} ({value:.2f}{beside})".replace("-", "−"))
    return f"{method.capitalize()}: " + ("; ".join(parts) if parts else "not available")


def one_method(made, method: str) -> None:
    """Four maps on one scale: clean and adversarial, for both models."""
    show(f'<div class="cm-h">{escape(finding(made, method))}</div>')
    st.caption(f"{METHOD_WORDS[method]} In brackets: rank correlation of the clean and the adversarial map.")
    scale = made.scales.get(method, 1.0)
    columns = st.columns(2 * len(made.roles), gap="small")
    place = 0
    for role, explained in made.roles.items():
        for row, kind in enumerate(("clean", "adversarial")):
            with columns[place]:
                show(f'<div class="cm-small">{label(role)} · {mark(kind)}{kind}</div>')
                if method in explained.maps:
                    one_map(explained, method, row, kind, scale)
                else:
                    st.caption(f"Not available: {explained.missing.get(method, '')}")
            place += 1
    signed = any(e.maps[method].signed for e in made.roles.values() if method in e.maps)
    colour_bar(scale, signed)
    for role, explained in made.roles.items():
        if method in explained.warnings:
            st.warning(f"{role.capitalize()}: {explained.warnings[method]}", icon="⚠️")


def one_map(explained, method: str, row: int, kind: str, scale: float) -> None:
    """One map over its picture, and its numbers."""
    explanation = explained.maps[method]
    picture = (explained.clean, explained.adversarial)[row]
    low = -scale if explanation.signed else 0.0
    st.image(
        overlay(picture, explanation.map[row], low, scale, explanation.signed),
        output_format="PNG",
        width="stretch",
        alt=f"{method} of the {kind} picture, laid over its grey version",
    )
    lines = []
    if explanation.score is not None:
        lines.append(("S<sub>c</sub>", number(float(explanation.score[row]))))
    for name, words in (
        ("completeness_error", "completeness error δ/|ΔS|"),
        ("class_token_share", "share of the class token"),
    ):
        if name in explanation.checks:
            value = float(explanation.checks[name][row])
            lines.append((words, f"{value:.1e}" if value < 1e-3 else number(value)))
    for check in explained.checks.get(method, ((), ()))[row]:
        fill = escape(check.fill)
        lines.append((f"deletion AUC ({fill}), random {number(check.random)}", number(check.deletion)))
        lines.append((f"insertion AUC ({fill}), random {number(check.random)}", number(check.insertion)))
    show("<table><tbody>" + "".join(f"<tr><td>{n}</td><td>{v}</td></tr>" for n, v in lines) + "</tbody></table>")


def colour_bar(scale: float, signed: bool) -> None:
    """The one scale of all maps above it."""
    import numpy as np

    low = -scale if signed else 0.0
    bar = colour_map(np.linspace(low, scale, 160)[None].repeat(8, 0), low, scale, signed)
    ends = (f"{low:.2g}".replace("-", "−"), f"{scale:.2g}")
    show(
        '<div class="cm-row cm-small" style="flex-wrap:nowrap;align-items:center;max-width:420px">'
        f"<span>{ends[0]}</span>"
        f'<img src="{picture_url(bar)}" alt="Colour scale from {ends[0]} to {ends[1]}" '
        'style="flex:1;height:8px;min-width:0;border-radius:4px">'
        f'<span>{ends[1]}</span><span class="cm-muted">one scale for all</span></div>'
    )


def words(made) -> None:
    """Integrated gradients of the sentence's words: bars to the left lower S_c, to the right raise it."""
    show('<div class="cm-h">Words: what each adds to S_c</div>')
    attacked = any(explained.attacked for explained in made.roles.values())
    st.caption(
        "Integrated gradients of the token embeddings, summed over each word, on one scale for all."
        + (" Underlined: words that the attack put in. Struck through: words that it took out." if attacked else "")
    )
    found = {role: e for role, e in made.roles.items() if e.words is not None}
    for role, explained in made.roles.items():
        if explained.words is None:
            st.caption(f"{role}: not available. {explained.missing.get('words', '')}")
    if not found:
        return
    top = max(float(abs(v).max()) for e in found.values() for v in e.words.values if len(v)) or 1.0
    columns = st.columns(2 * len(found), gap="small")
    place = 0
    rows = []
    for role, explained in found.items():
        changed = changed_words(*explained.words.words[:2])
        for row, kind in enumerate(("clean", "adversarial")):
            with columns[place]:
                error = float(explained.words.checks["completeness_error"][row])
                bars = "".join(
                    _bar(word, float(v), top, ("del", "ins")[row] if position in changed[row] else "")
                    for position, (word, v) in enumerate(
                        zip(explained.words.words[row], explained.words.values[row], strict=True)
                    )
                )
                show(
                    f'<div class="cm-small">{label(role)} · {mark(kind)}{kind}, S<sub>c</sub> '
                    f"{number(float(explained.words.score[row]))}</div>{bars}"
                    f'<div class="cm-small cm-muted">completeness error {error:.1e}</div>'
                )
                rows += [
                    {
                        "model": explained.name,
                        "side": kind,
                        "word": w,
                        "changed": position in changed[row],
                        "contribution to S_c": round(float(v), 5),
                    }
                    for position, (w, v) in enumerate(
                        zip(explained.words.words[row], explained.words.values[row], strict=True)
                    )
                ]
            place += 1
    fold_table("As a table", lambda: rows, key="fold_words")


def changed_words(before: Sequence[str], after: Sequence[str]) -> tuple[set[int], set[int]]:
    """Positions of the words that are gone from the first sentence, and of those that are new in the second."""
    gone, new = set(), set()
    for kind, a, b, c, d in SequenceMatcher(None, list(before), list(after), autojunk=False).get_opcodes():
        if kind != "equal":
            gone |= set(range(a, b))
            new |= set(range(c, d))
    return gone, new


def _bar(word: str, value: float, top: float, changed: str = "") -> str:
    """A word with its bar; `changed`: the element that marks it, "del" or "ins"."""
    said = escape(word)
    if changed:
        said = f'<{changed} class="{"cm-changed" if changed == "ins" else "cm-gone"}">{said}</{changed}>'
    share = min(50.0, 50 * abs(value) / top)
    left = 50 - share if value < 0 else 50
    colour = "#0072B2" if value < 0 else "#D55E00"
    return (
        '<div style="display:grid;grid-template-columns:minmax(0,1.1fr) 2fr '
        '52px;gap:6px;align-items:center;font-size:12.5px">'
        f"<span>{said}</span>"
        '<span style="position:relative;height:10px;border-left:0;display:block">'
        '<span style="position:absolute;left:50%;top:-3px;bottom:-3px;border-left:1px solid '
        'currentColor;opacity:.4"></span>'
        f'<span style="position:absolute;left:{left:.1f}%;width:{share:.1f}%;top:0;bottom:0;'
        f'background:{colour}"></span></span>'
        f'<span style="text-align:right">{value:+.3f}</span></div>'.replace("-0.", "−0.")
    )
