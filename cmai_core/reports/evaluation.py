"""The report of evaluation runs: figures with intervals, charts, self-checks, and pairs to look at."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core import __version__
from cmai_core.errors import CmaiError
from cmai_core.lab.benchmark.choices import command, recipe_words
from cmai_core.reports.charts import Point, Series, line_chart
from cmai_core.reports.experiment import _today, caption_parts
from cmai_core.reports.looks import of_models
from cmai_core.reports.page import number, percent, render
from cmai_core.tasks import TASKS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from markupsafe import Markup

    from cmai_core.lab.benchmark.results import Results

MOST_CELLS, MOST_PAIRS, PAIRS_EACH = 600, 96, 12
"""Rows of the table of cells; pictures of a slice, and of each model where nothing is sliced."""
CHECK_MARKS = {"pass": "✓ pass", "warn": "! look", "fail": "✗ fail", "skipped": "– not made"}
MODALITY_WORDS = {"image": "picture", "text": "words", "joint": "both"}
Seen = Callable[[str, Any], Any]
"""(model, picture uint8 H×W×3) → the picture as the model sees it, likewise."""


def evaluation_report(
    folder: str | Path,
    runs: Sequence[str],
    *,
    items: Sequence[str] = (),
    seen: Seen | None = None,
    store: str = "",
    made: Results | None = None,
) -> str:
    """Return the report of runs of an evaluation store, as HTML.

    Args:
        folder: the store's. runs: their names; several are compared on the pairs they share.
        items: ids of pairs: a slice of the runs, all of whose pairs are shown; (): all, of which some are shown.
        seen: how a model sees a picture; None: bundled models as they are, others are loaded for it.
        store: the store as the command that makes the report again names it ("": the usual one).
        made: the runs' figures where they are counted already.

    Raises:
        StoreError: the store or a run cannot be read. DataError: there is nothing to count yet.
    """
    from cmai_core.lab.benchmark.results import results

    made = results(folder, runs, items) if made is None else made
    gallery = _gallery(Path(folder), made, items, seen or as_seen)
    kinds = list(dict.fromkeys(pair["verdict"] for pair in gallery))
    again = " ".join(
        ["cmai report", *([shlex.quote(store)] if store else []), "--run", *runs]
        + (["--pairs", *items] if items else []) + ["--out report.html"]
    )  # fmt: skip
    return render(
        "evaluation.html.j2",
        title=f"Robustness of {_listed(made.models)}",
        lead=_lead(made),
        worst=_worst(made),
        charts=_charts(made),
        checks=[
            (CHECK_MARKS[check.status], check.name, check.evidence)
            for check in sorted(made.checks, key=lambda check: ("fail", "warn", "pass", "skipped").index(check.status))
        ],
        checks_lead=_checks_lead(made),
        cells=[_cell(row) for row in made.figures.head(MOST_CELLS).to_dict("records")],
        transfer=_transfer(made),
        gallery=gallery,
        gallery_lead=f"{len(gallery)} pairs of the hardest case of each model"
        + (", all of the slice." if items else ", the fooled ones first."),
        kinds=kinds if len(kinds) > 1 else [],
        runs=[_run(Path(folder), run, again) for run in runs],
        version=__version__,
        written=_today(),
    )


def as_seen(spec: str, picture: np.ndarray) -> np.ndarray:
    """Return a picture as a model sees it: cut and resized to its size, uint8 H×W×3; loads the model where it must."""
    from cmai_core.evaluation.runs.predictor import pictures
    from cmai_core.models import bundled_models, load_model
    from cmai_core.models.configuration import CONFIG_FILE, read_config

    card = next((card for card in bundled_models() if card.name == spec and card.path), None)
    if card is not None and card.path is not None:
        size = read_config(card.path / CONFIG_FILE)["model_cfg"]["vision_cfg"].get("image_size", 224)
        if picture.shape[:2] == ((size, size) if isinstance(size, int) else tuple(size)):
            return picture
    return pictures(load_model(spec).preprocess([picture]))[0]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lead(made: Results) -> str:
    clean = made.figures[made.figures["kind"] == "clean"]
    total = int(clean["clean_total"].max()) if clean["clean_total"].notna().any() else 0
    attacks = made.figures.loc[made.figures["kind"] == "attack", "recipe"].nunique()
    said = f"{total} pairs, {attacks} attack{'' if attacks == 1 else 's'}."
    return f"{said} {made.note}".strip()


def _checks_lead(made: Results) -> str:
    counts = {status: sum(check.status == status for check in made.checks) for status in CHECK_MARKS}
    words = [f"{count} {CHECK_MARKS[status][2:]}" for status, count in counts.items() if count]
    return f"Do these figures measure the models, or the weakness of the attacks? {', '.join(words)}."


def _worst(made: Results) -> dict[str, Any] | None:
    from cmai_core.lab.benchmark.results import hardest

    found, clean = hardest(made.figures), made.figures[made.figures["kind"] == "clean"]
    if not len(clean):
        return None
    columns = list(dict.fromkeys(zip(found["modality"], found["norm"], found["budget"], strict=True)))
    rows = []
    for start in clean.to_dict("records"):
        same = found[(found["target"] == start["target"]) & (found["task"] == start["task"])]
        row = [start["target"], TASKS[start["task"]].word]
        row.append(percent(start["clean"], start["clean_low"], start["clean_high"]))
        for modality, norm, budget in columns:
            cell = same[(same["modality"] == modality) & (same["norm"] == norm) & (same["budget"] == budget)]
            its = cell.iloc[0] if len(cell) else None
            row.append("–" if its is None else percent(its["robust"], its["robust_low"], its["robust_high"]))
        rows.append(row)
    heads = [f"{MODALITY_WORDS[modality]} {budget}".strip() for modality, _, budget in columns]
    return {"rows": rows, "columns": ["model", "task", "clean", *heads]}


def _charts(made: Results) -> list[Markup]:
    """Return a chart a task and threat: the worst case of each model, or its one attack."""
    curves = made.curves[(made.curves["source"] == made.curves["target"]) & made.curves["value"].notna()]
    looks, drawn = of_models(made.models), []
    for (task, modality, norm), part in curves.groupby(["task", "modality", "norm"], sort=False):
        if norm not in ("linf", "l2") or part["epsilon"].nunique() < 2:
            continue
        series = [_line(part[part["target"] == model], model, looks[model]) for model in made.models]
        series = [one for one in series if len(one.points) > 1]
        if not series:
            continue
        ends = ", ".join(f"{one.name} keeps {one.points[-1].y:.0%}" for one in series)
        title = f"{TASKS[task].word}, {MODALITY_WORDS[modality]}: at {series[0].points[-1].x:g}/255 {ends}"
        drawn.append(line_chart(series, title=title, x_label="ε in 1/255", y_range=(0, 1), percent=True))
    return drawn


def _line(curve: pd.DataFrame, model: str, look: Any) -> Series:
    from cmai_core.evaluation.figures.worst_case import WORST

    names = list(dict.fromkeys(curve["recipe"]))
    name = WORST if WORST in names else names[0] if names else ""
    its = curve[curve["recipe"] == name].drop_duplicates("epsilon").sort_values("epsilon")
    points = [
        Point(
            row["epsilon"], row["value"],
            f"ε = {row['epsilon']:g}/255, {recipe_words(name)}: {percent(row['value'], row['low'], row['high'])}, "
            f"{row['hits']:g} of {row['total']:g}",
            row["low"], row["high"],
        )
        for row in its.to_dict("records")
    ]  # fmt: skip
    return Series(model, look, points)


def attack_words(row: Mapping[str, Any]) -> str:
    """Return a figure's attack in words."""
    if row["kind"] == "clean":
        return "none (clean)"
    return f"worst case of {row['contenders']:g}" if row["kind"] == "worst" else recipe_words(row["recipe"])


def _cell(row: Mapping[str, Any]) -> tuple[str, ...]:
    clean = row["kind"] == "clean"
    name = "clean" if clean else "robust"
    counted = row["asr_total"] == row["asr_total"] and row["asr_total"]
    return (
        row["target"], TASKS[row["task"]].word if row["task"] else "S_c only", attack_words(row),
        "" if clean else "itself" if row["own"] else row["source"], row["budget"],
        percent(row[name], row[f"{name}_low"], row[f"{name}_high"]),
        percent(row["asr"], row["asr_low"], row["asr_high"]),
        f"{row['asr_hits']:.0f}/{row['asr_total']:.0f}" if counted else "–",
        "–" if row["sc"] != row["sc"] else f"{number(row['sc_clean'])} → {number(row['sc'])}",
    )  # fmt: skip


def _transfer(made: Results) -> list[dict[str, Any]]:
    from cmai_core.lab.benchmark.results import budget

    table = made.transfer
    table = table[(table["task"] != "") & table["total"].notna()]
    if len(made.models) < 2 or (table["source"] == table["target"]).all():
        return []
    found = []
    for (task, recipe, norm, epsilon, _), part in table.groupby(
        ["task", "recipe", "norm", "epsilon", "seed"], sort=False, dropna=False
    ):
        cells = {(row["source"], row["target"]): row for row in part.to_dict("records")}
        rows = []
        for source in made.models:
            line = [source]
            for target in made.models:
                row = cells.get((source, target))
                line.append("–" if row is None else percent(row["value"], row["low"], row["high"]))
            rows.append(line)
        title = " · ".join(filter(None, (recipe_words(recipe), budget(norm, epsilon), TASKS[task].word)))
        found.append({"title": title, "rows": rows, "columns": ["made on ↓ shown to →", *made.models]})
    return found


# --- pairs ------------------------------------------------------------------------------------------------------------


def _gallery(folder: Path, made: Results, items: Sequence[str], seen: Seen) -> list[dict[str, Any]]:
    """Return pairs of each model's hardest figure, pictures included."""
    from cmai_core.evaluation.store.store import Store
    from cmai_core.lab.benchmark.results import FOOLED, hardest, pairs_behind

    found = hardest(made.figures)
    shown: list[dict[str, Any]] = []
    with Store.read(folder) as store:
        for model in made.models:
            its = found[found["target"] == model].sort_values("robust", kind="stable")
            if not len(its):
                continue
            pairs = pairs_behind(made.frame, its.iloc[0].to_dict())
            pairs = pairs.assign(order=(pairs["verdict"] != FOOLED)).sort_values("order", kind="stable")
            rows = pairs.head(MOST_PAIRS // len(made.models) if items else PAIRS_EACH).to_dict("records")
            shown += [card for row in rows if (card := _card(store, row, seen)) is not None]
    return shown


def _card(store: Any, row: dict[str, Any], seen: Seen) -> dict[str, Any] | None:
    from cmai_core.lab.benchmark.results import open_pair
    from cmai_core.lab.images import data_url

    try:
        pair = _item(row["dataset"], row["split"], row["item"])
        found = open_pair(store, row, seen(row["source"].partition(" · ")[0], pair.image), pair.captions)
    except CmaiError:  # the data set has moved on, or a file was taken away: the figures stand without the picture
        return None
    same = found.adversarial is found.clean
    answers = [row["answer_clean"], row["answer"]]
    said = f"{answers[0]} → {answers[1]} · " if all(isinstance(answer, str) for answer in answers) else ""
    return {
        "verdict": row["verdict"],
        "model": row["target"],
        "item": row["item"],
        "clean": data_url(found.clean),
        "attacked": "" if same else data_url(found.adversarial),
        "attack": recipe_words(row["recipe"]),
        "sentence": caption_parts(found.before, found.after or found.before),
        "said": f"{said}S_c {number(row['consistency_clean'])} → {number(row['consistency'])}",
    }


def _item(dataset: str, split: str, item: str) -> Any:
    from cmai_core.data import load_dataset
    from cmai_core.data.pair import item_id
    from cmai_core.errors import DataError

    items = load_dataset(dataset, split=split)
    place = next((k for k in range(len(items)) if item_id(items, k) == item), None)
    if place is None:
        raise DataError(f"The dataset {dataset} has no item {item!r} any more.", "Run the evaluation anew.")
    return items[place]


def _run(folder: Path, run: str, again: str) -> dict[str, Any]:
    """Return settings, weights, versions and the commands of a run."""
    import json

    from cmai_core.evaluation.runs.predictions import plan_of
    from cmai_core.evaluation.store.store import Store

    with Store.read(folder) as store:
        plan = plan_of(store, run)
        crafts = tuple({cell.craft for cell in plan.runnable})
        marks = ", ".join("?" * len(crafts))
        rows = store.query(f"SELECT DISTINCT data FROM crafts WHERE craft IN ({marks})", crafts) if crafts else []
    versions: dict[str, dict[str, None]] = {}
    for (data,) in rows:
        for name, value in json.loads(data).get("versions", {}).items():
            versions.setdefault(name, {})[value] = None
    values = plan.grid.to_dict()
    plain = [(name, ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v) for name, v in values.items()]
    return {
        "settings": plain,
        "setup": [
            ("run", run),
            *((f"weights of {name}", digest) for name, digest in plan.hashes.items()),
            *((name, ", ".join(its)) for name, its in versions.items()),
        ],
        "command": f"{command(values)}\n{again}",
    }
