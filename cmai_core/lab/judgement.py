"""Whether a sentence is true of a picture, in words that the lab shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmai_core.data.truth import Scene


def judge(caption: str, scene: Scene) -> tuple[bool | None, str]:
    """Return whether a sentence is true of a scene, and that in words; None where it cannot be read."""
    if not caption.strip():
        return None, "Type what the picture shows."
    true = scene.ground_truth.holds(caption, scene)
    if true is None:
        words = "The scene's checker does not understand this sentence, so its truth stays open."
        return None, f"{words} {scene.ground_truth.unreadable_because(caption)}".strip()
    return true, "True of this scene." if true else "Not true of this scene."
