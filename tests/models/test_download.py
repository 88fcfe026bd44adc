"""Downloads in a child process, from a pretend hub on this machine: slow, lying, huge, or as it should be."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmai_core.errors import Cancelled, ModelError
from cmai_core.models import download as downloads
from cmai_core.models.download import download, is_here
from cmai_core.progress import CancelToken

COMMIT = "c" * 40
CONFIG = json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}).encode()


class Hub:
    """A hub with one repository and what lies in others; what it says of sizes, and how fast it sends, can be set."""

    def __init__(self) -> None:
        self.others: dict[str, dict[str, bytes]] = {}
        self.files = {
            "open_clip_config.json": CONFIG,
            "tokenizer.json": b"{}",
            "open_clip_model.safetensors": bytes(3_000_000),
            "modeling_evil.py": b"raise SystemExit",
        }
        self.said: dict[str, int | None] = {}
        self.pause = 0.0
        self.asked: list[str] = []
        self.sending = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                path = self.path.split("?")[0]
                repositories = {"some/model": hub.files} | hub.others
                if path.startswith("/api/models/"):
                    repository = path.removeprefix("/api/models/")
                    files = repositories.get(repository, hub.files)
                    said = [{"rfilename": name, "size": hub.said.get(name, len(data))} for name, data in files.items()]
                    said = [{k: v for k, v in entry.items() if v is not None} for entry in said]
                    value = {"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "siblings": said}
                    return self._send(json.dumps(value).encode(), body, "application/json")
                repository, _, file = path[1:].partition("/resolve/")
                data = repositories.get(repository, {}).get(file.rsplit("/", 1)[-1])
                if data is None:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                return self._send(data, body, "application/octet-stream")

            def _send(self, data: bytes, body: bool, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                try:
                    for start in range(0, len(data) if body else 0, 65536):
                        self.wfile.write(data[start : start + 65536])
                        if hub.pause and len(data) > 65536:
                            hub.sending.set()
                            time.sleep(hub.pause)
                except OSError:  # the child was ended
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """(hub, cache, variables of a child that asks it)."""
    from huggingface_hub import constants

    made = Hub()
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))  # where this process looks for what the child fetched
    variables = dict(os.environ) | {
        "HF_ENDPOINT": made.address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path),
    }  # fmt: skip
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        variables.pop(name, None)
    yield SimpleNamespace(hub=made, cache=cache, variables=variables)
    made.server.shutdown()
    made.server.server_close()


def unfinished(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.suffix == ".incomplete" or path.name.startswith(".cmai-")]


SPEC = "hf-hub:some/model"


def test_a_model_comes_with_its_size_known_and_nothing_else(hub):
    told = []
    assert not is_here(SPEC)
    download(SPEC, environment=hub.variables, progress=told.append)
    assert is_here(SPEC)
    total = sum(len(data) for name, data in hub.hub.files.items() if not name.endswith(".py"))
    assert told and told[-1].done == told[-1].total == total
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert not any("evil" in path for path in hub.hub.asked)
    assert not unfinished(hub.cache)


@pytest.mark.parametrize("own", [True, False], ids=["own-vocabulary", "vocabulary-elsewhere"])
def test_what_lies_in_a_known_repository_comes_too_and_nothing_of_another(hub, own):
    from huggingface_hub import try_to_load_from_cache

    text = {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base" if own else "xlm-roberta-base"}
    hub.hub.files["open_clip_config.json"] = json.dumps({"model_cfg": {"text_cfg": text}}).encode()
    hub.hub.files["open_clip_model.safetensors"] = bytes(10)  # smaller than all else, and still the last to come
    if not own:
        del hub.hub.files["tokenizer.json"]
    lying = {"config.json": b"{}", "tokenizer.json": bytes(1000), "pytorch_model.bin": bytes(5000)}
    hub.hub.others = {"roberta-base": lying, "xlm-roberta-base": lying}
    download(SPEC, environment=hub.variables)
    here = {
        (repository, name)
        for repository in hub.hub.others
        for name in lying
        if isinstance(try_to_load_from_cache(repository, name, cache_dir=hub.cache), str)
    }
    vocabulary = set() if own else {("xlm-roberta-base", "config.json"), ("xlm-roberta-base", "tokenizer.json")}
    assert here == {("roberta-base", "config.json")} | vocabulary
    files = [path for path in hub.hub.asked if "/resolve/" in path]
    assert files[-1].endswith("open_clip_model.safetensors")
    assert is_here(SPEC) and not unfinished(hub.cache)


def test_a_repository_that_open_clip_does_not_name_is_not_asked(hub):
    text = {"hf_model_name": "evil/tower", "hf_tokenizer_name": "evil/words"}
    hub.hub.files["open_clip_config.json"] = json.dumps({"model_cfg": {"text_cfg": text}}).encode()
    del hub.hub.files["tokenizer.json"]
    hub.hub.others = {name: {"config.json": b"{}", "tokenizer.json": b"{}"} for name in ("evil/tower", "evil/words")}
    download(SPEC, environment=hub.variables)
    assert hub.hub.asked and not any("evil" in path for path in hub.hub.asked)


def test_a_slow_download_is_cancelled_at_once_and_leaves_nothing(hub):
    hub.hub.pause = 0.5
    cancel = CancelToken()
    seen = []

    def watch(progress) -> None:
        seen.append(progress)
        if progress.done > len(CONFIG):
            cancel.cancel()

    with pytest.raises(Cancelled):
        download(SPEC, environment=hub.variables, progress=watch, cancel=cancel)
    assert seen and not is_here(SPEC) and not unfinished(hub.cache)
    assert not [path for path in hub.cache.rglob("*") if path.is_file() and path.stat().st_size > 10_000]


@pytest.mark.parametrize("said", [9_000_000_000, None])
def test_what_is_too_large_or_of_unknown_size_is_never_begun(hub, said):
    hub.hub.said = {"open_clip_model.safetensors": said}
    with pytest.raises(ModelError) as caught:
        download(SPEC, environment=hub.variables)
    assert caught.value.hint
    assert not any("safetensors" in path for path in hub.hub.asked)


def test_bound_memory_and_disk_are_looked_at_before(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "_memory", lambda: 10e9)
    monkeypatch.setattr(
        downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=downloads.RESERVE + 3_000_000_000)
    )
    downloads._room(tmp_path, 3_000_000_000, 4_000_000_000)
    for total, most in ((3_000_000_001, 4_000_000_000), (3_000_000_000, 2_999_999_999)):
        with pytest.raises(ModelError):
            downloads._room(tmp_path, total, most)
    monkeypatch.setattr(downloads, "_memory", lambda: 5e9)
    with pytest.raises(ModelError):
        downloads._room(tmp_path, 3_000_000_000, 4_000_000_000)


def test_a_hub_that_sends_more_than_it_said_is_cut_off(hub):
    hub.hub.said = {"open_clip_model.safetensors": 1000}
    with pytest.raises(ModelError):
        download(SPEC, environment=hub.variables)
    assert not is_here(SPEC) and not unfinished(hub.cache)


def test_one_that_stands_still_is_given_up(hub, monkeypatch):
    monkeypatch.setattr(downloads, "STALLED", 1.0)
    monkeypatch.setattr(downloads, "LONGEST", 20.0)
    hub.hub.pause = 600.0
    with pytest.raises(ModelError):
        download(SPEC, environment=hub.variables)
    assert not unfinished(hub.cache)


@pytest.mark.parametrize("spec", ["hf-hub:no/such", "hf-hub:../../etc", "hf-hub:x", "hf-hub:"])
def test_what_is_not_there_is_said(hub, spec):
    assert not is_here(spec)
    with pytest.raises(ModelError) as caught:
        download(spec, environment=hub.variables)
    assert caught.value.hint and "Traceback" not in str(caught.value)


def test_what_needs_no_network_is_here():
    assert is_here("tabletop") and is_here("local-dir:/nowhere") and is_here("ViT-B-32/random-3")
