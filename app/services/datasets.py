"""The datasets of the lab: their items, captions and thumbnails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from cmai_core.errors import DataError
from cmai_core.lab.experiment import parse_pair_id
from cmai_core.lab.images import data_url, thumbnail

if TYPE_CHECKING:
    from cmai_core.data.pair import PairDataset


@st.cache_resource(show_spinner=False, max_entries=4)
def lab_dataset(name: str, split: str = "test") -> PairDataset:
    """Return a dataset of the lab: the bundled part of Tabletop's test split, or the photographs."""
    from cmai_core.data import load_dataset
    from cmai_core.lab.cached_dataset import KeptItems

    limit = 1000 if name == "tabletop" else None
    return KeptItems(load_dataset(name, split=split, limit=limit))


@st.cache_resource(show_spinner=False)
def calibration_pairs() -> PairDataset:
    """Return the clean pairs that thresholds are calibrated on; none of them can be attacked in the lab."""
    from cmai_core.data import load_dataset
    from cmai_core.lab.cached_dataset import KeptItems
    from cmai_core.lab.choices import CALIBRATION_PAIRS

    return KeptItems(load_dataset("tabletop", split="validation", limit=CALIBRATION_PAIRS))


@st.cache_data(show_spinner=False, max_entries=4)
def captions_of(name: str) -> list[tuple[str, ...]]:
    """Return all captions of every item."""
    if name == "tabletop":
        from cmai_core.data.tabletop.dataset import stored_file

        if stored_file().is_file():
            import pyarrow.parquet

            column = pyarrow.parquet.read_table(stored_file(), columns=["captions"])["captions"]
            return [tuple(captions) for captions in column.to_pylist()]
    items = lab_dataset(name)
    return [items[i].captions for i in range(len(items))]


@st.cache_data(show_spinner=False, max_entries=4)
def ids_of(name: str) -> list[str]:
    """Return the ids of a dataset's items."""
    if name == "tabletop":
        return [f"tabletop/test/{k}" for k in range(len(captions_of(name)))]
    items = lab_dataset(name)
    return [items[k].id for k in range(len(items))]


def index_of(pair_id: str) -> int:
    """Return the index of an item in its dataset.

    Raises:
        CmaiError: there is no such item.
    """
    name, _, _ = parse_pair_id(pair_id)
    try:
        return ids_of(name).index(pair_id)
    except ValueError:
        raise DataError(f"There is no picture {pair_id[:80]!r}.", "Choose one in the browser of examples.") from None


@st.cache_data(show_spinner=False, max_entries=2048)
def thumbnail_url(name: str, index: int) -> str:
    """Return a small lossy picture as a data: URL, for lists (never for comparing)."""
    return data_url(thumbnail(lab_dataset(name)[index].image, 128), "WEBP", 85)


def search_captions(name: str, query: str) -> list[tuple[int, str]]:
    """Return (index, caption) of the items with a caption that has every word of the query, the first such caption."""
    words = query.casefold().split()
    found = []
    for index, captions in enumerate(captions_of(name)):
        for caption in captions:
            if all(word in caption.casefold() for word in words):
                found.append((index, caption))
                break
    return found


@st.cache_resource(show_spinner=False, max_entries=4)
def _places(name: str, split: str) -> dict[str, int]:
    """Return id → index of the items of any split."""
    from cmai_core.data import load_dataset

    if name == "tabletop":
        return {f"tabletop/{split}/{k}": k for k in range(len(load_dataset(name, split=split)))}
    items = load_dataset(name, split=split)
    return {items[k].id: k for k in range(len(items))}


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
