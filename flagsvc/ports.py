"""What the middle needs of the outside. Adapters implement these; nothing here knows a driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flagsvc.core.changes import Decide
from flagsvc.core.model import Flag, FlagId, HistoryEntry


@dataclass(frozen=True, slots=True)
class Entry:
    """A known state of one flag: its definition, or that it is not there.

    `flag` None with a revision above 0 is a tombstone (deleted at that revision); with 0 it was simply not found.
    """

    id: FlagId
    revision: int
    flag: Flag | None

    @staticmethod
    def of(flag: Flag) -> Entry:
        """A flag as it stands."""
        return Entry(flag.id, flag.revision, flag)

    @staticmethod
    def absent(flag_id: FlagId) -> Entry:
        """Nothing was found: loses against everything that ever was written."""
        return Entry(flag_id, 0, None)


@dataclass(frozen=True, slots=True)
class StoreContents:
    """Every flag of every set. `revisions`: per set, the revision up to which all changes are surely contained."""

    flags: Sequence[Flag]
    revisions: Mapping[str, int]


class FlagStore(Protocol):
    """The source of truth. Every method raises StoreUnavailable when it cannot be asked in time."""

    look_s: float
    """Seconds between two looks at `revisions` where no channel tells of changes."""

    async def open(self) -> None:
        """Prepare (indexes, tables). May be called again after a failure."""

    async def close(self) -> None:
        """Release everything; no method may be called after."""

    async def ping(self) -> None:
        """Ask whether the store answers."""

    async def get(self, flag_id: FlagId) -> Flag | None:
        """Read one flag, never from a stale secondary."""

    async def load(self) -> StoreContents:
        """Read everything."""

    async def revisions(self) -> Mapping[str, int]:
        """Read the newest revision of each flag set: cheap, to see whether anything changed."""

    async def change(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        """Decide and store, with history and audit, as one atomic step; None when there was nothing to do.

        The new revision is larger than every revision of the flag set before it, and revisions become visible in
        their order. Raises what `decide` raises (nothing is changed then) and WritesUnsupported.
        """

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's newest changes first; empty for an unknown key."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The channel is (again) heard: whatever was said before may have been missed."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A flag changed to this entry."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Beat:
    """The channel is alive; `revisions` are the newest ones that the sender knows."""

    revisions: Mapping[str, int]


Event = Subscribed | Announced | Beat


class FlagCache(Protocol):
    """The shared cache and its channel. A cache that cannot answer is a miss, never an error."""

    async def open(self) -> None:
        """Start; never waits for the server to be there."""

    async def close(self) -> None:
        """Release everything."""

    @property
    def available(self) -> bool:
        """Whether calls reach the cache now (the breaker is closed)."""

    async def get(self, ids: Sequence[FlagId]) -> list[Entry | None]:
        """Read entries; None where there is none or the cache cannot be asked."""

    async def put(self, entries: Sequence[Entry]) -> bool:
        """Store each entry unless a newer one is there; False when the cache could not be reached."""

    async def announce(self, event: Announced | Beat) -> bool:
        """Tell every replica; False when the cache could not be reached."""

    def state(self) -> Mapping[str, float]:
        """Give figures for metrics (such as memory_bytes) as last seen; never asks the server."""

    def events(self) -> AsyncIterator[Event]:
        """Hear the channel, for ever: reconnects by itself, yields Subscribed after each (re)connect."""
