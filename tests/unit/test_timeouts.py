"""A time-out counts time in which this process could have heard the other side."""

from __future__ import annotations

import asyncio
import time

import pytest

from flagsvc.adapters.redis.timeouts import SLICES, heard_timeout

STANDSTILL_S = 0.3


async def test_silence_times_out_after_the_seconds_given() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with heard_timeout(0.1):
            await asyncio.sleep(30)
    assert 0.1 <= time.monotonic() - began < 5


async def test_an_answer_that_came_while_this_process_stood_still_is_heard() -> None:
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    loop.call_later(0.02, answer.set_result, "heard")
    loop.call_soon(time.sleep, STANDSTILL_S)
    async with heard_timeout(0.1):
        # As a reply does on its way through the driver, this takes a few more turns of the loop.
        assert await answer == "heard"
        for _ in range(5):
            await asyncio.sleep(0)


async def test_standing_still_all_the_time_prolongs_it_by_a_bounded_amount() -> None:
    loop = asyncio.get_running_loop()
    times = 0

    def stand_still() -> None:
        nonlocal times, standing
        times += 1
        time.sleep(0.05)
        standing = loop.call_soon(stand_still)

    standing = loop.call_soon(stand_still)
    try:
        with pytest.raises(TimeoutError):
            async with heard_timeout(0.05):
                await asyncio.sleep(30)
    finally:
        standing.cancel()
    # What is due while the loop stands is noticed at its next turn.
    assert SLICES <= times <= 2 * SLICES + 3


async def test_a_cancellation_and_an_error_go_through_and_leave_no_timer() -> None:
    async def waiting() -> None:
        async with heard_timeout(0.05):
            await asyncio.sleep(30)

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(KeyError):
        async with heard_timeout(0.05):
            raise KeyError
    await asyncio.sleep(0.1)
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
