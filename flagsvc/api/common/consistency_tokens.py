"""Consistency tokens as a header, for protocols that have no `min_revision` field."""

from __future__ import annotations

from flagsvc.api.common.callers import Metadata
from flagsvc.core.errors import invalid

HEADER = "flagsvc-min-revision"
_MAX_DIGITS = 18


def min_revision_of(metadata: Metadata) -> int:
    """Return the revision that a call's answer must contain; 0 without a token. Raises InvalidRequest."""
    for name, value in metadata or ():
        if name == HEADER and value:
            if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
                raise invalid(HEADER, value, "a revision from a write's response, a whole number")
            return int(value)
    return 0
