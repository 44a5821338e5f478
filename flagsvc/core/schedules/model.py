"""A schedule as frozen data. It is a plan, and changes no answer until it is executed."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from flagsvc.core.access.denials import id_of
from flagsvc.core.access.identity import Kind
from flagsvc.core.model import Flag, FlagId, JsonValue, Status

MAX_OPEN_OF_FLAG = 100
"""Schedules of one flag that have not ended."""
MAX_OPEN = 10_000
"""Schedules of a store that have not ended."""
DEFAULT_LATENESS_S, MAX_LATENESS_S = 3_600.0, 7 * 86_400.0
MAX_AHEAD = timedelta(days=3_660)
KEPT_S = 90 * 86_400
"""How long a schedule is kept after its end."""
_ALPHABET = string.ascii_lowercase + string.digits
_ID_CHARS = 12
_ON = frozenset({Status.ENABLED, Status.BETA})


class State(StrEnum):
    """What became of a schedule."""

    PENDING = "PENDING"
    """It waits for its time."""
    HELD = "HELD"
    """It was due and conflicts with a change made since it was planned. Somebody has to decide."""
    EXECUTED = "EXECUTED"
    SKIPPED = "SKIPPED"
    """It conflicted, and was planned to be left out then."""
    FAILED = "FAILED"
    """The change is not possible, or who planned it has lost the right to make it."""
    MISSED = "MISSED"
    """No replica could execute it before it was too late."""
    CANCELLED = "CANCELLED"


OPEN = frozenset({State.PENDING, State.HELD})
"""States of schedules that have not ended."""
RUNNABLE = OPEN | {State.FAILED, State.MISSED}
"""States of schedules that can be executed on request."""


class OnConflict(StrEnum):
    """What a due schedule does if a field that it changes has changed since it was planned."""

    HOLD = "HOLD"
    APPLY = "APPLY"
    SKIP = "SKIP"


class ConflictKind(StrEnum):
    """Why a schedule was not executed as planned."""

    FIELD_CHANGED = "FIELD_CHANGED"
    SWITCHED_OFF = "SWITCHED_OFF"
    """The flag was switched off after the schedule was planned, which would switch it on again."""
    FLAG_GONE = "FLAG_GONE"
    PERMISSION_LOST = "PERMISSION_LOST"
    REFUSED = "REFUSED"
    """The changed flag would not be valid, or the store does not take it."""


class Conflict(NamedTuple):
    """One conflict. `field`: the stored name of the flag's field; empty if it is about no single one."""

    kind: ConflictKind
    field: str
    detail: str


class Creator(NamedTuple):
    """Who planned a change. `evidence`: what rules for JWTs and certificates are applied to again, as JSON."""

    kind: str
    id: str
    evidence: Mapping[str, JsonValue] = {}

    def __str__(self) -> str:
        """Return the caller as logs and histories name it; empty where callers were not authenticated."""
        return f"{self.kind}:{self.id}" if self.is_checked else ""

    @property
    def is_checked(self) -> bool:
        """Whether callers were authenticated."""
        return self.kind != Kind.UNCHECKED

    @property
    def record_ids(self) -> tuple[str, ...]:
        """Ids of the stored records that its rights depend on: its token, or the denials of its names."""
        if self.kind == Kind.TOKEN:
            return (self.id,)
        names = self.evidence.get("names") or [self.id]
        return tuple(id_of(f"{self.kind}:{name}") for name in names) if self.is_checked else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One planned change. Times are aware UTC, by the clock of the store.

    `fields`: the fields of `patch` that it changes, by their names in `Flag`. `number`: grows with each creation.
    `base`: digests of what the flag had when it was planned, by stored name. `zone`: an IANA time zone, for people.
    `actor`, `reason`: for the history. `detail`: why it ended as it did. `version`: grows with each change of it.
    """

    id: str
    flag_id: FlagId
    number: int = 0
    execute_at: datetime
    zone: str = "UTC"
    patch: Flag
    fields: tuple[str, ...]
    on_conflict: OnConflict = OnConflict.HOLD
    max_lateness_s: float = DEFAULT_LATENESS_S
    creator: Creator
    actor: str = ""
    reason: str = ""
    created_at: datetime
    base_revision: int = 0
    base: Mapping[str, str] = field(default_factory=dict)
    state: State = State.PENDING
    conflicts: tuple[Conflict, ...] = ()
    detail: str = ""
    ended_at: datetime | None = None
    executed_revision: int = 0
    version: int = 1
    request: str = ""
    """Digest of the request that planned it, where its caller named that by an id."""

    @property
    def etag(self) -> str:
        """The version as an entity tag, quoted."""
        return f'"{self.version}"'

    @property
    def via(self) -> str:
        """What the history names it by."""
        return f"schedule/{self.id}"

    @property
    def switches_on(self) -> bool:
        """Whether it would switch the flag on."""
        return "status" in self.fields and self.patch.status in _ON

    @property
    def late_s(self) -> float:
        """Seconds between its time and its end."""
        return (self.ended_at - self.execute_at).total_seconds() if self.ended_at is not None else 0.0


def id_of_request(*names: str) -> str:
    """Return the id of the schedule that a request plans, which its caller has named."""
    number = int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest())
    return "".join(_ALPHABET[number // len(_ALPHABET) ** place % len(_ALPHABET)] for place in range(_ID_CHARS))


def new_id() -> str:
    """Return a new schedule's id."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))
