"""Background tasks end together, loops survive failures, and backoff stays within its limits."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from flagsvc import background
from flagsvc.background import BackgroundTasks, backoff_s, cause_of, repeat


def test_backoff_doubles_with_each_failure_up_to_its_limit() -> None:
    for failures, most_s in enumerate((0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)):
        waits = [backoff_s(failures, 0.05, 2.0) for _ in range(200)]
        assert min(waits) >= 0.05
        assert most_s / 2 < max(waits) <= most_s
        assert len(set(waits)) > 1 or most_s == 0.05, "jitter spreads replicas that failed at the same time"


@pytest.mark.parametrize("failures", [31, 2_000, 10**9])
def test_backoff_after_an_outage_of_hours(failures: int) -> None:
    """Unbounded, 2 to the power of 2,000 would not fit a float, and the loop would end with an OverflowError."""
    assert 0.05 <= backoff_s(failures, 0.05, 2.0) <= 2.0


async def test_a_loop_logs_a_failure_and_continues() -> None:
    steps, pauses = 0, 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps < 3:
            raise ValueError(steps)

    async def pause() -> None:
        nonlocal pauses
        pauses += 1
        await asyncio.sleep(0)

    tasks = BackgroundTasks()
    with capture_logs() as lines:
        tasks.start(repeat(step, pause, "step_failed"), "loop")
        while steps < 5:  # noqa: ASYNC110  the loop announces nothing
            await asyncio.sleep(0)
        await tasks.close()
    assert [line["event"] for line in lines] == ["step_failed"] * 2
    assert pauses >= steps - 1


async def test_closing_ends_every_task_and_waits_for_it() -> None:
    ended = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(name)

    tasks = BackgroundTasks()
    for name in ("a", "b"):
        tasks.start(work(name), name)
    done = tasks.begin(asyncio.sleep(0), "done")
    await done
    await asyncio.sleep(0)
    assert len(tasks) == 2
    await tasks.close()
    assert sorted(ended) == ["a", "b"]
    assert len(tasks) == 0


async def test_a_cancellation_that_a_library_swallows_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CANCEL_EVERY_S", 0.01)
    swallowed = 0

    async def work() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1

    tasks = BackgroundTasks()
    tasks.start(work(), "work")
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await tasks.close()
    assert swallowed == 2


def test_the_cause_of_an_error_is_short() -> None:
    error = ValueError("outer")
    assert cause_of(error) == "ValueError('outer')"
    error.__cause__ = OSError("x" * 1_000)
    assert cause_of(error).startswith("OSError('xxx")
    assert len(cause_of(error)) == 300
