"""Which picture of a scene an attacker shows."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd

from cmai_core.comparison import detection


def test_a_scene_that_is_wrong_when_clean_is_shown_as_it_is(monkeypatch):
    monkeypatch.setattr(detection, "_pictures", lambda store, examples, pairs, model: examples)
    pairs = [SimpleNamespace(id=name, image=f"clean {name}") for name in "abc"]
    rows = [
        ("a", "fgsm", 1, 1),
        ("b", "fgsm", 1, 0),
        ("c", "fgsm", 0, 0),  # asked too, as where all attacks ask all scenes
        ("a", "pgd", 1, 1),
        ("c", "pgd", 0, 0),
    ]
    frame = pd.DataFrame(rows, columns=["item", "recipe", "correct_clean", "correct"])
    frame = frame.assign(target="m", source="m", epsilon=2.0, example=frame["recipe"] + " " + frame["item"])
    assert detection.worst_pictures(frame, "m", 2.0, None, pairs, None) == ["pgd a", "fgsm b", "clean c"]
