"""Shares against counts made by hand, and laws that hold for any predictions."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.bootstrap import bootstrap_interval
from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.intervals import mean_interval, median_interval, ratio_interval, share_interval
from cmai_core.evaluation.figures.metrics import (
    accuracy,
    clean_accuracy,
    float_gap,
    over_seeds,
)
from cmai_core.evaluation.figures.outcomes import Outcomes
from cmai_core.evaluation.figures.worst_case import worst_case, worst_case_units


def one(table: pd.DataFrame, **where) -> pd.Series:
    for name, value in where.items():
        column = table[name]
        table = table[column.isna() if value is None else column == value]
    assert len(table) == 1, table
    return table.iloc[0]


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_mean_has_the_interval_of_bootstrap_interval():
    values = np.random.default_rng(0).normal(size=137)
    peer = bootstrap_interval(values)
    assert mean_interval(values) == pytest.approx((peer.value, peer.low, peer.high))


def test_many_units_are_resampled_in_blocks_like_few():
    values = np.random.default_rng(0).normal(size=5000)
    peer = bootstrap_interval(values)
    assert mean_interval(values) == pytest.approx((peer.value, peer.low, peer.high))


def test_a_share_has_the_limit_of_the_drawn_interval():
    values = np.arange(200) < 60
    peer = bootstrap_interval(values, resamples=20_000)
    low, high = share_interval(60, 200)
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=0.006)


def test_none_and_all_have_exact_intervals_and_nothing_has_none():
    low, high = share_interval([0, 10, 0], [10, 10, 0])
    assert low[0] == 0 and high[1] == 1
    assert high[0] == pytest.approx(1 - 0.025 ** (1 / 10))  # (1 − p)^10 = 2.5 %
    assert low[1] == pytest.approx(0.025 ** (1 / 10))
    assert np.isnan(low[2]) and np.isnan(high[2])


@pytest.mark.parametrize("count", [1, 7, 51])
def test_the_median_has_the_limit_of_the_drawn_interval(count):
    values = np.arange(count, dtype=float)
    drawn = np.median(np.random.default_rng(0).choice(values, (20_000, count)), axis=1)
    found = median_interval(values[::-1])
    assert found == (np.median(values), *np.quantile(drawn, [0.025, 0.975], method="inverted_cdf"))


def test_an_even_median_is_bounded_on_the_wide_side():
    values = np.arange(40, dtype=float)
    drawn = np.median(np.random.default_rng(0).choice(values, (20_000, 40)), axis=1)
    value, low, high = median_interval(values)
    peer = np.quantile(drawn, [0.025, 0.975])
    assert value == 19.5 and peer[0] - 1 <= low <= peer[0] and peer[1] <= high <= peer[1] + 1


def test_a_median_may_be_infinite():
    value, low, high = median_interval(np.array([1.0, 2.0, 3.0, np.inf, np.inf, np.inf, np.inf]))
    assert value == np.inf and high == np.inf and low < np.inf


def test_a_ratio_resamples_units():
    rng = np.random.default_rng(1)
    below = rng.integers(1, 5, 80)
    above = rng.binomial(below, 0.4)
    peer = bootstrap_interval(np.stack([above, below], axis=1), lambda rows: rows[:, 0].sum() / rows[:, 1].sum())
    value, low, high = ratio_interval(above, below)
    assert value == peer.value
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=0.02)


# --- counts -----------------------------------------------------------------------------------------------------------


def test_accuracies_and_asr_of_a_known_table(made):
    #              item: 0123456789
    table = made.frame(made.clean("111110000?"), made.attacked("111110000?", "1100110??1"))
    found = clean_accuracy(table)
    row = one(found, metric="acc_clean")
    assert (row.hits, row.total, row.value) == (5, 9, 5 / 9)
    assert "1 unit" in row.note

    found = accuracy(table)
    row = one(found, metric="acc_robust")
    # item 5 is wrong when clean: being right by luck afterwards does not count; 7 and 8 are wrong whatever came after
    assert (row.hits, row.total, row.value) == (3, 9, 3 / 9)
    assert (row.low, row.high) == tuple(float(b) for b in share_interval(3, 9))
    row = one(found, metric="asr")
    assert (row.hits, row.total, row.value) == (2, 5, 2 / 5)


def test_nothing_known_is_not_zero(made):
    table = made.frame(made.attacked("000", "000"), made.attacked("???", "???", task="nlvr"))
    asr = one(accuracy(table), metric="asr", task="vqa")
    assert (asr.hits, asr.total) == (0, 0) and np.isnan([asr.value, asr.low, asr.high]).all()
    robust = one(accuracy(table), metric="acc_robust", task="nlvr")
    assert robust.total == 0 and np.isnan(robust.value) and "3 units" in robust.note


def test_only_clean_rows_make_an_empty_table_of_attacks(made):
    table = made.frame(made.clean("10"))
    assert one(clean_accuracy(table), metric="acc_clean").value == 0.5
    assert not len(accuracy(table)) and not len(worst_case(table)) and not len(over_seeds(table))
    assert not len(float_gap(table))


def test_a_success_with_a_false_text_is_not_truthful(made):
    changed = [True, False, pd.NA, False]
    table = made.frame(made.attacked("1111", "0001", modality="text", norm=None, epsilon=np.nan, label_changed=changed))
    assert one(accuracy(table), metric="asr").hits == 3
    row = one(accuracy(table), metric="asr_truthful")
    assert (row.hits, row.total) == (1, 4)


def test_several_texts_of_an_item_are_resampled_together(made):
    item = [k // 4 for k in range(80)]
    lost = [(k // 4) % 2 == 0 for k in range(80)]  # all texts of an item fall together
    table = made.frame(
        made.rows(
            {"item": item, "text_index": [k % 4 for k in range(80)], "correct_clean": True, "modality": "text"}
            | {"correct": [not x for x in lost], "norm": None, "epsilon": np.nan},
            80,
        )
    )
    row = one(accuracy(table), metric="asr")
    assert (row.hits, row.total) == (40, 80)
    narrow, wide = share_interval(40, 80), share_interval(10, 20)
    assert row.high - row.low == pytest.approx(float(wide[1] - wide[0]), abs=0.06)
    assert row.high - row.low > 1.5 * float(narrow[1] - narrow[0])


def test_doubles_and_missing_columns_are_refused(made):
    part = made.attacked("11", "10")
    with pytest.raises(DataError):
        accuracy(made.frame(part, part))
    with pytest.raises(DataError, match="text_index"):
        accuracy(made.frame(part).drop(columns="text_index"))
    with pytest.raises(DataError):
        accuracy(made.frame(part).iloc[:0])


# --- worst case -------------------------------------------------------------------------------------------------------


def test_the_worst_case_is_taken_unit_by_unit(made):
    table = made.frame(
        made.attacked("111110", "110010", recipe="pgd"),
        made.attacked("111110", "101010", recipe="square"),
        made.attacked("111110", "000000", recipe="square", epsilon=8.0),
    )
    found = worst_case(table)
    row = one(found, metric="acc_robust", epsilon=4.0)
    assert (row.hits, row.total) == (2, 6)  # items 0 and 4
    assert row.recipes == "pgd 6, square 6" and row.contenders == 2 and row.recipe == "worst case"
    assert one(found, metric="asr", epsilon=4.0)[["hits", "total"]].tolist() == [3, 5]
    assert one(found, metric="asr", epsilon=8.0)[["hits", "total"]].tolist() == [5, 5]


def test_a_cascade_gives_the_worst_case_of_the_full_run(made):
    full = made.frame(
        made.clean("1111100"), made.attacked("1111100", "0011100"), made.attacked("1111100", "1010100", recipe="apgd")
    )
    cascade = made.frame(
        made.clean("1111100"), made.attacked("1111100", "00111--"), made.attacked("1111100", "--101--", recipe="apgd")
    )
    a, b = worst_case(full), worst_case(cascade)
    pd.testing.assert_frame_equal(a.drop(columns="recipes"), b.drop(columns="recipes"))
    assert one(b, metric="acc_robust")[["hits", "total"]].tolist() == [2, 7]
    assert one(b, metric="asr").recipes == "apgd 3, pgd 5"
    # alone, the second stage says nothing about the items it did not face
    alone = one(accuracy(cascade), metric="asr", recipe="apgd")
    assert (alone.hits, alone.total) == (1, 3) and np.isnan(alone.value) and "3 of 7" in alone.note
    first = one(accuracy(cascade), metric="acc_robust", recipe="pgd")
    assert (first.hits, first.total, first.value) == (3, 7, 3 / 7) and not first.note


def test_a_unit_not_faced_and_never_fooled_leaves_the_worst_case_unknown(made):
    table = made.frame(made.clean("1111"), made.attacked("1111", "0111"), made.attacked("1111", "-0--", recipe="apgd"))
    row = one(worst_case(table), metric="acc_robust")
    assert np.isnan([row.value, row.low, row.high]).all() and "2 units" in row.note
    table = made.frame(made.clean("1111"), made.attacked("1111", "01--"))  # one recipe, cut short
    assert np.isnan(one(worst_case(table), metric="asr").value)


def test_the_attacker_may_choose_sources_and_seeds_too(made):
    table = made.frame(
        made.attacked("1111", "0111", target="b"), made.attacked("1111", "1011", target="b", source="c"),
        made.attacked("1111", "1101", target="b", source="c", seed=1),
    )  # fmt: skip
    row = one(worst_case(table, over=("recipe", "source", "seed")), metric="asr")
    assert (row.hits, row.total) == (3, 4)
    assert row.source == "any" and pd.isna(row.seed)
    assert row.recipes == "pgd from a seed 0 4, pgd from c seed 0 4, pgd from c seed 1 4"
    with pytest.raises(OptionError, match="recipe"):
        worst_case(table, over=("epsilon",))


def test_minimum_norm_searches_are_read_at_every_epsilon(made):
    table = made.frame(
        made.attacked("11110", "00000", recipe="fab", epsilon=np.nan, minimum_norm=[1.0, 4.0, 5.0, np.inf, 0.0]),
        made.attacked("11110", "11100", recipe="pgd"),
        made.attacked("11110", "00010", recipe="pgd", epsilon=8.0),
    )
    found = accuracy(table)
    assert one(found, metric="asr", recipe="fab", epsilon=4.0)[["hits", "total"]].tolist() == [2, 4]
    assert one(found, metric="asr", recipe="fab", epsilon=8.0)[["hits", "total"]].tolist() == [3, 4]
    found = worst_case(table)
    assert one(found, metric="asr", epsilon=4.0)[["hits", "total"]].tolist() == [3, 4]
    assert one(found, metric="acc_robust", epsilon=8.0)[["hits", "total"]].tolist() == [1, 5]
    at = Outcomes.of(table, {"linf": [2.0]})
    assert one(accuracy(at), metric="asr", recipe="fab")[["hits", "total"]].tolist() == [1, 4]


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_laws_of_the_worst_case(made, data):
    """It is never better than any recipe, does not depend on order, and a cascade finds it."""
    count = data.draw(st.integers(1, 12))
    draw = lambda: "".join(data.draw(st.lists(st.sampled_from("01"), min_size=count, max_size=count)))  # noqa: E731
    before, results = draw(), [draw() for _ in range(data.draw(st.integers(1, 4)))]
    full = [made.attacked(before, r, recipe=f"r{k}") for k, r in enumerate(results)]
    table = made.frame(made.clean(before), *full)
    worst = one(worst_case(table), metric="acc_robust")
    alone = accuracy(table)
    assert (alone.loc[alone["metric"] == "acc_robust", "hits"] >= worst.hits).all()
    shuffled = table.sample(frac=1, random_state=1)
    assert one(worst_case(shuffled), metric="acc_robust").hits == worst.hits

    survivors, stages = set(range(count)), []
    for k, r in enumerate(results):
        after = "".join(o if i in survivors else "-" for i, o in enumerate(r))
        if survivors:
            stages.append(made.attacked(before, after, recipe=f"r{k}"))
        survivors = {i for i in survivors if before[i] == "1" and r[i] == "1"}
    cascade = worst_case(made.frame(made.clean(before), *stages))
    columns = ["value", "low", "high", "hits", "total"]
    found = one(cascade, metric="acc_robust")
    pd.testing.assert_series_equal(found[columns], worst[columns], check_names=False)
    _, units = worst_case_units(table)
    by_hand = sum(all((c, r[k]) == ("1", "1") for r in results) for k, c in enumerate(before))
    assert by_hand == worst.hits == int((units["robust"] == 1).sum())


# --- seeds, rounding --------------------------------------------------------------------------------------------------


def test_seeds_have_a_mean_and_a_worst_case(made):
    table = made.frame(
        made.attacked("11110", "01110"), made.attacked("11110", "10010", seed=1),
        made.attacked("11110", "01110", recipe="apgd"),
    )  # fmt: skip
    found = over_seeds(table)
    assert set(found["recipe"]) == {"pgd"} and (found["seeds"] == 2).all()
    mean, worst = (one(found, metric="asr", over=over) for over in ("mean of seeds", "worst case"))
    assert (mean.hits, mean.total, mean.value) == (3, 8, 3 / 8)
    assert (worst.hits, worst.total) == (3, 4)
    assert mean.low <= mean.value <= mean.high
    assert one(found, metric="acc_robust", over="worst case")[["hits", "total"]].tolist() == [1, 5]


def test_rounding_that_undoes_successes(made):
    table = made.frame(
        made.attacked("11111", "01110", correct_float=[False, False, True, pd.NA, True]),
        made.attacked("11111", "01110", target="b"),
    )
    found = float_gap(table)
    assert set(found["target"]) == {"a"}  # float examples are shown to their source only
    assert one(found, metric="asr_float")[["hits", "total"]].tolist() == [2, 4]
    gap = one(found, metric="gap_8bit")  # item 1 is undone, item 4 is made
    assert (gap.hits, gap.total, gap.value) == (0, 4, 0.0) and gap.low < 0 < gap.high


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def million():
    """1,000 cells of 1,000 items: 5 sources × 5 targets × 2 tasks × 5 recipes × 4 ε."""
    rng = np.random.default_rng(0)
    sources, tasks, recipes, epsilons = list("abcde"), ["vqa", "retrieval"], list("pqrst"), [1.0, 2.0, 4.0, 8.0]
    cells = pd.MultiIndex.from_product([sources, sources, tasks, recipes, epsilons]).to_frame(index=False)
    cells.columns = ["source", "target", "task", "recipe", "epsilon"]
    out = cells.loc[np.repeat(np.arange(len(cells)), 1000)].reset_index(drop=True)
    number = len(out)
    out["item"] = np.tile([f"tabletop/test/{k}" for k in range(1000)], len(cells))
    fixed = {"dataset": "tabletop", "split": "test", "modality": "image", "knowledge": "white box", "norm": "linf"}
    for name, value in (fixed | {"seed": 0, "text_index": 0}).items():
        out[name] = value
    right = {(t, s): rng.random(1000) < 0.8 for t in tasks for s in sources}
    clean = np.concatenate([right[t, s] for t, s in zip(cells["task"], cells["target"], strict=True)])
    out["correct_clean"] = pd.array(clean, dtype="boolean")
    out["correct"] = pd.array(rng.random(number) < 0.5, dtype="boolean")
    out["consistency_clean"], out["consistency"] = rng.normal(0.6, 0.1, number), rng.normal(0.4, 0.1, number)
    return out


def test_a_million_rows_are_counted_in_seconds(million):
    start = time.process_time()
    outcomes = Outcomes.of(million)
    alone, worst = accuracy(outcomes), worst_case(outcomes)
    seconds = time.process_time() - start
    assert len(alone) == 2000 and len(worst) == 400
    robust = (million["correct_clean"] & million["correct"]).to_numpy(dtype=bool)
    assert alone.loc[alone["metric"] == "acc_robust", "hits"].sum() == robust.sum()
    assert seconds < 20, seconds  # about 2 s of one core
