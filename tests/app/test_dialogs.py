"""Choosing a pair: browsing with a search, uploading, composing; and what stands behind it."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from app.services.datasets import captions_of, lab_dataset, search_captions
from app.services.models import require_model
from app.services.pairs import lab_pair
from app.services.uploads import take_upload
from cmai_core.errors import CmaiError, DataError, ModelError


def picture(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def test_a_search_finds_captions_with_all_words():
    found = search_captions("tabletop", "red CUBE")
    assert 0 < len(found) < 1000
    assert all("red" in caption and "cube" in caption for _, caption in found)
    assert len(search_captions("tabletop", "")) == len(captions_of("tabletop")) == 1000
    assert search_captions("tabletop", "zeppelin") == []
    assert search_captions("photos", "cat")


def test_stored_captions_are_the_dataset_s_own():
    for index in (0, 7, 999):
        assert captions_of("tabletop")[index] == lab_dataset("tabletop")[index].captions


def test_an_item_is_read_once():
    items = lab_dataset("tabletop")
    assert items[3] is items[3] and len(items) == 1000 and items.name == "tabletop"
    again = items.dataset[3]
    assert again.captions == items[3].captions and (again.image == items[3].image).all()
    assert items.truth(items[3].captions[:2], [3]).all()


def test_pairs_are_found_by_name():
    pair = lab_pair("photos/test/coffee", "my sentence", None, "")
    assert pair.captions[0] == "my sentence" and pair.label == "cup of coffee"
    assert lab_pair("tabletop/test/12", "", None, "").id == "tabletop/test/12"
    for wrong in ("tabletop/test/1000", "photos/test/nobody", "x/y/z"):
        with pytest.raises(CmaiError):
            lab_pair(wrong, "", None, "")
    with pytest.raises(DataError, match="scene"):
        lab_pair("scene", "a", None, "{")


def test_an_upload_is_known_by_its_pixels():
    upload = take_upload(picture("PNG"))
    assert (upload.width, upload.height) == (60, 40)
    assert lab_pair(f"upload/{upload.sha}", "a", upload, "").image.shape == (40, 60, 3)
    with pytest.raises(DataError):
        lab_pair("upload/other", "a", upload, "")
    with pytest.raises(DataError):
        take_upload(b"not a picture")


def test_a_model_must_be_chosen():
    with pytest.raises(ModelError):
        require_model("  ", "B")
    assert require_model(" tabletop ", "A") == "tabletop"


@pytest.fixture
def dialog(app):
    """dialog(name): the inside of a dialog as a page of its own (AppTest does not keep dialogs open)."""
    from streamlit.testing.v1 import AppTest

    def opened(name: str) -> AppTest:
        script = f"""
from app import state
from app.components.frame import {name}
state.initialise()
{name}.{name}_body()
"""
        return AppTest.from_string(script, default_timeout=240).run()

    return opened


def test_uploading(dialog, app, texts):
    at = dialog("upload")
    at.file_uploader[0].set_value(("mine.png", picture(), "image/png")).run()
    at.text_input(key="upload_caption").set_value("noise in <b>colour</b>").run()
    at.button(key="upload_use").click().run()
    assert not at.exception and not at.error
    chosen = {name: at.session_state[name] for name in ("pair", "caption", "upload")}
    assert chosen["pair"] == f"upload/{chosen['upload'].sha}" and chosen["caption"] == "noise in <b>colour</b>"
    at = app(**chosen)
    assert "your picture" in texts(at) and not at.error
    assert any("only ever seen Tabletop" in w.value for w in at.warning)


def test_a_broken_upload_is_explained(dialog):
    at = dialog("upload")
    at.file_uploader[0].set_value(("mine.png", b"\x89PNG\r\n\x1a\n" + b"0" * 64, "image/png")).run()
    assert at.error and not at.exception
    assert at.session_state["upload"] is None


def test_nothing_of_a_broken_upload_is_kept_but_what_is_said_of_it(monkeypatch):
    """A traceback would hold the frames that read the file, and the file with them."""
    from app.services import uploads

    kept = {}
    monkeypatch.setattr(uploads.st, "session_state", kept)
    file = SimpleNamespace(file_id="1", name="a.png", type="image/png", getvalue=lambda: b"no picture" * 1000)
    for _ in range(2):
        with pytest.raises(DataError, match="JPEG"):
            uploads.taken(file)
    ((error,),) = (found.values() for found in kept.values())
    assert error.__traceback__ is None and error.__context__ is None


def test_composing(dialog, app, texts):
    at = dialog("compose")
    assert not at.exception and not at.error, texts(at)
    at.selectbox(key="compose_0_colour").set_value("green").run()
    assert "True of this scene" in texts(at)
    at.button(key="compose_use").click().run()
    chosen = {name: at.session_state[name] for name in ("pair", "caption", "scene")}
    assert chosen["pair"] == "scene" and '"green"' in chosen["scene"]
    at = app(**chosen)
    assert "composed here" in texts(at) and "True of this scene" in texts(at)
    at.text_input(key="caption").set_value("there is a purple ring").run()
    assert "Not true of this scene" in texts(at)


def test_browsing(dialog, texts):
    at = dialog("browse")
    assert "1000 pictures" in texts(at)
    at.text_input(key="browse_query").set_value("zeppelin").run()
    assert any("No caption holds" in i.value for i in at.info)
    at.text_input(key="browse_query").set_value("red cube").run()
    assert "Choose one" in texts(at) and not at.exception
