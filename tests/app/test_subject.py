"""The subject of all pages: recent experiments, targets, files that are run again."""

from __future__ import annotations

from dataclasses import replace

from app.services.results import ResultStore
from cmai_core.lab.experiment import Experiment

PAIR = {"pair": "tabletop/test/3", "caption": "a white cube"}


def made(result, **options):
    return replace(result, experiment=replace(Experiment(**PAIR), **options))


def test_the_least_used_results_are_given_up_first_and_uploads_belong_to_their_visitor(result):
    store = ResultStore(most=2)
    one, two, three = (made(result, seed=seed) for seed in range(3))
    store.put(one, "v")
    store.put(two, "v")
    assert store.get(one.experiment, "somebody else") is one
    store.put(three, "v")
    assert store.get(two.experiment, "v") is None and store.get(one.experiment, "v") is one
    mine = made(result, pair="upload/" + "0" * 64)
    store.put(mine, "v")
    assert store.get(mine.experiment, "v") is mine and store.get(mine.experiment, "other") is None


def test_results_are_bounded_by_the_size_of_their_pictures_and_cancelled_ones_are_not_kept(result):
    store = ResultStore(most_bytes=result.bytes + 1)
    one, two = made(result, seed=1), made(result, seed=2)
    store.put(one, "v")
    store.put(two, "v")
    assert store.get(one.experiment, "v") is None and store.get(two.experiment, "v") is two
    cut = made(result, seed=3)
    cut = replace(cut, examples={role: replace(e, cancelled=True) for role, e in cut.examples.items()})
    store.put(cut, "v")
    assert store.get(cut.experiment, "v") is None


def test_a_target_says_what_it_is_read_as(app, texts):
    at = app(**PAIR)
    at.text_input(key="target").set_value("red ball").run()
    assert not at.exception and "“red ball”" in texts(at).replace("\\", "")
    assert at.session_state["target"] == "red ball" and at.query_params["target"] == "red ball"
    assert not [box for box in at.selectbox if box.key == "task"]  # the target says itself which task it belongs to


def test_a_third_model_joins_the_comparison_and_a_and_b_change_places(app):
    at = app(**PAIR)
    at.button(key="swap_models").click().run()
    assert (at.session_state["a"], at.session_state["b"]) == ("tabletop-cmai", "tabletop")
    at.session_state["c"] = "tabletop"
    at.run()
    assert at.query_params["c"] == "tabletop" and {box.key for box in at.selectbox} >= {"a", "b", "c"}
    assert not at.exception and not at.error


def test_the_projector_s_view_stands_in_the_address(app):
    at = app(query={**PAIR, "view": "projector", "steps": "1", "b": ""})
    assert at.session_state["view"] == "projector" and at.query_params["view"] == "projector"
    assert not at.exception


def test_the_smallest_radius_is_found_for_each_model(app, finished, texts):
    at = app(**PAIR, steps=1, task="zero-shot", objective="task", recipe="fgsm", result_tabs="How little is enough?")
    assert at.button(key="start_smallest") and not at.exception
    finished(at.button(key="start_smallest").click().run(), "smallest_job")
    found = at.session_state["smallest"]
    assert set(found.models) == {"A", "B"} and not at.error and not at.exception, texts(at)
    for limit in found.models.values():
        assert limit.already or limit.holds or limit.breaking
        assert limit.name in texts(at)
    at.session_state["norm"] = "text"
    assert at.run().button(key="start_smallest").disabled and not at.exception


def test_the_shortlist_is_verified_on_request(app, finished, texts):
    at = app(**PAIR, steps=1, objective="consistency", result_tabs="Shortlist")
    finished(at.button(key="start_attack").click().run(), "attack_job")
    finished(at.button(key="start_shortlist").click().run(), "shortlist_job")
    _, found = at.session_state["shortlist"]
    assert set(found) == {"A", "B"} and not at.error and not at.exception, texts(at)
    assert all(entry.text.split()[0] in texts(at) for entry in found["B"].attacked[:3])
    at.session_state["seed"] = 9
    finished(at.run().button(key="start_attack").click().run(), "attack_job")
    assert at.button(key="start_shortlist")  # that of another result is not shown for this one
