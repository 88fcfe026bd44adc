"""The dialog that says how to read the lab."""

from __future__ import annotations

import streamlit as st


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
