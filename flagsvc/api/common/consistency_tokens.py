"""The revision that an answer must contain, where a protocol has no field for it: a header of the call."""

from __future__ import annotations

from flagsvc.api.common.contexts import Metadata
from flagsvc.core.errors import invalid

HEADER = "flagsvc-min-revision"
_MAX_DIGITS = 18


def min_revision_of(metadata: Metadata) -> int:
    """Read a call's token, 0 without one. Raises InvalidRequest."""
    for name, value in metadata or ():
        if name == HEADER and value:
            if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
                raise invalid(HEADER, value, "a revision that a write answered, a whole number")
            return int(value)
    return 0
