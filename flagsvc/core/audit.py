"""Audit entries: what was changed, by whom, and what was refused.

Changes of flags are the entries of the history, which are stored with them; all else is stored apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Outcome(StrEnum):
    """How a call ended."""

    DONE = "done"
    REFUSED = "refused"


class Place(NamedTuple):
    """Where an entry stands among all, the newest being the largest. `source`: where it is stored."""

    at_ms: int
    source: int
    id: str

    @property
    def at(self) -> datetime:
        """The time of the entry."""
        return _EPOCH + timedelta(milliseconds=self.at_ms)


_NOWHERE = Place(0, 0, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change or refusal. `subject`: a flag's key or a token's id. `place`: set on entries that are read."""

    at: datetime
    actor: str
    action: str
    outcome: Outcome = Outcome.DONE
    on_behalf_of: str = ""
    flag_set: str = ""
    subject: str = ""
    reason: str = ""
    revision: int = 0
    place: Place = _NOWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Filters; None and empty ones match all. `before`: the place of the last entry of the page before."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str = ""
    action: str = ""
    flag_set: str = ""
    subject: str = ""
    outcome: Outcome | None = None
    before: Place | None = None


def place_of(at: datetime, source: int, entry_id: str) -> Place:
    """Return the place of an entry."""
    return Place((at - _EPOCH) // timedelta(milliseconds=1), source, entry_id)


def newest(parts: Iterable[Iterable[AuditEntry]], size: int) -> list[AuditEntry]:
    """Return the newest entries of several sources, the newest first."""
    return sorted((entry for part in parts for entry in part), key=lambda entry: entry.place, reverse=True)[:size]
