"""Long work on the event loop, done in turns: each is short, and between two turns other calls are served.

Of all long work in the process one turn runs in each round of the event loop, so that twenty large calls together
delay another caller as little as one does.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

TURN_S = 0.002
"""Seconds of work after which the event loop serves others."""
SORTED_AT_ONCE = 2_000
"""Elements that are sorted in one go, which takes about 1 ms."""

MANY = 1_000
"""More items than this surely take more than one turn."""

SWITCH_S = 0.001
"""Seconds after which the thread hands the interpreter back to the event loop (`sys.setswitchinterval`)."""

T = TypeVar("T")
_freeing: set[asyncio.Task[None]] = set()
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="off-loop")


class Turns:
    """The turns of one piece of work, the first of which begins now.

    The wait between two turns is where a call that was cancelled, or is past its deadline, ends.
    """

    __slots__ = ("_ends_at",)

    def __init__(self) -> None:
        self._ends_at = time.perf_counter() + TURN_S

    def is_over(self) -> bool:
        """Whether this turn has lasted long enough."""
        return time.perf_counter() >= self._ends_at

    async def next(self) -> None:
        """Let others run, and begin the next turn."""
        await _queue().wait()
        self._ends_at = time.perf_counter() + TURN_S


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items; what the caller does with them is done in turns. Many items wait for their first turn too."""
    turns = Turns()
    if isinstance(items, Sized) and len(items) > MANY:
        await turns.next()
    for item in items:
        yield item
        if turns.is_over():
            await turns.next()


def free_in_turns(items: dict[Any, Any] | list[Any] | set[Any]) -> None:
    """Free what only this container holds, in turns, in the background; nobody uses it any more."""
    if len(items) > MANY:
        task = asyncio.get_running_loop().create_task(run_in_turns(emptied(items)), name="free")
        _freeing.add(task)
        task.add_done_callback(_freeing.discard)


def emptied(items: dict[Any, Any] | list[Any] | set[Any]) -> Iterator[None]:
    """Take out the items one by one: to free a large container at once takes longer than a turn."""
    take = items.popitem if isinstance(items, dict) else items.pop
    while items:
        take()
        yield


async def drained_in_turns(items: list[T]) -> AsyncIterator[T]:
    """Yield the items in turns and take each out of the list: to free a long list at once takes longer than a turn."""
    turns = Turns()
    if len(items) > MANY:
        await turns.next()
    items.reverse()
    try:
        while items:
            yield items.pop()
            if turns.is_over():
                await turns.next()
    finally:
        free_in_turns(items)  # where the caller ends early


async def run_in_turns(steps: Iterable[object]) -> None:
    """Run a generator's steps to its end, divided into turns."""
    async for _ in in_turns(steps):
        pass


async def sorted_in_turns(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[T]:
    """Return the items in order."""
    pieces = [piece async for piece in in_turns(sorted_pieces(items, key))]
    return merged(pieces, key)


def sorted_pieces(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[list[T]]:
    """Yield the items in pieces, each of which is sorted: one long sort cannot be interrupted."""
    rest = iter(items)
    while piece := sorted(islice(rest, SORTED_AT_ONCE), key=key):
        yield piece


def merged(pieces: Sequence[list[T]], key: Callable[[T], Any]) -> Iterator[T]:
    """Yield the items of sorted pieces in order."""
    return heapq.merge(*pieces, key=key) if len(pieces) > 1 else iter(pieces[0] if pieces else ())


async def off_loop(work: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns, which runs in the one thread for work that cannot be divided into turns.

    One thread at most competes with the event loop for the interpreter, however much is waiting.
    """
    return await asyncio.get_running_loop().run_in_executor(_THREAD, partial(work, *arguments))


class _Queue:
    """Work that waits for its next turn, in order. One begins in each round of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._waiting.append(future)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._wake_first)
        await future

    def _wake_first(self) -> None:
        """Wake the first whose call was not cancelled. The others follow, one in each further round of the loop."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                break
        if self._waiting:
            self._loop.call_soon(self._wake_first)


_queues: dict[int, _Queue] = {}


def _queue() -> _Queue:
    """Return the running loop's queue. A process has one loop; tests have one after the other."""
    loop = asyncio.get_running_loop()
    queue = _queues.get(id(loop))
    if queue is None or queue._loop is not loop:  # noqa: SLF001  an old loop's address may be used again
        _queues.clear()
        queue = _queues[id(loop)] = _Queue(loop)
    return queue
