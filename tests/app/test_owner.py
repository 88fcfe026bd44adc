"""What visitors may use is the owner's decision, and it holds whatever way they ask."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from app.access import permissions
from app.services import downloads, presence
from app.services.jobs import cancel_job, job_queue
from app.services.models import ModelCache, model_cache, require_model
from cmai_core.errors import Cancelled, CmaiError, ModelError
from cmai_core.jobs import Owner
from cmai_core.progress import CancelToken, Progress

SPECS = ("hf-hub:some/model", "ViT-B-32/random", "local-dir:/etc", "ViT-B-32/laion2b_s34b_b79k", "../tabletop", "")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("ALLOW", "ALLOW_ANY", "MAX_DOWNLOAD", "REVIEW_KEY", "OPEN_REVIEW"):
        monkeypatch.delenv(getattr(permissions, name), raising=False)


@pytest.fixture
def strict(app, monkeypatch):
    """The lab as it is where its owner has set nothing."""
    for name in (permissions.ALLOW, permissions.ALLOW_ANY, permissions.OPEN_REVIEW):
        monkeypatch.delenv(name, raising=False)
    return app


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("spec", SPECS)
def test_without_a_word_of_the_owner_only_bundled_models_are_loaded(spec, address, monkeypatch):
    import streamlit as st

    monkeypatch.setattr(st, "get_option", lambda name: address)  # where it listens is no permission
    assert permissions.allowed("tabletop")
    for ask in (permissions.require, ModelCache().get, lambda s: require_model(s, "A")):
        with pytest.raises(ModelError) as caught:
            ask(spec)
        assert "cmai " not in str(caught.value) and caught.value.hint


def test_what_is_allowed_is_allowed_exactly(monkeypatch):
    monkeypatch.setenv(permissions.ALLOW, "hf-hub:some/model\n local-dir:/srv/models/mine \n\n")
    assert permissions.rules().allow == ("hf-hub:some/model", "local-dir:/srv/models/mine")
    assert permissions.allowed("local-dir:/srv/models/mine")
    assert permissions.display_name("local-dir:/srv/models/mine/") == "mine"
    for other in (
        "local-dir:/srv/models/mine/../other",
        "hf-hub:some/model2",
        "hf-hub:Some/model",
        "local-dir:/srv/models",
    ):
        assert not permissions.allowed(other)
    monkeypatch.setenv(permissions.ALLOW_ANY, "1")
    assert all(permissions.allowed(spec) for spec in SPECS)


def test_a_folder_is_named_by_its_last_part_wherever_it_is_shown(monkeypatch):
    from app.components.benchmark.stored import _title
    from app.components.common.stale import belongs_to, changed
    from cmai_core.lab.belonging import Difference
    from cmai_core.lab.benchmark.runs import RunInfo
    from cmai_core.lab.experiment import Experiment

    spec = "local-dir:/srv/models/mine"
    monkeypatch.setenv(permissions.ALLOW, spec)
    monkeypatch.setattr("cmai_core.models.load_model", lambda spec: SimpleNamespace(name=spec))
    monkeypatch.setattr(downloads, "here", lambda spec: True)
    grid = {
        "models": [spec, "tabletop"], "tasks": ["vqa"], "recipes": ["pgd"], "epsilons": [2.0], "limit": 8,
        "cascade": False, "dataset": "/srv/pictures/cats/",
    }  # fmt: skip
    said = (
        ModelCache().get(spec).name,
        belongs_to(Experiment(b=spec)),
        changed([Difference("model", "defended model", "tabletop", spec)]),
        _title(RunInfo("r", "2026-01-01T00:00", grid, 1, 1)),
    )
    assert all("mine" in words and "srv" not in words for words in said), said
    assert "8 pairs of cats" in said[-1]


@pytest.mark.parametrize(("value", "most"), [("", 5e9), ("1.5", 1.5e9), ("nonsense", 0), ("-3", 0), ("nan", 0)])
def test_the_bound_of_downloads_is_never_looser_than_said(value, most, monkeypatch):
    monkeypatch.setenv(permissions.MAX_DOWNLOAD, value)
    assert permissions.rules().download_bytes == int(most)


def test_a_link_with_another_model_says_so_and_takes_one_that_is_offered(strict, texts):
    at = strict(query={"pair": "tabletop/test/0", "caption": "a red cube", "a": "hf-hub:some/model"})
    assert not at.exception
    assert any("hf-hub:some/model" in e.value for e in at.error)
    assert at.session_state["a"] == "tabletop"
    assert "other" not in at.selectbox(key="a").options


def test_allowed_models_stand_in_the_form(strict, monkeypatch):
    monkeypatch.setenv(permissions.ALLOW, "ViT-B-32/random\nlocal-dir:/srv/secret/mine")
    at = strict(query={"pair": "tabletop/test/0", "caption": "a red cube", "a": "ViT-B-32/random"})
    assert not at.exception and not at.error
    assert at.session_state["a"] == "ViT-B-32/random"
    options = at.selectbox(key="a").options
    assert "mine" in options and not any("secret" in option for option in options)


def test_a_form_that_was_tampered_with_is_refused(strict):
    """A browser may send any value for a widget, and any key of the session that a form fills."""
    at = strict(pair="tabletop/test/0", caption="a red cube", a="other", a_spec="local-dir:/etc")
    assert at.session_state["a"] == "tabletop"


# --- downloads before a job, outside the queue ------------------------------------------------------------------------


class SlowHub(downloads.Downloads):
    """Fetches nothing, slowly."""

    def fetch(self, spec, progress, cancel):
        for k in range(3000):
            progress(Progress(k, 3000, f"Downloading {spec}"))
            cancel.check()
            time.sleep(0.01)


def job_after_download(through, visitor="me", is_open=lambda: True, submit=lambda: None):
    whose = Owner.of(visitor)
    token = downloads.OpenPage(is_open)
    return downloads.JobAfterDownload(["hf-hub:some/model"], whose, "attack", submit, token, through)


def ended(handle, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not handle.snapshot().finished and time.monotonic() < end:
        time.sleep(0.01)
    return handle.snapshot().finished


def test_cancel_ends_a_download_and_others_go_on_meanwhile():
    from cmai_core.jobs import JobQueue

    through = SlowHub()
    handle = job_after_download(through)
    with JobQueue() as queue:
        other = queue.submit(lambda progress, cancel: 7, owner="other")
        assert other.wait(10).state == "done" and other.result() == 7
    assert handle.snapshot().state == "running"
    with pytest.raises(CmaiError):
        job_after_download(through)  # one a visitor
    handle.cancel()
    assert ended(handle) and handle.snapshot().state == "cancelled"
    with pytest.raises(CmaiError):
        handle.result()
    again = job_after_download(through)
    again.cancel()
    assert ended(again)


def test_a_closed_page_ends_its_download():
    opened = threading.Event()
    opened.set()
    handle = job_after_download(SlowHub(), is_open=opened.is_set)
    time.sleep(0.3)
    assert handle.snapshot().state == "running"
    opened.clear()
    assert ended(handle) and handle.snapshot().state == "cancelled"


def test_when_everything_is_here_the_job_takes_over():
    from cmai_core.jobs import JobQueue

    class Quick(downloads.Downloads):
        def fetch(self, spec, progress, cancel):
            progress(Progress(1, 1))

    with JobQueue() as queue:
        handle = job_after_download(Quick(), submit=lambda: queue.submit(lambda progress, cancel: "done", owner="me"))
        assert ended(handle)
        assert handle.result() == "done" and handle.snapshot().state == "done"


def test_a_download_that_fails_is_the_visitor_s_message():
    class Refuses(downloads.Downloads):
        def fetch(self, spec, progress, cancel):
            raise ModelError("too large", "another")

    handle = job_after_download(Refuses())
    assert ended(handle)
    with pytest.raises(ModelError):
        handle.result()


def test_few_download_at_a_time_and_few_wait():
    through = SlowHub()
    handles = [job_after_download(through, visitor=str(k)) for k in range(downloads.WAITING)]
    with pytest.raises(CmaiError):
        job_after_download(through, visitor="one more")
    for handle in handles:
        handle.cancel()
    assert all(ended(handle) for handle in handles)


def test_a_place_in_line_can_be_left(monkeypatch):
    """Whoever waits for somebody else's download of the same model is not held by it."""
    begun, release = threading.Event(), threading.Event()

    def download(spec, *, cancel, **_):
        begun.set()
        release.wait(20)

    monkeypatch.setattr("cmai_core.models.download.download", download)
    monkeypatch.setattr(downloads, "here", lambda spec: False)
    through = downloads.Downloads()
    first = threading.Thread(target=through.fetch, args=("a/b", lambda p: None, CancelToken()))
    first.start()
    assert begun.wait(10)
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        through.fetch("a/b", lambda p: None, token)
    release.set()
    first.join(10)
    assert not first.is_alive()


def test_children_are_online_only_where_the_owner_did_not_forbid_it(monkeypatch):
    monkeypatch.setenv(permissions.OFFLINE, "1")
    monkeypatch.delenv("CMAI_CHILDREN_ONLINE", raising=False)
    assert downloads._environment()[permissions.OFFLINE] == "1"
    monkeypatch.setenv("CMAI_CHILDREN_ONLINE", "1")
    assert permissions.OFFLINE not in downloads._environment()


def test_a_slow_hub_holds_up_only_who_asked_for_it(strict, monkeypatch, tmp_path):
    """In the lab itself: while one visitor's model trickles in, others are served, and Cancel ends the child."""
    import importlib.util
    from pathlib import Path

    place = Path(__file__).resolve().parents[1] / "models" / "test_download.py"
    spec = importlib.util.spec_from_file_location("cmai_pretend_hub", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hub = module.Hub()
    hub.pause = 0.5
    for name, value in {
        permissions.ALLOW: "hf-hub:some/model", "CMAI_CHILDREN_ONLINE": "1", "HF_ENDPOINT": hub.address,
        "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        at = strict(pair="tabletop/test/0", caption="a red cube", a="hf-hub:some/model", b="none")
        at.button(key="start_attack").click().run()
        handle = at.session_state["attack_job"]
        assert isinstance(handle, downloads.JobAfterDownload) and not at.error and not at.exception
        assert hub.sending.wait(60)
        somebody = Owner("other tab", "other", "other")
        people = presence.presence()
        people.sit(people._seats[handle.owner.tab].session, somebody)  # jobs of nobody are cancelled
        other = job_queue().submit(lambda progress, cancel: model_cache().get("tabletop").name, owner=somebody)
        assert other.wait(60).state == "done"
        assert not handle.snapshot().finished
        cancel_job(handle)
        assert ended(handle) and handle.snapshot().state == "cancelled"
        at.run()
        assert at.session_state["attack_job"] is None and not at.exception
    finally:
        hub.server.shutdown()
        hub.server.server_close()


# --- the command ------------------------------------------------------------------------------------------------------


def settings(*words: str):
    from cmai_core.cli import parse
    from cmai_core.commands.app import settings as made

    return made(parse(["app", *words])[1])


def test_the_command_hands_the_rules_over(monkeypatch):
    variables, options = settings("--allow", "hf-hub:a/b", "--allow", " local-dir:/x y ", "--max-download", "2")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    now = permissions.rules()
    assert now.allow == ("hf-hub:a/b", "local-dir:/x y") and not now.any and now.download_bytes == 2e9
    assert len(now.review_key) > 10 and not now.open_review
    assert now.reviewer(now.review_key) and not now.reviewer("") and not now.reviewer("x")
    assert options[options.index("--server.allowedHosts") + 1] == "localhost"
    monkeypatch.delenv(permissions.REVIEW_KEY)
    assert settings()[0][permissions.REVIEW_KEY] != variables[permissions.REVIEW_KEY]
    assert "--server.allowedHosts" not in settings("--host", "0.0.0.0")[1]
    assert "lab.example.org" in settings("--host", "0.0.0.0", "--name", "lab.example.org")[1]
    assert settings("--allow-any", "--open-review")[0].keys() >= {permissions.ALLOW_ANY, permissions.OPEN_REVIEW}


def test_without_a_key_nobody_is_a_reviewer():
    assert not permissions.rules().reviewer("") and not permissions.rules().reviewer("1")


@pytest.mark.parametrize(
    "words",
    [
        ("--allow", " "),
        ("--allow", "a\nb"),
        ("--max-download", "-1"),
        ("--max-download", "nan"),
        ("--review-key", "short  "),
    ],
)
def test_options_that_say_nothing_are_refused(words):
    with pytest.raises(CmaiError):
        settings(*words)
