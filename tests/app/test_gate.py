"""What stands before the lab: headers, foreign pages, floods of uploads and connections. And the server as it runs."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import re
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.access.gate import Gate, Limits, headers, trim

ROOT = Path(__file__).resolve().parents[2]


# --- the middleware alone ---------------------------------------------------------------------------------------------


def scope(kind: str = "http", path: str = "/", method: str = "GET", address: str = "10.0.0.1", **given: str) -> dict:
    given = {"host": "lab.test"} | given
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    return {"type": kind, "path": path, "method": method, "headers": pairs, "client": (address, 1)}


class Inside:
    """The application behind the gate; waits in `hold` where one is given."""

    def __init__(self, hold: asyncio.Event | None = None):
        self.hold, self.entered = hold, 0

    async def __call__(self, scope, receive, send):
        self.entered += 1
        if self.hold is not None:
            await self.hold.wait()
        if scope["type"] == "http":
            sent = [(b"x-content-type-options", b"twice"), (b"content-type", b"text/html")]
            await send({"type": "http.response.start", "status": 200, "headers": sent})
            await send({"type": "http.response.body", "body": b"inside"})


async def ask(gate: Gate, what: dict) -> tuple[int, list[tuple[bytes, bytes]]]:
    """(status, headers) of an answer; (0, []) of a connection that was refused, (1, []) of one that was not."""
    said = []

    async def send(message):
        said.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    await gate(what, receive, send)
    if what["type"] == "websocket":
        return int(not any(message["type"] == "websocket.close" for message in said)), []
    return said[0]["status"], said[0]["headers"]


def test_every_answer_carries_each_header_once():
    async def run():
        for what in (scope(), scope(origin="http://evil.example"), scope(path="/_stcore/health")):
            _, got = await ask(Gate(Inside()), what)
            names = [name for name, _ in got]
            for name, value in headers().items():
                assert names.count(name.lower().encode()) == 1
                assert (name.lower().encode(), value.encode()) in got

    asyncio.run(run())


def test_the_policy_lets_no_page_frame_the_lab_and_no_foreign_script_in():
    policy = dict(part.strip().split(" ", 1) for part in headers()["Content-Security-Policy"].split(";"))
    assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
    assert not {"'unsafe-inline'", "'unsafe-eval'", "'unsafe-hashes'"} & set(policy["script-src"].split())
    assert not any("http" in value or "*" in value for value in policy.values())


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://lab.test", 200), ("https://lab.test", 200), ("http://evil.example", 403), ("null", 403),
        ("http://lab.test.evil.example", 403), ("http://lab.test:8501", 403), ("http://localhost", 403),
        ("http://[", 403), ("", 403), ("http://evil.example@lab.test", 403), ("file://", 403),
    ],
)  # fmt: skip
def test_only_the_lab_s_own_pages_are_answered(origin, status):
    async def run():
        inside = Inside()
        got, _ = await ask(Gate(inside), scope(origin=origin))
        opened, _ = await ask(Gate(inside), scope("websocket", origin=origin))
        assert got == status and opened == (status == 200)
        assert inside.entered == (2 if status == 200 else 0)

    asyncio.run(run())


def test_other_names_are_answered_where_the_owner_has_named_them(monkeypatch):
    from streamlit import config

    options = {"server.allowedHosts": ["lab.test"], "server.corsAllowedOrigins": ["https://front.example"]}
    real = config.get_option
    monkeypatch.setattr(config, "get_option", lambda name: options.get(name, real(name)))

    async def run():
        gate = Gate(Inside())
        assert (await ask(gate, scope(origin="https://front.example")))[0] == 200
        assert (await ask(gate, scope(host="rebound.example")))[0] == 403
        assert (await ask(gate, scope("websocket", host="rebound.example")))[0] == 0

    asyncio.run(run())


def test_connections_are_bounded_in_all_and_for_each_address():
    async def run():
        hold = asyncio.Event()
        gate = Gate(Inside(hold), Limits(connections=5, connections_each=3))
        open_ = [asyncio.create_task(ask(gate, scope("websocket"))) for _ in range(3)]
        await asyncio.sleep(0)
        assert (await ask(gate, scope("websocket")))[0] == 0
        open_ += [asyncio.create_task(ask(gate, scope("websocket", address="127.0.0.1"))) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await ask(gate, scope("websocket", address="127.0.0.1")))[0] == 0
        hold.set()
        assert [opened for opened, _ in await asyncio.gather(*open_)] == [1] * 5
        assert (await ask(gate, scope("websocket")))[0] == 1  # places are given back

    asyncio.run(run())


def test_uploads_are_bounded_in_number_and_time():
    async def run():
        hold = asyncio.Event()
        gate = Gate(Inside(hold), Limits(uploads=3, uploads_each=2))
        put = [scope(path=f"/_stcore/upload_file/{page}/{k}", method="PUT") for page in "ab" for k in range(3)]
        coming = [asyncio.create_task(ask(gate, put[k])) for k in (0, 1, 3)]
        await asyncio.sleep(0)
        assert (await ask(gate, put[2]))[0] == 503  # a third of one page
        assert (await ask(gate, put[4]))[0] == 503  # a fourth in all
        hold.set()
        assert [status for status, _ in await asyncio.gather(*coming)] == [200] * 3
        assert (await ask(gate, put[2]))[0] == 200
        slow = Gate(Inside(asyncio.Event()), Limits(seconds=0.05))
        assert (await ask(slow, put[0]))[0] == 408

    asyncio.run(run())


def test_kept_files_are_trimmed_to_the_latest_and_to_the_whole(monkeypatch):
    from streamlit.runtime import Runtime
    from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
    from streamlit.runtime.uploaded_file_manager import UploadedFileRec

    manager = MemoryUploadedFileManager("/x")
    monkeypatch.setattr(Runtime, "exists", classmethod(lambda cls: True))
    monkeypatch.setattr(Runtime, "instance", classmethod(lambda cls: SimpleNamespace(uploaded_file_mgr=manager)))
    for page in range(6):
        for k in range(40):
            manager.add_file(f"page {page}", UploadedFileRec(str(k), "a", "b", bytes(1000)))
            trim(Limits(files=2, bytes=9000))
            kept = [len(f.data) for files in manager.file_storage.values() for f in files.values()]
            assert sum(kept) <= 9000 and max(map(len, manager.file_storage.values())) <= 2
    assert set(manager.file_storage["page 5"]) == {"38", "39"}
    for k in range(100):  # decoded ones, of which only the name is left
        manager.add_file("page 0", UploadedFileRec(f"e{k}", "a", "b", b""))
        trim(Limits(files=2, bytes=9000))
    assert len(manager.file_storage["page 0"]) <= 22


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(host and port, log) of a lab started as its users start it."""
    spec = importlib.util.spec_from_file_location("cmai_lab_driver", ROOT / "tests" / "browser" / "driver.py")
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    with driver.running_lab({"CMAI_DATA": str(tmp_path_factory.mktemp("data")), "CMAI_WARM_UP": "0"}) as (address, log):
        yield address.removeprefix("http://"), log


def request(place: str, method: str, path: str, body: bytes | None = None, **given: str):
    connection = http.client.HTTPConnection(place, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in given.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_server_sends_the_headers_and_refuses_strangers(lab):
    place, log = lab
    for path in ("/", "/_stcore/health", "/nowhere", "/review", "/_stcore/host-config"):
        _, got, _ = request(place, "GET", path)
        for name, value in headers().items():
            assert got.get_all(name) == [value], path
    status, _, body = request(place, "GET", "/", Origin="http://evil.example")
    assert status == 403 and b"script" not in body
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    assert request(place, "GET", "/_stcore/stream", Origin="http://evil.example", **upgrade)[0] == 403
    assert request(place, "GET", "/_stcore/stream", Host="rebound.example", **upgrade)[0] == 403
    assert request(place, "POST", "/_stcore/agent/interact", b"{}")[0] >= 400
    assert "checkip" not in log.read_text() and "Traceback" not in log.read_text()


def test_the_server_never_asks_for_its_own_address_nor_for_models():
    """Both would go to the internet in the middle of a request."""
    code = (
        "import os, socket; from app import server; from streamlit import net_util;"
        "socket.socket.connect = None; assert net_util.get_external_ip() is None;"
        "from huggingface_hub import constants; assert constants.HF_HUB_OFFLINE"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_a_flood_of_uploads_leaves_little_behind(lab):
    """Forty files sent to the upload address of one's own page, as any script can."""
    connect = pytest.importorskip("websockets.sync.client").connect
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    place, _ = lab
    _, got, _ = request(place, "GET", "/_stcore/health")
    token = re.search(r"_streamlit_xsrf=([^;]+)", got["Set-Cookie"]).group(1)
    with connect(
        f"ws://{place}/_stcore/stream", origin=f"http://{place}", subprotocols=["streamlit"], max_size=None
    ) as page:
        message = BackMsg()
        message.rerun_script.query_string = ""
        page.send(message.SerializeToString())
        while True:
            told = ForwardMsg()
            told.ParseFromString(page.recv(timeout=60))
            if told.WhichOneof("type") == "new_session":
                break
        session = told.new_session.initialize.session_id
        mega = bytes(1_000_000)
        form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + mega + b"\r\n--b--\r\n"
        for _ in range(40):
            status, _, _ = request(
                place, "PUT", f"/_stcore/upload_file/{session}/{uuid.uuid4()}", form,
                Content_Type="multipart/form-data; boundary=b", X_Xsrftoken=token, Cookie=f"_streamlit_xsrf={token}",
            )  # fmt: skip
            assert status == 204
        _, _, metrics = request(place, "GET", "/_stcore/metrics")
        kept = re.findall(rb"^[^#\n]*UploadedFileManager[^\n]* (\d+)$", metrics, re.MULTILINE)
        assert kept and sum(map(int, kept)) <= 2 * len(mega)
        stranger = f"/_stcore/upload_file/{uuid.uuid4()}/x"
        assert request(place, "PUT", stranger, form, Content_Type="multipart/form-data; boundary=b")[0] >= 400
