"""The scene composer: every choice gives a scene that keeps Tabletop's rules, and sentences are judged by its truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.data.tabletop import compose as c
from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, MIN_SEPARATION, SHAPES, SIZES
from cmai_core.errors import OptionError
from cmai_core.lab.judgement import judge

choices = st.builds(
    c.ObjectChoice,
    st.sampled_from(SHAPES),
    st.sampled_from(COLOURS),
    st.sampled_from(MATERIALS),
    st.sampled_from(SIZES),
    st.sampled_from(list(c.ACROSS)),
    st.sampled_from(list(c.DEPTH)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(choices, min_size=1, max_size=4))
def test_any_choice_keeps_the_rules(objects):
    scene, _ = c.compose(objects)
    assert [(o.shape, o.colour, o.material, o.size) for o in scene.objects] == [
        (o.shape, o.colour, o.material, o.size) for o in objects
    ]
    frame = scene.ground_frame()
    for i in range(len(frame)):
        for j in range(i):
            apart = np.abs(frame[i] - frame[j])
            assert (apart > MIN_SEPARATION - 1e-3).all()
            assert np.hypot(*apart) > scene.objects[i].radius + scene.objects[j].radius
    assert c.compose(objects)[0] == scene


def test_free_places_are_kept():
    scene, moved = c.compose(
        [c.ObjectChoice(across="left", depth="middle"), c.ObjectChoice(across="right", depth="back", size="small")]
    )
    assert not moved
    assert np.allclose(scene.ground_frame(), [(-1.0, 0.0), (1.0, 1.8)], atol=1e-3)


def test_a_wrong_choice_is_named():
    with pytest.raises(OptionError, match="mauve"):
        c.compose([c.ObjectChoice(colour="mauve")])
    with pytest.raises(OptionError, match="1 to 4"):
        c.compose([])


PAIR = [c.ObjectChoice("cube", "red", across="left"), c.ObjectChoice("sphere", "blue", across="right")]


def test_the_pair_tells_the_truth():
    scene, _ = c.compose(
        [c.ObjectChoice("cube", "red", across="left"), c.ObjectChoice("sphere", "blue", across="right")]
    )
    pair = c.scene_pair(scene, "my own sentence")
    assert pair.image.shape == (128, 128, 3) and pair.image.std() > 10
    assert pair.captions[0] == "my own sentence" and len(pair.captions) >= 6
    assert all(scene.satisfies(caption) for caption in pair.captions[1:])
    assert pair.questions


def test_sentences_are_judged():
    scene, _ = c.compose(
        [c.ObjectChoice("cube", "red", across="left"), c.ObjectChoice("sphere", "blue", across="right")]
    )
    assert judge("a red cube and a blue sphere", scene)[0] is True
    assert judge("a green cone", scene)[0] is False
    truth, words = judge("two cats asleep on a sofa", scene)
    assert truth is None and "does not understand" in words
