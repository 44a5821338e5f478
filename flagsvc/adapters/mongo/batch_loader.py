"""Reads of single things, put together: while some are under way, those that come next become one read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class BatchLoader(Generic[K, T]):
    """Calls `read` with the keys that are waited for: at most `under_way` calls at a time, of at most `most` keys.

    What `read` gives has every key that it was called with; what it raises, all who wait for these keys get.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, T]]], *, under_way: int, most: int) -> None:
        self._read, self._under_way, self._most = read, under_way, most
        self._waiting: dict[K, asyncio.Future[T]] = {}
        self._reads: set[asyncio.Task[list[T]]] = set()

    async def get(self, key: K) -> T:
        """Give what a read that begins after this call finds; who leaves takes it from nobody."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._begin()
        return await asyncio.shield(future)

    async def close(self) -> None:
        """Cancel what is under way, and all who wait."""
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        reads = list(self._reads)
        for task in reads:
            task.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    def _begin(self) -> None:
        if not self._waiting or len(self._reads) >= self._under_way:
            return
        taken = {key: self._waiting.pop(key) for key in list(self._waiting)[: self._most]}
        task = asyncio.create_task(self._found(list(taken)))
        self._reads.add(task)
        task.add_done_callback(lambda done: self._ended(done, taken.values()))

    async def _found(self, keys: Sequence[K]) -> list[T]:
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
                future.exception()  # whoever waits has it; with nobody left it must not be warned about
        else:
            for future, result in zip(waiting, read.result(), strict=True):
                future.set_result(result)
