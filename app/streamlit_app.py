"""The script that Streamlit runs for every page (`cmai app` and `make app` serve it through server.py).

It configures the page, initialises the session's state and navigates. Nothing heavy is imported before a page needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import streamlit as st  # noqa: E402

from app import address, flow, navigation, state, subject  # noqa: E402
from app.components.common.guard import guard  # noqa: E402
from app.components.common.status_bar import status_bar  # noqa: E402
from app.components.common.theme import inject_style  # noqa: E402
from app.components.frame.subject_bar import subject_bar  # noqa: E402
from app.services import presence  # noqa: E402

st.set_page_config(page_title="CMAI lab", page_icon="🛡️", layout="wide")
state.initialise()
presence.arrive()
with guard():
    subject.settle_models()
page = st.navigation(list(navigation.listed().values()), position="top")
with guard():
    navigation.arrived(page)
with guard():
    address.read(navigation.shown())
inject_style(large=bool(state.get(state.VIEW)))
with guard():
    flow.collect()
with guard(), st.container(key="status"):
    status_bar()
with guard():
    subject_bar()
with guard():
    page.run()
address.write(navigation.shown())
state.keep()
