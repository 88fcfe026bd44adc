"""The tabs below a finished attack: answers, perturbation, course, survival, files."""

from __future__ import annotations

import streamlit as st

from app import state, verification_flow
from app.components.attack_lab.answers import answers_table, answers_view, sign
from app.components.attack_lab.detector import aim
from app.components.common.chart import chart
from app.components.common.experiment_files import experiment_download
from app.components.common.fold import fold_table
from app.components.common.guard import guard
from app.components.common.report_download import result_report
from app.components.common.svg import line_chart
from app.components.common.theme import escape, label, number, show
from app.services.pairs import lab_pair
from app.services.showcase import showcase
from cmai_core.lab.images import encode, perturbation_gain, perturbation_numbers, perturbation_view
from cmai_core.lab.result import Example, LabResult
from cmai_core.lab.seen import seen


def answers(result: LabResult) -> None:
    """Draw what every task answers."""
    pictures = {role: result.example_for(role).clean for role in result.predictions}
    answers_view(result.predictions, pictures, result.second)
    with guard():
        _facts(result)
    fold_table("As a table", lambda: answers_table(result.predictions), key="fold_answers")


def _facts(result: LabResult) -> None:
    """Draw which facts a written answer states no more after the attack, and which only then."""
    bundle = showcase()
    if bundle is not None and bundle.result is result:
        return  # the first screen loads no dataset
    e = result.experiment
    pair = lab_pair(e.pair, e.caption, state.get(state.UPLOAD), e.scene)
    lines = []
    for role, changes in seen(result, pair).items():
        for change in changes.values():
            for word, facts in (("says no more", change.gone), ("says now", change.new)):
                said = ", ".join(f"{sign(fact.true)} {escape(fact.text)}" for fact in facts)
                lines += [f"<div>{label(role)} {word}: {said}</div>"] if said else []
    if lines:
        show(f'<div class="cm-small">{"".join(lines)}</div>')


def perturbation(example: Example) -> None:
    """Draw clean, change and adversarial side by side, with the gain of the change."""
    if not example.begun:
        st.caption("No attacked picture was made.")
        return
    gain = perturbation_gain(example.clean, example.adversarial)
    numbers = perturbation_numbers(example.clean, example.adversarial)
    columns = st.columns(3)
    for column, picture, name, alt in (
        (columns[0], example.clean, "● clean", "The clean picture"),
        (
            columns[1],
            perturbation_view(example.clean, example.adversarial, gain),
            f"change, ×{gain}, mid-grey = 0",
            f"The difference of the two pictures, {gain} times enlarged around mid-grey",
        ),
        (columns[2], example.adversarial, "◆ adversarial", "The adversarial picture"),
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
    """Draw S_c and the objective over the steps."""
    score = {f"S_c on {r}": (c.score_trace, r) for r, c in result.examples.items() if c.score_trace}
    objective = {f"objective on {r}": (c.objective_trace, r) for r, c in result.examples.items() if c.objective_trace}
    if not score and not objective:
        st.caption("No step was finished.")
        return
    steps = max(len(c.objective_trace) for c in result.examples.values()) - 1
    left, right = st.columns(2)
    with left:
        markup = line_chart(score, title=_course_title("S_c", score), x_label="step", x_max=steps)
        chart(markup, key="course_score")
    with right:
        markup = line_chart(objective, title=_course_title("The objective", objective), x_label="step", x_max=steps)
        chart(markup, key="course_objective")
    fold_table("As a table", lambda: steps_table(result), key="fold_course")


def steps_table(result: LabResult) -> list[dict[str, object]]:
    """Return the curves as rows."""
    return [
        {"crafted on": r, "step": i, "S_c": s, "objective": o}
        for r, c in result.examples.items()
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
    """Draw S_c in floating point, after PNG and after JPEG: a picture only counts if it can be saved."""
    rows = "".join(
        f"<tr><td>{label(role, role.capitalize())}</td><td>{number(r.clean)}</td><td>{number(r.float_score)}</td>"
        f"<td>{number(r.adversarial)}</td><td>{number(r.jpeg_score)}</td></tr>"
        for role, r in result.predictions.items()
    )
    show(
        "<table><thead><tr><th>S<sub>c</sub></th><th>clean</th><th>attacked, unrounded</th><th>attacked, saved "
        "as PNG (8 bit)</th>"
        f"<th>attacked, saved as JPEG 90</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    lines = []
    for role, example in result.examples.items():
        if example.success is None:
            continue
        word = "holds" if example.success else "fails" if example.success_float else "did not succeed, rounded or not"
        lines.append(f"On model {role} the attack on “{aim(result.experiment)}” {word} after the 8-bit round trip.")
    st.caption(
        " ".join([*lines, "All answers and scores on this page are those of the picture as a PNG file would hold it."])
    )


def files(result: LabResult, example: Example, link: str) -> None:
    """Draw the downloads and the link."""
    one, two, three, four = st.columns(4)
    verdict = verification_flow.current(result)
    experiment_download(one, result, verdict)
    result_report(four, result, verdict)
    two.download_button(
        "Adversarial picture (PNG)",
        encode(example.adversarial),
        f"adversarial-{example.role}.png",
        "image/png",
        icon=":material/image:",
        on_click="ignore",
        width="stretch",
        disabled=not example.begun,
    )
    three.download_button(
        "Clean picture (PNG)",
        encode(example.clean),
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
    """Return settings, hashes and versions as rows."""
    return [
        *({"setting": k, "value": str(v)} for k, v in result.experiment.to_dict().items() if k != "scene" or v),
        *({"setting": f"hash of {r.name}", "value": r.hash} for r in result.predictions.values()),
        {"setting": "device", "value": result.device},
        {"setting": "made", "value": result.created},
        *({"setting": k, "value": v} for k, v in result.versions.items()),
    ]
