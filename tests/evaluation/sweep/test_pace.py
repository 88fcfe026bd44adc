"""How long work takes is learned from what was timed: the same work, else the nearest to it."""

from __future__ import annotations

import pytest

from cmai_core.evaluation.runs.cost import cost
from cmai_core.evaluation.runs.pace import ATTACK, CLEAN, SECONDS_A_PASS, SHOW, SIDE, Pace, Timing, attack_passes
from cmai_core.evaluation.store.store import Store


def timed(seconds_a_pass: float, kind: str = ATTACK, items: float = 10, **known) -> Timing:
    bare = Timing(kind, **known)
    return Timing(kind, **known, items=items, seconds=items * bare.passes * seconds_a_pass)


def test_the_same_work_takes_as_long_as_it_did():
    pace = Pace([timed(0.02, model="m", recipe="pgd", task="vqa", units=30)])
    assert pace.seconds(Timing(ATTACK, "m", "pgd", "vqa", 30), 5) == pytest.approx(5 * attack_passes(30) * 0.02)


def test_more_steps_take_longer_in_proportion():
    pace = Pace([timed(0.02, model="m", recipe="pgd", task="vqa", units=30)])
    few, many = (pace.seconds(Timing(ATTACK, "m", "pgd", "vqa", units), 1) for units in (30, 300))
    assert many / few == pytest.approx(attack_passes(300) / attack_passes(30))


def test_a_recipe_that_is_slow_elsewhere_is_slow_here():
    known = [
        timed(0.01, model="m", recipe="pgd"),
        timed(0.05, model="m", recipe="square"),
        timed(0.1, model="n", recipe="pgd"),
    ]
    pace = Pace(known)
    usual = pace.seconds(Timing(ATTACK, "n", "fgsm"), 1) / attack_passes(0)
    assert usual == pytest.approx(0.1)
    assert pace.seconds(Timing(ATTACK, "n", "square"), 1) / attack_passes(0) > 0.15


def test_a_model_that_was_never_timed():
    wanted = Timing(ATTACK, "new", "pgd", side=2 * SIDE)
    nothing = Pace([])
    assert nothing.seconds(wanted, 1) == pytest.approx(attack_passes(0) * SECONDS_A_PASS * 4)
    assert Pace([], lambda model: 0.3).seconds(wanted, 1) == pytest.approx(attack_passes(0) * 0.3)
    others = Pace([timed(0.01, model="m", recipe="fgsm", side=SIDE)])
    assert others.seconds(wanted, 1) == pytest.approx(attack_passes(0) * 0.04)
    assert others.seconds(Timing(SHOW, "m", side=SIDE), 2) > 0 and others.rate == pytest.approx(0.01)


def test_the_store_keeps_timings_and_lets_old_ones_fade(tmp_path):
    work = {"model": "m", "recipe": "pgd", "task": "vqa", "units": 30.0, "side": 64}
    with Store.write(tmp_path) as store:
        assert store.timings() == []
        for _ in range(40):
            store.put_timing(timed(0.5, **work))
        for _ in range(40):
            store.put_timing(timed(0.01, **work))
        store.put_timing(timed(0.2, CLEAN, model="m"))
    with Store.read(tmp_path) as store:
        pace = Pace(store.timings())
    assert pace.seconds(Timing(ATTACK, "m", "pgd", "vqa", 30.0), 1) == pytest.approx(attack_passes(30) * 0.01, rel=0.9)
    assert len(pace._timed) == 2


def test_a_store_from_before_timings_were_kept_tells_by_its_examples(tmp_path, models, pairs):
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.runs.setting import Setting

    grid = Grid(models=["small-0"], recipes=["fgsm"], tasks=["vqa"], epsilons=[2.0], limit=4, validation=0)
    with Store.write(tmp_path) as store:
        run(Setting(grid, models=models, dataset=pairs), store)
        assert {timing.kind for timing in store.timings()} == {ATTACK, CLEAN}
        with store.transaction() as db:
            db.execute("DROP TABLE timings")
        (left,) = store.timings()
        assert left.kind == ATTACK and left.recipe == "fgsm" and left.items == 4 and left.seconds > 0
        more = Grid(models=["small-0"], recipes=["pgd"], tasks=["vqa"], epsilons=[2.0], limit=4, validation=0)
        found = cost(Setting(more, models=models, dataset=pairs), store)
        assert found.measured and found.seconds > 0
