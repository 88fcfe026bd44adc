"""Verified answering as a part of a `System`: `System(model, answering=VerifiedAnswers.of_card(model))`.

The rules belong to the tasks that are answered by them, and stand in `cmai_core.tasks.verified`.
"""

from cmai_core.tasks.verified import StatementCache, VerifiedAnswers, VerifiedCaptions, described

__all__ = ["StatementCache", "VerifiedAnswers", "VerifiedCaptions", "described"]
