"""Going to another page arrives there, whatever a late request of the old page says."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shown(at) -> str:
    return at.session_state["shown"][1]


def test_a_visitor_on_the_way_is_sent_on(app):
    at = app("review")
    assert shown(at) == "review"
    at.session_state["going"] = ("about", None, 5)  # as `go` leaves it; a late request then draws the old page
    at.run()
    assert shown(at) == "about" and at.session_state["going"] is None


def test_the_way_ends_where_it_leads(app):
    at = app("review", going=("review", None, 5))
    assert shown(at) == "review" and at.session_state["going"] is None


def test_the_query_goes_along(app):
    at = app("review")
    query = {"pair": "tabletop/test/3", "caption": "a white cube", "epsilon": "2", "steps": "3"}
    at.session_state["going"], at.session_state["link_read"] = ("attack_lab", query, 5), False
    at.run()
    assert shown(at) == "attack_lab" and at.session_state["link"] == query
    assert at.session_state["epsilon"] == 2.0


@pytest.mark.parametrize("query", ({}, {"epsilon": "4.0"}))
def test_the_status_bar_of_another_page_leads_back_to_the_one_on_show(app, monkeypatch, query):
    from app import navigation

    went = []
    monkeypatch.setattr(navigation, "_switch", lambda *where: went.append(where))
    values = {"shown": ("hash of the lab", "attack_lab"), "link": query, "link_read": True}
    monkeypatch.setattr(navigation.st, "session_state", values)
    monkeypatch.setattr(navigation, "_hash", lambda: "hash of the lab")
    navigation.hold()
    assert went == []
    monkeypatch.setattr(navigation, "_hash", lambda: "hash of the old page")
    navigation.hold()
    assert went == [("attack_lab", query)]
    assert values["link_read"] is (not query)  # the link is read again: the lost widgets were filled by it


def test_widgets_that_a_late_request_has_dropped_are_restored(app, monkeypatch):
    from app import state

    at = app(epsilon=2.0, pair="tabletop/test/3", caption="a white cube")
    kept = at.session_state["kept"]
    assert kept["epsilon"] == 2.0 and kept["caption"]
    values = {"kept": kept}
    monkeypatch.setattr(state.st, "session_state", values)
    state.initialise()
    assert values["epsilon"] == 2.0 and values["caption"] == kept["caption"]
