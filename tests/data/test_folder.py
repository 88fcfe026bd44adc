"""Folders and tables of pairs: the layouts that are read, and what is said of files and rows that cannot be."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmai_core.data import PairDataset, available_datasets, load_dataset
from cmai_core.data.folder import load_pairs
from cmai_core.data.image_cache import ImageCache
from cmai_core.data.subset import Subset
from cmai_core.errors import CmaiError, CmaiWarning, DataError, OptionError


def picture(path: Path, value: int = 0, size: tuple[int, int] = (12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 100, 200)).save(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    base = tmp_path / "animals"
    for number, name in enumerate(("cat.png", "dog.png", "wild/fox.png")):
        picture(base / name, value=number * 50)
    return base


def table(folder: Path, text: str, name: str = "captions.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def refused(path, kind: type[CmaiError] = DataError, **options) -> str:
    """The message of the refusal, which must come with a hint."""
    with pytest.raises(kind) as caught:
        load_dataset(path, **options)
    assert caught.value.hint
    return caught.value.message


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_csv_with_several_rows_for_one_picture(folder):
    table(
        folder,
        'image,caption\ncat.png,a cat\ndog.png,"a dog, asleep"\ncat.png,  a sitting   cat \nwild/fox.png,a fox\n',
    )
    data = load_dataset(folder)
    assert isinstance(data, PairDataset)
    assert (data.name, data.split, len(data), data.classes, list(data.statements)) == ("animals", "test", 3, (), [])
    assert data[0].captions == ("a cat", "a sitting cat")
    assert data[1].captions == ("a dog, asleep",)
    assert data[2].id == "animals/test/wild/fox.png"
    assert data[2].image.shape == (8, 12, 3)
    np.testing.assert_array_equal(data[2].image[0, 0], [100, 100, 200])
    assert data.truth(["a cat"], [0]) is None
    assert [pair.meta["file"] for pair in data] == ["cat.png", "dog.png", "wild/fox.png"]


@pytest.mark.parametrize("image", ["image", "file", "path", "file_name", "Filename"])
@pytest.mark.parametrize("caption", ["caption", "captions", "Text"])
def test_column_names(folder, image, caption):
    path = table(folder, f"{caption},extra,{image}\na cat,1,cat.png\n", "pairs.csv")
    assert load_dataset(path)[0].captions == ("a cat",)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage,caption\r\ncat.png,a cät\r\n",  # a spreadsheet's byte-order mark and line ends
        "image;caption\ncat.png;a cät\n",
        "image\tcaption\ncat.png\ta cät\n",
        "image,caption\n\ncat.png,a cät\n\n",
        "image,caption\n.\\cat.png,a cät",
    ],
)
def test_dialects(folder, text):
    assert load_dataset(table(folder, text, "pairs.csv"))[0].captions == ("a cät",)


def test_tsv_and_a_caption_over_two_lines(folder):
    assert load_dataset(table(folder, 'image\tcaption\ncat.png\t"a cat\nat home"\n', "pairs.tsv"))[0].captions == (
        "a cat at home",
    )


def test_jsonl_with_lists_labels_and_questions(folder):
    rows = [
        {"image": "cat.png", "captions": ["a cat", "an animal"], "label": "cat"},
        {"image": "cat.png", "question": "is it a dog?", "answers": ["no", "nope"]},
        {"file": "dog.png", "text": "a dog", "class": "dog", "question": "how many dogs?", "answer": 1},
    ]
    table(folder, "\n".join(json.dumps(row) for row in rows), "captions.jsonl")
    cat, dog = load_dataset(folder)
    assert (cat.captions, cat.label) == (("a cat", "an animal"), "cat")
    assert [(question.text, question.answers) for question in cat.questions] == [("is it a dog?", ("no", "nope"))]
    assert (dog.captions, dog.label, dog.questions[0].answers) == (("a dog",), "dog", ("1",))
    assert load_dataset(folder).classes == ("cat", "dog")


def vqa_answers(*texts: str) -> list[dict]:
    """Ten people's answers as VQAv2 has them."""
    return [{"answer": text, "answer_confidence": "maybe", "answer_id": k} for k, text in enumerate(texts, start=1)]


def test_answers_of_vqav2_are_read_as_answers(folder):
    ten = vqa_answers("catcher", *["pitcher"] * 3, "catcher", "Pitcher", *["catcher"] * 3, "umpire")
    rows = [
        {"image": "cat.png", "caption": "a cat", "question": "who?", "answers": ten},
        {"image": "dog.png", "caption": "a dog", "question": "who?", "answer": ten[1]},
        {"image": "wild/fox.png", "caption": "a fox", "question": "how many?", "answers": [2, 2.0, 2.5, None, " "]},
    ]
    table(folder, "\n".join(json.dumps(row) for row in rows), "captions.jsonl")
    cat, dog, fox = (pair.questions[0].answers for pair in load_dataset(folder))
    assert cat == ("catcher",) * 5 + ("pitcher",) * 3 + ("Pitcher", "umpire")  # what most said comes first
    assert dog == ("pitcher",) and fox == ("2", "2", "2.5")
    quoted = json.dumps(ten).replace('"', '""')
    table(folder, f'image,caption,question,answers\ncat.png,a cat,who?,"{quoted}"\n', "pairs.csv")
    assert load_dataset(folder / "pairs.csv")[0].questions[0].answers == cat


def test_the_right_answer_of_vqav2_counts_as_right(folder):
    from cmai_core.tasks.metrics import vqa_accuracy

    ten = vqa_answers(*["net"] * 8, "mesh", "fence")
    row = {"image": "cat.png", "caption": "a cat", "question": "through what?", "answers": ten}
    table(folder, json.dumps(row), "captions.jsonl")
    accepted = load_dataset(folder)[0].questions[0].answers
    assert [vqa_accuracy(given, accepted) for given in ("net", "mesh", "ball")] == [1.0, pytest.approx(0.3), 0.0]


def test_published_questions_and_phrases(shared_data, tmp_path):
    formats = shared_data / "formats"
    raw = {name: json.loads((formats / "vqav2" / f"{name}.json").read_text()) for name in ("annotations", "questions")}
    given = {item["question_id"]: item for item in raw["annotations"]["annotations"]}
    picture(tmp_path / "a.png")
    rows = [
        {
            "image": "a.png",
            "caption": "a photograph",
            "question": item["question"],
            "answers": given[item["question_id"]]["answers"],
        }
        for item in raw["questions"]["questions"]
    ]
    table(tmp_path, "\n".join(map(json.dumps, rows)), "captions.jsonl")
    for asked, item in zip(load_dataset(tmp_path)[0].questions, raw["questions"]["questions"], strict=True):
        said = Counter(answer["answer"] for answer in given[item["question_id"]]["answers"])
        assert Counter(asked.answers) == said and said[asked.answers[0]] == max(said.values())
    for file in sorted((formats / "flickr30k").rglob("sentences/**/*.txt"))[:5]:
        where = tmp_path / "flickr"
        picture(where / f"{file.stem}.png")
        (where / f"{file.stem}.txt").write_bytes(file.read_bytes())
    for pair in load_dataset(tmp_path / "flickr"):
        assert pair.captions and not any("EN#" in caption or "[" in caption for caption in pair.captions)


@pytest.mark.parametrize("slash", ["/", ""])
def test_markup_of_phrases_is_taken_off(folder, slash):
    text = f"[{slash}EN#1/people A man] in [{slash}EN#22/clothing/bodyparts a blue  shirt] sits ."
    table(folder, f"image,caption\ncat.png,{text}\ndog.png,[asleep] a dog\n")
    assert [pair.captions for pair in load_dataset(folder)] == [("A man in a blue shirt sits .",), ("[asleep] a dog",)]


def test_a_list_in_a_cell_is_several_captions(folder):
    table(folder, 'image,captions\ncat.png,"[""a cat"", ""an animal""]"\n')
    assert load_dataset(folder)[0].captions == ("a cat", "an animal")


def test_what_is_left_out_of_a_folder_is_named(folder):
    for name in ("cat", "dog", "wild/fox", "tiger", "notes"):
        (folder / f"{name}.txt").write_text("an animal")
    Image.new("RGB", (4, 4)).save(folder / "tiger.tif")
    (folder / ".hidden.gif").write_bytes(b"GIF89a")
    with pytest.warns(CmaiWarning, match=r"\b3\b") as caught:
        data = load_dataset(folder)
    assert len(data) == 3 and len(data.left_out) == 3
    assert [text.split()[0] for text in data.left_out] == ["notes.txt", "tiger.tif", "tiger.txt"]
    assert all(name in str(caught[0].message) for name in ("notes.txt", "tiger.tif"))


def test_splits_are_chosen_by_their_column(folder):
    table(folder, "image,caption,split\ncat.png,a cat,train\ndog.png,a dog,test\nwild/fox.png,a fox,\n")
    assert [pair.captions[0] for pair in load_dataset(folder, "test")] == ["a dog", "a fox"]
    assert [pair.captions[0] for pair in load_dataset(folder, "train")] == ["a cat", "a fox"]
    table(folder, "image,caption,split\ncat.png,a cat,train\ndog.png,a dog,test\n")
    with pytest.raises(OptionError, match=r"'val'.*test, train"):
        load_dataset(folder, "val")


def test_text_files_beside_the_pictures(folder):
    for name, text in (("cat", "a cat\n\na tabby\n"), ("dog", "a dog"), ("wild/fox", "a fox")):
        (folder / f"{name}.txt").write_text(text)
    picture(folder / ".thumbnails" / "cat.png")
    (folder / "notes.md").write_text("not a picture")
    data = load_dataset(folder)
    assert [pair.captions for pair in data] == [("a cat", "a tabby"), ("a dog",), ("a fox",)]


def test_hugging_face_layout(folder):
    table(folder, "file_name,text\nwild/fox.png,a fox\n", "metadata.csv")
    assert load_dataset(folder)[0].captions == ("a fox",)


def test_one_picture_spelled_in_two_ways_is_one_pair(folder):
    table(folder, "image,caption\ncat.png,a cat\n./cat.png,a tabby\nwild//fox.png,a fox\n")
    assert [pair.captions for pair in load_dataset(folder)] == [("a cat", "a tabby"), ("a fox",)]


def test_limit_counts_pictures(folder):
    path = table(folder, "image,caption\ncat.png,a cat\ncat.png,a tabby\ndog.png,a dog\n")
    assert [pair.captions for pair in load_dataset(path, limit=1)] == [("a cat", "a tabby")]
    assert len(load_dataset(path, limit=99)) == 2


def test_nothing_is_decoded_before_it_is_read(folder):
    (folder / "dog.png").write_bytes(b"not a picture")
    table(folder, "image,caption\ncat.png,a cat\ndog.png,a dog\n")
    data = load_dataset(folder)
    assert data[0].image.shape == (8, 12, 3)
    with pytest.raises(DataError, match=r"captions\.csv, row 3: dog\.png") as caught:
        data[1]
    assert caught.value.hint


def test_reading_twice_decodes_once_and_shares_nothing(folder, monkeypatch):
    table(folder, "image,caption\ncat.png,a cat\n")
    data = load_dataset(folder)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(1) or original(*args, **options))
    data[0].image[:] = 7
    np.testing.assert_array_equal(data[0].image[0, 0], [0, 100, 200])
    assert len(opened) == 1


def test_a_published_set_as_a_table(shared_data, tmp_path):
    """COCO's own captions, written as a table beside links to nothing: the photographs are copied."""
    raw = json.loads((shared_data / "coco" / "annotations" / "captions_val2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in raw["images"][:3]}
    for name in names.values():
        (tmp_path / name).write_bytes((shared_data / "coco" / "val2017" / name).read_bytes())
    rows = [
        json.dumps({"image": names[item["image_id"]], "caption": item["caption"]})
        for item in raw["annotations"]
        if item["image_id"] in names
    ]
    table(tmp_path, "\n".join(rows), "captions.jsonl")
    data = load_dataset(tmp_path)
    assert len(data) == 3
    for pair in data:
        assert len(pair.captions) >= 5 and min(pair.image.shape[:2]) > 100


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("cat.png,", "captions.csv, row 3: the caption is empty"),
        ("cat.png,   ", "captions.csv, row 3: the caption is empty"),
        (",a cat", "captions.csv, row 3: no picture is named"),
        ("bird.png,a bird", "captions.csv, row 3: there is no file bird.png"),
        ("wild,a folder", "captions.csv, row 3: there is no file wild"),
        ("cat.png,a cat,asleep", "captions.csv, row 3: 3 cells under 2 columns"),
        ("cat.png", "captions.csv, row 3: 1 cells under 2 columns"),
        ("cat.png," + "a" * 2001, "captions.csv, row 3: the caption has 2,001 characters"),
        ('cat.png,"a cat', "captions.csv, line 3: unexpected end of data"),
        ("../secret.png,a secret", "captions.csv, row 3: ../secret.png leads out of the folder animals"),
        ("wild/../../secret.png,a secret", "leads out of the folder"),
        ("..\\secret.png,a secret", "leads out of the folder"),
        ("C:\\secret.png,a secret", "leads out of the folder"),
        ("C:secret.png,a secret", "leads out of the folder"),
        ("\\\\host\\share\\secret.png,a secret", "leads out of the folder"),
        ("{outside},a secret", "leads out of the folder"),
        ("~/secret.png,a secret", "there is no file ~/secret.png"),
        ("x" * 5000 + ".png,too long", "is no usable path"),
        ("ca\0t.png,a NUL", "captions.csv, row 3"),
    ],
)
def test_a_bad_row_is_named(folder, row, message):
    outside = picture(folder.parent / "secret.png")
    table(folder, f"image,caption\ndog.png,a dog\n{row.replace('{outside}', str(outside))}\n")
    assert message in refused(folder)


@pytest.mark.parametrize("kind", ["file", "folder", "loop", "table", "text"])
def test_links_that_lead_out_are_refused(folder, kind):
    outside = picture(folder.parent / "other" / "secret.png")
    table(folder.parent / "other", "image,caption\nsecret.png,a secret\n", "captions.csv")
    (folder.parent / "other" / "secret.txt").write_text("a secret")
    try:
        if kind == "file":
            os.symlink(outside, folder / "link.png")
        elif kind == "folder":
            os.symlink(outside.parent, folder / "link")
        elif kind == "loop":
            os.symlink(folder / "link.png", folder / "link.png")
        elif kind == "table":
            os.symlink(outside.parent / "captions.csv", folder / "captions.csv")
        else:
            for name in ("dog", "wild/fox"):
                (folder / f"{name}.txt").write_text("an animal")
            os.symlink(outside.parent / "secret.txt", folder / "cat.txt")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    if kind in ("file", "folder", "loop"):
        table(folder, f"image,caption\n{'link/secret.png' if kind == 'folder' else 'link.png'},a secret\n")
    name = {"folder": "secret.png", "table": "captions.csv", "text": "cat.txt"}.get(kind, "link.png")
    assert name in refused(folder)


def test_a_link_that_stays_inside_is_fine(folder):
    try:
        os.symlink(folder / "wild" / "fox.png", folder / "fox.png")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    table(folder, "image,caption\nfox.png,a fox\n")
    assert load_dataset(folder)[0].image.shape == (8, 12, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "captions.csv is empty"),
        ("\n\n", "captions.csv is empty"),
        ("image,caption\n", "captions.csv has no rows"),
        ("picture,caption\ncat.png,a cat\n", "no column for the picture (found: picture, caption)"),
        ("image,words\ncat.png,a cat\n", "no column for the caption"),
        ("image,caption,caption\ncat.png,a,b\n", "the column caption occurs twice"),
        ("image,caption,label\ncat.png,a,cat\ncat.png,b,dog\n", "row 3: cat.png has the label 'dog', earlier 'cat'"),
        ("image,caption,split\ncat.png,a,test\ncat.png,b,train\n", "row 3: cat.png has the split 'train'"),
        ("image,caption,question,answer\ncat.png,a,what?,\n", "row 2: the answer is missing"),
        ("image,caption,question,answer\ncat.png,a,,yes\n", "row 2: the question is missing"),
        ("image,question,answer\ncat.png,what?,a cat\n", "row 2: cat.png has questions but no caption"),
    ],
)
def test_a_bad_table_is_named(folder, text, message):
    table(folder, text)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "pairs.jsonl, row 2: not JSON"),
        ("[" * 100_000, "pairs.jsonl, row 2: not JSON"),
        ('["cat.png"]', "pairs.jsonl, row 2: not a JSON object"),
        ('{"image": "cat.png"}', "pairs.jsonl, row 2: no column for the caption (found: image)"),
        ('{"image": ["cat.png"], "caption": "a cat"}', "row 2: image must be text, not list"),
        ('{"image": "cat.png", "caption": 7}', "row 2: a caption must be text, not int"),
        ('{"image": "cat.png", "captions": []}', "row 2: the list of captions is empty"),
        ('{"image": "cat.png", "captions": ["a cat", ""]}', "row 2: the caption is empty"),
        ('{"image": "cat.png", "caption": null}', "row 2: the caption is empty"),
        ('{"image": "cat.png", "caption": {"raw": "a cat"}}', "row 2: a caption must be text, not dict"),
        ('{"image": "cat.png", "caption": "[\'a cat\']"}', "row 2: \"['a cat']\" is neither text nor JSON"),
        ('{"image": "cat.png", "caption": "[/EN#1/people A man sits"}', "row 2: '[/EN#1/people A man sits' is markup"),
        ('{"image": "cat.png", "question": "a?", "answer": true}', "row 2: an answer must be text, not bool"),
        ('{"image": "cat.png", "question": "a?", "answer": [["no"]]}', "row 2: an answer must be text, not list"),
        ('{"image": "cat.png", "question": "a?", "answer": {"id": 1}}', "row 2: an answer must be text, not dict"),
        ('{"image": "cat.png", "question": "a?", "answer": NaN}', "row 2: the answer nan is no number"),
        ('{"image": "cat.png", "question": "a?", "answer": "{\'answer\': 1}"}', "is neither text nor JSON"),
        ('{"image": "cat.png", "question": {"a": 1}, "answer": "no"}', "row 2: question must be text, not dict"),
        ('{"image": "cat.png", "caption": "a", "label": "\\u202e"}', "row 2: the label '\\u202e' is not accepted"),
    ],
)
def test_a_bad_jsonl_row_is_named(folder, line, message):
    path = table(folder, '{"image": "dog.png", "caption": "a dog"}\n' + line, "pairs.jsonl")
    assert message in refused(path)


def test_other_encodings_are_named_with_their_row(folder):
    path = table(folder, "image,caption\ndog.png,a dog\ncat.png,un café\n", encoding="latin-1")
    assert refused(path) == "captions.csv, row 3: not UTF-8 text."


def test_folders_without_pictures_captions_or_with_two_tables(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no JPEG, PNG or WebP picture" in refused(tmp_path / "empty")
    assert "pictures but no captions" in refused(folder)
    (folder / "cat.txt").write_text("a cat")
    assert "dog.png has no dog.txt" in refused(folder)
    (folder / "dog.txt").write_text(" \n")
    assert "dog.txt is empty" in refused(folder)
    table(folder, "image,caption\ncat.png,a cat\n")
    table(folder, '{"image": "cat.png", "caption": "a cat"}', "captions.jsonl")
    assert "more than one table: captions.csv, captions.jsonl" in refused(folder)


def test_files_that_are_no_tables(folder):
    assert "neither a folder nor" in refused(folder / "cat.png")


# --- names ------------------------------------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(OptionError, match=r"'tabletop'.*tabletop, photos"):
        load_dataset("tabeltop")
    assert "no dataset called 'imagenet'" in refused("imagenet", OptionError)
    assert "No dataset was named" in refused("  ", OptionError)
    assert "no such file or folder" in refused(tmp_path / "absent" / "captions.csv")
    refused("no\0name", OptionError)
    refused("x" * 100_000, OptionError)


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3", True])
def test_limits_below_one_are_refused(limit):
    assert "limit must be" in refused("photos", OptionError, limit=limit)


def test_splits_of_named_datasets_are_checked_before_anything_is_opened():
    assert "no split 'trian'" in refused("tabletop", OptionError, split="trian")
    with pytest.raises(OptionError, match="test-corruption"):
        load_dataset("tabletop", "trian")


def test_every_dataset_has_a_title_and_usual_split_first():
    for info in available_datasets():
        assert info.title and info.description and next(iter(info.splits)) == "test"


def test_a_folder_called_like_a_dataset_is_reached_by_its_path(folder, monkeypatch):
    table(folder, "image,caption\ncat.png,a cat\n")
    folder.rename(folder.parent / "photos")
    monkeypatch.chdir(folder.parent)
    assert len(load_dataset("photos")) > 10
    assert len(load_dataset("./photos")) == 1


# --- parts and caches -------------------------------------------------------------------------------------------------


class WithStatements:
    """Four numbered items and two statements about them, to see what a part makes of them."""

    name, split, classes = "numbers", "test", ("a",)

    def __init__(self):
        from cmai_core.data import TwoImageStatement

        self.statements = (TwoImageStatement(0, 2, "both", True), TwoImageStatement(1, 2, "none", False))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return range(4)[index]

    def truth(self, captions, indices):
        return np.array([[int(caption) == index for index in indices] for caption in captions])


def test_a_part_moves_its_statements_and_truth():
    part = Subset(WithStatements(), [2, 0])
    assert isinstance(part, PairDataset)
    assert [part[0], part[1], part[-1]] == [2, 0, 0] and list(part) == [2, 0]
    assert [(item.left, item.right, item.text) for item in part.statements] == [(1, 0, "both")]
    np.testing.assert_array_equal(part.truth(["0", "2"], [0, 1]), [[False, True], [True, False]])
    with pytest.raises(IndexError):
        Subset(WithStatements(), [4])


def test_the_cache_stays_below_its_limit_and_forgets_the_oldest():
    cache = ImageCache(max_bytes=1000)
    made = []

    def get(key, size=300):
        return cache.get(key, lambda: made.append(key) or np.full(size, ord(key), np.uint8))

    for key in "abcacd":  # d pushes out b, the one not used for longest
        assert get(key)[0] == ord(key)
        assert cache.bytes <= 1000
    get("a")
    get("c")
    get("b")
    assert made == list("abcdb")
    get("z", size=2000)
    get("z", size=2000)
    assert made[-2:] == ["z", "z"] and cache.bytes <= 1000


def test_load_pairs_takes_a_string(folder):
    table(folder, "image,caption\ncat.png,a cat\n")
    assert len(load_pairs(str(folder))) == 1
