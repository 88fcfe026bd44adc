"""Which datasets there are, and how a name or a path becomes one.

To add a dataset: write one file beside this one, with a class that follows `pair.PairDataset`, and a row in DATASETS.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmai_core.data.pair import PairDataset
from cmai_core.data.subset import first
from cmai_core.errors import DataError, OptionError


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset that can be asked for by name.

    Attributes:
        name: what `load_dataset` takes.
        title: what people read.
        description: one sentence.
        splits: accepted split names, the usual one first.
        open: split → dataset; imports what it needs only when called.
    """

    name: str
    title: str
    description: str
    splits: tuple[str, ...]
    open: Callable[[str], PairDataset]


def _tabletop(split: str) -> PairDataset:
    from cmai_core.data.tabletop.dataset import Tabletop

    return Tabletop(split)


def _photos(split: str) -> PairDataset:
    from cmai_core.data.photos import Photos

    return Photos(split)


DATASETS = {
    info.name: info
    for info in (
        DatasetInfo(
            name="tabletop",
            title="Tabletop",
            description="Rendered scenes of coloured solids on a table; the truth about each is known.",
            splits=(
                "test", "validation", "train", "holdout",
                "test-light", "test-table", "test-viewpoint", "test-style", "test-corruption",
            ),
            open=_tabletop,
        ),
        DatasetInfo(
            name="photos",
            title="Photographs",
            description="Sample photographs that scikit-image ships, with captions written for this project.",
            splits=("test",),
            open=_photos,
        ),
    )
}  # fmt: skip


def available_datasets() -> tuple[DatasetInfo, ...]:
    """The datasets that can be asked for by name."""
    return tuple(DATASETS.values())


def load_dataset(name_or_path: str | Path, split: str = "test", limit: int | None = None) -> PairDataset:
    """Opens a dataset by its registered name, or a folder, CSV, TSV or JSONL file of pairs by its path.

    Args:
        name_or_path: a name of `available_datasets()`, else a path (see `cmai_core.data.folder` for the layouts). A
            folder that happens to be called like a dataset is addressed as "./photos".
        split: which part; files without a `split` column are one part, whatever its name.
        limit: only the first so many pairs.

    Raises:
        OptionError: unknown name or split, or a limit below 1; the message lists what is accepted.
        DataError: a file or row that cannot be used.
    """
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise OptionError(
            f"limit must be a whole number of at least 1, not {limit!r}.", "Leave it out to take all pairs."
        )
    info = DATASETS.get(name_or_path) if isinstance(name_or_path, str) else None
    if info is not None:
        if split not in info.splits:
            raise OptionError(
                f"The dataset {info.name} has no split {split!r}.", f"Choose one of {', '.join(info.splits)}."
            )
        return first(info.open(split), limit)

    if isinstance(name_or_path, str) and not name_or_path.strip():
        raise OptionError("No dataset was named.", f"Choose one of {', '.join(DATASETS)}, or give a path.")
    from cmai_core.data.folder import load_pairs

    path = Path(name_or_path)
    try:
        path = path.expanduser()
        exists = path.exists()
    except PermissionError as error:
        raise DataError(
            f"{name_or_path} cannot be read: {error.strerror}.", "Check the rights of its folder."
        ) from None
    except (OSError, ValueError, RuntimeError):  # a name too long, with a NUL, or of an unknown user
        exists = False
    if exists:
        return load_pairs(path, split, limit)
    shown = str(name_or_path)[:200]
    if path.suffix or "/" in shown or "\\" in shown:
        raise DataError(f"{shown}: no such file or folder.", "Check the path.")
    close = difflib.get_close_matches(shown, DATASETS, n=1)
    raise OptionError(
        f"There is no dataset called {shown!r}" + (f"; did you mean {close[0]!r}?" if close else "."),
        f"Choose one of {', '.join(DATASETS)}, or give the path of a folder, CSV or JSONL file of pairs.",
    )
