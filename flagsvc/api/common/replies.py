"""Answers that are encoded once for a definition: what it evaluates to is the same for many callers."""

from __future__ import annotations

from collections.abc import Hashable

from flagsvc.serving.reader import Evaluation

MAX_KEPT = 8
"""Encoded answers that are kept of one definition."""
MAX_KEPT_BYTES = 256
"""Size of an answer that is kept."""

Reply = tuple[bytes, ...]
"""An answer's bytes, in parts if something of each call belongs between them."""


def kept(evaluation: Evaluation, form: Hashable) -> Reply | None:
    """Return the kept answer for an evaluation's definition, variant and reason; None if there is none.

    `form`: all else that the answer depends on, such as the method.
    """
    replies = evaluation.replies
    if replies is None:
        return None
    outcome = evaluation.outcome
    return replies.get((form, outcome.variant, outcome.reason))


def keep(evaluation: Evaluation, form: Hashable, reply: Reply) -> None:
    """Keep an answer for the evaluations like this one. That of an error is not kept: it may be one of its context."""
    outcome, replies = evaluation.outcome, evaluation.replies
    if replies is None or outcome.error_code is not None:
        return
    if len(replies) < MAX_KEPT and sum(map(len, reply)) <= MAX_KEPT_BYTES:
        replies[form, outcome.variant, outcome.reason] = reply
