"""Words, edit distances, lexicon, and what a text threat model allows."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.attacks.text_searches.lexicon import Lexicon, bundled_lexicon
from cmai_core.attacks.text_searches.proposers import (
    Characters,
    Eda,
    Homoglyphs,
    Injection,
    Paraphrases,
    Several,
    Synonyms,
)
from cmai_core.attacks.threats.text import TextThreat, plain_letters, read_as, truth_of
from cmai_core.data.words import Words, distance, edits, match_case, word_distance
from cmai_core.errors import DataError, OptionError

HOSTILE = [
    "",
    "   ",
    "?!",
    "a\u200bb",
    "🙂 cube",
    "x" * 5000,
    "<end_of_text>",
    "\x00a\n\tb",
    "ＣＵＢＥ",
    "ﬁne ’tis",
    "-'-",
    "é" * 40,
]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_a_text_is_put_together_again(text):
    words = Words.split(text)
    assert str(words) == text
    assert [text[a:b] for a, b in words.spans()] == list(words.words)


def slow_distance(a, b):
    """Optimal string alignment by plain recursion."""
    if not a or not b:
        return len(a) + len(b)
    best = min(slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1, slow_distance(a[1:], b[1:]) + (a[0] != b[0]))
    if len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0]:
        best = min(best, slow_distance(a[2:], b[2:]) + 1)
    return best


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_distance_against_plain_recursion(a, b):
    assert distance(a, b) == slow_distance(a, b) == distance(b, a)


def test_edits_of_words_keep_case_punctuation_and_articles():
    text = Words.split("An orange Ball, here.")
    assert str(text.replace(1, "red")) == "A red Ball, here."
    assert str(text.replace(2, "cube")) == "An orange Cube, here."
    assert str(text.delete(2)) == "An orange, here."
    assert str(text.delete(0)) == "orange Ball, here."
    assert str(text.insert(4, "now")) == "An orange Ball, here now."
    assert str(text.insert(0, "so")) == "so An orange Ball, here."
    assert str(text.swap(0, 2)) == "Ball orange An, here."
    assert match_case("BALL", "cube") == "CUBE"
    assert word_distance("an orange ball", "a red ball") == 1
    assert word_distance("a b c", "a c b") == 1
    assert [(e.kind, e.word, e.before, e.after) for e in edits("a red ball", "a big ball now")] == [
        ("substitute", 1, "red", "big"),
        ("insert", 3, "", "now"),
    ]


def test_lexicon_knows_synonyms_and_opposites():
    lexicon = bundled_lexicon()
    assert "block" in lexicon.synonyms("cube") and "balls" in lexicon.synonyms("Spheres")
    for a, b in [("left", "right"), ("sphere", "block"), ("large", "tiny"), ("hound", "feline"), ("cubes", "balls")]:
        assert lexicon.excludes(a, b) and lexicon.excludes(b, a)
    for a, b in [("cube", "block"), ("cube", "cube"), ("cube", "zebra")]:
        assert not lexicon.excludes(a, b)
    assert Lexicon([["a", "b", "c"]], [["a", "c"]]).synonyms("a") == ("b",)
    assert not any(lexicon.excludes(w, s) for w in lexicon.words() for s in lexicon.synonyms(w))


def test_budgets_hold_against_the_clean_text():
    region = TextThreat(words=1, characters=4).around(["A red cube."])
    assert region.filter(
        [0] * 6, ["A red cube.", "A rad cube.", "A rad cubs.", "A yellow cube.", "", "A red, cube."]
    ) == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert not region.allows(0, "a red cube.")
    assert not TextThreat(words=1).around(["A red cube"]).allows(0, "A Red cube")
    assert TextThreat(words=1, keep_case=False).around(["A red cube"]).allows(0, "A Red cube")
    assert not TextThreat(words=9).around(["a cube"]).allows(0, "a <end_of_text> cube")
    free = TextThreat(words=9, special_tokens=True, keep_punctuation=False).around(["a cube"])
    assert free.allows(0, "a <end_of_text> cube")
    protected = TextThreat(words=2, protected=("Cube",)).around(["a red CUBE"])
    assert not protected.allows(0, "a red BLOCK") and protected.allows(0, "a big CUBE")
    assert TextThreat(words=5, rate=0.4).around(["a b c d e", "a"]).budget == (2, 1)
    assert TextThreat(words=0).around(["a"]).filter([0, 0], ["a", "b"]) == [True, False]


@pytest.mark.parametrize(
    "options",
    [
        {"words": -1},
        {"words": True},
        {"characters": 1.5},
        {"rate": 0.0},
        {"truth": "yes"},
        {"similarity": 2.0},
        {"protected": "cube"},
        {"encoder": len},
        {"keep_case": 1},
        {"budget": 3},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        TextThreat(**options)


def test_truth_needs_what_it_is_decided_by():
    with pytest.raises(DataError, match="truth='scene'"):
        TextThreat(truth="scene").around(["a cube"], [None])
    with pytest.raises(OptionError, match=r"truth='similarity'.*encoder"):
        TextThreat(truth="similarity").around(["a cube"])
    with pytest.raises(DataError):
        TextThreat().around("a cube")


def test_similarity_is_measured_once_a_text():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return torch.stack([torch.tensor([1.0, float("far" in t)]) for t in texts])

    region = TextThreat(words=3, truth="similarity", similarity=0.9, encoder=encode).around(["a cube"])
    assert region.filter([0, 0, 0], ["a block", "a far block", "a block"]) == [True, False, True]
    assert seen.count("a block") == 1


def test_misspellings_and_look_alikes_are_read_as_the_word_they_were(tools):
    scene = tools.tabletop_batch(1).pairs[0].scene
    thing, words = scene.objects[0], scene.ground_truth.vocabulary()
    clean = f"a {thing.colour} {thing.shape}"
    typo = f"a {thing.colour} {thing.shape[0]}{thing.shape[2]}{thing.shape[1]}{thing.shape[3:]}"
    alike = clean.replace("e", "е").replace("o", "о")
    assert read_as(typo, clean, words) == clean and plain_letters(alike) == clean
    assert truth_of(typo, clean, scene) is True and truth_of(alike, clean, scene) is True
    # A misspelling that is another word of the language is that word.
    assert read_as("a cone", "a cone", words) == "a cone" and read_as("a can", "a cone", words) == "a can"
    assert truth_of("zebra nonsense", clean, scene) is None


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_break_nothing(text, tools):
    scene = tools.tabletop_batch(1).pairs[0].scene
    every = Several((Synonyms(), Eda(), Characters(), Homoglyphs(), Injection(), Paraphrases()))
    candidates = every.propose([text], [None], [random.Random(0)])[0]
    assert len({c.text for c in candidates}) == len(candidates)
    region = TextThreat(words=2, truth="scene").around([text], [scene])
    region.filter([0] * len(candidates), [c.text for c in candidates][:50] + ["a cube"] * max(0, len(candidates) - 50))
    assert region.label_changed(0, text) in (True, False, None)


def test_what_random_proposers_propose_belongs_to_the_sample():
    texts = ["two large red cubes behind a ring", "a small ball"]
    for proposer in (Eda(), Characters()):
        a, b = proposer.propose(texts, [None, None], [random.Random(1), random.Random(2)])
        assert proposer.propose([texts[1]], [None], [random.Random(2)])[0] == b
        assert proposer.propose([texts[0]], [[1, 3]], [random.Random(1)])[0] != a


def test_character_edits_are_one_edit_and_keep_the_ends():
    found = Characters().propose(["cylinder"], [None], [random.Random(0)])[0]
    assert {c.kind for c in found} == {"swap", "delete", "insert", "substitute"}
    for candidate in found:
        assert distance("cylinder", candidate.text) == 1
        assert candidate.text[0] == "c" and candidate.text[-1] == "r"
    assert Characters().propose(["an ox"], [None], [random.Random(0)])[0] == []
