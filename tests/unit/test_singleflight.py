"""One flight per key: shared, and safe from its passengers."""

from __future__ import annotations

import asyncio

import pytest

from flagsvc.serving.singleflight import SingleFlight


async def test_concurrent_callers_share_one_run() -> None:
    runs = 0

    async def run() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        return runs

    flights: SingleFlight[str, int] = SingleFlight()
    assert await asyncio.gather(*(asyncio.shield(flights.start("a", run)) for _ in range(50))) == [1] * 50
    assert await flights.start("a", run) == 2, "what has landed is not reused"
    assert len(flights) == 0


async def test_a_passenger_who_leaves_takes_nobody_with_him() -> None:
    release = asyncio.Event()

    async def run() -> str:
        await release.wait()
        return "done"

    flights: SingleFlight[str, str] = SingleFlight()

    async def passenger() -> str:
        return await asyncio.shield(flights.start("a", run))

    first, second = asyncio.create_task(passenger()), asyncio.create_task(passenger())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await second == "done"


async def test_a_crash_is_everybodys_and_the_next_flight_is_new() -> None:
    async def crash() -> str:
        raise ValueError("x")

    async def fly() -> str:
        return "done"

    flights: SingleFlight[str, str] = SingleFlight()
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            await flights.start("a", crash)
    assert await flights.start("a", fly) == "done"


async def test_close_cancels_what_is_under_way() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    task = flights.start("a", lambda: asyncio.sleep(60))
    await flights.close()
    assert task.cancelled()
