"""Figures of stored runs: worst case, every cell, curve, transfer, modalities, self-checks, export; each opens its
pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import owner, services, state
from app.components import plots
from app.components.attack_form import TASK_WORDS
from app.components.benchmark_plots import curve_figure, looks, score_figure
from app.components.fields import among
from app.components.theme import ROLES, escape, number, show
from app.components.visitor_words import plain_reason
from cmai_core.lab.benchmark.choices import recipe_words

if TYPE_CHECKING:
    import pandas as pd

    from cmai_core.lab.benchmark.results import Results

WORST_WORD = "worst case"
MODALITY_WORDS = {"clean": "clean", "image": "picture", "text": "words", "joint": "both"}
TABS = ("Every cell", "Accuracy against ε", "Transfer", "By modality", "Self-checks", "Export")
PERCENT = "%.0f %%"
MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "skipped": "–"}
CHECK_WORDS = {"pass": "pass", "warn": "look", "fail": "fail", "skipped": "not made"}


def figure_id(row: Any) -> str:
    """A name of a row of `Results.figures` that stays the same while the store grows."""
    from cmai_core.evaluation.figures.metrics import CELL

    return "|".join(str(row[name]) for name in CELL)


def percent(value: Any, low: Any = None, high: Any = None) -> str:
    """ "76 % [70, 82]"; "–" for what is not known."""
    if value is None or value != value:
        return "–"
    interval = "" if low is None or low != low else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * value:.0f} %{interval}"


def model_word(name: str) -> str:
    """A model with the mark of its role, where it is a bundled one."""
    card = services.cards().get(name.partition(" · ")[0])
    return owner.shown(name) if card is None else f"{ROLES['defended' if card.defended else 'undefended'].mark} {name}"


def attack_word(row: Any) -> str:
    """A figure's attack in words."""
    if row["kind"] == "clean":
        return "none (clean)"
    return f"{WORST_WORD} of {row['contenders']:g}" if row["kind"] == "worst" else recipe_words(row["recipe"])


def title_of(row: Any) -> str:
    """A figure in a line."""
    where = "" if row["own"] else f", crafted on {owner.shown(row['source'])}"
    budget = f" at {row['budget']}" if row["budget"] else ""
    seed = f", seed {row['seed']}" if row["kind"] != "clean" and row["seed"] == row["seed"] and row["seed"] else ""
    task = TASK_WORDS.get(row["task"], "S_c only")
    return f"{owner.shown(row['target'])} · {task} · {attack_word(row)}{budget}{where}{seed}"


def _open(key: str, ids: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """Callback of a table: notes which figure was clicked.

    Args:
        ids: of each cell, "" where none stands; of each row where there are no `columns`.
    """
    chosen = st.session_state[key].selection
    found = ""
    if chosen.get("cells"):
        row, column = chosen["cells"][0]
        place = columns.index(column) if column in columns else None if columns else 0
        found = ids[row][place] if place is not None and row < len(ids) else ""
    elif chosen.get("rows"):
        found = ids[chosen["rows"][0]][0]
    if found:
        state.put(state.BENCH_OPEN, found)


def _open_point(key: str) -> None:
    """The same of a figure's point."""
    found = plots.selected_id(st.session_state[key])
    if found:
        state.put(state.BENCH_OPEN, found)


def _matrix(table: pd.DataFrame, ids: Sequence[Sequence[str]], key: str, **options: Any) -> None:
    """A table whose cells open their pairs."""
    columns = list(table.columns)
    st.dataframe(
        table, key=key, placeholder="–", hide_index=True, selection_mode="single-cell",
        on_select=lambda: _open(key, ids, columns), **options,
    )  # fmt: skip


def results_view(made: Results) -> None:
    """Everything of the chosen runs."""
    cards = {card.name: card.defended for card in services.catalogue()}
    look = looks(made.models, cards)
    if made.note:
        st.caption(f":material/join_inner: {made.note}")
    worst_view(made)
    st.caption(":material/touch_app: Click any number, row or point: the pairs behind it open.")
    tabs = st.tabs(TABS, key="bench_tabs", on_change="rerun")
    drawn: tuple[Callable[[], None], ...] = (
        lambda: cells_view(made), lambda: curve_view(made, look), lambda: transfer_view(made),
        lambda: modality_view(made, look), lambda: checks_view(made), lambda: export_view(made),
    )  # fmt: skip
    for tab, draw in zip(tabs, drawn, strict=True):
        if tab.open:
            with tab:
                draw()


# --- worst case -------------------------------------------------------------------------------------------------------


def hardest(made: Results) -> pd.DataFrame:
    """For each model, task, modality and budget the figure that counts: the worst case, or the one attack there is."""
    own = made.figures[made.figures["own"] & (made.figures["kind"] != "clean") & made.figures["robust"].notna()]
    own = own.assign(rank=(own["kind"] == "worst").map({True: 0, False: 1}))
    own = own.sort_values(["rank", "robust"], kind="stable")
    keys = ["target", "dataset", "split", "task", "modality", "norm", "epsilon", "budget"]
    return own.drop_duplicates(keys).sort_values(["target", "task", "modality", "norm", "epsilon"])


def worst_view(made: Results) -> None:
    """One row a model and task, one column a budget."""
    import pandas as pd

    found = hardest(made)
    clean = made.figures[made.figures["kind"] == "clean"]
    if not len(clean):
        return
    columns: dict[str, tuple] = {}
    for row in found.sort_values(["modality", "norm", "epsilon"]).to_dict("records"):
        words = f"{MODALITY_WORDS[row['modality']]} {row['budget']}".strip()
        columns[words] = (row["modality"], row["norm"], row["budget"])
    table, ids = [], []
    several = clean["task"].nunique() > 1
    for start in clean.to_dict("records"):
        line = {"model": model_word(start["target"])} | ({"task": TASK_WORDS[start["task"]]} if several else {})
        line["clean"] = percent(start["clean"], start["clean_low"], start["clean_high"])
        its = [""] * (len(line) - 1) + [figure_id(start)]
        same = found[(found["target"] == start["target"]) & (found["task"] == start["task"])]
        same = same[(same["dataset"] == start["dataset"]) & (same["split"] == start["split"])]
        for words, (modality, norm, budget) in columns.items():
            cell = same[(same["modality"] == modality) & (same["norm"] == norm) & (same["budget"] == budget)]
            cell = cell.iloc[0] if len(cell) else None
            line[words] = "–" if cell is None else percent(cell["robust"], cell["robust_low"], cell["robust_high"])
            its.append("" if cell is None else figure_id(cell))
        table.append(line)
        ids.append(its)
    st.markdown("#### Right answers, clean and in the worst case over the attacks")
    _matrix(pd.DataFrame(table), ids, "bench_worst")
    total = int(clean["clean_total"].max()) if clean["clean_total"].notna().any() else 0
    st.caption(
        f"Share of up to {total} pairs answered right, with the 95 % bootstrap interval; after an attack a pair counts "
        "as lost as soon as one attack of that budget turns it wrong."
    )


# --- every cell -------------------------------------------------------------------------------------------------------


def cells_view(made: Results) -> None:
    """The sortable table, filtered."""
    rows = filtered(made.figures)
    if not len(rows):
        st.info("No cell is left by these filters.", icon="🔍")
        return
    ids = [[figure_id(row)] for row in rows.to_dict("records")]
    table, config = shown_cells(rows)
    st.dataframe(
        table, key="bench_cells", hide_index=True, column_config=config, selection_mode=["single-row", "single-cell"],
        on_select=lambda: _open("bench_cells", ids, []), height="content" if len(rows) <= 16 else 560, placeholder="–",
    )  # fmt: skip
    notes = [note for note in dict.fromkeys(rows["note"]) if note]
    if notes:
        with st.expander(f"Notes ({len(notes)})"):
            for note in notes:
                st.caption(note)


def filtered(figures: pd.DataFrame) -> pd.DataFrame:
    """The rows that the filter chips leave; each group of chips stands only where there is something to choose."""
    row = st.container(horizontal=True, gap="medium", key="bench_filters")
    for column, word, names in (
        ("target", "Model", None), ("task", "Task", TASK_WORDS), ("modality", "Attacked", MODALITY_WORDS),
    ):  # fmt: skip
        values = [value for value in dict.fromkeys(figures[column]) if value]
        values = [name for name in names if name in values] if names else values
        if len(values) > 1:
            chosen = row.pills(
                word, values, selection_mode="multi", key=f"bench_filter_{column}",
                format_func=lambda value, names=names: (names or {}).get(value, value),
            )  # fmt: skip
            if chosen:
                figures = figures[figures[column].isin(chosen)]
    if not figures["own"].all():
        kinds = {True: "its own attacks", False: "transferred"}
        chosen = row.pills("Examples", list(kinds), key="bench_filter_own", format_func=kinds.get)
        if chosen is not None:
            figures = figures[figures["own"] == chosen]
    if (figures["kind"] == "worst").any() and row.toggle("Worst cases only", key="bench_filter_worst"):
        figures = figures[figures["kind"] == "worst"]
    return figures


def shown_cells(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table as it is shown, numbers as numbers so that it sorts, and how its columns are written."""
    import pandas as pd

    column = st.column_config
    records = rows.to_dict("records")
    several = rows["task"].nunique() > 1
    table = pd.DataFrame(
        {
            "model": [model_word(name) for name in rows["target"]],
            "task": [TASK_WORDS.get(task, "–") for task in rows["task"]],
            "attack": [attack_word(row) for row in records],
            "crafted on": [
                "" if row["kind"] == "clean" else "itself" if row["own"] else row["source"] for row in records
            ],
            "attacked": [MODALITY_WORDS.get(m, m) for m in rows["modality"]],
            "budget": rows["budget"].to_numpy(),
            "right": 100 * rows["robust"].where(rows["kind"] != "clean", rows["clean"]).astype(float).to_numpy(),
            "95 %": [_interval(row, "clean" if row["kind"] == "clean" else "robust") for row in records],
            "attack success": 100 * rows["asr"].astype(float).to_numpy(),
            "95 % ": [_interval(row, "asr") for row in records],
            "fooled": [_counted(row) for row in records],
            "S_c clean": rows["sc_clean"].astype(float).to_numpy(),
            "S_c": rows["sc"].astype(float).to_numpy(),
        }
    )
    config = {
        "right": column.NumberColumn(format=PERCENT, help="Of all pairs: right when clean and after the attack."),
        "95 %": column.TextColumn("95 %", help="Bootstrap interval of the share before it."),
        "attack success": column.NumberColumn(format=PERCENT, help="Of the pairs right when clean: wrong afterwards."),
        "95 % ": column.TextColumn("95 %", help="Bootstrap interval of the share before it."),
        "fooled": column.TextColumn(help="Pairs turned wrong, of those right when clean."),
        "S_c clean": column.NumberColumn(format="%.3f", help="Mean consistency score of the clean pairs."),
        "S_c": column.NumberColumn(format="%.3f", help="Mean consistency score of the attacked pairs."),
    }
    if rows["caught"].notna().any():
        table["found"] = 100 * rows["caught"].astype(float).to_numpy()
        table["right or flagged"] = 100 * rows["safe"].astype(float).to_numpy()
        config["found"] = column.NumberColumn(
            format=PERCENT, help="Attacked pairs whose S_c lies below τ, set to flag 5 % of clean validation pairs."
        )
        config["right or flagged"] = column.NumberColumn(
            format=PERCENT, help="Right after the attack, or flagged at τ."
        )
    hidden = [] if several else ["task"]
    if rows["own"].all():
        hidden.append("crafted on")
    return table.drop(columns=hidden), config


def _interval(row: Any, name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or low != low else f"{100 * low:.0f}–{100 * high:.0f}"


def _counted(row: Any) -> str:
    if row["asr_total"] != row["asr_total"] or not row["asr_total"]:
        return ""
    return f"{row['asr_hits']:.0f}/{row['asr_total']:.0f}"


# --- accuracy against ε -----------------------------------------------------------------------------------------------


def curve_view(made: Results, look: Any) -> None:
    """One line a model: the worst case, or one recipe."""
    own = made.figures[made.figures["own"] & (made.figures["kind"] != "clean")]
    own = own[own["norm"].isin(["linf", "l2"]) & own["epsilon"].notna() & own["robust"].notna()]
    if not len(own):
        st.info("No attack with an ε has been measured on a task yet.", icon="ℹ️")
        return
    one, two, three = st.columns(3)
    tasks = list(dict.fromkeys(own["task"]))
    task = one.selectbox("Task", tasks, key="bench_curve_task", format_func=lambda t: TASK_WORDS.get(t, t))
    task = among(task, tasks)
    own = own[own["task"] == task]
    threats = list(dict.fromkeys(zip(own["modality"], own["norm"], strict=True)))
    threat = two.selectbox(
        "Threat", threats, key="bench_curve_threat",
        format_func=lambda t: f"{MODALITY_WORDS[t[0]]}, {'L∞' if t[1] == 'linf' else 'L2'}",
    )  # fmt: skip
    threat = among(threat, threats)
    own = own[(own["modality"] == threat[0]) & (own["norm"] == threat[1])]
    names = sorted(dict.fromkeys(own["recipe"]), key=lambda name: name != WORST_WORD)
    name = among(three.selectbox("Attack", names, key="bench_curve_attack", format_func=recipe_words), names)
    lines = {model: _line(made, own, model, task, name) for model in made.models}
    lines = {model: line for model, line in lines.items() if len(line) > 1}
    title = _curve_title(lines)
    st.plotly_chart(
        curve_figure(lines, look, title=title), key="bench_curve", config=plots.CONFIG, selection_mode="points",
        on_select=lambda: _open_point("bench_curve"),
        alt=f"{title}. Robust accuracy against ε under {name}, one line a model; the table below holds every point.",
    )  # fmt: skip
    with st.expander("As a table"):
        st.dataframe(
            [
                {"model": model, "ε (k/255)": p["epsilon"], "right": percent(p["value"], p["low"], p["high"]),
                 "pairs": f"{p['hits']:g}/{p['total']:g}"}
                for model, line in lines.items() for p in line.to_dict("records")
            ],
            hide_index=True,
        )  # fmt: skip


def _line(made: Results, own: pd.DataFrame, model: str, task: str, name: str) -> pd.DataFrame:
    """Points of one model, from its clean accuracy at ε = 0."""
    import pandas as pd

    clean = made.figures[(made.figures["kind"] == "clean") & (made.figures["target"] == model)]
    clean = clean[clean["task"] == task]
    its = own[(own["target"] == model) & (own["recipe"] == name)].sort_values("epsilon")
    if not len(its):
        return its
    points = []
    for rows, column in ((clean.head(1), "clean"), (its.drop_duplicates("epsilon"), "robust")):
        points += [
            {
                "epsilon": 0.0 if column == "clean" else row["epsilon"], "value": row[column],
                "low": row[f"{column}_low"], "high": row[f"{column}_high"], "hits": row[f"{column}_hits"],
                "total": row[f"{column}_total"], "id": figure_id(row),
            }
            for row in rows.to_dict("records")
        ]  # fmt: skip
    return pd.DataFrame(points)


def _curve_title(lines: dict[str, pd.DataFrame]) -> str:
    """The finding: what is left of each model at the largest ε."""
    parts = [f"{model} keeps {line['value'].iloc[-1]:.0%}" for model, line in lines.items()]
    at = max((line["epsilon"].iloc[-1] for line in lines.values()), default=0)
    return f"At {at:g}/255 " + ", ".join(parts)


# --- transfer ---------------------------------------------------------------------------------------------------------


def transfer_view(made: Results) -> None:
    """Source × target for one attack."""
    import pandas as pd

    table = made.transfer
    table = table[(table["task"] != "") & table["total"].notna()]
    if len(made.models) < 2 or not len(table) or (table["source"] == table["target"]).all():
        st.info("Transfer takes two models or more whose examples are shown to each other.", icon="ℹ️")
        return
    keys = ["task", "recipe", "norm", "epsilon", "seed"]
    attacks = list(table[keys].drop_duplicates().itertuples(index=False, name=None))
    from cmai_core.lab.benchmark.results import budget

    words = [
        " · ".join(filter(None, (recipe_words(recipe), budget(norm, epsilon), TASK_WORDS.get(task))))
        for task, recipe, norm, epsilon, _ in attacks
    ]
    chosen = st.selectbox("Attack", range(len(attacks)), key="bench_transfer_attack", format_func=words.__getitem__)
    for name, value in zip(keys, attacks[among(chosen, range(len(attacks)))], strict=True):
        table = table[(table[name] == value) | (table[name].isna() & (value != value))]
    lines, ids = [], []
    by_cell = {(row["source"], row["target"]): row for row in table.to_dict("records")}
    ids_of = {figure_id(row): row for row in made.figures.to_dict("records")}
    for source in made.models:
        line, its = {"crafted on ↓  shown to →": source}, [""]
        for target in made.models:
            row = by_cell.get((source, target))
            line[target] = "–" if row is None else f"{percent(row['value'], row['low'], row['high'])} · {_of(row)}"
            key = "" if row is None else figure_id(row)
            its.append(key if key in ids_of else "")
        lines.append(line)
        ids.append(its)
    _matrix(pd.DataFrame(lines), ids, "bench_matrix")
    st.caption(
        "Attack success on the pairs that every one of these models gets right when clean, so that all cells have one "
        "denominator. On the diagonal a model meets what was crafted on itself."
    )


def _of(row: Any) -> str:
    return f"{row['hits']:.0f}/{row['total']:.0f}"


# --- modalities -------------------------------------------------------------------------------------------------------


def modality_view(made: Results, look: Any) -> None:
    """Attacks on pictures, on words and on both at the same budget."""
    import pandas as pd

    sides = made.sides[made.sides["source"] == made.sides["target"]]
    found = made.figures[made.figures["own"] & (made.figures["kind"] == "attack") & made.figures["sc_change"].notna()]
    if found["modality"].nunique() < 2:
        st.info("Choose attacks of two kinds: on pictures, on words, or on both.", icon="ℹ️")
        return
    found = found.sort_values(["modality", "recipe", "epsilon"])
    names = [
        f"{MODALITY_WORDS[r['modality']]}: {recipe_words(r['recipe'])}{' ' + r['budget'] if r['budget'] else ''}"
        for r in found.to_dict("records")
    ]
    found = found.assign(name=names, id=[figure_id(row) for row in found.to_dict("records")])
    strongest = found.loc[found["sc_change"].idxmin()]
    title = f"S_c falls most under {recipe_words(strongest['recipe'])} ({MODALITY_WORDS[strongest['modality']]})"
    st.plotly_chart(
        score_figure(found, look, title=title), key="bench_scores", config=plots.CONFIG, selection_mode="points",
        on_select=lambda: _open_point("bench_scores"), alt=f"{title}. Mean change of S_c of every attack and model.",
    )  # fmt: skip
    if len(sides):
        st.markdown("**Attack success at equal budget, each kind in its worst case**")
        lines = [
            {
                "model": row["target"], "task": TASK_WORDS.get(row["task"], "–"),
                "budget": f"{row['epsilon']:g}/255" if row["epsilon"] == row["epsilon"] else "–",
                "words": "–" if pd.isna(row["words"]) else str(row["words"]),
                "attacked": MODALITY_WORDS.get(row["modality"], row["modality"]),
                "attack success": percent(row["value"], row["low"], row["high"]),
                "fooled": f"{row['hits']:.0f}/{row['total']:.0f}",
            }
            for row in sides.to_dict("records")
        ]  # fmt: skip
        ids = [[_side_id(made, row)] for row in sides.to_dict("records")]
        st.dataframe(
            lines, key="bench_sides", hide_index=True, selection_mode=["single-row", "single-cell"],
            on_select=lambda: _open("bench_sides", ids, []),
        )  # fmt: skip
    st.caption("Attacks on words leave the picture as it is, so of the tasks only S_c answers to them.")


def _side_id(made: Results, side: Any) -> str:
    """The figure behind a row of `sides`: that modality's worst case, or its one attack."""
    found = hardest(made)
    found = found[(found["target"] == side["target"]) & (found["task"] == side["task"])]
    found = found[(found["modality"] == side["modality"]) & (found["epsilon"] == side["epsilon"])]
    return figure_id(found.iloc[0]) if len(found) else ""


# --- self-checks and export -------------------------------------------------------------------------------------------


def checks_view(made: Results) -> None:
    """What ought to hold, and whether it does."""
    counts = {status: sum(check.status == status for check in made.checks) for status in MARKS}
    words = [f"{counts[s]} {CHECK_WORDS[s]}" for s in MARKS if counts[s]]
    st.markdown(f"**Do these figures measure the models, or the weakness of the attacks?** {', '.join(words)}.")
    order = list(MARKS)
    made_first = sorted(made.checks, key=lambda check: ("fail", "warn", "pass", "skipped").index(check.status))
    rows = "".join(
        f'<div class="cm-check cm-check-{check.status}">'
        f'<span class="mark" aria-hidden="true">{MARKS[check.status]}</span>'
        f'<span class="word">{CHECK_WORDS[check.status]}</span>'
        f"<span><b>{escape(check.name[0].upper() + check.name[1:])}</b><br>"
        f'<span class="cm-muted">{escape(check.evidence)}</span></span></div>'
        for check in made_first
        if check.status in order
    )
    show(rows)
    if made.skipped:
        with st.expander(f"Cells left out ({len(made.skipped)})"):
            for source, task, recipe, why in made.skipped:
                st.caption(f"{recipe_words(recipe)} on {source}, {task or 'no task'}: {plain_reason(why)}")
    st.caption("After Carlini et al., On Evaluating Adversarial Robustness (2019), and AutoAttack's flags (2020).")


def export_view(made: Results) -> None:
    """The long table and the readings as files."""
    from cmai_core.lab.benchmark.export import as_bytes

    st.markdown("**The table**: one row a figure with its interval, hits and total; worst cases last.")
    row = st.container(horizontal=True, gap="small")
    name = "cmai-" + "-".join(made.runs)[:60]
    for kind, word, mime in (
        ("csv", "CSV", "text/csv"),
        ("json", "JSON", "application/json"),
        ("tex", "LaTeX", "text/x-tex"),
    ):
        row.download_button(
            word, as_bytes(made.summary, kind), f"{name}.{kind}", mime, key=f"bench_export_{kind}",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    row.download_button(
        "Every reading (CSV)", lambda: as_bytes(made.frame, "csv"), f"{name}-readings.csv", "text/csv",
        key="bench_export_readings", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    st.dataframe(made.summary, hide_index=True, height=300, placeholder="–")
    st.caption(
        f"{len(made.summary)} figures of {len(made.frame)} readings. {number(None)} stands for what is not known."
    )
