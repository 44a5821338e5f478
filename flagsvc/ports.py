"""What the middle needs of the outside. Adapters implement these; nothing here knows a driver.

An `as_of` is a moment of this process's `time.monotonic()`: what goes with it is not older than the store was then.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from flagsvc.core.changes import Decide
from flagsvc.core.model import Flag, FlagId, HistoryEntry

NEVER = -math.inf
"""The `as_of` of what nobody vouches for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A known state of one flag: its definition, or that it is not there.

    `flag` None with a revision above 0: not there as of that revision of its set (deleted, or never made).
    """

    id: FlagId
    revision: int
    flag: Flag | None

    @staticmethod
    def of(flag: Flag) -> Entry:
        """A flag as it stands."""
        return Entry(flag.id, flag.revision, flag)

    @staticmethod
    def absent(flag_id: FlagId, revision: int = 0) -> Entry:
        """Not there; with revision 0 it loses against everything that ever was written."""
        return Entry(flag_id, revision, None)


@dataclass(frozen=True, slots=True)
class StoreContents:
    """Every flag of every set. `revisions`: per set, the revision up to which all changes are surely contained.

    Changes after that may be contained too. `absent`: flags that were looked for once more, each with a revision as of
    which it is not there.
    """

    flags: Sequence[Flag]
    revisions: Mapping[str, int]
    absent: Mapping[FlagId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A channel is (again) heard: whatever was said before may have been missed."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A flag changed to this entry. `reply`: whoever has applied it is to say so at once (by a beat).

    `passed`: the revision of the change that is told, where the entry is of a newer one already; 0: the entry's own.
    """

    entry: Entry
    reply: bool = False
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A replica lives. `revisions`: per set, up to where it has applied every change; `age_s`: how old its view is.

    `number` counts its beats; `heard` has the number of the newest beat of each replica that it had heard.
    """

    replica: str
    number: int
    revisions: Mapping[str, int]
    age_s: float = math.inf
    heard: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnversionedChange:
    """Another program changed a flag, or deleted it (`gone`), without a new revision; `revision` is the one it has."""

    id: FlagId
    revision: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every change that the store had at this moment has been told."""

    as_of: float


Event = Subscribed | Announced | Heartbeat
StoreEvent = Subscribed | Announced | UnversionedChange | Checkpoint


class ChangesUnsupported(Exception):
    """The store cannot tell of changes; read it again and again instead."""


class FlagStore(Protocol):
    """The source of truth. Every method raises StoreUnavailable when it cannot be asked in time."""

    poll_interval_s: float
    """Seconds between two looks where no channel tells of changes."""
    foreign: bool
    """Whether other programs may change flags without counting revisions: then `changes` tells, or all is read."""

    async def open(self) -> None:
        """Prepare (indexes, tables). May be called again after a failure."""

    async def close(self) -> None:
        """Release everything; no method may be called after."""

    async def ping(self) -> None:
        """Ask whether the store answers."""

    async def get(self, flag_id: FlagId) -> Entry:
        """Read one flag, never from a secondary. One that is not there has its set's revision at that time."""

    async def load(self) -> StoreContents:
        """Read everything."""

    async def revisions(self) -> Mapping[str, int]:
        """Read the newest revision of each flag set: cheap, to see whether anything changed.

        Linearizable where there is more than one member: a primary that was replaced fails instead of answering.
        """

    def changes(self) -> AsyncIterator[StoreEvent]:
        """Hear what changes in the store, by whomever, for ever; failures are restarted inside, with backoff.

        Subscribed after each (re)start that may have missed something. Raises ChangesUnsupported, at once or later.
        """

    async def save_resume_token(self) -> None:
        """Keep how far `changes` has told, so that a later process goes on from there."""

    async def assign_revision(self, flag_id: FlagId, revision: int) -> Entry | None:
        """Give a flag that still has this revision (or is gone) the next one, as one step; None: it has another by now.

        Raises WritesUnsupported.
        """

    async def change(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        """Decide and store, with history and audit, as one atomic step; None when there was nothing to do.

        The new revision is larger than every revision of the flag set before it, and revisions become visible in
        their order. Raises what `decide` raises (nothing is changed then) and WritesUnsupported.
        """

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's newest changes first; empty for an unknown key."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the shared cache holds of a flag, and since when that may be old.

    `fence` not empty: the caller is the one that reads the store now, and puts what it finds with that fence.
    """

    entry: Entry | None
    as_of: float
    fence: str = ""


class Vouched(Enum):
    """What became of vouching for the shared cache."""

    KEPT = "kept"
    """This replica vouches."""
    OTHERS = "others"
    """Another replica does."""
    LOST = "lost"
    """The cache is not the one it was, or cannot be reached: everything has to be put there anew."""


class FlagCache(Protocol):
    """The shared cache and its channel. A cache that cannot answer is a miss, never an error."""

    async def open(self) -> None:
        """Start; never waits for the server to be there."""

    async def close(self) -> None:
        """Release everything."""

    @property
    def available(self) -> bool:
        """Whether calls reach the cache now (the breaker is closed)."""

    async def fetch(self, flag_id: FlagId, within_s: float) -> Found | None:
        """Read one entry; None when the cache cannot be asked.

        When nobody vouches that it is at most `within_s` old, one caller of all replicas gets a fence.
        """

    async def peek(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries as they are, however old; None where there is none or the cache cannot be asked."""

    def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """Go through everything that is held, in pieces. Raises CacheUnavailable."""

    async def put(self, entries: Sequence[Entry], as_of: float, *, fence: str = "", force: bool = False) -> bool:
        """Store each entry unless a newer one is there (`force`: also then). False when one is not known to be there.

        With a fence that has been taken by another, nothing is stored.
        """

    async def announce(self, event: Announced | Heartbeat) -> bool:
        """Tell every replica; False when the cache could not be reached."""

    async def vouch(self, as_of: float, lease_s: float, *, anew: bool, entries: Sequence[Entry] = ()) -> Vouched:
        """Say that nothing here, put since this replica began to vouch, is older than the store was at `as_of`.

        The `entries` are put in the same step. It holds for `lease_s` from then. `anew`: begin to vouch; what was put
        before `as_of` counts for nothing.
        """

    async def report(self, replica: str, text: str, lease_s: float) -> bool:
        """Say how this replica stands, for as long; an empty text takes it back."""

    async def reports(self) -> list[tuple[str, float]] | None:
        """Give the reports of live replicas with their age in seconds; None when the cache cannot be asked."""

    def state(self) -> Mapping[str, float]:
        """Give figures for metrics (such as memory_bytes) as last seen; never asks the server."""

    def events(self) -> AsyncIterator[Event]:
        """Hear the channel, for ever: reconnects by itself, yields Subscribed after each (re)connect."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot: everything as it was at `saved_at` (aware UTC, by the clock of the replica that saved it)."""

    contents: StoreContents
    saved_at: datetime


class Snapshot(Protocol):
    """The last good contents, on this replica's disk. Blocking: called from a thread."""

    def read(self) -> Saved | None:
        """Give what was saved; None, with a line in the log, when there is nothing that can be used."""

    def write(self, saved: Saved) -> bool:
        """Replace what is there, atomically; False when that is newer. Raises OSError."""
