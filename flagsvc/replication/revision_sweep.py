"""Keeps the store's revisions whole and bounded: at the start, then every hour, by the holder of the cache lease."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from flagsvc.background import BackgroundTasks, repeat
from flagsvc.core.errors import StoreUnavailable, WritesUnsupported
from flagsvc.ports import FlagStore

INTERVAL_S = 3_600.0
RETRY_S = 5.0

log = structlog.get_logger(__name__)


class RevisionSweep:
    """One replica's part. `is_holder`: whether it does the work of all. `removed` counts removed revisions.

    `loaded`: set once the store was opened and read.
    """

    def __init__(
        self, store: FlagStore, keep_days: float, is_holder: Callable[[], bool], loaded: asyncio.Event
    ) -> None:
        self._store, self._keep_s, self._is_holder = store, keep_days * 86_400, is_holder
        self._loaded = loaded
        self._tasks = BackgroundTasks()
        self._pause_s = 0.0
        self._is_first = True
        self.recorded = self.removed = 0

    def start(self) -> None:
        """Begin to sweep; waits for nothing."""
        if self._store.definitions is not None:
            self._tasks.start(repeat(self.step, self._pause, "revision_sweep_failed"), "revision-sweep")

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()

    async def step(self) -> None:
        """Sweep once. The first sweep of a process does not wait for the lease: recording begins with it."""
        assert self._store.definitions is not None  # noqa: S101  else there is no step
        await self._loaded.wait()
        self._pause_s = INTERVAL_S * random.uniform(0.9, 1.1)  # noqa: S311  jitter is no secret
        if not self._is_first and not self._is_holder():
            return
        try:
            swept = await self._store.definitions.sweep(self._keep_s)
        except (StoreUnavailable, WritesUnsupported) as error:
            log.info("revision_sweep_skipped", error=str(error))
            self._pause_s = RETRY_S * random.uniform(1, 2) if self._is_first else self._pause_s  # noqa: S311
            return
        self._is_first = False
        self.recorded += swept.recorded
        self.removed += swept.removed

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_s)
