"""Changes flags: store (with history, atomically), then this replica, then the shared cache, then everybody."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from flagsvc.core.changes import Decide
from flagsvc.core.model import FlagId
from flagsvc.near import NearCache
from flagsvc.ports import Announced, Entry, FlagCache, FlagStore


@dataclass(slots=True)
class Spread:
    """How writes went, for metrics."""

    stored: int = 0
    announced: int = 0
    not_announced: int = 0


class Writer:
    """The write side of one replica. Raises what the decision or the store raises; nothing is changed then."""

    def __init__(self, near: NearCache, store: FlagStore, cache: FlagCache | None) -> None:
        self._near, self._store, self._cache = near, store, cache
        self._writes: set[asyncio.Task[Entry | None]] = set()
        self.spread = Spread()

    async def write(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        """Store what `decide` decides and let it be seen; None when there was nothing to do.

        A cache out of reach does not fail the write: replicas then see it by themselves within the staleness bound.
        A caller who leaves does not stop a write half way.
        """
        task = asyncio.create_task(self._write(flag_id, decide))
        self._writes.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Let writes under way finish."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def _finished(self, task: asyncio.Task[Entry | None]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # a caller who left must not be warned about

    async def _write(self, flag_id: FlagId, decide: Decide) -> Entry | None:
        entry = await self._store.change(flag_id, decide)
        if entry is None:
            return None
        self.spread.stored += 1
        self._near.apply(entry, time.monotonic())
        if self._cache is not None:
            await self._cache.put([entry])
            if await self._cache.announce(Announced(entry)):
                self.spread.announced += 1
            else:
                self.spread.not_announced += 1
        return entry
