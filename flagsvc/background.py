"""Work beside the calls: named tasks that end together, loops that survive failures, and backoff."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")
CANCEL_EVERY_S = 5.0
"""Seconds after which a task that was cancelled and has not ended is cancelled again."""


class BackgroundTasks:
    """The running tasks of one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task; waits for nothing."""
        _ = self.begin(work, name)

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task, for which the caller can wait."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel all tasks and wait for their end. A library may swallow a cancellation, so it is repeated."""
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            ended, left = await asyncio.wait(left, timeout=CANCEL_EVERY_S)
            for task in ended:
                _retrieve(task)


async def repeat(step: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]], failed: str) -> None:
    """Run a step for ever, with a pause after each. A failure is logged as the event `failed`, and the loop goes on."""
    while True:
        try:
            await step()
        except Exception:
            log.exception(failed, detail="It is tried again.")
        await pause()


async def outliving(work: asyncio.Future[T]) -> T:
    """Wait for work that goes on without its caller. A failure that nobody waits for is not logged by asyncio."""
    work.add_done_callback(_retrieve)
    return await asyncio.shield(work)


def _retrieve(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


def cause_of(error: BaseException) -> str:
    """Return what caused an error, short enough for a log line. Not for callers: they get no words of a driver."""
    return repr(error.__cause__ or error)[:300]


def backoff_s(failures: int, min_s: float, max_s: float) -> float:
    """Return how many seconds to wait after so many failures in a row: up to twice as long after each, with jitter."""
    most_s = min(max_s, min_s * 2 ** min(failures, 30))  # after an hour of failures 2**n would not fit a float
    return random.uniform(min_s, max(min_s, most_s))  # noqa: S311  jitter is no secret
