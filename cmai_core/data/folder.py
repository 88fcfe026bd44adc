"""A folder, CSV, TSV or JSONL file of pairs.

Layouts of a folder, whichever is found:

- a table `captions.csv`, `captions.tsv`, `captions.jsonl`, or Hugging Face's `metadata.csv` / `metadata.jsonl`;
- otherwise a text file beside each picture (`cat.jpg`, `cat.txt`), one caption a line.

Columns (or JSON keys) of a table:

- the picture: `image`, `file`, `path`, `file_name` or `filename`, relative to the table's folder;
- the text: `caption`, `captions` or `text`; in JSONL also a list. Several rows with one picture make a 1:N pair;
- optional: `split`; `label` or `class`; `question` with `answer` (in JSONL also a list `answers`, of texts or of
  VQAv2's objects: each counts, and what most people answered comes first).

In a CSV, a cell of captions or answers may hold a JSON list. Flickr30k Entities' markup of phrases is taken off.
Pictures are decoded when they are read, by `uploads.decode_image`; a table is checked as a whole when it is opened.
Without a table, what lies beside the pictures and is not used is told in a `CmaiWarning`, and stands in
`FilePairs.left_out`; a table may leave pictures out.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from cmai_core.data.image_cache import ImageCache
from cmai_core.data.pair import Pair, Question, TwoImageStatement
from cmai_core.data.uploads import clean_caption, decode_image
from cmai_core.errors import CmaiWarning, DataError, OptionError
from cmai_core.files import explained

TABLES = ("captions.csv", "captions.tsv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
OTHER_PICTURES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".psd", ".raw",
    ".svg", ".tga", ".tif", ".tiff",
)  # fmt: skip

IMAGE_COLUMNS = ("image", "file", "path", "file_name", "filename")
CAPTION_COLUMNS = ("caption", "captions", "text")
LABEL_COLUMNS = ("label", "class")
ANSWER_COLUMNS = ("answer", "answers")

MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 1024 * 1024
MAX_CAPTION = 2_000
MAX_TABLE_BYTES = 256 * 1024 * 1024
MAX_FILES = 2_000_000
"""In a folder without a table: `/` given by mistake is said after a while, not walked through for ever."""
MAX_LABEL = 200
_NAMED = 5

_FIX_CAPTION = "Write a caption into it, or remove it."
_FIX_ANSWER = 'Accepted: a text, a number, or an object such as {"answer": "yes"}.'
# [/EN#1/people A man] in [/EN#2/clothing a blue shirt]
_PHRASE = re.compile(r"\[/?EN#\d+(?:/[\w-]+)*\s+([^\[\]]*)\]")


@dataclass
class _Entry:
    """One picture and what the table says about it; `where` is the first file and row that names it."""

    path: Path
    relative: str
    where: str
    captions: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    label: str = ""
    split: str = ""


class FilePairs:
    """Pairs whose pictures lie in files (`PairDataset`); `load_pairs` makes one.

    Attributes:
        left_out: files beside the pictures that are not used, each with the reason.
    """

    def __init__(self, name: str, split: str, entries: Sequence[_Entry], left_out: Sequence[str] = ()):
        self.name = name
        self.split = split
        self.left_out = tuple(left_out)
        self.classes = tuple(sorted({entry.label for entry in entries} - {""}))
        self._entries = tuple(entries)
        self._cache = ImageCache()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Pair:
        """Decode the picture. Raises DataError, naming file and row, where that fails."""
        entry = self._entries[index]
        return Pair(
            id=f"{self.name}/{self.split}/{entry.relative}",
            image=self._cache.get(entry.path, lambda: self._decode(entry)),
            captions=tuple(entry.captions),
            questions=tuple(entry.questions),
            label=entry.label or None,
            meta={"file": entry.relative},
        )

    def texts(self, count: int | None = None) -> Iterator[tuple[str, str]]:
        """Yield (file, text) of every caption and question of the first `count` pairs; no picture is decoded."""
        for entry in self._entries[:count]:
            for text in (*entry.captions, *(question.text for question in entry.questions)):
                yield entry.relative, text

    @property
    def statements(self) -> Sequence[TwoImageStatement]:
        return ()

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Return None: captions are known only by pairing."""
        return None

    @staticmethod
    def _decode(entry: _Entry) -> np.ndarray:
        name = entry.relative if entry.where == entry.relative else f"{entry.where}: {entry.relative}"
        return decode_image(entry.path, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, name=name)


def load_pairs(path: str | Path, split: str = "test", limit: int | None = None) -> FilePairs:
    """Open a folder, or a CSV, TSV or JSONL file, of pairs. See the module for the layouts.

    Args:
        path: the folder or file.
        split: rows of this split, where the table has a `split` column; otherwise only a name.
        limit: only the first so many pictures.

    Raises:
        DataError: nothing to read, a missing column, an empty caption, a missing picture or one outside the folder; the
            message names file and row.
        OptionError: the table has splits, but not this one.

    Warns:
        CmaiWarning: files that are left out, counted, the first of them named with the reason.
    """
    path = Path(path)
    left_out: list[str] = []
    with explained(path, "read"):
        kind = "folder" if path.is_dir() else "file" if path.is_file() else ""
        if kind == "folder":
            entries, name = _from_folder(path, split, left_out), path.resolve().name
    if kind == "file" and path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        entries, name = _from_table(path, split), path.stem
    elif kind != "folder":
        raise DataError(
            f"{path} is neither a folder nor a .csv, .tsv or .jsonl file.",
            "Give a folder of pictures with captions, or a table with the columns image and caption.",
        )
    if left_out:
        more = f", and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        warnings.warn(
            f"{path}: {len(left_out)} left out: {', '.join(left_out[:_NAMED])}{more}.", CmaiWarning, stacklevel=3
        )
    return FilePairs(name, split, entries[:limit], left_out)


def _from_folder(folder: Path, split: str, left_out: list[str]) -> list[_Entry]:
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(
            f"{folder} holds more than one table: {', '.join(table.name for table in tables)}.",
            "Give the path of the one you mean, or move the others away.",
        )
    if not tables:
        return _from_text_files(folder, left_out)
    _inside(folder.resolve(), tables[0].name, str(folder))
    return _from_table(tables[0], split)


def _walk(base: Path) -> list[Path]:
    """Every file below a folder but hidden ones, in order; links to folders are not followed.

    Raises:
        DataError: a folder that cannot be read, a name that is no text, or too many files.
    """

    def unreadable(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for place, folders, names in os.walk(base, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                _check_name(os.path.join(place, name))
                found.append(Path(place, name))
        if len(found) > MAX_FILES:
            raise DataError(f"{base} holds more than {MAX_FILES:,} files.", "Give the folder of the pictures itself.")
    return sorted(found)


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"The name {name!a} is not UTF-8 text.", "Rename the file.") from None


def _from_text_files(folder: Path, left_out: list[str]) -> list[_Entry]:
    base = folder.resolve()
    found = [item for item in _walk(base) if item.is_file()]
    images = [item for item in found if item.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DataError(
            f"{folder} holds no JPEG, PNG or WebP picture.",
            "Put pictures into it, and captions.csv with the columns image and caption.",
        )
    described = {image.with_suffix("") for image in images}
    for item in found:
        relative = item.relative_to(base).as_posix()
        if item.suffix.lower() in OTHER_PICTURES:
            left_out.append(f"{relative} (not JPEG, PNG or WebP)")
        elif item.suffix == ".txt" and item.with_suffix("") not in described:
            left_out.append(f"{relative} (no JPEG, PNG or WebP picture beside it)")
    captioned = [image for image in images if image.with_suffix(".txt").is_file()]
    if not captioned:
        raise DataError(
            f"{folder} holds pictures but no captions.",
            "Add captions.csv with the columns image and caption, or text files beside the pictures: cat.jpg, cat.txt.",
        )
    entries = []
    for image in images:
        relative = image.relative_to(base).as_posix()
        text = image.with_suffix(".txt")
        text_name = text.relative_to(base).as_posix()
        if not text.is_file():
            raise DataError(
                f"{relative} has no {text_name} beside it.", "Write its captions into that file, one a line."
            )
        entry = _Entry(_inside(base, relative, relative), relative, relative)
        _inside(base, text_name, text_name)
        for number, line in enumerate(_read_text(text, text_name).splitlines(), start=1):
            if line.strip():
                entry.captions.append(_caption(line, f"{text_name}, line {number}"))
        if not entry.captions:
            raise DataError(f"{text_name} is empty.", "Write a caption into it, one a line.")
        entries.append(entry)
    return entries


def _from_table(path: Path, split: str) -> list[_Entry]:
    rows = _jsonl_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)
    base = path.parent.resolve()  # not the target of a link
    entries: dict[Path, _Entry] = {}
    names: dict[str, _Entry] = {}  # as the table spells them: a picture's path is resolved once, not once a caption
    for where, row in rows:
        named = _text(row, IMAGE_COLUMNS, where)
        if not named:
            raise DataError(f"{where}: no picture is named.", "Fill in the column image, or remove the row.")
        if named not in names:
            relative = named.replace("\\", "/")
            resolved = _inside(base, relative, where)
            names[named] = entries.setdefault(resolved, _Entry(resolved, relative, where))
        _add_row(names[named], where, row)
    if not entries:
        raise DataError(f"{path.name} has no rows.", "Write one row for each caption: image,caption")
    for entry in entries.values():
        if not entry.captions:
            raise DataError(f"{entry.where}: {entry.relative} has questions but no caption.", "Add a row with one.")
    chosen = [entry for entry in entries.values() if entry.split in ("", split)]
    if not chosen:
        splits = ", ".join(sorted({entry.split for entry in entries.values()}))
        raise OptionError(f"{path.name} has no rows of the split {split!r}.", f"Choose one of {splits}.")
    return chosen


def _add_row(entry: _Entry, where: str, row: dict[str, Any]) -> None:
    question = _question(row, where)
    if question:
        entry.questions.append(question)
    captions = _items(_first(row, CAPTION_COLUMNS), where, _FIX_CAPTION)
    if not captions:
        raise DataError(f"{where}: the list of captions is empty.", _FIX_CAPTION)
    for caption in captions:
        if question and (caption is None or caption == ""):
            continue
        entry.captions.append(_caption(caption, where))

    for what, names in (("label", LABEL_COLUMNS), ("split", ("split",))):
        new, old = _line(_text(row, names, where), what, where), getattr(entry, what)
        if new and old not in ("", new):
            raise DataError(
                f"{where}: {entry.relative} has the {what} {new!r}, earlier {old!r}.", f"Give it one {what}."
            )
        setattr(entry, what, new or old)


def _question(row: dict[str, Any], where: str) -> Question | None:
    text = _text(row, ("question",), where)
    given = [a for a in (_answer(item, where) for item in _items(_first(row, ANSWER_COLUMNS), where, _FIX_ANSWER)) if a]
    if not text and not given:
        return None
    if not text or not given:
        missing = "answer" if text else "question"
        raise DataError(f"{where}: the {missing} is missing.", "A question needs an answer, and an answer a question.")
    # Stable: of answers that equally many people gave, the one given first.
    counts = Counter(given)
    return Question(_caption(text, where), tuple(sorted(given, key=lambda answer: -counts[answer])))


def _items(value: Any, where: str, fix: str) -> list[Any]:
    """Return what a cell holds, one or several: a JSON list or object in a text is read as such.

    Raises:
        DataError: a list or object that is written in another way.
    """
    if isinstance(value, str) and re.match(r"""\[\s*[\["'{]|\{\s*["']""", value.strip()):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: {value.strip()[:40]!r} is neither text nor JSON.", fix) from None
    return value if isinstance(value, list) else [value]


def _answer(value: Any, where: str) -> str:
    """One accepted answer: "" where it is empty.

    Raises:
        DataError: of another type than text, number or an object with `answer`.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in ("answer", "raw_answer", "text") if key in value), value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"{where}: an answer must be text, not {type(value).__name__}.", _FIX_ANSWER)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where}: the answer {value} is no number.", _FIX_ANSWER)
        value = f"{value:.12g}"
    return _caption(str(value), where)


def _caption(value: Any, where: str) -> str:
    try:
        text = clean_caption("" if value is None else value, max_chars=MAX_CAPTION)
    except DataError as error:
        raise DataError(f"{where}: {error.message[0].lower()}{error.message[1:]}", _FIX_CAPTION) from None
    if "EN#" not in text:
        return text
    plain = " ".join(_PHRASE.sub(r"\1", text).split())
    if "EN#" in plain or not plain:
        raise DataError(f"{where}: {text[:60]!r} is markup, not a caption.", "Take the markup of its phrases off.")
    return plain


def _inside(base: Path, relative: str, where: str) -> Path:
    """Return the resolved path of a picture; refuse whatever lies, or leads through a link, outside `base`."""
    windows = PureWindowsPath(relative)
    outside = DataError(
        f"{where}: {relative} leads out of the folder {base.name}.",
        "Name pictures relative to the table, inside its folder.",
    )
    if windows.drive or windows.root or ".." in windows.parts:
        raise outside
    try:
        path = (base / relative).resolve()
        if not path.is_relative_to(base):
            raise outside
        found = path.is_file()
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, a loop of links
        raise DataError(f"{where}: {relative[:200]!r} is no usable path ({error}).", "Correct the name.") from None
    if not found:
        raise DataError(f"{where}: there is no file {relative}.", "Correct the name, or add the picture to the folder.")
    return path


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and row, values by column); the header is row 1, as in a spreadsheet."""
    text = _read_text(path, path.name)
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    try:
        for number, cells in enumerate(reader, start=1):
            where = f"{path.name}, row {number}"
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip().lower() for cell in cells]
                _check_columns(columns, path.name)
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"{where}: {len(cells)} cells under {len(columns)} columns.",
                    'Put text that holds the separator into quotes: "a cat, asleep".',
                )
            yield where, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num}: {error}.", "Check the quotes of that row.") from None
    if not columns:
        raise DataError(f"{path.name} is empty.", "Its first row names the columns: image,caption")


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_read_text(path, path.name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, row {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: not JSON ({error}).", 'One object a line: {"image": "a.jpg", "caption": "…"}'
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object.", 'One object a line: {"image": "a.jpg", "caption": "…"}')
        row = {str(key).strip().lower(): value for key, value in row.items()}
        _check_columns(list(row), where)
        yield where, row


def _check_columns(columns: list[str], where: str) -> None:
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise DataError(f"{where}: the column {twice[0]} occurs twice.", "Name each column once.")
    wanted = [("picture", IMAGE_COLUMNS)]
    if "question" not in columns:
        wanted.append(("caption", CAPTION_COLUMNS))
    for what, names in wanted:
        if not any(name in columns for name in names):
            raise DataError(
                f"{where}: no column for the {what} (found: {', '.join(columns)[:200] or 'nothing'}).",
                f"Name one of its columns {', '.join(names[:-1])} or {names[-1]}.",
            )


def _first(row: dict[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _text(row: dict[str, Any], names: Sequence[str], where: str) -> str:
    value = _first(row, names)
    if value is None:
        return ""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise DataError(f"{where}: {names[0]} must be text, not {type(value).__name__}.", "Put it in quotes.")
    return str(value).strip()


def _line(text: str, what: str, where: str) -> str:
    """Return a label or a split's name as one line of plain text; "" stays so."""
    try:
        return clean_caption(text, max_chars=MAX_LABEL) if text else ""
    except DataError:
        raise DataError(
            f"{where}: the {what} {text[:40]!r} is not accepted.", f"Accepted: up to {MAX_LABEL} visible characters."
        ) from None


def _read_text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(f"{name} is larger than {MAX_TABLE_BYTES // 2**20} MB.", "Split it.")
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{name}, row {line}: not UTF-8 text.", "Save the file with the encoding UTF-8.") from None
    except OSError as error:
        raise DataError(
            f"{name} cannot be read: {(error.strerror or str(error)).lower()}.", "Check its permissions."
        ) from None
