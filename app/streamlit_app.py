"""The web lab's page, which server.py serves (`cmai app`, `make app`).

Configures the page, initialises the session's state, navigates. Nothing heavy is imported before a page needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import streamlit as st  # noqa: E402

from app import navigation, presence, state  # noqa: E402
from app.components.attack_form import settle_models  # noqa: E402
from app.components.chip import status_chip  # noqa: E402
from app.components.guard import guard  # noqa: E402
from app.components.theme import inject_style  # noqa: E402

st.set_page_config(page_title="CMAI lab", page_icon="🛡️", layout="wide")
state.initialise()
presence.arrive()
inject_style()
with guard():
    settle_models()
page = st.navigation(
    [
        st.Page("app_pages/attack_lab.py", title="Attack lab", icon=":material/experiment:", default=True),
        st.Page("app_pages/distributions.py", title="Distributions", icon=":material/bar_chart:"),
        st.Page("app_pages/embedding_map.py", title="Embedding map", icon=":material/scatter_plot:"),
        st.Page("app_pages/attention.py", title="Attention & attribution", icon=":material/visibility:"),
        st.Page("app_pages/benchmark.py", title="Benchmark", icon=":material/leaderboard:"),
        st.Page("app_pages/review.py", title="Review", icon=":material/rate_review:"),
        st.Page("app_pages/about.py", title="Models & about", icon=":material/info:"),
    ],
    position="top",
)
with guard():
    navigation.arrived(page)
with guard():
    status_chip()
with guard():
    page.run()
state.keep()
