"""Keeps the near cache what the store is: loads it, hears of changes, and looks by itself.

Changes come over two channels, each enough alone and both in milliseconds: announcements through the shared cache, and
the store's own stream of changes, whoever made them. Neither is believed to be whole: a look at the store's revision
counters confirms the view, up to where the stream has told; where a stream is needed and does not tell, a look reads
everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from enum import StrEnum

import structlog

from flagsvc.core.errors import StoreUnavailable
from flagsvc.ports import (
    NEVER,
    Announced,
    ChangesUnsupported,
    Checkpoint,
    Event,
    FlagCache,
    FlagStore,
    Heartbeat,
    StoreContents,
    StoreEvent,
    Subscribed,
    UnversionedChange,
)
from flagsvc.replication.heartbeats import Peers
from flagsvc.replication.revision_assigner import RevisionAssigner
from flagsvc.view.near_cache import NearCache

MAX_POLL_INTERVAL_S = 2.0
"""Longest time between two looks: four tenths of the staleness bound, or this."""
IDLE_TIMEOUT_S = 3.0
"""Without any message for this long a channel counts as dead."""
GAP_S = 0.25
"""How long a missing revision may be on its way before it counts as lost."""
TOLD_S, TOLD_SHARE = 1.5, 0.7
"""A stream that has told nothing for this long, and this share of the staleness bound, is not waited for."""
STREAM_WAIT_S = 0.3
"""How long the first load waits for the stream, so that nothing falls between the two."""
LOAD_SHARE = 5
"""Reading everything again and again takes at most one part in this many of the time."""
_CAUSE_CHARS = 300

log = structlog.get_logger(__name__)


class Feed(StrEnum):
    """How changes are learned that another program makes in the store."""

    STREAM = "stream"
    POLLING = "polling"
    NONE = "none"


class Follower:
    """Background work of one replica. `loaded` is set once the store was read, `tried` once that was attempted."""

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        cache: FlagCache | None,
        peers: Peers,
        is_holder: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_holder`: whether this replica vouches for the shared cache, and so is first to number foreign changes."""
        self._near, self._store, self._cache, self._peers, self._is_holder = near, store, cache, peers, is_holder
        self.revision_assigner = RevisionAssigner(near, store, cache, is_holder)
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._streaming = asyncio.Event()
        self._opened = False
        self._heard_at = NEVER
        self._polled_at = NEVER
        self._checkpoint = NEVER
        self._load_needed_since = NEVER
        self._load_s = 0.0
        self.feed = Feed.STREAM if store.foreign else Feed.NONE
        self.loaded, self.tried = asyncio.Event(), asyncio.Event()
        self.store_up = True
        self.loads = 0
        self.announcements_received = 0

    @property
    def subscription_up(self) -> bool:
        """Whether announcements reach this replica now."""
        return time.monotonic() - self._heard_at < IDLE_TIMEOUT_S

    @property
    def feed_up(self) -> bool:
        """Whether changes of other programs are learned now in the way that `feed` says."""
        if self.feed is Feed.STREAM:
            return time.monotonic() - self._checkpoint < IDLE_TIMEOUT_S
        return self.store_up

    def start(self) -> None:
        """Begin; waits for nothing."""
        self._tasks.append(asyncio.create_task(self._sync_loop(), name="follower"))
        if self._store.foreign:
            self._tasks.append(asyncio.create_task(self._hear_store(), name="store-stream"))
        if self._cache is not None:
            self._tasks.append(asyncio.create_task(self._hear(self._cache), name="subscriber"))

    async def close(self) -> None:
        """Stop everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self.revision_assigner.close(), return_exceptions=True)

    async def _sync_loop(self) -> None:
        while True:
            try:
                await self._poll()
                self.store_up = True
            except StoreUnavailable as error:
                if self.store_up:
                    log.warning("store unavailable", error=str(error), cause=repr(error.__cause__)[:_CAUSE_CHARS])
                self.store_up = False
            except Exception:
                log.exception("follower failed; it goes on")
            self.tried.set()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause())

    async def _poll(self) -> None:
        """Confirm the view, or read everything."""
        if not self._opened:
            await self._store.open()
            self._opened = True
            if self._store.foreign:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._streaming.wait(), STREAM_WAIT_S)
        asked_at = time.monotonic()
        if self._must_load(asked_at):
            await self._load()
            return
        revisions = await self._store.revisions()
        if not self._near.has_all(revisions) and (self._store.foreign or self._cache is not None):
            await asyncio.sleep(GAP_S)  # news is likely on its way: then nothing need be read
        if not self._near.has_all(revisions):
            await self._load()
            return
        self._polled_at = asked_at
        self._proven(self._polled_at)
        if self._is_holder():
            await self._store.save_resume_token()

    def _must_load(self, now: float) -> bool:
        """Whether counters alone cannot tell that nothing was missed."""
        checkpoint = self._checkpoint if self._store.foreign else math.inf
        return (
            not (self._near.complete or self._near.overfull)
            or self._near.restored
            or not self.loaded.is_set()
            or self._polled_at < self._load_needed_since
            or now - self._near.gap_since() >= GAP_S
            or now - checkpoint > max(self._near.staleness_bound_s * TOLD_SHARE, TOLD_S)
        )

    async def read_all(self) -> StoreContents:
        """Read the store into the near cache. Raises StoreUnavailable."""
        asked_at = time.monotonic()
        contents = await self._store.load()
        self.loads += 1
        self._load_s = time.monotonic() - asked_at
        if not self._near.overfull:
            contents = await self._looked_for(contents)
            for change in self._near.merge(contents, asked_at, time.monotonic()):
                self._number(change)
            self._polled_at = max(self._polled_at, asked_at)
            self.loaded.set()
        return contents

    async def _looked_for(self, contents: StoreContents) -> StoreContents:
        """Look once more for what was not found: deleted after the counters were read, it has a later revision."""
        found = {flag.id for flag in contents.flags}
        missing = await asyncio.gather(*map(self._store.get, self._near.missing(found)))
        there = [entry.flag for entry in missing if entry.flag is not None]
        absent = {entry.id: entry.revision for entry in missing if entry.flag is None}
        return StoreContents([*contents.flags, *there], contents.revisions, absent)

    async def _load(self) -> None:
        if not self._near.overfull:
            await self.read_all()
            return
        asked_at = time.monotonic()
        self._near.mark_gap(await self._store.revisions(), asked_at)
        self._polled_at = asked_at
        self.loaded.set()

    def _proven(self, as_of: float) -> None:
        """All that has a revision is as it was then; of foreign changes only what the stream has told."""
        checkpoint = self._checkpoint if self._store.foreign else math.inf
        if not self.revision_assigner and as_of >= self._load_needed_since:
            self._near.confirm(min(as_of, checkpoint))

    def _pause(self) -> float:
        bound = self._near.staleness_bound_s
        if not self.store_up:
            return min(0.5, bound / 5)
        if self.feed is Feed.POLLING or (self.feed is Feed.STREAM and not self.feed_up):
            return max(min(self._store.poll_interval_s, bound / 5), LOAD_SHARE * self._load_s)
        told = self.subscription_up or self.feed is Feed.STREAM
        return min(bound * 0.4, MAX_POLL_INTERVAL_S) if told else min(self._store.poll_interval_s, bound / 5)

    async def _hear(self, cache: FlagCache) -> None:
        async for event in cache.events():
            self._heard_at = time.monotonic()
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Subscribed():
                self._wake.set()
            case Announced(reply=reply):
                self.announcements_received += 1
                self._apply_change(event)
                if reply:
                    self._peers.reply_soon()
            case Heartbeat(revisions=revisions):
                self._proven(self._peers.hear(event, self._heard_at))
                if not self._near.has_all(revisions):
                    asyncio.get_running_loop().call_later(GAP_S, self._look_for, revisions)

    def _look_for(self, revisions: object) -> None:
        if isinstance(revisions, dict) and not self._near.has_all(revisions):
            self._wake.set()

    async def _hear_store(self) -> None:
        try:
            async for event in self._store.changes():
                self._take_from_store(event)
        except ChangesUnsupported:
            self.feed = Feed.POLLING
            self._streaming.set()
            every_s = min(self._store.poll_interval_s, self._near.staleness_bound_s / 5)
            log.warning("no change stream: the whole store is read again and again", every_s=every_s)

    def _take_from_store(self, event: StoreEvent) -> None:
        match event:
            case Subscribed():
                self._streaming.set()
                self._load_needed_since = time.monotonic()
                if self.loaded.is_set():
                    self._wake.set()
            case Announced():
                self._apply_change(event)
            case UnversionedChange():
                self._number(event)
            case Checkpoint(as_of):
                if not self.revision_assigner:
                    self._checkpoint = as_of
                    self._proven(self._polled_at)

    def _apply_change(self, event: Announced) -> None:
        self._near.apply_change(event.entry, time.monotonic(), passed=event.passed)
        if self._near.gap_since() != math.inf:
            asyncio.get_running_loop().call_later(GAP_S, self._wake_for_gap)

    def _wake_for_gap(self) -> None:
        if time.monotonic() - self._near.gap_since() >= GAP_S:
            self._wake.set()

    def _number(self, change: UnversionedChange) -> None:
        if self.feed is Feed.STREAM:  # a store without a stream has no transactions to do it in
            self.revision_assigner.add(change)
