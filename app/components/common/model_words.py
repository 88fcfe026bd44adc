"""A model in its place, in a few words."""

from __future__ import annotations

from app.access import permissions
from app.components.common.theme import badge, escape, label
from app.services.models import is_defended


def model_words(role: str, spec: str) -> str:
    """Return a place, its model and whether that is defended, as HTML."""
    name = escape(permissions.display_name(spec))
    return f'<span class="cm-model">{label(role)} <b>{name}</b> {badge(is_defended(spec))}</span>'
