import numpy as np
import pytest

from cmai_core.data.memory import InMemory
from cmai_core.data.pair import PairDataset
from cmai_core.errors import DataError

PICTURES = [np.full((4, 5, 3), k, np.uint8) for k in range(3)]


def test_pictures_with_captions_or_labels():
    named = InMemory(PICTURES, ["one", ["two", "a two"], "three"], name="mine", split="all")
    assert isinstance(named, PairDataset) and len(named) == 3
    assert named[1].captions == ("two", "a two") and named[1].id == "mine/all/1"
    classes = InMemory(PICTURES, labels=["b", "a", "b"])
    assert classes.classes == ("a", "b") and classes[0].label == "b" and "b" in classes[0].captions[0]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (([], ["one"]), "pictures"),
        ((PICTURES, None), "captions"),
        ((PICTURES, ["one"]), "captions"),
        ((PICTURES, ["one", "two", " "]), "caption"),
        (([np.zeros((4, 4), np.uint8)], ["one"]), "Picture 0"),
        (([np.zeros((4, 4, 3))], ["one"]), "float64"),
    ],
)
def test_what_cannot_be_is_refused(arguments, names):
    with pytest.raises(DataError, match=names):
        InMemory(*arguments)


def test_a_label_that_is_no_class():
    with pytest.raises(DataError, match="cow"):
        InMemory(PICTURES, labels=["cat", "dog", "cow"], classes=["cat", "dog"])
