"""Keeps the near cache what the store is: loads it, hears announcements, and looks by itself when it hears nothing.

Three things move the near cache, each enough alone for the staleness bound: announcements (milliseconds), beats that
tell a missed one (a second), and a look at the store's revision counters (four fifths of the bound).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping

import structlog

from flagsvc.core.errors import StoreUnavailable
from flagsvc.near import NearCache
from flagsvc.ports import Announced, Beat, Entry, Event, FlagCache, FlagStore, Subscribed

BEAT_S = 1.0
SILENCE_S = 3.0
"""Without any message for this long the channel counts as dead."""
GAP_S = 0.25
"""How long a missing revision may be on its way before it counts as lost."""

log = structlog.get_logger(__name__)


class Follower:
    """Background work of one replica; `loaded` is set once the store's contents were read."""

    def __init__(self, near: NearCache, store: FlagStore, cache: FlagCache | None) -> None:
        self._near, self._store, self._cache = near, store, cache
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._opened = False
        self._last_message = -math.inf
        self.loaded = asyncio.Event()
        self.tried = asyncio.Event()
        self.store_up = True
        self.loads = 0
        self.announcements_received = 0

    @property
    def channel_heard(self) -> bool:
        """Whether announcements reach this replica now."""
        return time.monotonic() - self._last_message < SILENCE_S

    def start(self) -> None:
        """Begin; waits for nothing."""
        self._tasks.append(asyncio.create_task(self._keep_up(), name="follower"))
        if self._cache is not None:
            self._tasks.append(asyncio.create_task(self._hear(self._cache), name="subscriber"))
            self._tasks.append(asyncio.create_task(self._beat(self._cache), name="beat"))

    async def close(self) -> None:
        """Stop everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_up(self) -> None:
        while True:
            try:
                await self._look()
                self.store_up = True
            except StoreUnavailable as error:
                if self.store_up:
                    log.warning("store unavailable", error=str(error))
                self.store_up = False
            except Exception:
                log.exception("follower failed; it goes on")
            self.tried.set()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause())

    async def _look(self) -> None:
        if not self._opened:
            await self._store.open()
            self._opened = True
        asked_at = time.monotonic()
        gap = asked_at - self._near.gap_since() >= GAP_S
        if self._near.overfull:
            revisions = await self._store.revisions()
            if gap or not self._same(revisions):
                self._near.distrust(revisions, asked_at)
            return
        if self._near.complete and not gap and self._near.confirmed_at >= self._heard_since():
            if self._same(await self._store.revisions()):
                self._near.confirmed_at = asked_at
                return
            if self._cache is not None:
                await asyncio.sleep(GAP_S)  # an announcement is likely on its way: then nothing need be read
                if self._same(await self._store.revisions()):
                    return
        await self._load()

    async def _load(self) -> None:
        asked_at = time.monotonic()
        if self._near.limit > 0:
            contents = await self._store.load()
            self.loads += 1
            self._near.merge(contents, asked_at)
            if self._cache is not None and self._cache.available and not self.loaded.is_set():
                await self._cache.put([Entry.of(flag) for flag in contents.flags])
        else:
            await self._store.ping()
        self.loaded.set()

    def _heard_since(self) -> float:
        """When the channel began to be heard; a view confirmed before then must be read again."""
        return self._near.heard_since if self._near.heard_since != math.inf else -math.inf

    def _same(self, revisions: Mapping[str, int]) -> bool:
        known = self._near.revisions()
        return all(known.get(name, 0) >= revision for name, revision in revisions.items())

    def _pause(self) -> float:
        bound = self._near.staleness_bound_s
        if not self.store_up:
            return min(0.5, bound / 5)
        return bound * 0.8 if self.channel_heard else min(self._store.look_s, bound / 5)

    async def _hear(self, cache: FlagCache) -> None:
        async for event in cache.events():
            self._last_message = time.monotonic()
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Subscribed():
                self._near.heard_since = time.monotonic()
                self._wake.set()
            case Announced(entry):
                self.announcements_received += 1
                self._near.apply(entry, time.monotonic())
                if self._near.gap_since() != math.inf:
                    asyncio.get_running_loop().call_later(GAP_S, self._wake.set)
            case Beat(revisions) if not self._same(revisions):
                asyncio.get_running_loop().call_later(GAP_S, self._wake.set)

    async def _beat(self, cache: FlagCache) -> None:
        """Say that the channel is alive, and hear the same; forget the channel when nothing comes back."""
        while True:
            await cache.announce(Beat(self._near.revisions()))
            await asyncio.sleep(BEAT_S)
            if not self.channel_heard:
                self._near.heard_since = math.inf
