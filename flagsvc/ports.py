"""What the middle needs of the outside. Adapters implement these protocols; nothing here knows a driver.

An `as_of` is a moment of this process's `time.monotonic()`: what comes with it is not older than the store was then.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from flagsvc.core.changes import Decide
from flagsvc.core.model import Flag, FlagId, HistoryEntry

NEVER = -math.inf
"""The `as_of` of what nobody has verified."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A known state of one flag: its definition, or that it does not exist.

    `flag` None with a revision above 0: absent as of that revision of its set (deleted, or never made).
    """

    id: FlagId
    revision: int
    flag: Flag | None

    @staticmethod
    def of(flag: Flag) -> Entry:
        """A flag that exists."""
        return Entry(flag.id, flag.revision, flag)

    @staticmethod
    def absent(flag_id: FlagId, revision: int = 0) -> Entry:
        """A flag that does not exist; with revision 0 it is replaced by anything that was ever written."""
        return Entry(flag_id, revision, None)


@dataclass(frozen=True, slots=True)
class StoreContents:
    """Every flag of every set. `revisions`: per set, the revision up to which all changes are surely contained.

    Later changes may be contained too. `absent`: flags that were looked up once more, each with a revision as of which
    it does not exist.
    """

    flags: Sequence[Flag]
    revisions: Mapping[str, int]
    absent: Mapping[FlagId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A channel was (re)connected: earlier messages may have been missed."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A flag changed to this entry. `reply`: replicas that have applied it send a heartbeat at once.

    `event_revision`: the revision of the announced change where the entry is already newer; 0: the entry's own.
    """

    entry: Entry
    reply: bool = False
    event_revision: int = 0


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Which store something belongs to. `id`: made once and kept in the store; `name`: for people, without secrets."""

    id: str
    name: str

    def __str__(self) -> str:
        """Return both, for logs and problems."""
        return f"{self.name} ({self.id})"


@dataclass(frozen=True, slots=True)
class IdentityChanged:
    """The store was given a new identity: what is held of it must be read from it again."""


class Problem(NamedTuple):
    """Something configured that does not work now: a stable snake_case name, what is wrong, and what to do about it."""

    name: str
    detail: str
    cure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """The state of a replica, for operators. `view_age_s` None: it has no view yet.

    `lease_left_s`: how long it holds the cache lease from the time of this status, in seconds; 0 where it does not.
    """

    version: str
    started_at: datetime
    view_age_s: float | None
    staleness_bound_s: float
    ready: bool
    store_up: bool
    cache_up: bool
    subscription_up: bool
    change_feed: str
    change_feed_up: bool
    lease_left_s: float
    flags: int
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A replica lives, and this is what its view proves. `number` counts its heartbeats.

    `revisions`: per set, the revision up to which it has applied every change. `age_s`: every change that the store
    had so many seconds ago is among them (infinite: unknown). `stream_age_s`: for so long it has missed no change of
    another program. `last_seen`: per replica, the number of its newest heartbeat, and how many seconds ago it arrived.
    """

    replica: str
    number: int
    revisions: Mapping[str, int]
    age_s: float = math.inf
    stream_age_s: float = 0.0
    last_seen: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    status: ReplicaStatus | None = None


@dataclass(frozen=True, slots=True)
class UnversionedChange:
    """Another program changed or deleted (`gone`) a flag without a new revision; `revision` is the one it has."""

    id: FlagId
    revision: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every change that the store had at this moment has been delivered."""

    as_of: float


CacheEvent = Subscribed | Announced | Heartbeat | IdentityChanged
StoreEvent = Subscribed | Announced | UnversionedChange | Checkpoint


class ChangesUnsupported(Exception):
    """The store cannot report changes; it has to be read again and again instead.

    `problem`: why a store that could do so does not; None where its kind has no change stream.
    """

    def __init__(self, problem: Problem | None = None) -> None:
        super().__init__(problem.detail if problem else "")
        self.problem = problem


class ChangeFeed(Protocol):
    """What a store offers whose flags other programs may change without counting revisions."""

    @property
    def stream_up(self) -> bool:
        """Whether the change stream delivers now."""

    @property
    def stream_restarts(self) -> int:
        """How often it broke."""

    def changes(self) -> AsyncIterator[StoreEvent]:
        """Deliver what changes in the store, by whomever, for ever; failures are restarted inside, with backoff.

        Subscribed comes after each (re)start that may have missed something. Raises ChangesUnsupported, at once or
        later.
        """

    async def save_resume_token(self) -> None:
        """Save how far `changes` has delivered, so that a later process resumes there."""

    async def assign_revision(self, flag_id: FlagId, revision: int) -> Entry | None:
        """Give a flag that still has this revision (or is gone) the next one, atomically. None: it has another by now.

        Raises StoreUnavailable and WritesUnsupported.
        """


class FlagStore(Protocol):
    """The source of truth. Every method raises StoreUnavailable when it cannot be asked in time."""

    poll_interval_s: float
    """Seconds between two polls where no channel reports changes."""
    reads: int
    """Queries sent, for metrics."""

    @property
    def feed(self) -> ChangeFeed | None:
        """The store's change feed; None where every writer counts revisions."""

    @property
    def identity(self) -> StoreIdentity | None:
        """Which store this is, as `open`, `load` or `revisions` last read it; None where it has no identity."""

    async def renew_identity(self) -> None:
        """Give the store a new identity, so that nothing kept elsewhere counts as its own any more.

        Raises StoreUnavailable and WritesUnsupported.
        """

    async def open(self) -> None:
        """Prepare (indexes, tables), and read or make the identity. May be called again, also after a failure."""

    async def close(self) -> None:
        """Release everything; no method may be called after."""

    async def get(self, flag_id: FlagId) -> Entry:
        """Read one flag, never from a secondary. A missing one has the revision that its set had at that time."""

    async def load(self) -> StoreContents:
        """Read everything."""

    async def revisions(self) -> Mapping[str, int]:
        """Read the newest revision of each flag set: cheap, to see whether anything changed.

        Linearizable where there is more than one member: a primary that was replaced fails instead of answering.
        """

    async def write(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        """Decide and store, with history and audit, as one atomic step; None when there was nothing to do.

        The new revision is larger than every revision of the flag set before it, and revisions become visible in
        their order. Raises what `decide` raises (nothing is changed then) and WritesUnsupported.
        """

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's changes, the newest first; empty for an unknown key."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the shared cache holds of a flag, and as of when it is verified.

    `fills`: of all callers that missed, this one reads the store and puts what it finds.
    """

    entry: Entry | None
    as_of: float
    fills: bool = False


class LeaseState(StrEnum):
    """The outcome of acquiring or renewing the cache lease."""

    HELD = "held"
    """This replica holds the lease."""
    HELD_BY_OTHER = "held_by_other"
    """Another replica does."""
    EXPIRED = "expired"
    """The lease record has run out, or was lost with Redis's memory."""
    REPLACED = "replaced"
    """The record is not the one written last: Redis was restored from an older dump."""
    UNREACHABLE = "unreachable"
    """The cache could not be asked."""


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """The state of the lease; `held_until`: the moment until which this replica surely holds it."""

    state: LeaseState
    held_until: float = NEVER


class FlagCache(Protocol):
    """The shared cache and its channel. A cache that cannot answer is a miss, never an error."""

    async def open(self) -> None:
        """Start; never waits for the server to be there."""

    async def close(self) -> None:
        """Release everything."""

    @property
    def available(self) -> bool:
        """Whether calls reach the cache now: the breaker is closed, and the keys belong to this store."""

    @property
    def foreign_messages(self) -> int:
        """How many messages of other stores arrived, and were ignored."""

    def assume(self, identity: StoreIdentity) -> None:
        """Belong to this store until `identify` says which it is: the store cannot be read yet."""

    async def identify(self, identity: StoreIdentity) -> bool:
        """Belong to this store from now on. Before it is known or assumed, nothing is read or written.

        What belongs to another store is ignored. Where that is this store's identity before, its keys are taken over.
        Return False where another store was assumed: what was read until now is not this one's.
        """

    async def fetch(self, flag_id: FlagId, within_s: float) -> Found | None:
        """Read one entry; None when the cache cannot be asked.

        When the entry was not verified within `within_s`, one caller of all replicas is the one that fills.
        """

    async def peek(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries as they are, however old; None where there is none or the cache cannot be asked."""

    def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """Return everything that is held, in pieces. Raises CacheUnavailable."""

    async def put(self, entries: Sequence[Entry], as_of: float, *, fills: bool = False, force: bool = False) -> bool:
        """Store each entry unless a newer one is there (`force`: also then). False when one may not be there.

        `fills`: the caller was asked to fill by `fetch`, and has now done so.
        """

    async def announce(self, change: Announced) -> bool:
        """Announce a change to every replica; False when the cache could not be reached."""

    async def announce_identity(self) -> bool:
        """Announce to the replicas of the identity before `identify` that the store has a new one."""

    async def acquire_lease(self, as_of: float, lease_s: float) -> LeaseAnswer:
        """Take the cache lease for `lease_s` from `as_of` on: entries put from now on are verified by it.

        What was put before `as_of` is not.
        """

    async def renew_lease(self, as_of: float, lease_s: float, entries: Sequence[Entry]) -> LeaseAnswer:
        """Certify that nothing put since the lease was acquired is older than the store was at `as_of`.

        The entries are put in the same atomic step. The lease then runs for `lease_s` from `as_of` on.
        """

    async def send_heartbeat(self, heartbeat: Heartbeat, expires_s: float) -> bool:
        """Publish a heartbeat to every replica, and keep it for `heartbeats` until it expires or is replaced."""

    async def remove_heartbeat(self, replica: str) -> None:
        """Forget a replica's heartbeat: nobody need wait for it any more."""

    async def heartbeats(self) -> list[tuple[Heartbeat, float]] | None:
        """Return the kept heartbeats with their age in seconds; None when the cache cannot be asked."""

    def problems(self) -> Sequence[Problem]:
        """Return what does not work now, as last seen; never asks the server."""

    def state(self) -> Mapping[str, float]:
        """Return figures for metrics (such as memory_bytes) as last seen; never asks the server."""

    def events(self) -> AsyncIterator[CacheEvent]:
        """Deliver the channel's messages, for ever: reconnects by itself, with Subscribed after each (re)connect."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot: everything as it was at `saved_at` (aware UTC, by the clock of the replica that saved it).

    `store_id`: the identity of its store; empty where that has none.
    """

    contents: StoreContents
    saved_at: datetime
    store_id: str = ""


class Snapshot(Protocol):
    """The last good contents, on this replica's disk. Blocking: called from a thread."""

    def read(self) -> Saved | None:
        """Return what was saved; None, with a line in the log, when nothing can be used."""

    def write(self, saved: Saved) -> bool:
        """Replace what is there, atomically; False when that is newer. Raises OSError."""

    def problems(self) -> Sequence[Problem]:
        """Return why what is there cannot be used, as last seen; never touches the disk."""
