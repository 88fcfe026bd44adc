"""Review: the durable queue of flagged pairs, which people resolve."""

from __future__ import annotations

from app.components.common.guard import guard, show_notice
from app.components.review.queue import queue_view
from app.page import Page


def body() -> None:
    """Draw the queue."""
    show_notice()
    with guard():
        queue_view()


PAGE = Page(
    name="review",
    title="Review",
    icon=":material/rate_review:",
    heading="Which flagged pairs are attacks?",
    lead="Pairs that consistency verification has flagged, or that somebody has sent here, wait until a person has "
    "judged them. They are kept in a file, so nothing is lost when the browser is closed.",
    body=body,
)
