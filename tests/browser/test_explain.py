"""The page Explain in a browser: the bundled example at once, every view, narrow and dark."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

VIEWS = {
    "Heat maps": "deletion AUC",
    "Heads": "a row a layer",
    "Written words": "word by word",
    "Picture ↔ words": "which words look at a patch",
    "Causal trace": "as many random ones",
}


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_every_view_of_the_bundled_example_is_there_at_once(open_lab, width, dark):
    lab = open_lab(width, 900, dark)
    lab.open("/explain")
    lab.wait_for_text("the attacked run chose the latter")
    assert "leaves the patches" in lab.charts()
    for view, words in VIEWS.items():
        lab.tab(view)
        lab.wait_for_text(words)
        lab.no_error()
    overflow = "return document.documentElement.scrollWidth > window.innerWidth"
    assert not lab.browser.execute_script(overflow)


def test_a_link_opens_a_view(open_lab):
    lab = open_lab()
    lab.open("/explain?show=heads")
    lab.wait_for_text("a row a layer")
    lab.no_error()
