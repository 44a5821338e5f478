"""Single-flight: concurrent callers of one key share one run of a coroutine, and none can cancel it for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

import structlog

from flagsvc.core.errors import FlagsvcError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

log = structlog.get_logger(__name__)


class SingleFlight(Generic[K, T]):
    """Runs at most one task per key at a time; `len()` is how many are running."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def result(self, key: K, run: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T | None:
        """Join the key's run, or start one. Return its result; None where it failed or took longer than the time-out.

        A run that takes longer goes on for others.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(run())
            task.add_done_callback(lambda done: self._done(key, done))
        await asyncio.wait([task], timeout=timeout_s)
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None

    async def current_done(self, key: K, timeout_s: float) -> None:
        """Wait for the end of the key's run, if there is one now."""
        if (task := self._tasks.get(key)) is not None:
            await asyncio.wait([task], timeout=timeout_s)

    async def close(self) -> None:
        """Cancel what is running."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, key: K, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, FlagsvcError):
            log.error("shared_read_failed", exc_info=error)
