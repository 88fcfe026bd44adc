"""How questions and statements are written for the multimodal decoder: one template, used in training and in decoding.

The decoder reads "question answer" as one sentence; the answer follows the question after one blank. A two-image
statement is followed by the word "true" or "false" in the same way. A caption stands alone.
"""

from __future__ import annotations

TRUE, FALSE = "true", "false"


def question_prompt(question: str) -> str:
    """Return what the decoder reads before it answers: the question, without surrounding blanks."""
    return question.strip()


def question_with_answer(question: str, answer: str) -> str:
    """Return the question with its answer, as the decoder is trained on it: "is there a red cube? yes"."""
    return f"{question_prompt(question)} {answer.strip()}"


def statement_prompt(statement: str) -> str:
    """Return what the decoder reads before it judges a two-image statement: without a full stop at the end."""
    return statement.strip().rstrip(" .")


def statement_with_truth(statement: str, truth: bool) -> str:
    """Return the statement with its judgement: "both pictures show a cone true"."""
    return f"{statement_prompt(statement)} {TRUE if truth else FALSE}"
