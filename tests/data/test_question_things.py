"""Which objects a question names: held to the language's own answers."""

import numpy as np
import pytest

from cmai_core.data.tabletop.arrays import training_arrays
from cmai_core.data.tabletop.dataset import scene_of
from cmai_core.data.tabletop.language import FAMILIES, OPPOSITE, answer, parse_question
from cmai_core.models.tokenizer import bundled_tokenizer_dir

VOCABULARY = bundled_tokenizer_dir() / "tokenizer.json"
SCENES = 16


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    return training_arrays(VOCABULARY, "train", SCENES, workers=1, folder=folder, things=True)


def asked(arrays):
    """(scene, what its question says, the objects it names) of every question."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(VOCABULARY))
    for k in range(SCENES):
        for q in np.flatnonzero(arrays.question_family[k] >= 0):
            ids = arrays.question_ids[k, q, : arrays.question_answer_at[k, q]].tolist()
            yield scene_of("train", k), parse_question(tokenizer.decode(ids)), arrays.question_things[k, q].tolist()


def test_the_objects_answer_the_questions_about_them(arrays):
    seen = set()
    for scene, query, things in asked(arrays):
        seen.add(query.family)
        if query.family == "spatial":
            first, second = (scene.objects[k] for k in things)
            axis = 0 if query.detail in ("left of", "right of") else 1
            frame = arrays.frame[next(n for n in range(SCENES) if scene_of("train", n) == scene)]
            less = frame[things[0], axis] < frame[things[1], axis]
            first_of_pair = query.detail in ("left of", "in front of")
            assert (answer(query, scene) == "yes") == (less == first_of_pair)
            assert query.things[0].matches(first) and query.things[1].matches(second)
            assert query.detail in OPPOSITE
        elif query.family == "attribute":
            assert getattr(scene.objects[things[0]], query.detail) == answer(query, scene) and things[1] == -1
        else:
            assert things == [-1, -1]
    assert seen == set(FAMILIES)


def test_they_are_made_when_first_asked_for_and_kept(tmp_path):
    plain = training_arrays(VOCABULARY, "train", 6, workers=1, folder=tmp_path)
    assert plain.question_things is None and not (tmp_path / "question_things.npy").exists()
    first = training_arrays(VOCABULARY, "train", 6, workers=1, folder=tmp_path, things=True)
    when = (tmp_path / "question_things.npy").stat().st_mtime_ns
    again = training_arrays(VOCABULARY, "train", 6, workers=1, folder=tmp_path, things=True)
    assert np.array_equal(first.question_things, again.question_things)
    assert (tmp_path / "question_things.npy").stat().st_mtime_ns == when
