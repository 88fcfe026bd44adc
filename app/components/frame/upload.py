"""The dialog in which a visitor uploads a picture."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.common.guard import guard
from app.components.common.theme import show
from app.services.uploads import taken
from app.subject import choose_pair
from cmai_core.data.plain import plain_line
from cmai_core.lab.experiment import MAX_CAPTION


@st.dialog("Use your own picture", width="medium", icon=":material/upload:")
def upload_dialog() -> None:
    """Open the upload."""
    upload_body()


def upload_body() -> None:
    """Draw the upload of a picture, and the field of its caption."""
    with guard():
        st.caption(
            "PNG, JPEG or WebP, up to 16 megapixels and 10 MB. It is decoded once, its metadata is dropped, a side "
            "longer than 1024 pixels is shrunk to that, and it stays in this session."
        )
        file = st.file_uploader("Picture", type=["png", "jpg", "jpeg", "webp"], key=state.UPLOAD_FILE)
        if file is None:
            return
        upload = taken(file)
        show(f'<img src="{upload.view}" alt="Your picture" style="max-width:100%;border-radius:6px;display:block">')
        st.caption(f"{upload.width}×{upload.height}")
        caption = st.text_input(
            "Sentence: what does it show?",
            key="upload_caption",
            max_chars=MAX_CAPTION,
            placeholder="two cats on a sofa",
        )
        if st.button("Use this picture", type="primary", key="upload_use", disabled=not plain_line(caption)):
            state.put(state.UPLOAD, upload)
            choose_pair(f"upload/{upload.sha}", caption)
            st.rerun()
