"""A timeout that does not count time in which the event loop was stalled."""

from __future__ import annotations

import asyncio
import time

import pytest

from flagsvc.adapters.redis.timeouts import SLICES, stall_tolerant_timeout

STALL_S = 0.3


async def test_silence_times_out_after_the_given_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with stall_tolerant_timeout(0.1):
            await asyncio.sleep(30)
    assert 0.1 <= time.monotonic() - began < 5


async def test_a_reply_that_arrives_during_a_stall_is_received() -> None:
    loop = asyncio.get_running_loop()
    reply = loop.create_future()
    loop.call_later(0.02, reply.set_result, "received")
    loop.call_soon(time.sleep, STALL_S)
    async with stall_tolerant_timeout(0.1):
        # Like a reply on its way through the driver, this takes a few more iterations of the loop.
        assert await reply == "received"
        for _ in range(5):
            await asyncio.sleep(0)


async def test_constant_stalls_prolong_it_by_a_bounded_amount() -> None:
    loop = asyncio.get_running_loop()
    times = 0

    def stall() -> None:
        nonlocal times, next_stall
        times += 1
        time.sleep(0.05)
        next_stall = loop.call_soon(stall)

    next_stall = loop.call_soon(stall)
    try:
        with pytest.raises(TimeoutError):
            async with stall_tolerant_timeout(0.05):
                await asyncio.sleep(30)
    finally:
        next_stall.cancel()
    # A timer that expires during a stall fires in the loop's next iteration.
    assert SLICES <= times <= 2 * SLICES + 3


async def test_cancellations_and_errors_propagate_and_leave_no_timer() -> None:
    async def waiting() -> None:
        async with stall_tolerant_timeout(0.05):
            await asyncio.sleep(30)

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(KeyError):
        async with stall_tolerant_timeout(0.05):
            raise KeyError
    await asyncio.sleep(0.1)
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
