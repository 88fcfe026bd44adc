"""Damaged folders and tables, made at random from sound ones: each is read, or refused by file and row with a hint."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import unicodedata
import warnings
from pathlib import Path

import pytest
from PIL import Image

from cmai_core import cli
from cmai_core.data import load_dataset
from cmai_core.errors import CmaiError

NUMBER = 300
KINDS = ("csv", "tsv", "jsonl", "texts")
STRANGE = (
    *(
        "",
        " ",
        "\0",
        "\ufeff",
        "\u202e",
        "\u200b",
        "\x1b[2J",
        "\ud800",
        "\r",
        "é",
        "e\u0301",
        "../secret.png",
        "/etc/passwd",
    ),
    *(
        "a" * 300,
        "a" * 3000,
        "[/EN#1/people A man]",
        "[/EN#",
        "['a']",
        '["a", 1]',
        '[{"answer": "x"}]',
        "{'a': 1}",
        "NaN",
    ),
    *('"', '""', "'", ",", ";", "\t", "\n", "=cmd()", "$(id)", "{0}", "%s", "\\", "a.png/..", "C:\\a.png", "~", "."),
)
VALUES = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        1e400,
        10**30,
        [],
        [[]],
        {},
        [None],
        [1],
        {"answer": "a"},
        {"answer": None},
        {"answer": {}},
    ),
    *([{"answer": "yes", "answer_id": 1}], [{"answer": ["yes"]}], {"text": 3}, ["a", "b", ""], "a" * 3000),
)
KEYS = ("image", "caption", "captions", "question", "answer", "answers", "label", "split", "file", "Image", "", "text")
NAMES = ("a.png", "b.jpg", "c.tif", "d.gif", "e.webp", "f.PNG", "g.txt", "h", ".i.png", "j.png.txt", "k.jpeg")


def sound(folder: Path, kind: str) -> Path:
    """A folder of three pairs; what to open."""
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (6, 6), (number * 40, 9, 9)).save(folder / name)
    rows = [
        {"image": "a.png", "caption": "a cat", "question": "is it a cat?", "answer": "yes", "split": "test"},
        {"image": "b.png", "caption": "a dog", "label": "dog"},
        {"image": "c.png", "caption": "a fox, asleep"},
    ]
    if kind == "texts":
        for row in rows:
            (folder / row["image"]).with_suffix(".txt").write_text(row["caption"])
        return folder
    file = folder / f"captions.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder
    columns, mark = ("image", "caption", "question", "answer", "label", "split"), "," if kind == "csv" else "\t"
    lines = [mark.join(columns), *(mark.join(f'"{row.get(name, "")}"' for name in columns) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return folder


def damage(folder: Path, kind: str, rng: random.Random) -> None:
    """Changes one thing: bytes of a file, a value, a key, a name, or what lies at a name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = rng.choice(files)
    choice = rng.randrange(7)
    if choice == 0:  # bytes
        data = bytearray(file.read_bytes() or b"x")
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data[: rng.choice((len(data), len(data) // 2, 1, 0))])
    elif choice == 1:  # a piece of text put in
        table = next((path for path in files if path.suffix in (".csv", ".tsv", ".jsonl", ".txt")), file)
        text, piece = table.read_bytes(), rng.choice(STRANGE).encode("utf-8", "surrogatepass")
        at = rng.randrange(len(text) + 1)
        table.write_bytes(text[:at] + piece + text[at:])
    elif choice in (2, 3) and kind == "jsonl":  # a value or a key of another type
        table = folder / "captions.jsonl"
        if not table.is_file():
            return
        try:
            rows = [json.loads(line) for line in table.read_text(errors="replace").splitlines() if line.strip()]
            row = rng.choice([row for row in rows if isinstance(row, dict)])
        except (ValueError, IndexError):  # damaged before
            return
        row[rng.choice(KEYS)] = rng.choice((*VALUES, *STRANGE))
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif choice == 4:  # another name
        target = folder / rng.choice(NAMES)
        if not target.exists():
            file.rename(target)
    elif choice == 5:  # a folder, a link or a pipe where a file should be
        file.unlink()
        made = rng.randrange(5)
        if made == 0:
            file.mkdir()
        elif made == 1:
            os.symlink(rng.choice(("/etc/passwd", file.name, "nowhere", "/dev/zero", "..")), file)
        elif made == 2:
            os.mkfifo(file)
        elif made == 3:
            os.symlink(folder, folder / "again")
    else:  # something beside it
        name = rng.choice((*NAMES, "captions.csv", "metadata.jsonl", "\x1b[2J.png", "new\nline.txt", "\udcff.png"))
        if not (folder / name).exists():
            shutil.copy(file, folder / name)


def is_plain(text: str) -> bool:
    return bool(text.strip()) and not any(unicodedata.category(sign) in ("Cc", "Cs", "Co") for sign in text)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_folders_are_read_or_refused(tmp_path, kind):
    refused = read = 0
    for seed in range(NUMBER // len(KINDS)):
        rng = random.Random(f"{kind}/{seed}")
        folder = sound(tmp_path / str(seed), kind)
        for _ in range(rng.choice((1, 1, 2, 4))):
            if any(path.is_file() for path in folder.rglob("*")):
                damage(folder, kind, rng)
        try:
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                pairs = list(load_dataset(folder))
        except CmaiError as error:
            refused += 1
            assert error.message and error.hint, (kind, seed)
            continue
        read += 1
        for pair in pairs:
            assert pair.captions and pair.image.shape[2] == 3, (kind, seed)
            json.dumps([pair.id, pair.label]).encode()
            pair.id.encode()
            texts = [*pair.captions, *(q.text for q in pair.questions), *(a for q in pair.questions for a in q.answers)]
            assert all(map(is_plain, texts + ([pair.label] if pair.label else []))), (kind, seed, texts)
    assert refused > NUMBER // 20 and read > NUMBER // 20


def test_a_refusal_moves_no_cursor(tmp_path, capsys):
    """What a file or a name says reaches the terminal spelt out."""
    folder = sound(tmp_path / "f", "jsonl")
    (folder / "captions.jsonl").write_text(json.dumps({"image": "\x1b[2J\u202e.png", "caption": "a"}) + "\n")
    assert cli.main(["data", "sheet", "--dataset", str(folder), "--out", str(tmp_path / "s.png")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 2 and "\x1b" not in told and "\u202e" not in told and r"\x1b" in told


def test_what_is_left_out_is_said_on_the_command_line(tmp_path, capsys):
    folder = sound(tmp_path / "f", "texts")
    (folder / "d.tif").write_bytes(b"II*\0")
    (folder / "d.txt").write_text("a tiger")
    assert cli.main(["data", "sheet", "--dataset", str(folder), "--out", str(tmp_path / "s.png")]) == 0
    told = capsys.readouterr()
    assert "d.tif" in told.err and "2 left out" in told.err and told.out.startswith("3 pictures")


@pytest.fixture
def as_nobody():
    """(folder, ask): after `ask()` files are asked for as nobody until the test ends, as rights do not bind root."""
    place = Path(tempfile.mkdtemp(prefix="cmai-rights-"))
    place.chmod(0o755)
    is_root = os.geteuid() == 0
    try:
        yield place, lambda: os.seteuid(65534) if is_root else None
    finally:
        if is_root:
            os.seteuid(0)
        for folder, folders, _ in os.walk(place):
            for name in folders:
                os.chmod(os.path.join(folder, name), 0o755)
        shutil.rmtree(place)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are another matter on Windows")
@pytest.mark.parametrize("which", [".", "inner", "inner/b.png", "inner/b.txt"])
def test_what_may_not_be_read_is_named(as_nobody, which):
    place, ask = as_nobody
    folder = place / "pairs"
    for name in ("a", "inner/b"):
        picture = folder / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6)).save(picture)
        picture.with_suffix(".txt").write_text("a cat")
    (folder / which).chmod(0)
    ask()
    for asked in (folder, folder / "inner"):
        with pytest.raises(CmaiError) as caught:
            list(load_dataset(asked))
        assert "cannot be read" in caught.value.message and caught.value.hint
