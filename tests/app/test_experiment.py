"""The lab's experiment: links and files hold it exactly, and nothing out of range passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.data.plain import plain_line
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.choices import SEARCHES, THREATS, settled
from cmai_core.lab.experiment import TASKS, TRUTHS, Experiment, parse_pair_id


def combining(e: Experiment) -> Experiment:
    """With an objective and a search that go with the threat model and the task."""
    objective, recipe = settled(e.norm, e.objective, e.recipe, e.task, e.pair)
    epsilon = {"l0": max(1.0, e.epsilon), "patch": e.epsilon / 16}.get(e.norm, e.epsilon)
    return replace(e, objective=objective, recipe=recipe, epsilon=epsilon)


experiments = st.builds(
    Experiment,
    pair=st.sampled_from(["tabletop/test/17", "photos/test/coffee", "upload/" + "a" * 64]),
    caption=st.text(min_size=1, max_size=60).filter(plain_line),
    a=st.sampled_from(["tabletop", "ViT-B-32/random"]),
    b=st.sampled_from(["", "tabletop-cmai"]),
    craft_on=st.sampled_from(["A", "each"]),
    norm=st.sampled_from(list(THREATS)),
    epsilon=st.sampled_from([0.5, 1.0, 3.0, 4.0, 16.0]),
    steps=st.integers(1, 200),
    step_size=st.floats(0.0, 64.0),
    restarts=st.integers(1, 10),
    seed=st.integers(0, 2**31 - 1),
    objective=st.sampled_from(list(OBJECTIVES)),
    recipe=st.sampled_from(list(SEARCHES)),
    queries=st.integers(10, 10_000),
    words=st.integers(1, 5),
    truth=st.sampled_from(TRUTHS),
    task=st.sampled_from(list(TASKS)),
    alpha=st.sampled_from([0.5, 1.0, 3.0]),
    beta=st.sampled_from([0.5, 1.0, 3.0]),
).map(combining)


@settings(max_examples=60, deadline=None)
@given(experiments)
def test_a_link_carries_the_whole_experiment(experiment):
    assert Experiment.from_query(experiment.to_query()) == experiment
    assert Experiment.from_dict(experiment.to_dict()) == experiment


def test_links_from_before_there_were_recipes_mean_pgd():
    old = Experiment.from_query({"pair": "tabletop/test/1", "caption": "a", "norm": "l2", "objective": "task"})
    assert (old.recipe, old.norm, old.objective) == ("pgd", "l2", "task")


def test_links_and_files_of_earlier_versions_mean_what_they_meant():
    link = {"pair": "tabletop/test/1", "caption": "a", "norm": "patch", "epsilon": "5", "objective": "deviation"}
    old = Experiment.from_query(link)
    assert (old.epsilon, old.objective) == (0.05, "embedding") and old.budget.words == "5 %"
    assert old.to_query()["epsilon"] == "5" and old.to_dict()["epsilon"] == 5.0
    file = old.to_dict() | {"objective": "deviation"}
    assert Experiment.from_dict(file) == old
    for per_cent in ("1", "0.5", "7", "100", "33.3"):
        again = Experiment.from_query(link | {"epsilon": per_cent})
        assert again.to_query()["epsilon"] == per_cent and Experiment.from_query(again.to_query()) == again


def test_links_and_files_from_before_models_had_places_mean_what_they_meant():
    link = {"pair": "tabletop/test/1", "caption": "a", "undefended": "x", "defended": "y", "craft_on": "defended"}
    old = Experiment.from_query(link)
    assert old.models == {"A": "x", "B": "y"} and old.attacked_models() == ("B",)
    assert Experiment.unknown_in(link) == () and Experiment.from_dict(link | {"craft_on": "each"}).craft_on == "each"
    assert old.to_query() == {"pair": "tabletop/test/1", "caption": "a", "a": "x", "b": "y", "craft_on": "B"}


def test_up_to_four_models_have_a_place():
    many = Experiment(caption="a", c="tabletop-fare", d="tabletop-mat", craft_on="each").checked()
    assert list(many.models) == list(many.attacked_models()) == ["A", "B", "C", "D"]
    assert Experiment.from_query(many.to_query() | {"caption": "a"}).models == many.models
    with pytest.raises(OptionError):
        Experiment(craft_on="C", caption="a").checked()


def test_a_link_without_a_pair_is_no_experiment():
    assert Experiment.from_query({"epsilon": "4"}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": -1.0}, {"epsilon": 65.0}, {"epsilon": float("nan")}, {"steps": 0}, {"steps": 10**6}, {"steps": 2.5},
        {"recipe": "x"}, {"recipe": "cw"}, {"queries": 9}, {"words": 6}, {"truth": "x"},
        {"norm": "patch", "epsilon": 1.01},
        {"norm": "l3"}, {"objective": "x"}, {"task": "x"}, {"craft_on": "x"}, {"seed": -1}, {"restarts": 11},
        {"caption": "  "}, {"caption": "a" * 301}, {"a": ""}, {"alpha": 0.0, "beta": 0.0},
        {"craft_on": "B", "b": ""}, {"pair": "scene"},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(change):
    good = Experiment(caption="a red cube")
    assert good.checked() is good
    with pytest.raises(OptionError):
        replace(good, **change).checked()


def test_words_in_a_link_where_numbers_belong_are_named():
    with pytest.raises(OptionError, match="steps"):
        Experiment.from_query({"pair": "tabletop/test/1", "caption": "a", "steps": "many"})


def test_a_misspelt_option_is_not_ignored():
    with pytest.raises(OptionError, match="epsilom"):
        Experiment.from_dict({"caption": "a", "epsilom": 4})


@pytest.mark.parametrize(
    "pair", ["", "../../etc/passwd", "tabletop/train/1", "tabletop/test/-1", "coco/test/1", "a/b/c"]
)
def test_other_pair_names_are_refused(pair):
    with pytest.raises(CmaiError):
        parse_pair_id(pair)


def test_pair_names():
    assert parse_pair_id("tabletop/test/17") == ("tabletop", "test", "17")
    assert parse_pair_id("photos/test/hubble_deep_field") == ("photos", "test", "hubble_deep_field")
    assert parse_pair_id("scene") is None
    assert parse_pair_id("upload/abc") is None
