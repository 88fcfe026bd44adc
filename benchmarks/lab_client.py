"""A tab without a browser: speaks Streamlit's websocket protocol to a running lab, for measuring it under load.

It does what the browser does as far as the server can tell: sends a rerun for every click, lets the page's fragments
refresh themselves, keeps large messages by their hash, and leaves by closing the connection. It draws nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.cookies
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab_server import served

ROOT = Path(__file__).resolve().parent.parent
COOKIE = "_streamlit_xsrf"
MOST_BYTES = 64 << 20
CACHED_RUNS = 2
"""Whole runs of the script after which a message that was not repeated is forgotten, as the browser forgets it."""


class Unanswered(Exception):
    """A rerun that did not finish in time."""


class Tab:
    """One open page of the lab.

    Args:
        address: "http://127.0.0.1:8501". cookie: the browser's (tabs of one visitor share it); see `visitor_cookie`.
        page: path of the page, "" for the first. refresh: whether its fragments refresh themselves.
    """

    def __init__(self, address: str, cookie: str = "", page: str = "", query: str = "", refresh: bool = True):
        self.address, self.cookie, self.page, self.query, self.refresh = address, cookie, page, query, refresh
        self.widgets: dict[str, str] = {}
        self.words: list[str] = []
        self.errors: list[str] = []
        self.received = 0
        self._ws: Any = None
        self._tasks: dict[str, asyncio.Task] = {}
        self._reader: asyncio.Task | None = None
        self._values: dict[str, Any] = {}
        self._cache: dict[str, tuple[Any, int]] = {}
        self._pages: dict[str, str] = {}
        self._runs, self._hash, self._whole = 0, "", False
        self._finished = asyncio.Event()
        self._send = asyncio.Lock()

    async def __aenter__(self) -> Tab:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, timeout: float = 60.0) -> float:
        """Connects and draws the page; returns the seconds until it is drawn."""
        import websockets

        start = time.monotonic()
        host = self.address.removeprefix("http://")
        headers = {"Cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}
        self._ws = await websockets.connect(
            f"ws://{host}/_stcore/stream", additional_headers=headers, origin=self.address,
            subprotocols=["streamlit"], max_size=MOST_BYTES, compression=None, open_timeout=timeout, proxy=None,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())
        await self.rerun(timeout=timeout)
        return time.monotonic() - start

    async def close(self) -> None:
        """Closes the tab: the server is told as it is by a browser, and by nothing else."""
        for task in [*self._tasks.values(), self._reader]:
            if task is not None:
                task.cancel()
        self._tasks.clear()
        if self._ws is not None:
            with contextlib.suppress(Exception):
                await self._ws.close()

    async def click(self, key: str, timeout: float = 60.0) -> float:
        """Presses the button of a key; returns the seconds until the page was drawn anew."""
        return await self.rerun({self.widget(key): ("trigger_value", True)}, timeout=timeout)

    async def put(self, key: str, kind: str, value: Any, timeout: float = 60.0) -> float:
        """Sets a widget, `kind` being the field of its state ("int_value", "string_value", …)."""
        self._values[self.widget(key)] = (kind, value)
        return await self.rerun(timeout=timeout)

    async def go(self, page: str, timeout: float = 60.0) -> float:
        """Follows a link of the navigation; "" is the first page."""
        self.page, self._hash = page, self._pages.get(page, "")
        return await self.rerun(timeout=timeout)

    async def rerun(self, triggers: dict[str, tuple[str, Any]] | None = None, timeout: float = 60.0) -> float:
        """Runs the whole page; returns the seconds until it is drawn.

        Raises:
            Unanswered: after so many seconds.
        """
        start = time.monotonic()
        self._finished.clear()
        self._whole = True
        await self._ask(triggers)
        waiting = asyncio.ensure_future(self._finished.wait())
        await asyncio.wait({waiting, self._reader}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            raise Unanswered(f"page {self.page or 'attack_lab'!r} did not answer within {timeout:g} s")
        return time.monotonic() - start

    async def until(self, wanted, seconds: float, refresh: float = 0.5) -> bool:
        """Waits until `wanted()` is true of what the page holds; whether it became true."""
        end = time.monotonic() + seconds
        while not wanted():
            if time.monotonic() > end or self.closed:
                return False
            await asyncio.sleep(refresh)
        return True

    @property
    def closed(self) -> bool:
        return self._reader is None or self._reader.done()

    def widget(self, key: str) -> str:
        """The id of the widget that the page calls `key`.

        Raises:
            KeyError: it is not on the page.
        """
        return self.widgets[key]

    def said(self, words: str) -> bool:
        """Whether the page has said this since it was last drawn whole."""
        return any(words in text for text in self.words)

    async def _ask(self, triggers: dict[str, tuple[str, Any]] | None = None, fragment: str = "") -> None:
        from streamlit.proto.BackMsg_pb2 import BackMsg

        message = BackMsg()
        state = message.rerun_script
        state.page_name, state.page_script_hash = self.page, self._hash
        state.query_string, state.fragment_id, state.is_auto_rerun = self.query, fragment, bool(fragment)
        state.cached_message_hashes.extend(self._cache)
        state.context_info.url = f"{self.address}/{self.page}"
        for widget, (kind, value) in {**self._values, **(triggers or {})}.items():
            entry = state.widget_states.widgets.add(id=widget)
            if kind.endswith("array_value"):
                getattr(entry, kind).data.extend(value)
            else:
                setattr(entry, kind, value)
        async with self._send:
            await self._ws.send(message.SerializeToString())

    async def _read(self) -> None:
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        try:
            async for data in self._ws:
                self.received += len(data)
                message = ForwardMsg()
                message.ParseFromString(data)
                self._take(message)
        except Exception as error:
            self.errors.append(f"the connection ended: {error!r}")

    def _take(self, message: Any) -> None:
        kind = message.WhichOneof("type")
        if kind == "ref_hash":
            if message.ref_hash not in self._cache:
                self.errors.append("the server refers to a message that was never sent")
                return
            kept, _ = self._cache[message.ref_hash]
            self._cache[message.ref_hash] = kept, self._runs
            message, kind = kept, "delta"
        elif message.metadata.cacheable:
            self._cache[message.hash] = message, self._runs
        if kind == "new_session":
            self._hash = message.new_session.page_script_hash
            if not message.metadata.run.fragment_ids:
                self.widgets, self.words = {}, []
                self._runs += 1
                for task in self._tasks.values():
                    task.cancel()
                self._tasks.clear()
        elif kind == "delta":
            delta = message.delta
            what = delta.WhichOneof("type")
            if what == "new_element":
                self._element(delta.new_element)
            elif what == "add_block" and (part := delta.add_block.WhichOneof("type")):
                self._name(getattr(delta.add_block, part))
        elif kind == "navigation":
            pages = message.navigation.app_pages
            self._pages = {"" if page.is_default else page.url_pathname: page.page_script_hash for page in pages}
        elif kind == "auto_rerun" and self.refresh:
            fragment = message.auto_rerun.fragment_id
            if fragment not in self._tasks:
                self._tasks[fragment] = asyncio.create_task(self._refresh(fragment, message.auto_rerun.interval))
        elif kind == "script_finished":
            from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

            if message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                self._cache = {h: e for h, e in self._cache.items() if e[1] > self._runs - CACHED_RUNS}
                self._whole = False
                self._finished.set()

    def _element(self, element: Any) -> None:
        kind = element.WhichOneof("type")
        proto = getattr(element, kind)
        if kind == "exception":
            self.errors.append(f"{proto.type}: {proto.message}")
        elif kind == "alert" and ("Something went wrong" in proto.body or "Internal error" in proto.body):
            self.errors.append(proto.body)
        self._name(proto)
        for field in ("body", "text", "label"):
            if words := getattr(proto, field, ""):
                self.words.append(str(words))

    def _name(self, proto: Any) -> None:
        name = str(getattr(proto, "id", ""))
        if name.startswith("$$ID-"):
            self.widgets[name.split("-", 2)[2]] = name

    async def _refresh(self, fragment: str, interval: float) -> None:
        """What `run_every` asks of the browser."""
        while True:
            await asyncio.sleep(interval)
            if not self._whole:
                await self._ask(fragment=fragment)


def visitor_cookie(address: str) -> str:
    """The cookie that the lab gives a new browser."""
    with urllib.request.urlopen(f"{address}/_stcore/health", timeout=30) as answer:
        jar = http.cookies.SimpleCookie(answer.headers.get("Set-Cookie", ""))
    return jar[COOKIE].value if COOKIE in jar else ""


@contextlib.contextmanager
def running_lab(root: Path = ROOT, journal: Path | None = None, **environment: str) -> Iterator[tuple[str, int, Path]]:
    """Starts a lab with data of its own; yields (address, process id, log file) and stops it again.

    Args:
        root: folder of the checkout that is started. journal: where its jobs are written down (`watched_lab`).
        environment: variables besides the present ones.
    """
    start = ["-m", "streamlit"] if journal is None else [str(ROOT / "benchmarks/watched_lab.py"), str(journal)]
    server = root / "app" / "server.py"  # with the gate, as it is served; older checkouts have none
    script = server if server.is_file() else root / "app" / "streamlit_app.py"

    def command(port: int) -> list[str]:
        return [
            sys.executable, *start, "run", str(script),
            "--server.port", str(port), "--server.address", "127.0.0.1", "--server.headless", "true",
        ]  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="cmai-data-") as data:
        own = {"CMAI_DATA": data, "PYTHONPATH": str(root)}
        with served(command, root, own | environment) as lab:
            yield lab


def percentile(values: list[float], share: float) -> float:
    """The value that a share of the values does not exceed; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
