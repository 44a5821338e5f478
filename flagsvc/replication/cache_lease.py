"""Holds the cache lease: one replica at a time certifies, and keeps renewing, how stale Redis entries can be.

A writer that died between store and cache, an entry that was lost with Redis's memory, an old dump in its place: after
each of these the lease makes answers right again. Before each renewal the holder puts what it has applied since. Where
the lease record is not the one it wrote last, it acquires the lease again, and nothing that was put before counts. What
is of no flag any more, an old dump's, nobody answers from; the audit removes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice

import structlog

from flagsvc.background import BackgroundTasks, repeat
from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER, Entry, FlagCache, LeaseAnswer, LeaseState
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache

CHUNK = 500
"""Most entries that one renewal puts; where more have changed, the lease is acquired again and all are put."""

log = structlog.get_logger(__name__)


class CacheLease:
    """One replica's part: it holds the lease, or waits to. Without a shared cache nobody holds it."""

    def __init__(self, near: NearCache, cache: FlagCache | None, timing: Timing) -> None:
        self._near, self._cache, self._timing = near, cache, timing
        self._changed: dict[FlagId, tuple[float, Entry]] = {}
        self._gaps = 0
        self._held_until = NEVER
        self._holding = False
        self._tasks = BackgroundTasks()
        self.acquired = 0
        """How often this replica acquired the lease."""
        near.when_changed(self._note)

    @property
    def is_holder(self) -> bool:
        """Whether this replica holds the lease, by its own clock: it never says so after the lease has run out."""
        return self.left_s > 0

    @property
    def left_s(self) -> float:
        """How many seconds the lease still runs; 0 for a replica that does not hold it."""
        return max(self._held_until - time.monotonic(), 0.0)

    def start(self) -> None:
        """Begin to acquire and renew; waits for nothing."""
        if self._cache is not None:
            self._tasks.start(
                repeat(self.step, partial(asyncio.sleep, self._timing.renew_every_s), "cache_lease_failed"),
                "cache-lease",
            )

    async def close(self) -> None:
        """Stop. The lease runs out by itself."""
        await self._tasks.close()

    async def step(self) -> None:
        """Renew the lease, or acquire it where it is not held: as of the view's moment, with what was applied since."""
        if self._cache is None:
            return
        as_of = self._near.verified_at
        age_s = time.monotonic() - as_of
        if self._holding and not self.is_holder:
            self._lose("view_too_old" if age_s > self._timing.lease_s / 2 else LeaseState.UNREACHABLE)
        if not self._cache.available or age_s >= self._timing.lease_s:
            return
        entries = self._current()
        must_refill = self._gaps != self._near.partial.gaps or entries is None or len(entries) > CHUNK
        if entries is None or must_refill or not self._holding:
            if age_s <= self._timing.max_acquire_age_s:
                self._forget_until(as_of)
                await self._acquire(self._cache, as_of)
        else:
            await self._renew(self._cache, as_of, entries)

    def _forget_until(self, as_of: float) -> None:
        """Keep the changes that the lease does not cover yet: they are put again, for they may have been evicted.

        What was committed after `as_of` was also received after it.
        """
        self._changed = {flag_id: noted for flag_id, noted in self._changed.items() if noted[0] > as_of}

    def _note(self, entry: Entry) -> None:
        self._changed[entry.id] = time.monotonic(), entry

    def _current(self) -> list[Entry] | None:
        """Return what is held now of flags that changed: a read may have overtaken what was noted.

        None when a newer entry was known that is not held any more.
        """
        entries = []
        for flag_id, (_, entry) in self._changed.items():
            held = self._near.get(flag_id)
            if held is None and self._near.high_water_mark(flag_id) > entry.revision:
                return None
            entries.append(held.entry if held is not None else entry)
        return entries

    async def _acquire(self, cache: FlagCache, as_of: float) -> None:
        """Take the lease, which covers only what is put from now on; then put everything that is held.

        That may take longer than the lease lasts, so it is renewed meanwhile.
        """
        self._gaps = self._near.partial.gaps
        if not self._take(await cache.acquire_lease(as_of, self._timing.lease_s)):
            return
        self.acquired += 1
        if not self._near.complete:
            log.info("cache_lease_acquired", entries=0)
            return
        log.info("cache_lease_acquired", entries=len(self._near))
        ids, renewed_at = self._near.ids(), time.monotonic()
        while chunk := tuple(islice(ids, CHUNK)):
            held = [self._near.get(flag_id) for flag_id in chunk]
            await cache.put([each.entry for each in held if each is not None], self._near.verified_at)
            if time.monotonic() - renewed_at >= self._timing.renew_every_s:
                renewed_at, as_of = time.monotonic(), self._near.verified_at
                entries = self._current()
                if self._gaps != self._near.partial.gaps or entries is None or len(entries) > CHUNK:
                    return  # the next step acquires it again
                if not await self._renew(cache, as_of, entries):
                    return

    async def _renew(self, cache: FlagCache, as_of: float, entries: Sequence[Entry]) -> bool:
        """Renew the lease as of a moment, with what was applied since. Return whether it is held."""
        is_held = self._take(await cache.renew_lease(as_of, self._timing.lease_s, entries))
        if is_held:
            self._forget_until(as_of)
        return is_held

    def _take(self, answer: LeaseAnswer) -> bool:
        """Record the answer; whether the lease is held."""
        if answer.state is LeaseState.HELD:
            self._held_until, self._holding = answer.held_until, True
        elif self._holding:
            self._lose(answer.state)
        return self._holding

    def _lose(self, reason: str) -> None:
        self._held_until, self._holding = NEVER, False
        log.warning("cache_lease_lost", reason=reason, detail="The cache is filled again once the lease is acquired.")
