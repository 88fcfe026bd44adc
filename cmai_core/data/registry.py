"""Which datasets there are, and how a name or a path becomes one.

To add a dataset: write one file beside this one, with a class that follows `pair.PairDataset`, and a row in DATASETS.
Another package adds one by an entry point of the group `cmai.datasets` that names its `DatasetInfo`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.data.pair import PairDataset
from cmai_core.data.subset import first
from cmai_core.errors import DataError, OptionError
from cmai_core.registry import Registry, imported

if TYPE_CHECKING:
    from cmai_core.data.composer import Composer
    from cmai_core.data.truth import GroundTruth

PHOTOGRAPHS = "photographs"
"""The kind of pictures that people took: whatever is no dataset of its own kind, uploads and folders included."""
_PHRASE = "a photo of {}"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A dataset that can be asked for by name, as far as it is known without opening it.

    Parts named "module:attribute" are imported when they are needed.

    Attributes:
        name: what `load_dataset` takes; items are called "<name>/<split>/<item>".
        title: what people read. description: one sentence. details: more about it.
        source: where it is from and its licence, one sentence.
        splits: accepted split names with their titles, the usual one first.
        open: split → dataset.
        sizes: split → number of pairs, where it is known.
        shown: splits whose pairs the lab's pages offer; None: the usual one. most: how many of a split's pairs these
            pages read; None: all.
        calibration: the split whose clean pairs thresholds are set on; "" where there is none to spare.
        shifts: splits that show the scenes of the usual split under other conditions. held_out: splits of scenes that
            training never combines.
        kind: what the pictures look like: thresholds, and models trained on them, hold for pairs of one kind.
        prompt: a class as a sentence; {} is the class with its article ("a red cube").
        questions: whether there are questions about its pictures.
        truth: its `GroundTruth`, where it knows what is in a picture. composer: its `Composer`, where its pictures can
            be made to order. statistics: measures the figures of its card and gives them as Markdown.
    """

    name: str
    title: str
    description: str
    splits: Mapping[str, str]
    open: Callable[[str], PairDataset] | str
    details: str = ""
    source: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    shown: tuple[str, ...] | None = None
    most: int | None = None
    calibration: str = ""
    shifts: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    kind: str = PHOTOGRAPHS
    prompt: str = _PHRASE
    questions: bool = False
    truth: GroundTruth | str | None = None
    composer: Callable[[], Composer] | str | None = None
    statistics: Callable[[], str] | str | None = None

    def __post_init__(self) -> None:
        if not self.splits:
            raise OptionError(f"The dataset {self.name!r} has no split.", "Give splits={name: title}.")
        if self.shown is None:
            object.__setattr__(self, "shown", (self.usual,))

    @property
    def usual(self) -> str:
        """The split that is used where none is named."""
        return next(iter(self.splits))

    def dataset(self, split: str = "") -> PairDataset:
        """Open a split; "": the usual one.

        Raises:
            OptionError: unknown split. DataError: it cannot be read.
        """
        split = split or self.usual
        if split not in self.splits:
            raise OptionError(
                f"The dataset {self.name} has no split {split!r}.", f"Choose one of {', '.join(self.splits)}."
            )
        return _part(self.open)(split)

    def ground_truth(self) -> GroundTruth | None:
        """Return what reads and judges sentences about its pictures; None where nobody knows what they show."""
        return _part(self.truth)

    def make_composer(self) -> Composer | None:
        """Return what makes its pictures to order; None where they are what they are."""
        return None if self.composer is None else _part(self.composer)()

    def card_figures(self) -> str | None:
        """Measure the figures of its card, as Markdown (which may take minutes); None where none are measured."""
        return None if self.statistics is None else _part(self.statistics)()


def _part(part: Any) -> Any:
    """Return the part itself, or the one of a name "module:attribute"."""
    return imported(part) if isinstance(part, str) else part


def _refuse(name: str, part: Any) -> str:
    if not isinstance(part, DatasetInfo):
        return f"it is a {type(part).__name__}, not a DatasetInfo"
    if part.name != name or not name.replace("-", "").replace("_", "").isalnum():
        return f"it calls itself {part.name!r}; a name has letters, digits, - and _"
    return ""


DEFAULT_DATASET = "tabletop"
"""The dataset that is used where none is named."""

_DATASETS = (
    DatasetInfo(
        name="tabletop",
        title="Tabletop",
        description="Rendered scenes of coloured solids on a table; the truth about each is known.",
        details="One to four objects: six shapes, eight colours, two materials, two sizes, varied light, table, "
        "backdrop and camera. Every scene knows its own truth, so captions, questions, statements and the sentences "
        "you type can be checked against it. There is a compositional hold-out with combinations never trained on, and "
        "five shifted variants of the test split (light, table, viewpoint, drawing style, corruption).",
        source="Made by this project's renderer; its licence is that of the project.",
        splits={
            "test": "test",
            "validation": "validation",
            "train": "training",
            "holdout": "new combinations",
            "final": "second test",
            "test-light": "other light",
            "test-table": "other tables",
            "test-viewpoint": "other viewpoints",
            "test-style": "drawn",
            "test-corruption": "corrupted",
        },
        open="cmai_core.data.tabletop.dataset:Tabletop",
        sizes={"test": 4000, "validation": 2000, "train": 64000, "holdout": 2000, "final": 4000}
        | dict.fromkeys(("test-light", "test-table", "test-viewpoint", "test-style", "test-corruption"), 4000),
        most=1000,
        calibration="validation",
        shifts=("test-light", "test-table", "test-viewpoint", "test-style", "test-corruption"),
        held_out=("holdout",),
        kind="tabletop",
        prompt="{}",
        questions=True,
        truth="cmai_core.data.tabletop.truth:TRUTH",
        composer="cmai_core.data.tabletop.compose:TabletopComposer",
        statistics="cmai_core.data.tabletop.statistics:markdown",
    ),
    DatasetInfo(
        name="photos",
        title="Photographs",
        description="Sample photographs that scikit-image ships, with captions written for this project.",
        details="The bundled models have never seen a photograph.",
        source="From the wheel of scikit-image; each picture's licence stands beside it.",
        splits={"test": ""},
        open="cmai_core.data.photos:Photos",
        sizes={"test": 17},
    ),
)

DATASETS: Registry[DatasetInfo] = Registry("dataset", "cmai.datasets", {info.name: info for info in _DATASETS}, _refuse)
"""Every dataset with a name."""


def available_datasets() -> tuple[DatasetInfo, ...]:
    """Return the datasets that can be asked for by name."""
    return tuple(DATASETS.values())


def kind_of(name: str) -> str:
    """Return the kind of pairs that a name belongs to.

    Args:
        name: of a dataset ("tabletop/validation"), of a pair ("upload/…"), or "scene" for a composed one.
    """
    info = composing_dataset() if name == COMPOSED else DATASETS.get(name.partition("/")[0])
    return PHOTOGRAPHS if info is None else info.kind


def kinds() -> tuple[str, ...]:
    """Return every kind of pictures that there is a dataset of, and photographs."""
    return tuple(dict.fromkeys((*(info.kind for info in DATASETS.values()), PHOTOGRAPHS)))


def kind_title(kind: str) -> str:
    """Return what people read for a kind of pictures: the titles of its datasets, or "photographs"."""
    return kind if kind == PHOTOGRAPHS else " or ".join(i.title for i in DATASETS.values() if i.kind == kind) or kind


def calibrating_dataset(kind: str) -> DatasetInfo | None:
    """Return the dataset on whose clean pairs thresholds for a kind of pictures are set; None where there is none."""
    return next((info for info in DATASETS.values() if info.calibration and info.kind == kind), None)


COMPOSED = "scene"
"""What a pair is called whose picture was composed."""


def composing_dataset() -> DatasetInfo | None:
    """Return the dataset whose pictures can be made to order; None where there is none."""
    return next((info for info in DATASETS.values() if info.composer is not None), None)


def dataset_words() -> str:
    """Return what a command's option says of the datasets there are."""
    return f"{', '.join(DATASETS)}, or the path of a folder, CSV or JSONL file of pairs"


def split_title(place: str) -> str:
    """Return what people read for "<dataset>/<split>", or an item of it, such as "Tabletop, test"."""
    name, split, *_ = (*place.split("/"), "")
    info = DATASETS.get(name)
    if info is None:
        return place
    title = info.splits.get(split, split)
    return f"{info.title}, {title}" if title else info.title


def load_dataset(name_or_path: str | Path, split: str = "test", limit: int | None = None) -> PairDataset:
    """Open a dataset by its registered name, or a folder, CSV, TSV or JSONL file of pairs by its path.

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
        return first(info.dataset(split), limit)

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
