"""Combines reads of single keys: while reads are in progress, the next keys are collected into one read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from flagsvc.background import outliving

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class BatchLoader(Generic[K, T]):
    """Calls `read` with the requested keys: at most `max_reads` calls at a time, with at most `max_keys` keys each.

    `read` must return all keys that it was called with. If it raises, all callers waiting for these keys get the error.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, T]]], max_reads: int, max_keys: int) -> None:
        self._read, self._max_reads, self._max_keys = read, max_reads, max_keys
        self._waiting: dict[K, asyncio.Future[T]] = {}
        self._reads: set[asyncio.Task[list[T]]] = set()

    async def get(self, key: K) -> T:
        """Return the value from a read that starts after this call. Cancelling one caller does not affect others."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._begin()
        return await outliving(future)

    async def close(self) -> None:
        """Cancel all reads in progress and all waiting callers."""
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        reads = list(self._reads)
        for task in reads:
            task.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    def _begin(self) -> None:
        if not self._waiting or len(self._reads) >= self._max_reads:
            return
        batch = {key: self._waiting.pop(key) for key in list(self._waiting)[: self._max_keys]}
        task = asyncio.create_task(self._values(list(batch)))
        self._reads.add(task)
        task.add_done_callback(lambda done: self._ended(done, batch.values()))

    async def _values(self, keys: Sequence[K]) -> list[T]:
        found = await self._read(keys)
        return [found[key] for key in keys]

    def _ended(self, read: asyncio.Task[list[T]], waiting: Iterable[asyncio.Future[T]]) -> None:
        self._reads.discard(read)
        self._begin()
        if read.cancelled():
            for future in waiting:
                future.cancel()
        elif (error := read.exception()) is not None:
            for future in waiting:
                future.set_exception(error)
        else:
            for future, result in zip(waiting, read.result(), strict=True):
                future.set_result(result)
