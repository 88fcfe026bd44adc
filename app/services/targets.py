"""What a typed target is read as for the chosen pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.services.datasets import lab_dataset
from app.services.pairs import lab_pair
from cmai_core.errors import OptionError

if TYPE_CHECKING:
    from app.services.uploads import Upload


@st.cache_data(show_spinner=False, max_entries=256)
def target_note(text: str, pair_id: str, caption: str, scene_json: str, _upload: Upload | None) -> tuple[bool, str]:
    """Return whether a target can be aimed at, and in a sentence what it is read as or why not."""
    from cmai_core.lab.places import place_of
    from cmai_core.lab.run import with_sentence
    from cmai_core.lab.target import read_target

    pair = with_sentence(lab_pair(pair_id, caption, _upload, scene_json), caption)
    try:
        found = read_target(text, pair, lab_dataset(place_of(pair_id)))
    except OptionError as error:
        return False, f"{error.message} {error.hint}".strip()
    return not found.refusal, found.refusal or found.why
