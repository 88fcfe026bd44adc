"""The before/after slider: two pictures on top of each other, a divider that mouse, touch and arrow keys move."""

from __future__ import annotations

import numpy as np

from app.components.common.static_files import component, static_text
from app.components.common.theme import ROLES
from app.services.pictures import picture_url

_slider = component("before_after", static_text("before_after.html"))


def before_after(
    clean: np.ndarray,
    adversarial: np.ndarray,
    *,
    key: str,
    alt: str,
    max_width: int = 640,
    clean_url: str = "",
    adversarial_url: str = "",
) -> None:
    """Draw the slider.

    Args:
        clean, adversarial: uint8 H×W×3 of one size; sent as PNG, so what is compared is exact.
        alt: what the picture shows, for people who do not see it.
    """
    height, width = clean.shape[:2]
    _slider(
        key=key,
        data={
            "left": clean_url or picture_url(clean),
            "right": adversarial_url or picture_url(adversarial),
            "left_alt": f"Clean picture: {alt}",
            "right_alt": f"Adversarial picture, to the eye almost the same: {alt}",
            "left_name": f"{ROLES['clean'].mark} clean",
            "right_name": f"adversarial {ROLES['adversarial'].mark}",
            "left_colour": ROLES["clean"].colour,
            "right_colour": ROLES["adversarial"].colour,
            "label": "Move the divider between the clean and the adversarial picture",
            "ratio": f"{width} / {height}",
            "max_width": max_width,
        },
    )
