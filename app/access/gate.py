"""The gate before Streamlit: who may send requests, how much may come in, and the headers of every answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_log = logging.getLogger("cmai.app")
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_UPLOAD = re.compile(r"/_stcore/upload_file/([^/]+)/[^/]+/?$")
_MEGA = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """The most that is accepted.

    Attributes:
        connections: open pages. connections_each: of them from one address (but this machine's own, which a proxy has).
        uploads: files that come in at one time. uploads_each: of them to one page.
        seconds: that one may take to come in.
        files: kept of one page until they are decoded, the latest. bytes: kept of all pages.
    """

    connections: int = 200
    connections_each: int = 40
    uploads: int = 8
    uploads_each: int = 2
    seconds: float = 60.0
    files: int = 2
    bytes: int = 64 * _MEGA


class Gate:
    """ASGI middleware around the lab.

    Args:
        app: what it guards. limits: see `Limits`.
    """

    def __init__(self, app: Any, limits: Limits | None = None):
        self.app = app
        self.limits = limits or Limits()
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers().items()]
        self._open: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, self._with_headers(send))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = why_refused(_texts(scope))
        if refused:
            await answer(send, 403, refused)
        elif scope["method"] == "PUT" and (found := _UPLOAD.search(scope["path"])):
            await self._upload(found.group(1), scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or ("", 0))[0]
        refused = why_refused(_texts(scope))
        each = self.limits.connections if _own(address) else self.limits.connections_each
        if not refused and (self._open.total() >= self.limits.connections or self._open[address] >= each):
            refused = "Too many pages are open."
            _log.warning("a page was refused: %d are open, %d of its address", self._open.total(), self._open[address])
        if refused:
            await receive()  # the request to connect
            await send({"type": "websocket.close", "code": 1008, "reason": refused})
            return
        self._open[address] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            _less(self._open, address)

    async def _upload(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._coming.total() >= self.limits.uploads or self._coming[session] >= self.limits.uploads_each:
            await answer(send, 503, "Too many files are coming in at the moment. Try again in a minute.")
            return
        begun = False

        async def watched(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        self._coming[session] += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, receive, watched)
        except TimeoutError:
            if not begun:
                await answer(send, 408, "The file took too long to come in.")
        finally:
            _less(self._coming, session)
            trim(self.limits)

    def _with_headers(self, send: Send) -> Send:
        async def wrapped(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in self.headers}
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in known]
                message = {**message, "headers": [*kept, *self.headers]}
            await send(message)

        return wrapped


def headers() -> dict[str, str]:
    """Return the headers of every answer, which keep browsers from using it for anything else.

    Scripts come from the lab alone. Its components are modules made in the page (blob:), emotion writes styles into the
    page, and pictures are data: URLs.
    """
    scripts = " ".join(f"'sha256-{digest}'" for digest in inline_scripts())
    policy = {
        "default-src": "'self'",
        "script-src": f"'self' blob: {scripts}".strip(),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "media-src": "'self' data: blob:",
        "connect-src": "'self' data: blob:",
        "worker-src": "'self' blob:",
        "frame-src": "'self'",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    }


def inline_scripts() -> list[str]:
    """Return the SHA-256 (base64) of the scripts in Streamlit's own page, whichever version is installed."""
    from streamlit import file_util

    page = (Path(file_util.get_static_dir()) / "index.html").read_text(encoding="utf-8")
    inside = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", page, re.DOTALL)
    return [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inside]


def why_refused(given: dict[str, str]) -> str:
    """Return why a request with these headers is refused, "" if it is not.

    It is refused if it names another host, or comes from another site's page.
    """
    from streamlit import config
    from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

    host, origin = given.get("host"), given.get("origin")
    if not is_host_allowed(host):
        _log.warning("refused: the name %r is not the lab's; its owner can allow it (cmai app --name)", host)
        return "This lab does not go by that name."
    if origin is None:
        return ""
    try:
        parts = urlsplit(origin)
        name = parts.hostname or ""
    except ValueError:
        return "Requests from other sites are not answered."
    if parts.netloc and parts.netloc == host:
        return ""
    named = {entry.strip() for entry in config.get_option("server.corsAllowedOrigins")}
    if config.is_manually_set("browser.serverAddress"):
        named.add(config.get_option("browser.serverAddress"))
    if origin in named or (name and name in named):
        return ""
    _log.warning("refused: a request of a page of %r to the host %r", origin, host)
    return "Requests from other sites are not answered."


def trim(limits: Limits) -> None:
    """Drop uploaded files beyond the limits: the oldest of each page, then those of the page that has the most."""
    from streamlit.runtime import Runtime

    if not Runtime.exists():
        return
    manager = Runtime.instance().uploaded_file_mgr
    stored = getattr(manager, "file_storage", None)
    if stored is None:
        return
    held = {
        session: {key: len(file.data) for key, file in dict(files).items()} for session, files in dict(stored).items()
    }
    for session, files in held.items():
        whole = [key for key, size in files.items() if size]  # decoded ones are empty
        for key in _beyond(files, whole, limits.files):
            manager.remove_file(session, key)
            del files[key]
    while sum(size for files in held.values() for size in files.values()) > limits.bytes:
        session = max(held, key=lambda s: sum(held[s].values()))
        key = next(iter(held[session]))
        manager.remove_file(session, key)
        del held[session][key]


def _beyond(files: dict[str, int], whole: list[str], most: int) -> Iterable[str]:
    """Return the oldest files beyond the number that may be kept, and the oldest empty ones beyond ten times that."""
    empty = [key for key in files if not files[key]]
    return [*whole[: max(0, len(whole) - most)], *empty[: max(0, len(empty) - 10 * most)]]


async def answer(send: Send, status: int, words: str) -> None:
    """Send a plain sentence as the answer."""
    body = words.encode()
    kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*kind, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


def _texts(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _own(address: str) -> bool:
    return address in ("", "::1") or address.startswith("127.")


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
