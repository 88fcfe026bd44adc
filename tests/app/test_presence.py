"""Who is there: a closed tab, a reloaded page, tabs of one browser, addresses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.services.presence import GRACE, VISITOR_GRACE, Presence, browser, network
from cmai_core.jobs import JobQueue, Owner


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seen():
    """(presence, sessions that are connected, clock)"""
    connected, clock = {"s1", "s2"}, Clock()
    return Presence(connected.__contains__, clock), connected, clock


def test_a_closed_tab_is_gone_after_a_moment_and_a_reconnection_is_not(seen):
    presence, connected, clock = seen
    mine = Owner("t1", "v", "a")
    presence.sit("s1", mine)
    assert presence.here(mine) and not presence.here(Owner("unknown", "v", "a"))
    connected.remove("s1")
    assert presence.here(mine)  # found away just now
    clock.now += GRACE - 1
    connected.add("s1")
    assert presence.here(mine)
    clock.now += 100
    assert presence.here(mine)
    connected.remove("s1")
    assert presence.here(mine)
    clock.now += GRACE + 0.1
    assert not presence.here(mine)


def test_a_visitor_is_there_while_any_of_the_pages_is(seen):
    presence, connected, clock = seen
    visitor = Owner("", "v", "a")
    presence.sit("s1", Owner("t1", "v", "a"))
    presence.sit("s2", Owner("t2", "v", "a"))
    connected.remove("s1")
    presence.here(visitor)
    clock.now += 10 * VISITOR_GRACE
    assert presence.here(visitor) and not presence.here(Owner("", "other", "a"))
    connected.clear()
    assert presence.here(visitor)
    clock.now += VISITOR_GRACE - 1
    presence.sit("s3", Owner("t3", "v", "a"))  # loaded anew: another page of the same visitor
    connected.add("s3")
    clock.now += 2 * VISITOR_GRACE
    assert presence.here(visitor)
    connected.clear()
    presence.here(visitor)
    clock.now += VISITOR_GRACE + 0.1
    assert not presence.here(visitor)


def test_what_is_long_closed_is_forgotten(seen):
    presence, _, clock = seen
    for k in range(50):
        presence.sit(f"closed {k}", Owner(f"t{k}", "v", "a"))
        clock.now += VISITOR_GRACE
    assert len(presence._seats) < 5 and presence.owner("t0") is None


def test_a_closed_page_ends_its_job_within_seconds(seen):
    presence, connected, clock = seen
    mine = Owner("t1", "v", "a")
    presence.sit("s1", mine)

    def endless(progress, cancel):
        while not cancel.cancelled:
            pass

    with JobQueue(present=presence.here) as queue:
        job, waiting = queue.submit(endless, owner=mine), queue.submit(endless, owner=mine)
        connected.remove("s1")
        presence.here(mine)
        clock.now += GRACE + 0.1
        assert job.wait(5).state == "cancelled" and waiting.wait(5).state == "cancelled" and not queue.pending


def test_tabs_of_one_browser_are_one_visitor():
    """Streamlit sends the same token under another mask each time."""
    from streamlit.web.server.starlette.starlette_app_utils import generate_xsrf_token_string

    one, two = generate_xsrf_token_string(b"0123456789abcdef", 1), generate_xsrf_token_string(b"0123456789abcdef", 2)
    assert one != two and browser(one) == browser(two) != ""
    assert browser(generate_xsrf_token_string()) != browser(one)


@pytest.mark.parametrize("cookie", ["", "x", "2|zz|zz|1", "2|||", "2|00|é|1", "1|2|3|4|5", "2|" + "0" * 9 + "|aa|1"])
def test_a_cookie_that_says_nothing_names_nobody(cookie):
    assert browser(cookie) == ""


def test_a_long_cookie_makes_no_long_name():
    assert len(browser("2|00|" + "ab" * 100_000 + "|1")) == 32


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", ""),
        ("", ""),
    ],
)
def test_one_household_is_one_address(address, wanted):
    assert network(address) == wanted


@pytest.mark.parametrize(("address", "shared"), [("203.0.113.7", "203.0.113.7"), (None, None)])
def test_tabs_of_a_browser_share_its_visitor_wherever_it_comes_from(address, shared, monkeypatch):
    """Streamlit tells no address of this machine's own visitors."""
    from app.services import presence

    def owner(tab, cookie):
        context = SimpleNamespace(ip_address=address, cookies={presence.COOKIE: cookie} if cookie else {})
        monkeypatch.setattr(presence.st, "context", context)
        return presence._owner(tab)

    one, two, other, bare = (
        owner("t1", "2|00|aa|1"),
        owner("t2", "2|ff|55|2"),
        owner("t3", "2|00|bb|1"),
        owner("t4", ""),
    )
    assert one.visitor == two.visitor and one.address == two.address and one.tab != two.tab
    assert one.visitor != other.visitor and (one.address == other.address) is (shared is not None)
    assert bare.visitor == bare.address == (shared or "t4")
