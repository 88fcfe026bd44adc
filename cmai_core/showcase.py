"""The bundled example the lab opens with: one attack on the bundled models, and S_c of a few hundred pairs around it.

    python -m cmai_core.showcase            # makes assets/showcase from assets/models

Reading it needs neither torch nor a model. It carries the hashes of the models it was made with; a test holds them
against the bundled ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.errors import DataError
from cmai_core.files import atomic, write_text
from cmai_core.lab.choices import CALIBRATION_PAIRS, FALSE_POSITIVE_RATE
from cmai_core.lab.experiment import DEFENDED, UNDEFENDED, Experiment, present_role
from cmai_core.lab.images import decode, encode
from cmai_core.lab.result import LabResult
from cmai_core.paths import assets_dir

FORMAT = "cmai-showcase/2"
FINALISTS = 5
"""Scenes tried in full when the example is chosen."""


@dataclass(frozen=True)
class ScoreHistogram:
    """Counts of S_c: `edges` has one value more than `clean` and `adversarial`."""

    edges: tuple[float, ...]
    clean: tuple[int, ...]
    adversarial: tuple[int, ...]


@dataclass(frozen=True)
class Showcase:
    """The bundled example. Maps are keyed by role.

    Attributes:
        tau: each model's threshold at `false_positive_rate`, as its owner (`defenses.basis`) had it; origin: what that
            was set on, in words. None of the pairs counted here had a part in it.
        flagged, flagged_clean: the shares of the attacked and of the clean pairs that lie below it.
        pairs: how many are counted.
    """

    result: LabResult
    histograms: Mapping[str, ScoreHistogram]
    tau: Mapping[str, float]
    origin: Mapping[str, str]
    flagged: Mapping[str, float]
    flagged_clean: Mapping[str, float]
    false_positive_rate: float
    pairs: int


def showcase_dir() -> Path:
    """Return where the bundled example lies."""
    return assets_dir() / "showcase"


def load_showcase(folder: Path | None = None) -> Showcase | None:
    """Return the bundled example; None where none has been made.

    Raises:
        DataError: where the files are there but broken.
    """
    folder = folder or showcase_dir()
    path = folder / "showcase.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text("utf-8"))
        pictures = {
            role: (
                decode((folder / f"clean-{role}.png").read_bytes()),
                decode((folder / f"adversarial-{role}.png").read_bytes()),
            )
            for role in raw["result"]["crafts"]
        }
        return Showcase(
            LabResult.from_dict(raw["result"], pictures),
            {
                r: ScoreHistogram(*(tuple(h[k]) for k in ("edges", "clean", "adversarial")))
                for r, h in _by_role(raw["histograms"]).items()
            },
            _by_role(raw["tau"]),
            _by_role(raw["origin"]),
            _by_role(raw["flagged"]),
            _by_role(raw["flagged_clean"]),
            raw["false_positive_rate"],
            raw["pairs"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("The bundled example cannot be read.", "Make it again: python -m cmai_core.showcase") from error


def _by_role(values: Mapping[str, Any]) -> dict[str, Any]:
    return {present_role(role): value for role, value in values.items()}


def save_showcase(bundle: Showcase, folder: Path) -> None:
    """Write showcase.json and the PNG pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for role, example in bundle.result.examples.items():
        for name, picture in (("clean", example.clean), ("adversarial", example.adversarial)):
            with atomic(folder / f"{name}-{role}.png") as temporary:
                temporary.write_bytes(encode(picture))
    document = {
        "format": FORMAT,
        "result": bundle.result.to_dict(),
        "histograms": {
            r: {"edges": h.edges, "clean": h.clean, "adversarial": h.adversarial} for r, h in bundle.histograms.items()
        },
        "tau": dict(bundle.tau),
        "origin": dict(bundle.origin),
        "flagged": dict(bundle.flagged),
        "flagged_clean": dict(bundle.flagged_clean),
        "false_positive_rate": bundle.false_positive_rate,
        "pairs": bundle.pairs,
    }
    write_text(folder / "showcase.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def build_showcase(
    out_dir: Path | None = None,
    *,
    pairs: int = 400,
    candidates: int = 24,
    steps: int = 40,
    calibration_pairs: int = CALIBRATION_PAIRS,
    progress=None,
) -> Showcase | None:
    """Make the example from the bundled models and write it to `out_dir`.

    The example is chosen because it is clear, and says so: among the first `candidates` test scenes those are tried on
    which L∞ 4/255 lowers S_c most on the undefended model and least on the defended one (each faces its own white-box
    attack), and the one is taken with most answers lost by the first and kept by the second. The histograms are over
    all of the first `pairs` test pairs.

    Returns:
        The example, or None when there is no bundled undefended model.
    """
    from cmai_core.data.registry import load_dataset
    from cmai_core.evaluation.verification.calibration import calibration_for
    from cmai_core.lab.distribution import histogram_counts, score_distribution
    from cmai_core.lab.run import run_attack
    from cmai_core.models import bundled_models, load_model

    info = DATASETS[DEFAULT_DATASET]
    names = {card.name for card in bundled_models()}
    if UNDEFENDED not in names:
        return None
    specs = {"A": UNDEFENDED}
    if DEFENDED in names:
        specs["B"] = DEFENDED
    models = {role: load_model(spec) for role, spec in specs.items()}
    items = load_dataset(info.name, split=info.usual, limit=info.most)
    base = Experiment(a=specs["A"], b=specs.get("B", ""), craft_on="each", epsilon=4.0, steps=steps)
    validation = load_dataset(DEFAULT_DATASET, split=info.calibration, limit=calibration_pairs)
    bases = {role: calibration_for(model, info.kind, pairs=lambda: validation) for role, model in models.items()}
    survey = score_distribution(models, items, count=pairs, experiment=base, progress=progress)
    ranked = sorted(range(min(candidates, pairs)), key=lambda k: _clarity(survey, k), reverse=True)
    results = []
    for k in ranked[:FINALISTS]:
        pair = items[k]
        experiment = Experiment(**{**base.to_dict(), "pair": pair.id, "caption": pair.captions[0]}).checked()
        results.append(run_attack(experiment, pair, models, dataset=items))
    result = max(results, key=_answers_told_apart)
    tau = {role: basis.tau(FALSE_POSITIVE_RATE) for role, basis in bases.items()}
    rates = {role: survey.rates(role, tau[role]) for role in survey.clean}
    bundle = Showcase(
        result,
        {r: ScoreHistogram(*histogram_counts(survey.clean[r], survey.adversarial[r], bins=36)) for r in survey.clean},
        tau,
        {role: basis.origin for role, basis in bases.items()},
        {role: attacked for role, (_, attacked) in rates.items()},
        {role: clean for role, (clean, _) in rates.items()},
        FALSE_POSITIVE_RATE,
        pairs,
    )
    save_showcase(bundle, Path(out_dir) if out_dir else showcase_dir())
    return bundle


def _clarity(survey, k: int) -> float:
    """How plainly pair k shows the difference: S_c lost by the undefended model, kept by the defended one."""
    value = 2 * survey.clean["A"][k] - survey.adversarial["A"][k]
    if "B" in survey.clean:
        value += survey.clean["B"][k] - 2 * (survey.clean["B"][k] - survey.adversarial["B"][k])
    return value


def _answers_told_apart(result: LabResult) -> int:
    """Right answers the undefended model has and loses, minus those the defended one loses."""
    lost, right = result.predictions["A"].broken_tasks()
    defended = result.predictions.get("B")
    return 2 * lost + right - (2 * defended.broken_tasks()[0] if defended else 0)


if __name__ == "__main__":
    made = build_showcase()
    print(
        "No bundled model yet; nothing made."
        if made is None
        else f"Made {showcase_dir()}: {made.result.experiment.caption}"
    )
