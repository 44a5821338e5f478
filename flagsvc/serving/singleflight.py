"""One flight per key: concurrent callers share one run of a coroutine, and none can cancel it for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Runs at most one task per key at a time; `len()` is how many are under way."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def current(self, key: K) -> asyncio.Task[T] | None:
        """Give the key's running task, if there is one."""
        return self._tasks.get(key)

    def start(self, key: K, run: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Give the key's running task, or start one. Await it through `asyncio.shield` or `asyncio.wait`."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(run())
            task.add_done_callback(lambda done: self._done(key, done))
        return task

    def _done(self, key: K, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; with nobody left it must not be warned about

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
