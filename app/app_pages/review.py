"""Review: the durable queue of flagged pairs, which people resolve."""

from app.components import review_view as view
from app.components.attack_flow import show_notice
from app.components.guard import guard
from app.components.models_choice import page_head

page_head(
    "Which flagged pairs are attacks?",
    "Pairs that consistency verification has flagged, or that somebody has sent here, wait until a person has judged "
    "them. They are kept in a file, so nothing is lost when the browser is closed.",
)
show_notice()
with guard():
    view.queue_view()
