"""ROC, thresholds and intervals against scikit-learn and against counts done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures import detection

SCORES = hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-5, 5).map(lambda k: k / 5))


def rng(seed=0):
    return np.random.default_rng(seed)


def two_sets(clean=300, attacked=200, shift=0.8, seed=0):
    source = rng(seed)
    return np.round(source.normal(0.5, 0.3, clean), 2), np.round(source.normal(0.5 - shift, 0.4, attacked), 2)


def sklearn_inputs(clean, attacked):
    return np.r_[np.zeros(len(clean)), np.ones(len(attacked))], -np.r_[clean, attacked]


@given(SCORES, SCORES)
@settings(max_examples=100, deadline=None)
def test_roc_and_area_agree_with_scikit_learn(clean, attacked):
    labels, flagged_first = sklearn_inputs(clean, attacked)
    fpr, tpr, _ = metrics.roc_curve(labels, flagged_first, drop_intermediate=False)
    ours = detection.roc(clean, attacked)
    np.testing.assert_allclose(ours.fpr, fpr)
    np.testing.assert_allclose(ours.tpr, tpr)
    assert ours.area == pytest.approx(metrics.roc_auc_score(labels, flagged_first))
    assert np.trapezoid(ours.tpr, ours.fpr) == pytest.approx(ours.area)


@given(SCORES, SCORES)
@settings(max_examples=50, deadline=None)
def test_every_threshold_of_the_curve_gives_the_point_beside_it(clean, attacked):
    curve = detection.roc(clean, attacked)
    for fpr, tpr, tau in zip(curve.fpr, curve.tpr, curve.thresholds, strict=True):
        assert detection.rates_at(clean, attacked, tau) == (pytest.approx(fpr), pytest.approx(tpr))
    assert (curve.fpr[-1], curve.tpr[-1]) == (1, 1)


def test_low_scores_are_flagged():
    assert detection.auroc([0.9, 0.8], [0.1, 0.2]) == 1
    assert detection.auroc([0.1, 0.2], [0.9, 0.8]) == 0
    assert detection.auroc([0.5], [0.5]) == 0.5


def test_roc_curve_is_the_drawn_half_of_roc():
    clean, attacked = two_sets()
    fpr, tpr = detection.roc_curve(clean, attacked)
    assert (fpr == detection.roc(clean, attacked).fpr).all() and (tpr == detection.roc(clean, attacked).tpr).all()


@given(SCORES, st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_threshold_never_exceeds_the_stated_rate_and_is_the_largest_such_score(clean, fpr):
    tau = detection.threshold_at_fpr(clean, fpr)
    assert (clean < tau).mean() <= fpr + 1e-9
    for larger in clean[clean > tau]:
        assert (clean < larger).mean() > fpr


@pytest.mark.parametrize(("fpr", "flagged"), [(0.0, 0), (0.05, 5), (0.29, 29), (0.07, 7), (0.058, 5), (1.0, 100)])
def test_threshold_on_a_hundred_distinct_scores(fpr, flagged):
    clean = rng().permutation(100) / 100
    assert (clean < detection.threshold_at_fpr(clean, fpr)).sum() == flagged


def test_the_guarantee_for_new_pairs_holds_on_average_and_the_calibration_one_does_not():
    source, new, plain = rng(1), [], []
    for _ in range(4000):
        sample = source.random(19)  # the rate on new pairs is τ itself
        new.append(detection.threshold_at_fpr(sample, 0.1, "new"))
        plain.append(detection.threshold_at_fpr(sample, 0.1))
    assert np.mean(new) == pytest.approx(0.1, abs=0.004)
    assert np.mean(plain) == pytest.approx(0.1, abs=0.004)  # 19 pairs: floor(1.9) = 1 allowed, second smallest
    sample = [source.random(20) for _ in range(4000)]
    assert np.mean([detection.threshold_at_fpr(s, 0.1, "new") for s in sample]) <= 0.1
    assert np.mean([detection.threshold_at_fpr(s, 0.1) for s in sample]) > 0.12


def test_too_few_pairs_for_the_guarantee_flag_nothing():
    assert detection.threshold_at_fpr(rng().random(9), 0.05, "new") == -np.inf


def test_calibrate_reports_what_it_realises_and_is_seeded():
    clean, _ = two_sets()
    found = detection.calibrate(clean, 0.05, generator=rng(3), resamples=200)
    assert found.realised_fpr == (clean < found.tau).mean() <= 0.05 == found.stated_fpr
    assert found.count == 300
    assert found.interval.low <= found.tau <= found.interval.high
    assert found == detection.calibrate(clean, 0.05, generator=rng(3), resamples=200)
    assert detection.calibrate(clean, 0.05).interval is None


def test_tpr_at_fpr_lies_on_the_curve():
    clean, attacked = two_sets()
    curve = detection.roc(clean, attacked)
    for fpr in (0.01, 0.05, 0.2):
        assert detection.tpr_at_fpr(clean, attacked, fpr) == curve.tpr[curve.fpr <= fpr].max()


def test_bootstrap_interval_covers_the_true_area():
    """Two normals a standard deviation apart: the area is Φ(1/√2) = 0.7602. 95 % intervals, 60 data sets."""
    covered = 0
    for seed in range(60):
        source = rng(seed)
        found = detection.auroc_interval(
            source.normal(1, 1, 80), source.normal(0, 1, 80), generator=rng(1000 + seed), resamples=200
        )
        covered += found.low <= 0.76025 <= found.high
        assert found.low <= found.value <= found.high
    assert 51 <= covered <= 60


def test_paired_resampling_is_narrower_for_a_statistic_of_the_difference():
    source = rng(5)
    clean = source.normal(0.5, 0.3, 200)
    attacked = clean - 0.1 + source.normal(0, 0.01, 200)

    def drop(a, b):
        return a.mean() - b.mean()

    together = detection.bootstrap(drop, clean, attacked, generator=rng(), resamples=300, paired=True)
    apart = detection.bootstrap(drop, clean, attacked, generator=rng(), resamples=300)
    assert together.high - together.low < 0.1 * (apart.high - apart.low)
    assert together.value == pytest.approx(0.1, abs=0.01)


def test_tpr_interval_includes_the_uncertainty_of_the_threshold():
    clean, attacked = two_sets(clean=60, attacked=2000)
    found = detection.tpr_interval(clean, attacked, 0.05, generator=rng(), resamples=300)
    tau = detection.threshold_at_fpr(clean, 0.05)
    fixed = detection.bootstrap(lambda _, a: float((a < tau).mean()), clean, attacked, generator=rng(), resamples=300)
    assert found.value == fixed.value
    assert found.high - found.low > 2 * (fixed.high - fixed.low)


def test_histogram_shares_its_bins_and_loses_nothing():
    clean, attacked = two_sets()
    made = detection.histogram({"clean": clean, "adversarial": attacked, "none": []}, bins=17)
    assert len(made.edges) == 18
    assert {name: counts.sum() for name, counts in made.counts.items()} == {"clean": 300, "adversarial": 200, "none": 0}
    assert set(made.outside.values()) == {0}
    limited = detection.histogram({"clean": clean}, bins=10, limits=(0.0, 1.0))
    assert limited.outside["clean"] == ((clean < 0) | (clean > 1)).sum() > 0
    assert detection.histogram({"clean": [0.3, 0.3]}).counts["clean"].sum() == 2


def test_summary_by_hand():
    found = detection.summary([1.0, 2.0, 3.0, 4.0])
    assert (found.count, found.mean, found.low, found.high) == (4, 2.5, 1, 4)
    assert found.sd == pytest.approx(1.290994)
    assert found.quantiles[2] == 2.5
    assert detection.summary([0.5]).sd == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: detection.auroc([], [1.0]),
        lambda: detection.roc([0.1, np.nan], [1.0]),
        lambda: detection.auroc([[0.1]], [1.0]),
        lambda: detection.histogram({"clean": []}),
        lambda: detection.bootstrap(detection.auroc, [1, 2], [1], generator=rng(), paired=True),
    ],
)
def test_bad_scores_are_data_errors(call):
    with pytest.raises(DataError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: detection.threshold_at_fpr([0.1], 1.5),
        lambda: detection.threshold_at_fpr([0.1], float("nan")),
        lambda: detection.threshold_at_fpr([0.1], 0.1, "hope"),
        lambda: detection.auroc_interval([0.1], [0.2], generator=rng(), resamples=3),
        lambda: detection.auroc_interval([0.1], [0.2], generator=rng(), level=1.0),
        lambda: detection.histogram({"clean": [1]}, bins=0),
        lambda: detection.histogram({"clean": [1]}, limits=(1, 0)),
    ],
)
def test_bad_options_are_option_errors(call):
    with pytest.raises(OptionError):
        call()
