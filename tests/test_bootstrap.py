"""The bootstrap against the normal approximation, and its two ways of drawing against each other."""

from __future__ import annotations

import numpy as np
import pytest

from cmai_core.bootstrap import bootstrap_interval, percentiles, resampled_counts, resampled_rows
from cmai_core.errors import DataError, OptionError


def test_bootstrap_of_a_mean_matches_the_normal_approximation():
    values = np.random.default_rng(0).normal(3.0, 2.0, 1000)
    found = bootstrap_interval(values, resamples=4000, seed=1)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.15 * error)
    assert found.n == 1000


def test_bootstrap_depends_on_its_seed_alone_and_on_nothing_for_constants():
    values = np.arange(20.0)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    sure = bootstrap_interval([1.0, 1.0, 1.0])
    assert (sure.low, sure.value, sure.high) == (1.0, 1.0, 1.0)
    with pytest.raises(DataError):
        bootstrap_interval([])


def test_a_statistic_is_applied_to_resampled_rows():
    values = np.random.default_rng(0).normal(size=500)
    direct = bootstrap_interval(values, seed=3)
    through = bootstrap_interval(values[:, None], lambda rows: float(rows.mean()), seed=3)
    assert through.value == pytest.approx(direct.value)
    assert through.low == pytest.approx(direct.low, abs=0.03)
    assert through.high == pytest.approx(direct.high, abs=0.03)


def test_resamples_where_a_statistic_does_not_exist_are_left_out():
    found = bootstrap_interval(
        np.array([[1.0, 1.0], [0.0, 0.0]]), lambda rows: rows[:, 0].sum() / (rows[:, 1].sum() or np.nan)
    )
    assert (found.low, found.value, found.high, found.n) == (1.0, 1.0, 1.0, 2)


@pytest.mark.parametrize("units", [7, 5000])
def test_every_resample_draws_as_many_units_as_there_are(units):
    counts = np.concatenate(list(resampled_counts(units, 100)))
    assert counts.shape == (100, units) and (counts.sum(axis=1) == units).all()
    rows = list(resampled_rows(np.random.default_rng(0), units, 3))
    assert [row.shape for row in rows] == [(units,)] * 3 and max(row.max() for row in rows) < units


def test_draws_of_a_seed_are_those_that_published_figures_were_made_with():
    """Results are stored with their intervals, and must come out again."""
    values = np.arange(10.0) ** 2
    mean = bootstrap_interval(values)
    assert (mean.low, mean.high) == pytest.approx((13.1975, 46.4075))
    through = bootstrap_interval(values[:, None], lambda rows: float(rows.mean()))
    assert (through.low, through.high) == pytest.approx((12.9, 46.5025))


def test_without_interpolation_a_bound_is_a_figure_that_was_drawn():
    drawn = np.array([-np.inf, *range(1, 100), np.inf])
    assert percentiles(drawn, 0.5, interpolate=False) == (25.0, 75.0)
    assert percentiles(drawn, 0.999, interpolate=False) == (-np.inf, np.inf)
    assert np.isnan(percentiles(np.array([np.nan]))).all()


def test_a_level_that_is_no_share_is_refused():
    with pytest.raises(OptionError, match="level"):
        percentiles(np.arange(10.0), 1.0)
