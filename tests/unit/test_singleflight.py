"""Single-flight: one run per key, shared, and safe from its callers."""

from __future__ import annotations

import asyncio

from flagsvc.serving.singleflight import SingleFlight

LONG_S = 60.0


async def test_concurrent_callers_share_one_run() -> None:
    runs = 0

    async def run() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        return runs

    flights: SingleFlight[str, int] = SingleFlight()
    assert await asyncio.gather(*(flights.result("a", run, LONG_S) for _ in range(50))) == [1] * 50
    assert await flights.result("a", run, LONG_S) == 2, "a finished run is not reused"
    assert len(flights) == 0


async def test_a_cancelled_caller_cancels_nobody_else() -> None:
    release = asyncio.Event()

    async def run() -> str:
        await release.wait()
        return "done"

    flights: SingleFlight[str, str] = SingleFlight()
    first, second = (asyncio.create_task(flights.result("a", run, LONG_S)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await second == "done"


async def test_a_failure_reaches_all_callers_and_the_next_run_is_new() -> None:
    runs = 0

    async def fail() -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        raise ValueError("x")

    async def succeed() -> str:
        return "done"

    flights: SingleFlight[str, str] = SingleFlight()
    assert await asyncio.gather(*(flights.result("a", fail, LONG_S) for _ in range(2))) == [None, None]
    assert await flights.result("a", fail, LONG_S) is None
    assert runs == 2
    assert await flights.result("a", succeed, LONG_S) == "done"


async def test_a_run_that_outlasts_one_callers_timeout_continues_for_others() -> None:
    release = asyncio.Event()

    async def run() -> str:
        await release.wait()
        return "done"

    flights: SingleFlight[str, str] = SingleFlight()
    assert await flights.result("a", run, 0.0) is None
    assert len(flights) == 1
    later = asyncio.create_task(flights.result("a", run, LONG_S))
    await asyncio.sleep(0)
    release.set()
    assert await later == "done"


async def test_close_cancels_what_is_running() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    waiting = asyncio.create_task(flights.result("a", lambda: asyncio.sleep(LONG_S), LONG_S))
    await asyncio.sleep(0)
    await flights.close()
    assert await waiting is None
    assert len(flights) == 0
