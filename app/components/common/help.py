"""The dialog that says how to read the lab, and which keys it knows."""

from __future__ import annotations

import streamlit as st

from app.components.common.theme import escape, show
from app.registry import PAGES

KEYS = {
    "s": "start the attack",
    "Esc": "cancel it",
    "b": "blink between clean and attacked",
    "d": "show the difference, enlarged",
    "← →": "a step of the attack back, forward",
    "u": "back to the experiment before",
    "?": "this sheet",
}


@st.dialog("How to read this", width="medium", icon=":material/help:")
def help_dialog() -> None:
    """Open the explanation."""
    st.markdown(
        """
**S_c, the consistency score**, is the cosine between what a model makes of the picture and what it makes of the
sentence: 1 means the same direction, 0 nothing in common. It is measured on the picture as an 8-bit file would hold
it.

**● clean → ◆ adversarial.** The attack changes every pixel by at most ε and looks for the change that hurts most. ε
is counted in steps of 1/255, the smallest step an 8-bit picture knows: at 4/255 almost nobody sees it.

**▲ A, ■ B.** Two models, or up to four, look at the same picture; a badge says which of them are defended. The one the
attack was crafted on faces a *white-box* attack; for the others it is *transferred*, which is easier to withstand.
Craft on each to compare like with like.

**τ, the threshold**, is set so that 5 in 100 clean pairs lie below it. A pair below it is flagged: picture and
sentence no longer agree. A pair can fool a model and stay above τ; then there is no alarm.

**Verification** says of each pair whether sentence and picture belong together, and which words and patches do not. A
pair can be sent to **Review**, where a person judges it.

**✓ and ✗** compare an answer with the truth. For rendered scenes the truth is known from the scene itself, also for
sentences you type; for photographs it is known from the pairing only.
"""
    )
    rows = [*KEYS.items(), *((str(n), f"page {page.title}") for n, page in enumerate(PAGES.values(), 1) if n < 10)]
    body = "".join(f"<tr><td><kbd>{escape(key)}</kbd></td><td>{escape(what)}</td></tr>" for key, what in rows)
    show(f'<div class="cm-h">Keys</div><table class="cm-keys">{body}</table>')
    st.caption("They rest while you type in a field.")
