"""Every page and every dialog opens in a real browser, without an error."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

PAGES = {
    "": "Same picture to you",
    "/explore": "Find failures by eye",
    "/explain": "Where do the models look",
    "/immunize": "How does the cure work",
    "/lessons": "Predict first",
    "/benchmark": "How robust are the models",
    "/review": "Which flagged pairs are attacks",
    "/about": "Models, data and how to bring your own",
}


def test_every_page_opens(open_lab):
    lab = open_lab()
    for path, headline in PAGES.items():
        lab.open(path)
        assert headline in lab.text(), path
        lab.no_error()


@pytest.mark.parametrize(
    ("button", "words"),
    [("open_browse", "Choose one"), ("open_upload", "up to 16 megapixels"), ("open_compose", "True of this scene")],
)
def test_every_dialog_opens(open_lab, button, words):
    lab = open_lab()
    lab.open()
    lab.unfold("pair_menu", f".st-key-{button} button")
    lab.press(button)
    lab.until(lambda: words in lab.text("[data-testid=stDialog]"), 90, words)
    lab.no_error()


def test_a_file_that_is_no_picture_is_explained(open_lab, tmp_path):
    lab = open_lab()
    lab.open()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    lab.unfold("pair_menu", ".st-key-open_upload button")
    lab.press("open_upload")
    lab.until(lambda: lab.all("[data-testid=stDialog] input[type=file]"))[0].send_keys(str(broken))
    lab.until(lambda: lab.all("[data-testid=stDialog] [data-testid=stAlert]"), 30, "an explanation")
    lab.no_error()
