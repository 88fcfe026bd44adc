"""Class prompts and short statements say what scenes show."""

import numpy as np
from tokenizers import Tokenizer

from cmai_core.data.tabletop.dataset import CLASSES, scene_of
from cmai_core.data.tabletop.language import parse
from cmai_core.data.tabletop.short_texts import short_text_ids, short_text_truth, statements
from cmai_core.data.tabletop.statements import encode_scenes, holds
from cmai_core.models.tokenizer import bundled_tokenizer_dir

VOCABULARY = bundled_tokenizer_dir() / "tokenizer.json"


def test_the_truth_of_a_text_is_what_reading_it_says():
    ids, scenes = short_text_ids(VOCABULARY), [scene_of("validation", k) for k in range(20)]
    truth = short_text_truth(encode_scenes(scenes)[0])
    assert truth.shape == (20, len(ids)) == (20, len(CLASSES) + len(statements()))
    tokenizer = Tokenizer.from_file(str(VOCABULARY))
    for column, row in enumerate(ids):
        text = tokenizer.decode([int(token) for token in row if token > 2])
        said = parse(text)
        assert [holds(said, scene) for scene in scenes] == truth[:, column].tolist(), text
    assert len(np.unique(ids, axis=0)) == len(ids)
    assert ((ids != 0).sum(axis=1) <= 16).all()  # short
