"""The pair that a session has chosen: an item of a dataset, an upload, or a composed scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.services.datasets import index_of, lab_dataset, thumbnail_url
from app.services.pictures import picture_url
from app.services.showcase import showcase
from cmai_core.data.registry import COMPOSED, composing_dataset
from cmai_core.errors import DataError
from cmai_core.lab.experiment import parse_pair_id
from cmai_core.lab.images import data_url, decode
from cmai_core.lab.places import place_of

if TYPE_CHECKING:
    from app.services.uploads import Upload
    from cmai_core.data.composer import Composer
    from cmai_core.data.pair import Pair


@st.cache_resource(show_spinner=False)
def composer() -> Composer | None:
    """Return what makes scenes to order; None if no dataset can."""
    info = composing_dataset()
    return None if info is None else info.make_composer()


@st.cache_resource(show_spinner="Rendering …", max_entries=64)
def composed(scene_json: str) -> Pair:
    """Render a composed scene and return it as a pair with its true captions."""
    return composer().pair(composer().read(scene_json))


@st.cache_data(show_spinner="Rendering …", max_entries=64)
def preview_url(scene_json: str) -> str:
    """Render a composed scene three times as fine as the models see it; returns a data: URL."""
    return data_url(composer().picture(composer().read(scene_json), 384))


def chosen_thumbnail(pair_id: str, upload: Upload | None, scene_json: str) -> tuple[str, str]:
    """Return (data: URL, where the picture comes from) of the chosen pair; the bundled example needs no dataset."""
    if not pair_id:
        return "", ""
    bundle = showcase()
    if bundle and pair_id == bundle.result.experiment.pair:
        return picture_url(bundle.result.first_example.clean, side=160), pair_id
    if pair_id == COMPOSED:
        return picture_url(composed(scene_json).image), "composed here"
    if pair_id.startswith("upload/"):
        return own_upload(pair_id, upload).small, "your picture"
    name, split, item = parse_pair_id(pair_id)
    return thumbnail_url(f"{name}/{split}", index_of(pair_id)), f"{name} · {split} · {item}"


def truth_note(pair_id: str, caption: str, scene_json: str) -> tuple[bool | None, str] | None:
    """Return whether the caption is true of the chosen scene, and a sentence about it; None for photographs."""
    bundle = showcase()
    if bundle and (pair_id, caption) == (bundle.result.experiment.pair, bundle.result.experiment.caption):
        return True, "True of this scene."  # one of the scene's own captions: no need to load anything for it
    return _judged(pair_id, caption, scene_json)


@st.cache_data(show_spinner=False, max_entries=256)
def _judged(pair_id: str, caption: str, scene_json: str) -> tuple[bool | None, str] | None:
    from cmai_core.lab.judgement import judge

    if pair_id.startswith("upload/"):
        return None
    scene = composed(scene_json).scene if pair_id == COMPOSED else lab_pair(pair_id, "", None, "").scene
    return None if scene is None else judge(caption, scene)


def lab_pair(pair_id: str, caption: str, upload: Upload | None, scene_json: str) -> Pair:
    """Return the pair of an id, its caption put first.

    Raises:
        DataError: the picture is not here (a link to somebody's upload, an index out of range).
    """
    import dataclasses

    from cmai_core.data.pair import Pair

    if pair_id == COMPOSED:
        return composer().pair(composer().read(scene_json), caption)
    if pair_id.startswith("upload/"):
        picture = decode(own_upload(pair_id, upload).png)
        return Pair(pair_id, picture, (caption,), meta={"source": "uploaded"})
    pair = lab_dataset(place_of(pair_id))[index_of(pair_id)]
    if not caption:
        return pair
    return dataclasses.replace(pair, captions=(caption, *(c for c in pair.captions if c != caption)))


def own_upload(pair_id: str, upload: Upload | None) -> Upload:
    """Return this session's upload, if the pair is made of it.

    Raises:
        DataError: it is somebody else's.
    """
    if upload is None or pair_id != f"upload/{upload.sha}":
        raise DataError(
            "This link was made with an uploaded picture, which stays with the person who uploaded it.",
            "Upload the same picture here to go on.",
        )
    return upload
