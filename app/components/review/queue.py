"""The human-review queue on its page: counts, entries, the four verdicts, and what to do while it is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from app import state
from app.access import permissions
from app.components.common.guard import plain
from app.components.common.theme import escape, number, show
from app.navigation import go
from app.services.reviews import is_reviewer, review_queue, without_paths
from cmai_core.data.plain import plain_line
from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.images import data_url

if TYPE_CHECKING:
    from cmai_core.defenses.review import Entry, ReviewQueue

PAGE_SIZE = 8
SHOWN_OWN = 20
"""Most of their own entries that a visitor sees."""
VERDICT_HELP = {
    "attack": "The picture or the sentence was tampered with.",
    "false caption": "Nothing was tampered with, but the sentence is not true of the picture.",
    "harmless": "The pair is as it should be: a false alarm.",
    "unclear": "Looking at it does not settle it.",
}
NOTE_LENGTH = 500


def queue_view() -> None:
    """Draw counts and entries: all of them for reviewers, their own for other visitors.

    Raises:
        DataError: the queue's file cannot be used.
    """
    with without_paths():
        queue = review_queue()
        counts = queue.counts()
        if is_reviewer():
            _all(queue, counts)
        else:
            _own(queue, counts)


def _all(queue: ReviewQueue, counts: Mapping[str, int]) -> None:
    resolved = sum(counts.values()) - counts["open"]
    if not counts["open"] and not resolved:
        _empty()
    else:
        _counts(counts)
        st.segmented_control(
            "Shown", ("open", "resolved"), key=state.REVIEW_SHOWN, required=True, label_visibility="collapsed",
            format_func=lambda kind: f"{kind.capitalize()} ({counts['open'] if kind == 'open' else resolved})",
        )  # fmt: skip
        shown = state.get(state.REVIEW_SHOWN)
        count = counts["open"] if shown == "open" else resolved
        skip = _page(count)
        start = skip if shown == "open" else counts["open"] + skip
        entries = queue.entries(open_only=shown == "open", limit=PAGE_SIZE, skip=start)
        if not entries:
            words = "Nothing is open: every pair has been judged." if shown == "open" else "Nothing is resolved yet."
            st.info(words, icon="ℹ️")
        for entry in entries:
            with st.container(border=True, key=f"card_review_{entry.id}"):
                _entry(entry, judge=True)
    st.caption("The queue is kept on the lab's machine; every reviewer of this lab sees it.")


def _own(queue: ReviewQueue, counts: Mapping[str, int]) -> None:
    """Draw counts, the visitor's own entries, and the field for the reviewers' key."""
    sent = list(dict.fromkeys(state.get(state.SENT).values()))
    entries = queue.entries(open_only=False, limit=SHOWN_OWN, only=sent) if sent else []
    if not entries:
        _empty()
    _counts(counts)
    for entry in entries:
        with st.container(border=True, key=f"card_review_{entry.id}"):
            _entry(entry, judge=False)
    if not permissions.rules().review_key:
        st.caption("The pairs of others are seen and judged by this lab's reviewers.")
        return
    given = st.text_input(
        "Reviewers' key", type="password", key="review_key_field", max_chars=100,
        help="The pairs of others are seen and judged by this lab's reviewers, who have a key from its owner.",
    )  # fmt: skip
    if given:
        state.put(state.REVIEWER, given.strip())
        if is_reviewer():
            st.rerun()
        st.warning("That is not the key.", icon="⚠️")


def _empty() -> None:
    show(
        '<div class="cm-card"><div class="cm-h">The queue is empty</div>'
        "<p>When picture and sentence do not seem to belong together, a person can look at the pair before anything "
        "relies on the answer. Pairs get here in two ways:</p><ul>"
        "<li>from the <b>Attack lab</b>: after an attack, open <b>Verification</b> and press <b>Send to review</b>;"
        "</li>"
        "<li>from a <b>deployed system</b>: <code>System(model, detector=…, review=ReviewQueue())</code> in "
        "<code>cmai_core.defenses</code> puts every pair here that it flags.</li></ul>"
        "<p>Each is judged as an attack, a false caption, harmless, or unclear, with a note; verdicts can be taken "
        "back.</p></div>"
    )
    if st.button("To the attack lab", key="review_to_lab", icon=":material/experiment:"):
        go("attack_lab")


def _counts(counts: Mapping[str, int]) -> None:
    tags = "".join(
        f'<span class="cm-tag"><b>{count}</b> {escape(kind)}</span>'
        for kind, count in counts.items()
        if count or kind == "open"
    )
    show(f'<div class="cm-row" role="status" aria-label="Entries of the queue">{tags}</div>')


def _page(count: int) -> int:
    """Draw the choice of a page; returns how many entries stand on the pages before it."""
    pages = max(1, math.ceil(count / PAGE_SIZE))
    state.put(state.REVIEW_PAGE, min(pages, max(1, int(state.get(state.REVIEW_PAGE) or 1))))
    if pages > 1:
        st.number_input(f"Page, of {pages}", 1, pages, key=state.REVIEW_PAGE, width=140)
    return PAGE_SIZE * (state.get(state.REVIEW_PAGE) - 1)


def _entry(entry: Entry, judge: bool) -> None:
    """Draw an entry; `judge` adds the buttons of a reviewer."""
    picture, facts = st.columns([1, 3.2], gap="medium")
    with picture:
        show(
            f'<img class="cm-map" style="margin:0" src="{_picture_url(entry.id, entry.added, entry.picture)}" '
            f'alt="Picture of the pair, said to show: {escape("; ".join(entry.texts))}">'
        )
    with facts:
        quotes = "".join(f'<p class="cm-quote">{escape(text)}</p>' for text in entry.texts)
        show(
            f'{quotes}<div class="cm-row cm-small" style="margin-top:8px">{_facts(entry)}</div>'
            f'<p class="cm-small cm-note">{escape(_sentence(entry.reason))}</p>'
        )
        if entry.damage:
            st.warning(f"Parts of this entry are damaged: {plain(entry.damage)}.", icon="⚠️")
        if entry.verdict is not None:
            _judged(entry, judge)
        elif judge:
            _judge(entry)


@st.cache_data(show_spinner=False, max_entries=64)
def _picture_url(key: int, added: float, _picture) -> str:
    """Return the exact picture of an entry as a data: URL; the entry's id and time say which."""
    return data_url(_picture)


def _facts(entry: Entry) -> str:
    score = "no score"
    if entry.score is not None:
        score = f"score {number(entry.score)}" + ("" if entry.tau is None else f" against τ {number(entry.tau)}")
    facts = (score, f"model {entry.model}", entry.item, when(entry.added))
    return "".join(f'<span class="cm-tag">{escape(fact)}</span>' for fact in facts if fact)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def when(seconds: float) -> str:
    """Return a time of day in the visitor's own time zone, if the browser tells it."""
    try:
        zone = ZoneInfo(st.context.timezone or "")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = None
    return f"{datetime.fromtimestamp(seconds, zone or datetime.now().astimezone().tzinfo):%Y-%m-%d %H:%M}"


def _judge(entry: Entry) -> None:
    from cmai_core.defenses.review import VERDICTS

    key = f"review_note_{entry.id}"
    st.text_input("Note", value=entry.note, key=key, max_chars=NOTE_LENGTH, placeholder="what you see (optional)")
    with st.container(horizontal=True, gap="xsmall"):
        for verdict in VERDICTS:
            st.button(
                verdict.capitalize(),
                key=f"review_{verdict.replace(' ', '_')}_{entry.id}",
                help=VERDICT_HELP[verdict],
                on_click=resolve,
                args=(entry.id, verdict, key),
            )


def _judged(entry: Entry, judge: bool) -> None:
    note = f": {escape(entry.note)}" if entry.note else ""
    show(
        f'<p class="cm-verdict">{escape(entry.verdict.capitalize())}{note}</p>'
        f'<p class="cm-small cm-muted cm-note">judged {when(entry.resolved)}</p>'
    )
    if not judge:
        return
    st.button(
        "Take back", key=f"review_reopen_{entry.id}", icon=":material/undo:", on_click=reopen, args=(entry.id,),
        help="The pair becomes open again; the note stays.",
    )  # fmt: skip


def resolve(entry: int, verdict: str, note_key: str) -> None:
    """Judge an entry, with the note in its field."""
    note = plain_line(str(st.session_state.get(note_key) or ""))[:NOTE_LENGTH]
    _change(lambda: review_queue().resolve(entry, verdict, note))


def reopen(entry: int) -> None:
    """Take a verdict back."""
    _change(lambda: review_queue().reopen(entry))


def _change(work) -> None:
    try:
        if not is_reviewer():  # whatever buttons the page had
            raise DataError("Pairs are judged by this lab's reviewers.", "They give their key on the page Review.")
        with without_paths():
            work()
    except CmaiError as error:
        state.put(state.NOTICE, error)
