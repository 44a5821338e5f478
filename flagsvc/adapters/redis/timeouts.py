"""A time-out that blames the other side only for time in which this process could have heard it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SLICES = 5


@asynccontextmanager
async def heard_timeout(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, but time in which the event loop did not run counts as little. Raises TimeoutError.

    A container out of its CPU quota stands still for 100 ms at a time, and a large batch holds the loop: whoever had
    answered meanwhile is not to be called dead. So the time-out is a number of slices, each begun when the one before
    was noticed to be over; one that a standstill prolonged still counts as one.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle | None = None

    def begin_slice(left: int) -> None:
        nonlocal timer
        if left:
            timer = loop.call_later(seconds / SLICES, begin_slice, left - 1)
        else:
            bound.reschedule(loop.time())

    async with asyncio.timeout(None) as bound:
        begin_slice(SLICES)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
