"""Figures of the comparison, as SVG files that look the same whenever they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmai_core.comparison.results import Result
from cmai_core.comparison.tables import BEST
from cmai_core.comparison.verdicts import share

_OURS, _OTHERS, _GREY = "#0b6e4f", "#3b5b92", "#8a8f98"


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

    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return path


def trade_off(results: Mapping[str, Result], epsilon: float, path: Path) -> Path:
    """Clean against robust image→text R@1 (worst case of the main part), with intervals."""
    figure, axes = _axes()
    for name, result in results.items():
        verdict = result.verdict("main", epsilon)
        if verdict is None:
            continue
        clean, held = share(verdict.clean), share(verdict.held)
        x, y = 100 * clean["value"], 100 * held["value"]
        spread = (
            [[100 * (e["value"] - e["low"])] for e in (clean, held)],
            [[100 * (e["high"] - e["value"])] for e in (clean, held)],
        )
        colour = _OURS if name == BEST else _OTHERS
        axes.errorbar(
            x, y, xerr=[spread[0][0], spread[1][0]], yerr=[spread[0][1], spread[1][1]], fmt="o", color=colour,
            ecolor=_GREY, elinewidth=0.6, markersize=6 if name == BEST else 4,
        )  # fmt: skip
        axes.annotate(name.removeprefix("tabletop-"), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.set_xlabel("clean image→text R@1, %")
    axes.set_ylabel(f"robust at {epsilon:g}/255, %")
    return _save(figure, path)


def schedule(history: Sequence[Mapping[str, float]], tau: float, hysteresis: float, path: Path) -> Path:
    """ARM's curve: S_c under the reference attack with its moving average and τ_c, and what was done about it."""
    figure, axes = _axes()
    steps = [entry["step"] for entry in history]
    axes.plot(steps, [e["measured"] for e in history], ".", color=_GREY, markersize=3, label="S_c, reference attack")
    axes.plot(steps, [e["mean"] for e in history], color=_OTHERS, label="moving average")
    axes.axhline(tau, color="black", linewidth=0.8, linestyle="--", label="τ_c")
    axes.axhspan(tau, tau + hysteresis, color=_GREY, alpha=0.2, linewidth=0, label="hysteresis")
    axes.set_xlabel("training step")
    axes.set_ylabel("S_c")
    other = axes.twinx()
    other.step(steps, [e["beta"] for e in history], where="post", color=_OURS, label="β")
    other.step(steps, [e["epsilon"] * 255 for e in history], where="post", color="#b3541e", label="ε · 255")
    other.step(steps, [e["share"] for e in history], where="post", color="#7b3fa0", label="λ")
    other.set_ylabel("β, ε · 255, λ")
    other.set_ylim(bottom=0)
    handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    labels = [*axes.get_legend_handles_labels()[1], *other.get_legend_handles_labels()[1]]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7, frameon=False)
    return _save(figure, path)


def detection_bars(results: Mapping[str, Result], epsilon: float, detectors: Sequence[str], path: Path) -> Path:
    """AUROC of several detectors on every model, with intervals."""
    figure, axes = _axes(height=0.32 * len(results) * max(1, len(detectors)) * 0.6 + 1.2)
    names = list(results)
    for k, detector in enumerate(detectors):
        at, values, low, high = [], [], [], []
        for row, name in enumerate(names):
            for found in (results[name].parts.get("detection") or {}).get("detectors", ()):
                if (found["detector"], found["epsilon"], found["family"]) == (detector, epsilon, "all"):
                    area = found["auroc"]
                    at.append(row + (k - (len(detectors) - 1) / 2) * 0.8 / len(detectors))
                    values.append(area["value"])
                    low.append(area["value"] - area["low"])
                    high.append(area["high"] - area["value"])
        axes.errorbar(values, at, xerr=[low, high], fmt="o", markersize=3.5, elinewidth=0.7, label=detector)
    axes.axvline(0.5, color=_GREY, linewidth=0.8)
    axes.set_yticks(range(len(names)), [name.removeprefix("tabletop-") for name in names], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(f"AUROC, successful attacks at {epsilon:g}/255 against clean pairs")
    figure.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return _save(figure, path)
