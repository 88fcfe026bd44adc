"""The first screen: nothing heavy is imported for it, and it stands without any model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
from streamlit.testing.v1 import AppTest
before = set(sys.modules)  # the test harness itself imports plotly
at = AppTest.from_file("app/streamlit_app.py", default_timeout=60).run()
assert not at.exception, at.exception
heavy = ["torch", "open_clip", "captum", "umap", "numba", "plotly", "sklearn", "transformers", "scipy", "skimage"]
found = [name for name in heavy if name in set(sys.modules) - before]
assert not found, found
body = " ".join(e.proto.body for e in at.get("html"))
assert "Same picture to you, different meaning to the model" in body
assert {b.key for b in at.button} >= {"hero_help", "start_attack", "undo"}
"""


def test_the_first_run_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
