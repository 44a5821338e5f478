"""The shared cache, with the lease that certifies its entries, and its channel between replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from flagsvc.core.model import FlagId
from flagsvc.ports.changes import (
    NEVER,
    Announced,
    Entry,
    IdentityChanged,
    StoreIdentity,
    Subscribed,
    TokensChanged,
)
from flagsvc.ports.reports import Heartbeat, Problem

CacheEvent = Subscribed | Announced | Heartbeat | IdentityChanged | TokensChanged


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

    async def announce_tokens(self) -> bool:
        """Announce that tokens have changed, and nothing of them; False when the cache could not be reached."""

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
