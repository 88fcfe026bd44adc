"""Every figure that is registered gives rows of figures, and several stand in one table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.counting import FIGURE
from cmai_core.evaluation.figures.outcomes import Outcomes
from cmai_core.evaluation.figures.registry import FIGURES, describe, figure_table
from cmai_core.evaluation.figures.tables import summary_table


@pytest.fixture
def table(made):
    """Two models, two seeds, a ladder of ε, words and pictures, scores: something for every figure."""
    scores = {"consistency_clean": 0.7, "consistency": [0.3, 0.6, 0.2, 0.5, 0.1]}
    sizes = {"linf": 4 / 255, "l2": 0.01, "ssim": 0.9, "psnr": 40.0, "forwards": 10, "backwards": 9}
    parts = []
    for model in ("a", "b"):
        parts.append(made.clean("11110", target=model, consistency_clean=0.7))
        for seed in (0, 1):
            for epsilon in (2.0, 4.0):
                cell = {"target": model, "source": model, "seed": seed, "epsilon": epsilon, "correct_float": False}
                parts.append(made.attacked("11110", "10000", recipe="pgd", **cell, **scores, **sizes))
        words = {"modality": "text", "recipe": "char", "norm": "", "epsilon": np.nan, "words_changed": 1}
        parts.append(made.attacked("11110", "11000", target=model, source=model, **words, **scores))
    return made.frame(*parts)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_gives_rows_with_interval_hits_and_total(table, name):
    found = figure_table(table, [name])
    assert len(found) and not set(FIGURE) - set(found.columns)
    known = found[found["value"].notna() & found["low"].notna()]
    assert len(known)
    assert (known["low"] <= known["value"] + 1e-9).all()
    assert (known["value"] <= known["high"].fillna(np.inf) + 1e-9).all()  # an unknown bound of a median is infinite
    counted = found[found["hits"].notna() & ~found["metric"].str.contains("gap_8bit|words_changed")]
    assert (counted["hits"] <= counted["total"]).all()
    assert len(describe(name)) > 20


def test_one_figure_is_its_own_table_and_several_are_named(table):
    pd.testing.assert_frame_equal(figure_table(table, ["summary"]), summary_table(table))
    both = figure_table(table, ["summary", "queries"])
    assert list(dict.fromkeys(both["figure"])) == ["summary", "queries"]
    assert len(both) == len(summary_table(table)) + len(figure_table(table, ["queries"]))


def test_an_unknown_figure_is_refused_before_anything_is_counted():
    with pytest.raises(OptionError, match="queries"):
        figure_table(pd.DataFrame(), ["querys"])


def test_a_function_that_gives_no_figures_is_named(table, monkeypatch):
    monkeypatch.setitem(FIGURES._parts, "theirs", lambda outcomes: pd.DataFrame({"value": [1.0]}))
    with pytest.raises(DataError, match="theirs"):
        figure_table(table, ["theirs"])
    monkeypatch.setitem(
        FIGURES._parts, "theirs", lambda outcomes: pd.DataFrame([dict.fromkeys(FIGURE, 1)] * len(outcomes.units))
    )
    assert len(figure_table(table, ["theirs"])) == len(Outcomes.of(table).units)
