"""The datasets of the lab: their items, captions and thumbnails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from cmai_core.data.pair import item_captions, item_id
from cmai_core.errors import DataError
from cmai_core.lab.images import data_url, thumbnail
from cmai_core.lab.places import place_of

if TYPE_CHECKING:
    from cmai_core.data.pair import PairDataset


@st.cache_resource(show_spinner=False, max_entries=4)
def lab_dataset(place: str) -> PairDataset:
    """Return a place of the lab ("<dataset>/<split>"), as far as the lab shows it."""
    from cmai_core.data.registry import DATASETS
    from cmai_core.data.subset import first
    from cmai_core.lab.cached_dataset import KeptItems

    name, _, split = place.partition("/")
    info = DATASETS.find(name)
    return KeptItems(first(info.dataset(split), info.most))


@st.cache_resource(show_spinner=False, max_entries=4)
def calibration_pairs(kind: str) -> PairDataset:
    """Return the clean pairs that thresholds for a kind of pictures are calibrated on.

    Raises:
        DataError: no dataset of this kind has pairs to spare.
    """
    from cmai_core.data.registry import calibrating_dataset, load_dataset
    from cmai_core.lab.cached_dataset import KeptItems
    from cmai_core.lab.choices import CALIBRATION_PAIRS

    info = calibrating_dataset(kind)
    if info is None:
        raise DataError(f"There are no pairs to set a threshold for {kind} on.", "Choose another pair.")
    return KeptItems(load_dataset(info.name, split=info.calibration, limit=CALIBRATION_PAIRS))


@st.cache_data(show_spinner=False, max_entries=4)
def captions_of(place: str) -> list[tuple[str, ...]]:
    """Return all captions of every item of a place."""
    items = lab_dataset(place)
    return [item_captions(items, k) for k in range(len(items))]


@st.cache_data(show_spinner=False, max_entries=4)
def ids_of(place: str) -> list[str]:
    """Return the ids of a place's items."""
    items = lab_dataset(place)
    return [item_id(items, k) for k in range(len(items))]


def index_of(pair_id: str) -> int:
    """Return the index of an item in its dataset.

    Raises:
        CmaiError: there is no such item.
    """
    try:
        return ids_of(place_of(pair_id)).index(pair_id)
    except ValueError:
        raise DataError(f"There is no picture {pair_id[:80]!r}.", "Choose one in the browser of examples.") from None


@st.cache_data(show_spinner=False, max_entries=2048)
def thumbnail_url(place: str, index: int) -> str:
    """Return a small lossy picture as a data: URL, for lists (never for comparing)."""
    return data_url(thumbnail(lab_dataset(place)[index].image, 128), "WEBP", 85)


def search_captions(place: str, query: str) -> list[tuple[int, str]]:
    """Return (index, caption) of the items with a caption that has every word of the query, the first such caption."""
    words = query.casefold().split()
    found = []
    for index, captions in enumerate(captions_of(place)):
        for caption in captions:
            if all(word in caption.casefold() for word in words):
                found.append((index, caption))
                break
    return found


@st.cache_resource(show_spinner=False, max_entries=4)
def _places(name: str, split: str) -> dict[str, int]:
    """Return id → index of the items of any split."""
    from cmai_core.data import load_dataset

    items = load_dataset(name, split=split)
    return {item_id(items, k): k for k in range(len(items))}


@st.cache_resource(show_spinner=False, max_entries=512)
def stored_pair(name: str, split: str, item: str) -> Any:
    """Return an item of any split, as a stored benchmark names it.

    Raises:
        CmaiError: there is no such dataset or item any more.
    """
    from cmai_core.data import load_dataset

    places = _places(name, split)
    if item not in places:
        raise DataError(f"The dataset {name} has no item {item!r} any more.", "Run the benchmark on it anew.")
    return load_dataset(name, split=split)[places[item]]
