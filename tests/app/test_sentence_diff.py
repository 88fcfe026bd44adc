"""Sentences before and after an attack, as spans: whole words that are others, characters of words that are alike."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cmai_core.lab.sentence_diff import GONE, NEW, SAME, Span, sentence_diff


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("a red cube", "a red cube", []),
        ("a red cube", "a blue cube", [(GONE, "red"), (NEW, "blue")]),
        ("a large ball", "a lrage ball", [(NEW, "r"), (GONE, "r")]),
        ("a cube", "a cuЬe", [(GONE, "b"), (NEW, "Ь")]),
        ("a red cube", "a cube", [(GONE, "red ")]),
        ("a cube", "a red cube, and", [(NEW, "red "), (NEW, ", and")]),
        ("", "a ring", [(NEW, "a ring")]),
        ("one cat’s tail", "one cats tail", [(GONE, "’")]),
    ],
)
def test_what_changed(before, after, changed):
    assert [(span.kind, span.text) for span in sentence_diff(before, after) if span.kind != SAME] == changed


@pytest.mark.parametrize(
    ("before", "after"),
    [("a lrage  blue ball!", "the large ball?"), ("<b>&amp;", "<i>&amp"), ("x" * 300, "y" * 299 + "x"), ("", "")],
)
def test_the_spans_are_both_sentences(before, after):
    spans = sentence_diff(before, after)
    assert "".join(span.text for span in spans if span.kind != NEW) == before
    assert "".join(span.text for span in spans if span.kind != GONE) == after
    assert all(a.kind != b.kind for a, b in pairwise(spans))
    assert sentence_diff("same", "same") == (Span(SAME, "same"),)
