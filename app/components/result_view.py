"""A finished attack: pictures, perturbation, S_c, answers, round trips, files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components import verdict_flow
from app.components.answers import answers_table, answers_view
from app.components.before_after import before_after
from app.components.chart import chart
from app.components.detector import aim, decisions, outcome
from app.components.fold import fold_table
from app.components.guard import guard
from app.components.score_card import score_card
from app.components.sentence import marked, verdict
from app.components.svg import line_chart
from app.components.theme import escape, label, number, show
from app.components.verdict_view import await_verdict, card_words, shown_rate, verdict_tab
from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.lab.belonging import epsilon_words
from cmai_core.lab.choices import SEARCHES, THREATS, free_step
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.images import encode, perturbation_gain, perturbation_numbers, perturbation_view
from cmai_core.lab.result import Craft, LabResult, Reading

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis


def objective_words(experiment: Experiment) -> str:
    """Write the objective as a short formula."""
    formula = OBJECTIVES[experiment.objective].formula
    return formula.format(task=experiment.task, alpha=experiment.alpha, beta=experiment.beta)


def craft_note(result: LabResult, craft: Craft) -> str:
    """How the picture was made, in one line."""
    if not craft.begun:
        return "No attacked picture was made."
    e = result.experiment
    search = SEARCHES[e.recipe]
    objective = f"own objective for {e.task}" if search.own_objective else f"objective {objective_words(e)}"
    said = [search.word, THREATS[e.norm]]
    if e.norm != "text":
        said.append(f"ε = {epsilon_words(e)}")
    if e.edits_words:
        said.append(f"at most {e.words} word{'' if e.words == 1 else 's'}")
    if search.counts == "queries":
        said.append(f"{craft.forwards} queries")
    elif free_step(search, e.norm):
        said.append(f"{craft.steps_done} steps of {e.step_size:g}/255")
    else:
        said.append(f"{craft.steps_done} step{'' if craft.steps_done == 1 else 's'}")
    return f"Crafted on the {craft.role} model: {', '.join(said)}, {objective}."


def finding(result: LabResult) -> list[str]:
    """What came out, a sentence for each model."""
    sentences = []
    for role, reading in result.readings.items():
        broken, right = reading.broken_tasks()
        tail = f", {broken} of {right} right answers lost" if right else ""
        if reading.accepted is not None:
            tail = f", {decisions(reading)} by its detector. {outcome(result, role)}".removesuffix(".")
        if not reading.attacked:
            sentences.append(f"{role.capitalize()}: not attacked, as the attack was cancelled before its turn.")
            continue
        sentences.append(f"{role.capitalize()}: S_c {number(reading.clean)} → {number(reading.adversarial)}{tail}.")
    return sentences


def result_view(result: LabResult, *, bases: dict[str, Basis] | None = None, link: str = "") -> None:
    """Draws everything about a result. `bases`: role → the model's thresholds for pairs of this kind."""
    made = verdict_flow.current(result)
    fpr = shown_rate(bases or {})
    roles = [role for role, craft in result.crafts.items() if craft.begun] or list(result.crafts)[:1]
    role = roles[0]
    if not result.crafts[role].begun:
        st.info("Cancelled before anything was done: no picture was made.", icon="⏹️")
    elif any(c.cancelled for c in result.crafts.values()):
        st.info("Cancelled: this is the best picture found until then.", icon="⏹️")
    if len(roles) > 1:
        role = st.segmented_control(
            "Picture crafted on", roles, default=roles[0], key="shown_craft", required=True, format_func=str.capitalize
        )
        role = role if role in roles else roles[0]
    craft = result.crafts[role]
    left, right = st.columns([1, 1], gap="medium")
    with left:
        if craft.begun:
            before_after(craft.clean, craft.adversarial, key="result_slider", alt=result.experiment.caption)
        else:
            st.image(craft.clean, caption="● clean", output_format="PNG", width="stretch", alt="The clean picture")
        sentence(result, craft)
        st.caption(f"{craft_note(result, craft)} {craft.note}".strip())
    with right:
        for name, reading in result.readings.items():
            card(result, reading, (bases or {}).get(name), fpr, card_words(made, reading))
    drawn = {
        "Answers": lambda: answers(result), "Verification": lambda: verdict_tab(result),
        "Perturbation": lambda: perturbation(craft), "Course": lambda: course(result),
        "Does it survive a file?": lambda: survival(result), "Replay and files": lambda: files(result, craft, link),
    }  # fmt: skip
    tabs = st.tabs(list(drawn), key=state.RESULT_TAB, on_change="rerun")
    for tab, draw in zip(tabs, drawn.values(), strict=True):
        if tab.open:  # the others cost nothing
            with tab, guard():
                draw()
    if not tabs[1].open:
        await_verdict()  # the cards above speak of it


def answers(result: LabResult) -> None:
    """What every task answers."""
    pictures = {role: result.craft_for(role).clean for role in result.readings}
    answers_view(result.readings, pictures, result.second)
    fold_table("As a table", lambda: answers_table(result.readings), key="fold_answers")


def card(result: LabResult, reading: Reading, basis: Basis | None, fpr: float, besides: str) -> None:
    """The score card of one model, with its τ and where that comes from."""
    tau = reading.tau if reading.tau is not None else None if basis is None else basis.tau(fpr)
    said = "" if basis is None else basis.said(fpr)
    score_card(
        reading,
        result.craft_for(reading.role),
        tau,
        origin=said if tau is not None else "",
        unknown=said if tau is None else "",
        outcome=outcome(result, reading.role),
        besides=besides,
    )


def sentence(result: LabResult, craft: Craft) -> None:
    """The pair's sentence; where it was attacked, what became of it."""
    caption = result.experiment.caption
    if not craft.caption:
        show(f'<p class="cm-quote">{escape(caption)}</p>')
        return
    words = verdict(caption, craft.caption, craft.true)
    body = marked(caption, craft.caption)
    show(f'<p class="cm-quote">{body}</p><p class="cm-small cm-muted">{escape(words)}</p>')


def perturbation(craft: Craft) -> None:
    """Clean, change, adversarial, side by side; the gain is printed."""
    if not craft.begun:
        st.caption("No attacked picture was made.")
        return
    gain = perturbation_gain(craft.clean, craft.adversarial)
    numbers = perturbation_numbers(craft.clean, craft.adversarial)
    columns = st.columns(3)
    for column, picture, name, alt in (
        (columns[0], craft.clean, "● clean", "The clean picture"),
        (
            columns[1],
            perturbation_view(craft.clean, craft.adversarial, gain),
            f"change, ×{gain}, mid-grey = 0",
            f"The difference of the two pictures, {gain} times enlarged around mid-grey",
        ),
        (columns[2], craft.adversarial, "◆ adversarial", "The adversarial picture"),
    ):
        column.image(picture, caption=name, output_format="PNG", width="stretch", alt=alt)
    psnr = "∞" if numbers["psnr"] == float("inf") else f"{numbers['psnr']:.1f} dB"
    show(
        f'<div class="cm-row"><span class="cm-tag">largest change {numbers["linf"]:.0f}/255</span>'
        f'<span class="cm-tag">root mean square {numbers["rms"]:.2f}/255</span>'
        f'<span class="cm-tag">{numbers["changed"]:.0%} of the values changed</span><span class="cm-tag">PSNR '
        f"{psnr}</span></div>"
    )


def course(result: LabResult) -> None:
    """Curves over the steps."""
    score = {f"S_c on {r}": (c.score_trace, r) for r, c in result.crafts.items() if c.score_trace}
    objective = {f"objective on {r}": (c.objective_trace, r) for r, c in result.crafts.items() if c.objective_trace}
    if not score and not objective:
        st.caption("No step was finished.")
        return
    steps = max(len(c.objective_trace) for c in result.crafts.values()) - 1
    left, right = st.columns(2)
    with left:
        markup = line_chart(score, title=_course_title("S_c", score), x_label="step", x_max=steps)
        chart(markup, key="course_score")
    with right:
        markup = line_chart(objective, title=_course_title("The objective", objective), x_label="step", x_max=steps)
        chart(markup, key="course_objective")
    fold_table("As a table", lambda: steps_table(result), key="fold_course")


def steps_table(result: LabResult) -> list[dict[str, object]]:
    """The curves as rows."""
    return [
        {"crafted on": r, "step": i, "S_c": s, "objective": o}
        for r, c in result.crafts.items()
        for i, (s, o) in enumerate(zip(c.score_trace, c.objective_trace, strict=False))
    ]


def _course_title(name: str, curves: dict) -> str:
    if not curves:
        return name
    ys = next(iter(curves.values()))[0]
    change = ys[-1] - ys[0]
    verb = "falls" if change < -0.005 else "rises" if change > 0.005 else "stays level"
    return f"{name} {verb} from {number(ys[0])} to {number(ys[-1])}"


def survival(result: LabResult) -> None:
    """S_c in floating point, after PNG and after JPEG: a picture only counts when it can be saved."""
    rows = "".join(
        f"<tr><td>{label(role, role.capitalize())}</td><td>{number(r.clean)}</td><td>{number(r.float_score)}</td>"
        f"<td>{number(r.adversarial)}</td><td>{number(r.jpeg_score)}</td></tr>"
        for role, r in result.readings.items()
    )
    show(
        "<table><thead><tr><th>S<sub>c</sub></th><th>clean</th><th>attacked, unrounded</th><th>attacked, saved "
        "as PNG (8 bit)</th>"
        f"<th>attacked, saved as JPEG 90</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    lines = []
    for role, craft in result.crafts.items():
        if craft.success is None:
            continue
        word = "holds" if craft.success else "fails" if craft.success_float else "did not succeed, rounded or not"
        lines.append(f"On the {role} model the attack on “{aim(result.experiment)}” {word} after the 8-bit round trip.")
    st.caption(
        " ".join([*lines, "All answers and scores on this page are those of the picture as a PNG file would hold it."])
    )


def files(result: LabResult, craft: Craft, link: str) -> None:
    """Downloads and the link."""
    document = result.to_dict()
    made = verdict_flow.current(result)
    if made is not None:
        document["cmcv"] = made.to_dict()
    one, two, three = st.columns(3)
    one.download_button(
        "Experiment (JSON)",
        json.dumps(document, indent=1, ensure_ascii=False),
        "cmai-experiment.json",
        "application/json",
        icon=":material/data_object:",
        on_click="ignore",
        width="stretch",
        help="Seed, budgets, model hashes, library versions, traces and answers: enough to replay it exactly.",
    )
    two.download_button(
        "Adversarial picture (PNG)",
        encode(craft.adversarial),
        f"adversarial-{craft.role}.png",
        "image/png",
        icon=":material/image:",
        on_click="ignore",
        width="stretch",
        disabled=not craft.begun,
    )
    three.download_button(
        "Clean picture (PNG)",
        encode(craft.clean),
        "clean.png",
        "image/png",
        icon=":material/image:",
        on_click="ignore",
        width="stretch",
    )
    if link:
        st.caption("A link to this experiment:")
        st.code(link, language=None, wrap_lines=True)
    fold_table("What was run", lambda: settings_table(result), key="fold_run")


def settings_table(result: LabResult) -> list[dict[str, str]]:
    """Settings, hashes and versions as rows."""
    return [
        *({"setting": k, "value": str(v)} for k, v in result.experiment.to_dict().items() if k != "scene" or v),
        *({"setting": f"hash of {r.name}", "value": r.hash} for r in result.readings.values()),
        {"setting": "device", "value": result.device},
        {"setting": "made", "value": result.created},
        *({"setting": k, "value": v} for k, v in result.versions.items()),
    ]
