"""Writes that a caller may send twice: the second one gets the first one's answer, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flagsvc.core.errors import InvalidRequest, invalid

REMEMBERED = timedelta(hours=24)


@dataclass(slots=True)
class WriteRequest:
    """A write that is remembered by its caller's name for it. `digest`: of what it asks for.

    `previous`: the status before the change, which a store fills in where it finds that the write was made before.
    """

    caller: str
    request_id: str
    digest: bytes
    previous: str = ""

    def reused(self) -> InvalidRequest:
        """Return the error for an id that stands for another write."""
        wanted = "a new id for a new write: this one was another write's within the last 24 hours"
        return invalid("request_id", self.request_id, wanted, "REQUEST_ID_REUSED")
