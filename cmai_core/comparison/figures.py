"""Figures of the comparison, as SVG files that look the same whenever they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmai_core.comparison.results import Result
from cmai_core.comparison.tables import BEST, detector_entry
from cmai_core.comparison.verdicts import share
from cmai_core.files import atomic

_OURS, _OTHERS, _LAST, _GREY = "#0b6e4f", "#3b5b92", "#b3541e", "#8a8f98"


def _axes(width: float = 7.5, height: float = 4.5) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "cmai", "font.size": 9, "axes.spines.top": False})
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines["right"].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    with atomic(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return path


def trade_off(results: Mapping[str, Result], epsilons: Sequence[float], path: Path) -> Path:
    """Image→text R@1 of every model, clean and in the worst case of the main part, with intervals.

    The most robust at the first ε above.
    """
    found = {name: [result.verdict("main", epsilon) for epsilon in epsilons] for name, result in results.items()}
    known = {name: verdicts for name, verdicts in found.items() if None not in verdicts}
    names = sorted(known, key=lambda name: share(known[name][0].held)["value"])
    figure, axes = _axes(height=0.24 * len(names) + 1.1)
    titles = ["clean", *(f"worst case at {epsilon:g}/255" for epsilon in epsilons)]
    for k, (title, colour) in enumerate(zip(titles, (_GREY, _OTHERS, _LAST), strict=False)):
        entries = [share(known[name][max(k - 1, 0)].held if k else known[name][0].clean) for name in names]
        values = [100 * entry["value"] for entry in entries]
        spread = [[100 * abs(entry["value"] - entry[end]) for entry in entries] for end in ("low", "high")]
        style = {"markersize": 4.5, "elinewidth": 0.8, "markerfacecolor": "none" if k == 0 else colour}
        axes.errorbar(values, range(len(names)), xerr=spread, fmt="o", color=colour, label=title, **style)
    axes.set_yticks(range(len(names)), [name.removeprefix("tabletop-") for name in names])
    for text, name in zip(axes.get_yticklabels(), names, strict=True):
        if name == BEST:
            text.set(fontweight="bold", color=_OURS)
    axes.set(xlabel="image→text R@1, %", xlim=(-1, 100), ylim=(-0.6, len(names) - 0.4))
    axes.grid(axis="both", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(titles), frameon=False)
    return _save(figure, path)


def schedule(history: Sequence[Mapping[str, float]], tau: float, hysteresis: float, path: Path) -> Path:
    """Draw ARM's curve: S_c under the reference attack, its moving average and τ_c, and what was done about it."""
    figure, axes = _axes()
    steps = [entry["step"] for entry in history]
    axes.plot(steps, [e["measured"] for e in history], ".", color=_GREY, markersize=3, label="S_c, reference attack")
    axes.plot(steps, [e["mean"] for e in history], color=_OTHERS, label="moving average")
    axes.axhline(tau, color="black", linewidth=0.8, linestyle="--", label="τ_c")
    axes.axhspan(tau, tau + hysteresis, color=_GREY, alpha=0.2, linewidth=0, label="hysteresis")
    axes.set_xlabel("training step")
    axes.set_ylabel("S_c")
    other = axes.twinx()
    other.step(steps, [e["beta"] for e in history], where="post", color=_OURS, linewidth=3.5, label="β")
    other.step(steps, [e["epsilon"] * 255 for e in history], where="post", color=_LAST, label="ε · 255")
    other.step(steps, [e["share"] for e in history], where="post", color="#7b3fa0", label="λ")
    other.set_ylabel("β, ε · 255, λ")
    other.set_ylim(0, 1.1 * max(max(e["beta"], e["epsilon"] * 255) for e in history))
    handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    labels = [*axes.get_legend_handles_labels()[1], *other.get_legend_handles_labels()[1]]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7, frameon=False)
    return _save(figure, path)


def detection_areas(results: Mapping[str, Result], epsilon: float, detectors: Sequence[str], path: Path) -> Path:
    """Draw the AUROC of several detectors on every model; intervals are in the tables."""
    names = [name for name, result in results.items() if (result.parts.get("detection") or {}).get("detectors")]
    areas = [[_area(results[name], detector, epsilon) for detector in detectors] for name in names]
    figure, axes = _axes(height=0.24 * len(names) + 1.6)
    drawn = axes.imshow(areas, cmap="BrBG", vmin=0.0, vmax=1.0, aspect="auto")
    for row, values in enumerate(areas):
        for column, value in enumerate(values):
            if value == value:
                ink = "black" if 0.2 < value < 0.8 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_yticks(range(len(names)), [name.removeprefix("tabletop-") for name in names])
    axes.set_xticks(range(len(detectors)), [detector.replace(" ", "\n", 1) for detector in detectors], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6)
    bar.set_label(f"AUROC, successful attacks at {epsilon:g}/255")
    bar.outline.set_visible(False)
    return _save(figure, path)


def _area(result: Result, detector: str, epsilon: float) -> float:
    found = detector_entry(result, detector, epsilon)
    return float("nan") if found is None else found["auroc"]["value"]
