"""What is kept of each revision, and how a moment is named."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from flagsvc.core.errors import RevisionOutOfRange
from flagsvc.core.model import Change, Flag, FlagId

RECORDED = "RECORDED"
"""The action of a definition that was there when recording began."""
CHANGED_ELSEWHERE = "CHANGED"
"""The action of a change that another program made, and flagsvc gave a revision."""
MAX_ROLLED_BACK = 1_000
"""Flags that one rollback of a set changes at most."""
VIA = "revision/"


class Moment(NamedTuple):
    """A state of a flag set: its newest revision then, and the time at which that was made."""

    revision: int
    at: datetime


@dataclass(frozen=True, slots=True)
class AsOf:
    """The moment that a caller asks about: a revision, or a time where the revision is 0."""

    revision: int = 0
    time: datetime | None = None

    def __str__(self) -> str:
        """Return it for error messages."""
        return f"revision {self.revision}" if self.time is None else self.time.isoformat()


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Who made a change, how and why; as in the history."""

    action: str
    actor: str = ""
    caller: str = ""
    reason: str = ""
    via: str = ""

    @classmethod
    def of(cls, change: Change) -> About:
        """What is kept of a change."""
        return cls(
            action=change.action.value,
            actor=change.actor,
            caller=change.caller,
            reason=change.reason,
            via=change.via,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One revision of a flag. `flag` None: it was deleted, or only what is about it was read."""

    id: FlagId
    revision: int
    at: datetime
    about: About
    gone: bool
    flag: Flag | None = None


def via_revision(revision: int) -> str:
    """Return what the history says of a change that restored a revision."""
    return f"{VIA}{revision}"


def restored_revision(via: str) -> int:
    """Return the revision that a change restored; 0 for other changes."""
    digits = via.removeprefix(VIA)
    return int(digits) if via.startswith(VIA) and digits.isdecimal() else 0


def check_range(flag_set: str, asked: Moment | AsOf, oldest: Moment | None, newest: int) -> None:
    """Raise RevisionOutOfRange where the moment is before the oldest one that is kept, or not made yet."""
    if oldest is None:
        raise RevisionOutOfRange(flag_set, f"{_text(asked)} is not available: recording of revisions begins now")
    time = asked.time if isinstance(asked, AsOf) else None
    is_early = time < oldest.at if time is not None else asked.revision < oldest.revision
    if is_early:
        kept = f"revision {oldest.revision} of {oldest.at.isoformat()}"
        raise RevisionOutOfRange(flag_set, f"{_text(asked)} is not kept any more: the oldest that is kept is {kept}")
    if time is None and asked.revision > newest:
        raise RevisionOutOfRange(flag_set, f"{_text(asked)} is not made yet: the newest is revision {newest}")


def _text(asked: Moment | AsOf) -> str:
    return str(asked) if isinstance(asked, AsOf) else f"revision {asked.revision}"
