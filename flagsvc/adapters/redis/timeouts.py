"""A timeout that does not count time in which this process's event loop was stalled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SLICES = 5


@asynccontextmanager
async def stall_tolerant_timeout(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, but stalls of the event loop hardly count. Raises TimeoutError.

    A container that exceeds its CPU quota stalls for 100 ms at a time, and a large batch blocks the loop. A server that
    replied meanwhile must not be considered down. So the timeout consists of slices, each started when the loop notices
    that the previous one has ended: a slice that a stall prolonged still counts as one.
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
