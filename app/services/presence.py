"""Which page belongs to which visitor, and whether it is still open.

A page is open as long as Streamlit holds its connection, so a closed tab is known at once, and one whose machine has
vanished as soon as the server's pings go unanswered (about a minute). A connection that comes back within `GRACE`
seconds has lost nothing.

A *visitor* is a browser: all its tabs send the same cookie (Streamlit's own against forged requests; no other is set).
A browser that keeps no cookies is known by its address alone. Cookies can be thrown away, so an *address* has a share
of the queue, too: the connection's as the server sees it; behind a proxy that is the proxy's word for it
(X-Forwarded-For), which is believed from the same machine or from the addresses in FORWARDED_ALLOW_IPS. Streamlit tells
no address of this machine's own visitors, nor of those whom a proxy on it brings without that word: each browser of
them counts as an address.
"""

from __future__ import annotations

import binascii
import hashlib
import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app import state
from cmai_core.jobs import Owner

COOKIE = "_streamlit_xsrf"
GRACE = 5.0
"""Seconds for which a page may be closed: a reconnection takes less."""
VISITOR_GRACE = 15.0
"""Seconds for which a visitor may be without any page: a page loaded anew is another page of the same visitor."""


@dataclass
class _Seat:
    session: str
    owner: Owner
    gone: float | None = None


class Presence:
    """The pages that are open or have just been closed.

    Args:
        connected: whether a session of Streamlit has a connection. clock: seconds, ever growing.
    """

    def __init__(self, connected: Callable[[str], bool], clock: Callable[[], float] = time.monotonic):
        self._connected, self._clock = connected, clock
        self._seats: dict[str, _Seat] = {}
        self._lock = threading.Lock()

    def sit(self, session: str, owner: Owner) -> None:
        """Note a page when it is first drawn, and forget those that are long closed."""
        with self._lock:
            self._seats[owner.tab] = _Seat(session, owner)
            for tab, seat in list(self._seats.items()):
                if self._away(seat) > VISITOR_GRACE:
                    del self._seats[tab]

    def owner(self, tab: str) -> Owner | None:
        """Return the owner of a page, None if the page is not known (any more)."""
        with self._lock:
            seat = self._seats.get(tab)
            return None if seat is None else seat.owner

    def here(self, owner: Owner) -> bool:
        """Tell whether a page (any page of the visitor if none is named) is open or was a moment ago."""
        with self._lock:
            if owner.tab:
                seat = self._seats.get(owner.tab)
                return seat is not None and self._away(seat) <= GRACE
            seats = [seat for seat in self._seats.values() if seat.owner.visitor == owner.visitor]
            return any([self._away(seat) <= VISITOR_GRACE for seat in seats])

    def _away(self, seat: _Seat) -> float:
        """Return the seconds since a page was first found closed, 0 while it is open."""
        if self._connected(seat.session):
            seat.gone = None
            return 0.0
        if seat.gone is None:
            seat.gone = self._clock()
        return self._clock() - seat.gone


@st.cache_resource(show_spinner=False)
def presence() -> Presence:
    """Return the pages of this process."""
    return Presence(_connected)


def arrive() -> None:
    """Note the page unless it is known. Called in each run of the whole script."""
    tab = state.get(state.OWNER)
    if presence().owner(tab) is None:
        context = get_script_run_ctx()
        presence().sit("" if context is None else context.session_id, _owner(tab))


def owner() -> Owner:
    """Return the owner of this page's jobs."""
    return presence().owner(state.get(state.OWNER)) or _owner(state.get(state.OWNER))


def visitor() -> Owner:
    """Return the owner of jobs that belong to the visitor, whatever page is open."""
    mine = owner()
    return Owner("", mine.visitor, mine.address)


def _owner(tab: str) -> Owner:
    name = browser(st.context.cookies.get(COOKIE, ""))
    address = network(st.context.ip_address or "") or name or tab
    return Owner(tab, name or address, address)


def browser(cookie: str) -> str:
    """Return a browser's name from its cookie "2|mask|masked token|time", whose mask changes; "" if it has none."""
    try:
        _, mask, masked, _ = cookie.split("|")
        key, token = binascii.a2b_hex(mask), binascii.a2b_hex(masked)
    except ValueError:
        return ""
    if not key or not token:
        return ""
    return hashlib.sha256(bytes(byte ^ key[k % len(key)] for k, byte in enumerate(token))).hexdigest()[:32]


def network(address: str) -> str:
    """Return what counts as one address: IPv4 itself, the /64 of IPv6, which one household has whole; "" for none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


def _connected(session: str) -> bool:
    return not runtime.exists() or bool(runtime.get_instance().is_active_session(session))
