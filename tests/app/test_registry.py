"""A page of another package: it stands in the navigation and works, and nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.page import JobPage, Page
from app.registry import PAGES, _why_not

ROOT = Path(__file__).resolve().parents[2]

PACKAGE = '''
"""A page that counts: one module, one declaration."""

import streamlit as st

from app.needs import Need
from app.page import JobPage, Page

NOTHING = Need(lambda subject: "This needs what nobody has.", "attack_lab")


def work(upto, models, progress, cancel):
    return list(range(upto))


PAGE = JobPage(
    name="counting",
    title="Counting",
    icon=":material/tag:",
    heading="How far can it count?",
    lead="A page of another package.",
    button="Count",
    again="Count again",
    noun="count",
    form=lambda: st.number_input("Up to", value=3, key="counting_upto"),
    request=lambda: st.session_state.counting_upto,
    models=lambda upto: {},
    work=work,
    view=lambda made: st.markdown(f"counted {made}"),
    empty=lambda: st.markdown("nothing counted"),
    said=lambda made: f"numbers up to {len(made)}",
    moved_on=lambda made: (),
)
LACKING = Page(
    name="lacking", title="Lacking", icon=":material/tag:", body=lambda: st.markdown("drawn"), needs=(NOTHING,)
)
'''

ENTRY_POINTS = """[cmai.pages]
counting = other_package:PAGE
lacking = other_package:LACKING
misnamed = other_package:PAGE
no_page = other_package:work
attack_lab = other_package:PAGE
broken = other_package:missing
"""

SCRIPT = """
import sys, time, warnings
sys.path[:0] = [{root!r}, {folder!r}]
from streamlit.testing.v1 import AppTest

warnings.simplefilter("ignore")
at = AppTest.from_file({script!r}, default_timeout=120).run()
pages = {{page["url_pathname"]: script for script, page in at._registered_pages.items()}}
print("PAGES", *(name or "attack_lab" for name in pages))  # the first has no path of its own


def said():
    return [e.value for e in at.markdown] + [e.value for e in at.info] + [e.proto.body for e in at.get("html")]


at._page_hash = pages["counting"]
at.run()
assert not at.exception and not at.error, at.error
assert "nothing counted" in said() and any("How far can it count?" in text for text in said())
at.number_input(key="counting_upto").set_value(5)
at.button(key="start_counting").click().run()
end = time.monotonic() + 60
while at.session_state["page_counting_job"] is not None and time.monotonic() < end:
    time.sleep(0.05)
    at.run()
assert not at.exception and not at.error, at.error
assert "counted [0, 1, 2, 3, 4]" in said(), said()
at._page_hash = pages["lacking"]
at.run()
assert "drawn" not in said() and "This needs what nobody has." in said() and at.button(key="to_attack_lab")
print("WORKS")
"""


@pytest.fixture
def package(tmp_path) -> Path:
    """A folder as pip leaves it: a module, and its metadata with entry points."""
    (tmp_path / "other_package.py").write_text(PACKAGE)
    info = tmp_path / "other_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def test_a_page_of_another_package_works_like_the_lab_s_own(package):
    script = SCRIPT.format(root=str(ROOT), folder=str(package), script=str(ROOT / "app" / "streamlit_app.py"))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=package, capture_output=True, text=True, timeout=280,
        env=os.environ | {"CMAI_WARM_UP": "0", "CMAI_DATA": str(package)},
    )  # fmt: skip
    assert done.returncode == 0 and "WORKS" in done.stdout, done.stdout + done.stderr[-3000:]
    (pages,) = (line.split()[1:] for line in done.stdout.splitlines() if line.startswith("PAGES"))
    assert pages == [*PAGES, "counting", "lacking"]


def test_what_cannot_be_a_page_is_refused():
    page = Page(name="new", title="New", icon=":material/tag:")
    assert _why_not("new", page) == ""
    assert _why_not("other", page) and _why_not("new", "no page")
    for name in ("New", "a/b", "", "1st"):
        assert _why_not(name, replace(page, name=name))


def test_the_lab_s_own_pages_are_declared_under_their_names():
    assert {name: page.name for name, page in PAGES.items()} == {name: name for name in PAGES}
    assert next(iter(PAGES)) == "attack_lab"
    assert {name for name, page in PAGES.items() if isinstance(page, JobPage)} == {"explore", "explain"}
