"""Pairs that somebody brings in one go: a ZIP of pictures with a table of sentences, as a dataset of their session.

Nothing is unpacked onto the disk: names in the archive are names and no paths. What an archive can cost is bounded
before and while it is read: entries, unpacked bytes, pictures, seconds. Pictures are decoded in processes of their own
(`apart`), and kept small. A row that cannot be used is rejected with its number and the reason; the others go on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cmai_core.data.apart import TOGETHER, decode_all_apart
from cmai_core.data.pair import Pair, TwoImageStatement
from cmai_core.data.plain import plain_line
from cmai_core.data.uploads import MAX_BYTES, clean_caption
from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.images import decode, encode
from cmai_core.progress import CancelToken, Progress, ProgressCallback

MAX_ARCHIVE = 10 * 1024 * 1024
"""Bytes of an archive."""
MAX_ENTRIES = 2000
"""Files in it."""
MAX_UNPACKED = 64 * 1024 * 1024
"""Bytes of all its files together, unpacked."""
MAX_TABLE = 1024 * 1024
"""Bytes of a table."""
MAX_ROWS, MAX_PAIRS = 2000, 128
"""Rows of a table that are read, and pictures that are kept."""
MAX_CAPTIONS = 10
"""Sentences of one picture."""
MAX_KEPT = 32 * 1024 * 1024
"""Bytes of the pictures that are kept, as PNG."""
KEPT_SIDE = 384
"""Longest side that is kept, in pixels."""
SECONDS_EACH, SECONDS = 3, 120.0
"""Of processor time for one picture, and on the clock for all of them."""
TABLES = (".csv", ".tsv", ".json", ".jsonl")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_IMAGE = ("image", "file", "path", "file_name", "filename")
_TEXT = ("caption", "captions", "text", "sentence")
_LABEL = ("label", "class")
_HINT = "Give a ZIP of pictures and a table (CSV or JSON) with the columns image and caption."


@dataclass(frozen=True)
class Rejected:
    """A row that was not used: its number in the table (a spreadsheet's: the heads are row 1), and why."""

    row: int
    what: str
    reason: str


@dataclass(frozen=True, eq=False)
class Brought:
    """What became of an archive: a dataset of the pairs that could be used, the rows that could not, and all rows."""

    pairs: SessionPairs
    rejected: tuple[Rejected, ...]
    rows: int


@dataclass
class _Item:
    """A picture with its sentences. `row`: the first that names it."""

    name: str
    row: int
    captions: list[str] = field(default_factory=list)
    label: str | None = None
    png: bytes = b""


class SessionPairs:
    """Brought pairs as a `PairDataset`: pictures as PNG in memory, decoded when they are read."""

    name = "session"
    statements: Sequence[TwoImageStatement] = ()

    def __init__(self, items: Sequence[tuple[str, bytes, tuple[str, ...], str | None]]):
        """Take the pairs.

        Args:
            items: file name, PNG, captions and label of each.
        """
        self._items = tuple(items)
        digest = hashlib.sha256()
        for name, png, captions, label in self._items:
            digest.update(repr((name, hashlib.sha256(png).hexdigest(), captions, label)).encode())
        self.split = digest.hexdigest()[:12]
        self.classes = tuple(sorted({label for *_, label in self._items if label is not None}))
        self.bytes = sum(len(png) for _, png, *_ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Pair:
        name, png, captions, label = self._items[index]
        return Pair(self.item_id(index), decode(png), captions, label=label, meta={"file": name})

    def item_id(self, index: int) -> str:
        """Return an item's id, without its picture."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a dataset of {len(self)}")
        return f"{self.name}/{self.split}/{index % len(self)}"

    def item_captions(self, index: int) -> tuple[str, ...]:
        """Return an item's captions, likewise."""
        return self._items[index][2]

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Return None: what is true of a picture beyond its own captions is not known."""
        return None


def read_batch(
    archive: bytes,
    table: bytes | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Brought:
    """Read a ZIP of pictures, with a table in it or beside it.

    Args:
        archive: the ZIP's bytes. table: a CSV, TSV, JSON or JSON-lines file with the columns (keys) image and caption,
            and label if there are classes; None: the one in the archive. Several rows of one picture are its sentences.
        progress: told of pictures. cancel: looked at between them.

    Raises:
        DataError: the archive or its table cannot be read as a whole, or no row could be used. Cancelled: when told to.
    """
    files = _opened(archive)
    rows = list(_rows(table if table is not None else _table_of(files)))
    items, rejected = _items(rows, files)
    clock = time.monotonic() + SECONDS
    kept = 0
    for start in range(0, len(items), TOGETHER):
        if cancel is not None:
            cancel.check()
        if progress is not None:
            progress(Progress(start, len(items), "Reading the pictures", {}))
        part = items[start : start + TOGETHER]
        if time.monotonic() > clock:
            rejected += [Rejected(item.row, item.name, "the pictures before it took too long") for item in part]
            continue
        kept = _decoded(part, files, kept, rejected)
    good = [(item.name, item.png, tuple(item.captions), item.label) for item in items if item.png]
    if not good:
        why = f" Row {rejected[0].row}: {rejected[0].reason}." if rejected else ""
        raise DataError(f"No row of the table could be used.{why}", _HINT)
    if any(label is None for *_, label in good):  # classes are known of all pictures, or of none
        good = [(*item[:3], None) for item in good]
    return Brought(SessionPairs(good), tuple(sorted(rejected, key=lambda one: one.row)), len(rows))


# --- the archive ------------------------------------------------------------------------------------------------------


class _Files:
    """The files of an archive, by name, read one by one and never unpacked."""

    def __init__(self, archive: zipfile.ZipFile, known: Mapping[str, zipfile.ZipInfo]):
        self._archive, self._known = archive, known

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def names(self, ends: Sequence[str]) -> list[str]:
        return [name for name in self._known if name.casefold().endswith(tuple(ends))]

    def read(self, name: str, most: int) -> bytes:
        """Return a file's bytes.

        Raises:
            DataError: it is larger than `most`, damaged, or packed in a way that is not read.
        """
        info = self._known[name]
        if info.flag_bits & 1:
            raise DataError(f"{name} is locked with a password.", "Pack it without one.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{name} is packed in an unusual way.", "Pack the files as a plain ZIP.")
        try:
            with self._archive.open(info) as file:
                data = file.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
            raise DataError(f"{name} is damaged in the archive.", "Pack it anew.") from None
        if len(data) > most:
            raise DataError(f"{name} has more than {most / 2**20:g} MB.", "Make it smaller.")
        return data


def _opened(data: bytes) -> _Files:
    """Look into an archive.

    Raises:
        DataError: it is none, too large, or has more in it than is read.
    """
    if len(data) > MAX_ARCHIVE:
        raise DataError(f"The archive has {len(data) / 2**20:.1f} MB.", f"At most {MAX_ARCHIVE // 2**20} MB are read.")
    if data.count(b"PK\x01\x02") > MAX_ENTRIES:  # before a list of them is made
        raise DataError(f"The archive has more than {MAX_ENTRIES} files.", "Pack fewer.")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        found = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, IndexError, OverflowError):
        raise DataError("The file is no ZIP archive, or damaged.", _HINT) from None
    if sum(info.file_size for info in found) > MAX_UNPACKED:
        raise DataError(f"Unpacked, the archive has more than {MAX_UNPACKED // 2**20} MB.", "Pack less into it.")
    return _Files(archive, {info.filename: info for info in found if not info.is_dir() and _plain(info)})


def _plain(info: zipfile.ZipInfo) -> bool:
    """Tell whether an entry is an ordinary file inside the archive: no link, no path that leads out of it."""
    name, mode = info.filename, info.external_attr >> 16
    if mode and mode & 0o170000 not in (0, 0o100000):
        return False
    outside = name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name[:3]
    hidden = name.startswith("__MACOSX/") or name.split("/")[-1].startswith(".")
    return not outside and not hidden and plain_line(name) == name and len(name) <= 300


# --- the table --------------------------------------------------------------------------------------------------------


def _table_of(files: _Files) -> bytes:
    found = files.names(TABLES)
    if len(found) != 1:
        many = "several tables" if found else "no table"
        raise DataError(f"There is {many} in the archive.", _HINT)
    return files.read(found[0], MAX_TABLE)


def _rows(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number, values by lower-case column) of a table.

    Raises:
        DataError: it is none, or has more rows than are read.
    """
    if len(data) > MAX_TABLE:
        raise DataError(f"The table has {len(data) / 2**20:.1f} MB.", f"At most {MAX_TABLE // 2**20} MB are read.")
    text = _text(data)
    rows: list[tuple[int, Any]]
    try:
        if text.lstrip()[:1] in ("[", "{"):
            rows = list(enumerate(_json(text), start=1))
        else:
            head = text.partition("\n")[0]
            table = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in head else ";" if ";" in head else ",")
            rows = list(enumerate(table, start=2))
    except (csv.Error, ValueError, RecursionError):
        raise DataError("The table is damaged, or neither CSV nor JSON.", _HINT) from None
    if len(rows) > MAX_ROWS:
        raise DataError(f"The table has {len(rows)} rows.", f"At most {MAX_ROWS} are read.")
    for number, row in rows:
        plain = isinstance(row, dict)
        yield number, {str(k).strip().casefold(): v for k, v in row.items() if k is not None} if plain else {}


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("The table is not UTF-8.", "Save it as “CSV UTF-8”.") from None


def _json(text: str) -> list[Any]:
    """Return the rows of a JSON list, of an object of name → sentence, or of JSON lines."""
    try:
        found = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(found, dict):
        named = any(key in found for key in _IMAGE)
        return [found] if named else [{"image": name, "caption": value} for name, value in found.items()]
    return found if isinstance(found, list) else [found]


# --- rows into items --------------------------------------------------------------------------------------------------


def _items(rows: Sequence[tuple[int, Mapping[str, Any]]], files: _Files) -> tuple[list[_Item], list[Rejected]]:
    """Join rows of one picture; returns what is to be decoded, and the rows that cannot be used."""
    places = {name.rsplit("/", 1)[-1]: name for name in reversed(files.names(PICTURES))}
    found: dict[str, _Item] = {}
    rejected: list[Rejected] = []
    for number, row in rows:
        name = _of(row, _IMAGE)
        shown = plain_line(str(name or "")[:200])[:80]
        try:
            whole = _file_of(name, files, places)
            captions = [clean_caption(text) for text in _texts(_of(row, _TEXT))]
            label = _of(row, _LABEL)
            label = clean_caption(label, 100) if isinstance(label, str) and label.strip() else None
            if whole not in found and len(found) >= MAX_PAIRS:
                raise DataError(f"there are {MAX_PAIRS} pictures before it")
            item = found.setdefault(whole, _Item(whole, number, label=label))
            if len(item.captions) + len(captions) > MAX_CAPTIONS:
                raise DataError(f"its picture has {MAX_CAPTIONS} sentences already")
            item.captions += [text for text in captions if text not in item.captions]
        except DataError as error:
            rejected.append(Rejected(number, shown, _reason(error)))
    return [item for item in found.values() if item.captions], rejected


def _file_of(name: Any, files: _Files, places: Mapping[str, str]) -> str:
    if not isinstance(name, str) or not name.strip():
        raise DataError("it names no picture")
    name = name.strip().removeprefix("./")
    whole = name if name in files else places.get(name, "")
    if not whole or not whole.casefold().endswith(PICTURES):
        raise DataError("there is no such picture (JPEG, PNG or WebP) in the archive")
    return whole


def _of(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _texts(value: Any) -> list[Any]:
    if value is None:
        raise DataError("it has no sentence")
    return value[: MAX_CAPTIONS + 1] if isinstance(value, list) else [value]


def _reason(error: CmaiError) -> str:
    words = error.message.rstrip(".")
    return words[:1].lower() + words[1:]


def _decoded(items: Sequence[_Item], files: _Files, kept: int, rejected: list[Rejected]) -> int:
    """Decode some pictures into their items; returns the bytes that are kept by now."""
    given: list[tuple[_Item, bytes]] = []
    for item in items:
        try:
            given.append((item, files.read(item.name, MAX_BYTES)))
        except DataError as error:
            rejected.append(Rejected(item.row, item.name[:80], _reason(error)))
    data, names = [data for _, data in given], ["The picture"] * len(given)
    pictures = decode_all_apart(data, names, side=KEPT_SIDE, seconds=SECONDS_EACH)
    for (item, _), picture in zip(given, pictures, strict=True):
        if isinstance(picture, DataError):
            rejected.append(Rejected(item.row, item.name[:80], _reason(picture)))
            continue
        png = encode(picture)
        if kept + len(png) > MAX_KEPT:
            rejected.append(Rejected(item.row, item.name[:80], "the pictures before it fill the room there is"))
            continue
        item.png, kept = png, kept + len(png)
    return kept
