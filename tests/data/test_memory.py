import warnings

import numpy as np
import pytest
import torch

from cmai_core.data.memory import InMemory
from cmai_core.data.pair import PairDataset
from cmai_core.data.subset import Subset, first
from cmai_core.errors import CmaiWarning, DataError
from cmai_core.models.truncation import warn_truncated

PICTURES = [np.full((4, 5, 3), k, np.uint8) for k in range(3)]


def test_pictures_with_captions_or_labels():
    named = InMemory(PICTURES, ["one", ["two", "a two"], "three"], name="mine", split="all")
    assert isinstance(named, PairDataset) and len(named) == 3
    assert named[1].captions == ("two", "a two") and named[1].id == "mine/all/1"
    classes = InMemory(PICTURES, labels=["b", "a", "b"])
    assert classes.classes == ("a", "b") and classes[0].label == "b" and "b" in classes[0].captions[0]


def test_texts_too_long_for_a_model_are_said_of_its_beginning_too():
    class Short:
        """Reads two words, 1 and 2 its marks."""

        name, context_length, token_ids = "short", 4, staticmethod(lambda: (0, 1, 2))

        @staticmethod
        def tokenizer(texts, context_length):
            rows = [[1, *[5] * len(text.split()), 2][:context_length] for text in texts]
            return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])

    data = InMemory(PICTURES, ["one", "one two", "one two three"])
    assert list(first(data, 2).texts()) == list(data.texts(2)) == [("picture 0", "one"), ("picture 1", "one two")]
    with pytest.warns(CmaiWarning, match=r"1 of 3 .*2"):
        warn_truncated(Short(), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_truncated(Short(), first(data, 2))
        warn_truncated(Short(), Subset(data, [2]))  # no beginning: nothing is known of its texts


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
