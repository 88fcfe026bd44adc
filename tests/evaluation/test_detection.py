"""ROC, thresholds and intervals against counts done by hand, the areas of resamples against scikit-learn too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures import detection
from cmai_core.evaluation.figures.histogram import histogram

SCORES = hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-5, 5).map(lambda k: k / 5))


def rng(seed=0):
    return np.random.default_rng(seed)


def two_sets(clean=300, attacked=200, shift=0.8, seed=0):
    source = rng(seed)
    return np.round(source.normal(0.5, 0.3, clean), 2), np.round(source.normal(0.5 - shift, 0.4, attacked), 2)


def pairs_counted(clean, attacked, clean_times=1, attacked_times=1):
    """The share of (clean, attacked) pairs in which the attacked one is lower, ties counting half; by counting all."""
    wins = (clean[:, None] > attacked) + 0.5 * (clean[:, None] == attacked)
    times = np.broadcast_to(clean_times, len(clean))[:, None] * np.broadcast_to(attacked_times, len(attacked))
    return (wins * times).sum() / times.sum()


@given(SCORES, SCORES)
@settings(max_examples=100, deadline=None)
def test_the_area_is_the_share_of_pairs_in_order(clean, attacked):
    assert detection.auroc(clean, attacked) == pytest.approx(pairs_counted(clean, attacked))


@given(SCORES, SCORES)
@settings(max_examples=100, deadline=None)
def test_the_curve_has_the_rates_of_every_threshold(clean, attacked):
    fpr, tpr = detection.roc_curve(clean, attacked)
    thresholds = [-np.inf, *np.nextafter(np.unique(np.concatenate([clean, attacked])), np.inf)]
    by_hand = [detection.rates_at(clean, attacked, tau) for tau in thresholds]
    np.testing.assert_allclose(np.stack([fpr, tpr], axis=1), by_hand)
    assert np.trapezoid(tpr, fpr) == pytest.approx(detection.auroc(clean, attacked))


@given(SCORES, SCORES, st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_area_of_a_resample_is_that_of_weighted_scores(clean, attacked, seed):
    source = rng(seed)
    counts = [source.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), 3) for scores in (clean, attacked)]
    found = detection.resampled_areas(clean, attacked, [(counts[0][:2], counts[1][:2]), (counts[0][2:], counts[1][2:])])
    labels, ordered = np.repeat([0, 1], [len(clean), len(attacked)]), -np.concatenate([clean, attacked])
    for area, *times in zip(found, *counts, strict=True):
        assert area == pytest.approx(pairs_counted(clean, attacked, *times))
        assert area == pytest.approx(metrics.roc_auc_score(labels, ordered, sample_weight=np.concatenate(times)))


def test_low_scores_are_flagged():
    assert detection.auroc([0.9, 0.8], [0.1, 0.2]) == 1
    assert detection.auroc([0.1, 0.2], [0.9, 0.8]) == 0
    assert detection.auroc([0.5], [0.5]) == 0.5


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


def test_pairs_drawn_as_one_give_a_narrower_interval():
    source = rng(5)
    clean = source.normal(0.5, 0.3, 200)
    attacked = clean - 0.1 + source.normal(0, 0.01, 200)
    together = detection.auroc_interval(clean, attacked, generator=rng(), resamples=300, paired=True)
    apart = detection.auroc_interval(clean, attacked, generator=rng(), resamples=300)
    assert together.value == apart.value
    assert together.high - together.low < 0.5 * (apart.high - apart.low)


def test_histogram_shares_its_bins_and_loses_nothing():
    clean, attacked = two_sets()
    made = histogram({"clean": clean, "adversarial": attacked, "none": []}, bins=17)
    assert len(made.edges) == 18
    assert {name: counts.sum() for name, counts in made.counts.items()} == {"clean": 300, "adversarial": 200, "none": 0}
    assert set(made.outside.values()) == {0}
    limited = histogram({"clean": clean}, bins=10, limits=(0.0, 1.0))
    assert limited.outside["clean"] == ((clean < 0) | (clean > 1)).sum() > 0
    assert histogram({"clean": [0.3, 0.3]}).counts["clean"].sum() == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: detection.auroc([], [1.0]),
        lambda: detection.roc_curve([0.1, np.nan], [1.0]),
        lambda: detection.auroc([[0.1]], [1.0]),
        lambda: histogram({"clean": []}),
        lambda: detection.auroc_interval([1, 2], [1], generator=rng(), paired=True),
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
        lambda: histogram({"clean": [1]}, bins=0),
        lambda: histogram({"clean": [1]}, limits=(1, 0)),
    ],
)
def test_bad_options_are_option_errors(call):
    with pytest.raises(OptionError):
        call()
