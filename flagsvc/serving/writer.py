"""Changes flags: store (with history, atomically), then this replica, then the shared cache, then everybody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from flagsvc.core.changes import Decide
from flagsvc.core.model import FlagId
from flagsvc.ports import Entry, FlagCache, FlagStore
from flagsvc.replication.heartbeats import Peers
from flagsvc.replication.publish import WriteLevel, publish_change
from flagsvc.view.near_cache import NearCache

T = TypeVar("T")
RETRY_DELAY_S = 0.1
"""Time between two attempts to reach the shared cache, for a caller who waits for that."""


@dataclass(slots=True)
class WriteStats:
    """How writes went, for metrics."""

    stored: int = 0
    announced: int = 0
    not_announced: int = 0


@dataclass(frozen=True, slots=True)
class WaitFor:
    """How far a change has to spread before its writer is answered, and how long that may take."""

    level: WriteLevel | None = None
    """None: CACHED if that is at once possible."""
    at_most_s: float = 5.0


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A stored change and how far it has spread; replicas by name."""

    entry: Entry
    reached: WriteLevel
    applied_by: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()


class Writer:
    """The write side of one replica. Raises what the decision or the store raises; nothing is changed then."""

    def __init__(self, near: NearCache, store: FlagStore, cache: FlagCache | None, peers: Peers) -> None:
        self._near, self._store, self._cache, self._peers = near, store, cache, peers
        self._tasks: set[asyncio.Task[Any]] = set()
        self.spread = WriteStats()

    async def write(self, flag_id: FlagId, decide: Decide, wait: WaitFor | None = None) -> WriteResult | None:
        """Store what `decide` decides and let it be seen; None when there was nothing to do.

        A cache out of reach does not fail the write: replicas then see it by themselves within the staleness bound.
        A caller who leaves does not stop a write half way.
        """
        return await asyncio.shield(self._started(self._write(flag_id, decide, wait or WaitFor())))

    async def close(self) -> None:
        """Let writes under way finish."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a caller who left must not be warned about

    async def _write(self, flag_id: FlagId, decide: Decide, wait: WaitFor) -> WriteResult | None:
        as_of = time.monotonic()
        until = as_of + wait.at_most_s
        entry = await self._store.change(flag_id, decide)
        if entry is None:
            return None
        self.spread.stored += 1
        self._near.apply_change(entry, time.monotonic(), as_of=as_of)
        if self._cache is None:
            return self._alone(entry)
        spreading = self._started(self._spread(entry, as_of, wait, until))
        if wait.level is WriteLevel.STORED:
            return WriteResult(entry, WriteLevel.STORED, (self._peers.name,))
        reached = await spreading
        if wait.level is not WriteLevel.APPLIED:
            return WriteResult(entry, reached, (self._peers.name,))
        standing = await self._peers.wait_for_acks(flag_id.flag_set, entry.revision, until)
        if standing.known and not standing.lagging and reached is WriteLevel.CACHED:
            reached = WriteLevel.APPLIED
        return WriteResult(entry, reached, standing.applied, standing.lagging)

    def _alone(self, entry: Entry) -> WriteResult:
        """Without a shared cache replicas do not know of one another; a store of one process has no others."""
        reached = WriteLevel.STORED if self._store.foreign else WriteLevel.APPLIED
        return WriteResult(entry, reached, (self._peers.name,))

    async def _spread(self, entry: Entry, as_of: float, wait: WaitFor, until: float) -> WriteLevel:
        """Put and announce; again, while somebody waits for it, when the cache cannot be reached."""
        while True:
            reached = await publish_change(self._cache, entry, as_of, reply=wait.level is WriteLevel.APPLIED)
            if (
                reached is WriteLevel.CACHED
                or wait.level in (None, WriteLevel.STORED)
                or time.monotonic() + RETRY_DELAY_S > until
            ):
                break
            await asyncio.sleep(RETRY_DELAY_S)
        self.spread.announced += reached is WriteLevel.CACHED
        self.spread.not_announced += reached is not WriteLevel.CACHED
        return reached
