"""The before/after slider: two pictures on top of each other, a divider that mouse, touch and arrow keys move."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app.components.theme import ROLES
from app.pictures import picture_url

_HTML = """
<figure class="ba">
  <div class="frame">
    <img class="left" draggable="false"><img class="right" draggable="false">
    <div class="line" aria-hidden="true"><span></span></div>
    <div class="name a" aria-hidden="true"></div><div class="name b" aria-hidden="true"></div>
    <input type="range" min="0" max="100" value="50" step="1">
  </div>
</figure>
"""

_CSS = """
:host, .ba {display: block; margin: 0; width: 100%;}
.frame {position: relative; width: 100%; max-width: var(--ba-max, 100%); aspect-ratio: var(--ba-ratio, 1);
  overflow: hidden; border-radius: 8px; user-select: none;
  border: 1px solid color-mix(in srgb, var(--st-text-color, #888) 18%, transparent);}
img {position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; display: block;}
.right {clip-path: inset(0 0 0 var(--cut, 50%));}
.line {position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 0 1px rgba(0,0,0,.35);}
.line span {position: absolute; top: 50%; left: 50%; width: 32px; height: 32px; margin: -16px; border-radius: 50%;
  background: #fff; box-shadow: 0 0 0 1px rgba(0,0,0,.35); display: block;}
.line span::before {content: "◂ ▸"; position: absolute; inset: 0; color: #222; font: 13px/32px sans-serif;
  text-align: center;}
.name {position: absolute; top: 8px; padding: 3px 9px; border-radius: 999px; color: #fff;
  font: 600 12.5px/1.4 var(--st-font, sans-serif);  pointer-events: none;}
.a {left: 8px;} .b {right: 8px;}
input {position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y;}
.frame:focus-within {outline: 3px solid var(--st-primary-color, #0072B2); outline-offset: 2px;}
"""

_JS = """
export default function ({ data, parentElement }) {
  const root = parentElement;
  const frame = root.querySelector(".frame");
  const input = root.querySelector("input");
  const set = (sel, f) => f(root.querySelector(sel));
  set(".left", n => { n.src = data.left; n.alt = data.left_alt; });
  set(".right", n => { n.src = data.right; n.alt = data.right_alt; });
  set(".a", n => { n.textContent = data.left_name; n.style.background = data.left_colour; });
  set(".b", n => { n.textContent = data.right_name; n.style.background = data.right_colour; });
  frame.style.setProperty("--ba-ratio", data.ratio);
  frame.style.setProperty("--ba-max", data.max_width + "px");
  input.setAttribute("aria-label", data.label);
  const move = () => {
    frame.style.setProperty("--cut", input.value + "%");
    input.setAttribute("aria-valuetext", input.value + "% " + data.left_name);
  };
  input.oninput = move;
  move();
}
"""

_slider = st.components.v2.component("cmai_before_after", html=_HTML, css=_CSS, js=_JS)


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
    """Draws the slider.

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
