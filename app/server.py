"""The lab as it is served: `cmai app`, or `streamlit run app/server.py`. The page itself is streamlit_app.py.

Streamlit finds `app` here and serves it; every request passes the gate first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import streamlit as st  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from streamlit import net_util  # noqa: E402

from app.access.gate import Gate  # noqa: E402
from app.access.permissions import OFFLINE  # noqa: E402

# Nothing in this process ever downloads: models come by children of their own, which visitors can end
# (`app.services.downloads`).
if OFFLINE not in os.environ:
    os.environ.update({OFFLINE: "1", "CMAI_CHILDREN_ONLINE": "1"})
# Before it refuses a foreign Origin Streamlit asks a service on the internet for this machine's address, for up to two
# seconds in which nobody is served. The gate has decided by then.
net_util.get_external_ip = lambda: None

app = st.App(Path(__file__).resolve().with_name("streamlit_app.py"), middleware=[Middleware(Gate)])
