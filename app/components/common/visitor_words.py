"""Messages of the library in words for visitors: no path of the server, no command line.

The library speaks to whoever runs it, and may name files and commands. In the lab that tells a stranger how the server
is built, and asks of a visitor what only its owner can do.
"""

from __future__ import annotations

import re

from cmai_core.errors import CmaiError

OWNER = "Whoever runs this lab can mend it."
_PATH = re.compile(r"(?<![\w:/.\\])(?:~?/|[A-Za-z]:\\)[^\s'\"“”‘’`,;:()]+")
_COMMAND = re.compile(
    r"\bcmai [a-z]+\b|\bpython3? -m\b|\bpip install\b|\bstreamlit run\b|`make [a-z]+`|(?<!\w)--[a-z][\w-]*|"
    r"(?<![\w$])\$?[A-Z][A-Z_]{2,}=|(?<!\w)\$[A-Z_]{3,}"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z“`(])")


def for_visitors(error: CmaiError) -> tuple[str, str]:
    """Return (message, hint) as a visitor may read them."""
    message, hint = _without_commands(error.message), _without_commands(error.hint)
    dropped = len(hint) < len(error.hint) or len(message) < len(error.message)
    message, hint = _without_paths(message), _without_paths(hint)
    return message or "That cannot be done here.", hint or (OWNER if dropped else "")


def said(error: CmaiError) -> str:
    """Return message and hint in one line."""
    return " ".join(filter(None, for_visitors(error)))


def plain_reason(text: str) -> str:
    """Return a reason that the library gives in one text, as a visitor may read it."""
    return said(CmaiError(text))


def _without_commands(text: str) -> str:
    return " ".join(sentence for sentence in _SENTENCE.split(text) if not _COMMAND.search(sentence))


def _without_paths(text: str) -> str:
    return re.sub(r" {2,}", " ", _PATH.sub("(a file on the lab's machine)", text))
