"""Changes flags: in the store (with history, atomically), then here, then in the shared cache, then everywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from flagsvc.background import outliving
from flagsvc.core.changes import Author, Decide
from flagsvc.core.errors import SegmentsMissing
from flagsvc.core.model import FlagId
from flagsvc.core.requests import WriteRequest
from flagsvc.core.segments import SegmentDecide, SegmentId
from flagsvc.ports import Entry, FlagCache, FlagStore
from flagsvc.ports.revisions import DecideAll, RolledBack
from flagsvc.ports.segments import CheckAll, SegmentStore, SegmentWritten
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.replication.publish import WriteLevel, publish_change
from flagsvc.serving.quotas import NO_QUOTAS, Quotas
from flagsvc.turns import in_turns
from flagsvc.view.near_cache import NearCache

T = TypeVar("T")
Through = Callable[[FlagId, Decide], Awaitable[Entry | None]]
"""Stores what a decision decides, as `FlagStore.write` does."""
log = structlog.get_logger(__name__)
_PUBLISHED_AT_ONCE = 16
RETRY_DELAY_S = 0.1
"""Time between two attempts to reach the shared cache, for a caller who waits for that."""


@dataclass(slots=True)
class WriteStats:
    """Outcomes of writes, for metrics."""

    stored: int = 0
    announced: int = 0
    not_announced: int = 0


@dataclass(frozen=True, slots=True)
class WaitFor:
    """How far a change has to spread before its writer is answered, and how many seconds that may take."""

    level: WriteLevel | None = None
    """None: CACHED if the first attempt succeeds."""
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A stored change and how far it has spread; replicas by name."""

    entry: Entry
    reached: WriteLevel
    applied_by: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()


class Writer:
    """The write side of one replica. Raises what the decision or the store raises; nothing is changed then."""

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        cache: FlagCache | None,
        heartbeats: Heartbeats,
        quotas: Quotas = NO_QUOTAS,
    ) -> None:
        self._near, self._store, self._cache, self._heartbeats = near, store, cache, heartbeats
        self._quotas = quotas
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.stats = WriteStats()

    async def write(
        self, flag_id: FlagId, decide: Decide, wait_for: WaitFor | None = None, through: Through | None = None
    ) -> WriteResult | None:
        """Store what `decide` decides and publish it; None when there was nothing to do.

        `through`: stores more with it, in one atomic step.
        A cache that cannot be reached does not fail the write: replicas then see it within the staleness bound.
        A caller who leaves does not stop a write half way.
        """
        return await outliving(self._started(self._write(flag_id, decide, wait_for or WaitFor(), through)))

    async def roll_back(
        self,
        flag_set: str,
        revision: int,
        decide: DecideAll,
        author: Author,
        wait_for: WaitFor,
        *,
        request: WriteRequest | None = None,
    ) -> tuple[RolledBack, WriteResult | None]:
        """Store what `decide` decides about a set, and publish every change; the result is that of the last one."""
        work = self._roll_back(flag_set, revision, decide, author, wait_for, request=request)
        return await outliving(self._started(work))

    async def write_segment(
        self, segment_id: SegmentId, decide: SegmentDecide, wait_for: WaitFor, request: WriteRequest | None = None
    ) -> tuple[SegmentWritten, WriteResult | None]:
        """Store a change of a segment, and publish every flag that changes with it; the result is the last one's."""
        return await outliving(self._started(self._write_segment(segment_id, decide, wait_for, request)))

    async def preview(self, flag_id: FlagId, decide: Decide) -> Entry:
        """Return what a write would store, with the revision of now. Raises what the write would raise."""
        return await self._store.preview(flag_id, self._quotas.checked(flag_id.flag_set, decide, self._near))

    async def preview_rollback(self, flag_set: str, revision: int, decide: DecideAll, author: Author) -> RolledBack:
        """Return what a rollback of a set would change."""
        return await self._store.roll_back(flag_set, revision, decide, author, dry_run=True)

    async def preview_segment(self, segment_id: SegmentId, decide: SegmentDecide) -> SegmentWritten:
        """Return what a change of a segment would store."""
        return await self._segments.write(segment_id, decide, check=self._within(segment_id), dry_run=True)

    async def close(self) -> None:
        """Let running writes finish. One that waits for the cache only ends with the level reached."""
        self._closing = True
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _write(
        self, flag_id: FlagId, decide: Decide, wait_for: WaitFor, through: Through | None
    ) -> WriteResult | None:
        as_of = time.monotonic()
        until = as_of + wait_for.timeout_s
        write = through or self._store.write
        entry = await write(flag_id, self._quotas.checked(flag_id.flag_set, decide, self._near))
        if entry is None:
            return None
        self.stats.stored += 1
        # This replica first: whoever is answered reads the own write here, also when the cache is away.
        self._near.apply_change(entry, time.monotonic(), as_of=as_of)
        return await self._spread(entry, as_of, wait_for, until)

    async def _spread(self, entry: Entry, as_of: float, wait_for: WaitFor, until: float) -> WriteResult:
        """Publish a change that this replica has applied, and wait for what its caller wants."""
        own = (self._heartbeats.name,)
        publishing = self._started(self._publish(entry, as_of, wait_for, until)) if self._cache is not None else None
        if (held := self._near.get(entry.id)) is not None:
            await held.compile()  # so that the writer's own evaluations do not wait for it
        if publishing is None:
            # A store of one process has no other replicas. With one for many, they cannot be heard without a cache.
            return WriteResult(entry, WriteLevel.APPLIED if self._store.feed is None else WriteLevel.STORED, own)
        if wait_for.level is WriteLevel.STORED:
            return WriteResult(entry, WriteLevel.STORED, own)
        reached = await publishing
        if wait_for.level is not WriteLevel.APPLIED:
            return WriteResult(entry, reached, own)
        try:
            acks = await self._heartbeats.wait_for_acks(entry.id.flag_set, entry.revision, until)
        except Exception:
            log.exception("wait_for_replicas_failed", detail="The change is stored.")
            return WriteResult(entry, reached, own)
        if acks.known and not acks.lagging and reached is WriteLevel.CACHED:
            reached = WriteLevel.APPLIED
        return WriteResult(entry, reached, acks.applied, acks.lagging)

    async def _roll_back(
        self,
        flag_set: str,
        revision: int,
        decide: DecideAll,
        author: Author,
        wait_for: WaitFor,
        *,
        request: WriteRequest | None,
    ) -> tuple[RolledBack, WriteResult | None]:
        as_of = time.monotonic()
        done = await self._store.roll_back(flag_set, revision, decide, author, dry_run=False, request=request)
        return done, await self._spread_all(flag_set, done, as_of, wait_for)

    async def _write_segment(
        self, segment_id: SegmentId, decide: SegmentDecide, wait_for: WaitFor, request: WriteRequest | None
    ) -> tuple[SegmentWritten, WriteResult | None]:
        as_of = time.monotonic()
        done = await self._segments.write(segment_id, decide, check=self._within(segment_id), request=request)
        return done, await self._spread_all(segment_id.flag_set, done, as_of, wait_for)

    @property
    def _segments(self) -> SegmentStore:
        if self._store.segments is None:
            raise SegmentsMissing
        return self._store.segments

    def _within(self, segment_id: SegmentId) -> CheckAll:
        return lambda changes: self._quotas.check_all(segment_id.flag_set, changes, self._near)

    async def _spread_all(
        self, flag_set: str, done: RolledBack | SegmentWritten, as_of: float, wait_for: WaitFor
    ) -> WriteResult | None:
        """Apply and publish changes that were stored together, and wait for what their caller wants of the last.

        Where they were made before, for an equal request, the flags are read as they are now: whoever made them may
        have been killed before it published them.
        """
        entries = done.entries
        if not entries:
            found = await asyncio.gather(*(self._store.get(FlagId(flag_set, each.key)) for each in done.flags))
            entries = sorted(found, key=lambda entry: entry.revision)
        until = as_of + wait_for.timeout_s
        if not entries:
            return None
        async for entry in in_turns(entries):
            self.stats.stored += 1
            self._near.apply_change(entry, time.monotonic(), as_of=as_of)
        *others, last = entries
        for start in range(0, len(others), _PUBLISHED_AT_ONCE):
            some = others[start : start + _PUBLISHED_AT_ONCE]
            await asyncio.gather(*(self._publish_once(entry, as_of, reply=False) for entry in some))
        return await self._spread(last, as_of, wait_for, until)

    async def _publish(self, entry: Entry, as_of: float, wait_for: WaitFor, until: float) -> WriteLevel:
        """Put and announce; while somebody waits for it, again as long as the cache cannot be reached."""
        while True:
            reached = await self._publish_once(entry, as_of, reply=wait_for.level is WriteLevel.APPLIED)
            is_over = self._closing or time.monotonic() + RETRY_DELAY_S > until
            if reached is WriteLevel.CACHED or wait_for.level in (None, WriteLevel.STORED) or is_over:
                break
            await asyncio.sleep(RETRY_DELAY_S)
        self.stats.announced += reached is WriteLevel.CACHED
        self.stats.not_announced += reached is not WriteLevel.CACHED
        return reached

    async def _publish_once(self, entry: Entry, as_of: float, *, reply: bool) -> WriteLevel:
        """Put and announce. Whatever fails there, the change is stored: its caller must not get an error for it."""
        try:
            return await publish_change(self._cache, entry, as_of, reply=reply)
        except Exception:
            log.exception("publish_failed", detail="The change is stored; replicas see it by the next poll.")
            return WriteLevel.STORED
