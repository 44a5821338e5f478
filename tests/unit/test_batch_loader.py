"""Single reads combined into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from flagsvc.adapters.batch_loader import BatchLoader
from flagsvc.core.errors import StoreUnavailable


class Reads:
    """Records the keys of each read. A read ends when the test calls `end`."""

    def __init__(self) -> None:
        self.started: list[list[int]] = []
        self._ends: list[asyncio.Future[None]] = []

    async def __call__(self, keys: Sequence[int]) -> dict[int, str]:
        self.started.append(list(keys))
        self._ends.append(asyncio.get_running_loop().create_future())
        await self._ends[-1]
        return {key: f"value {key}" for key in keys}

    async def end(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self._ends[number].set_result(None)
        else:
            self._ends[number].set_exception(error)
        await settled()


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def loader(reads: Reads) -> BatchLoader[int, str]:
    return BatchLoader(reads, max_reads=2, max_keys=3)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def requested(loader: BatchLoader[int, str], *keys: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(loader.get(key)) for key in keys]
    await settled()
    return tasks


async def test_keys_requested_while_reads_are_in_progress_are_read_together(
    reads: Reads, loader: BatchLoader[int, str]
) -> None:
    tasks = await requested(loader, 1, 2, 3, 4, 5, 6)
    assert reads.started == [[1], [2]]
    await reads.end(0)
    assert reads.started[2:] == [[3, 4, 5]], "at most three"
    await reads.end(1)
    assert reads.started[3:] == [[6]]
    await reads.end(2)
    await reads.end(3)
    assert [task.result() for task in tasks] == [f"value {key}" for key in range(1, 7)]
    assert len(reads.started) == 4


async def test_a_value_is_from_a_read_that_started_after_the_request(
    reads: Reads, loader: BatchLoader[int, str]
) -> None:
    first, _, later, beside = await requested(loader, 1, 2, 1, 1)
    await reads.end(0)
    assert first.done()
    assert not later.done()
    assert reads.started[2:] == [[1]], "both share one read"
    await reads.end(2)
    assert later.result() == beside.result() == "value 1"
    await loader.close()


async def test_an_error_reaches_only_the_callers_of_its_read(reads: Reads, loader: BatchLoader[int, str]) -> None:
    one, two, three, four = await requested(loader, 1, 2, 3, 4)
    await reads.end(0, StoreUnavailable())
    await reads.end(2, StoreUnavailable())
    for task in (one, three, four):
        with pytest.raises(StoreUnavailable):
            await task
    await reads.end(1)
    assert await two == "value 2"


async def test_cancelling_one_caller_does_not_affect_the_others(reads: Reads, loader: BatchLoader[int, str]) -> None:
    _, _, leaving, staying = await requested(loader, 1, 2, 3, 3)
    leaving.cancel()
    await reads.end(0)
    await reads.end(2)
    assert await staying == "value 3"
    await loader.close()


async def test_closing_cancels_all_waiting_callers(loader: BatchLoader[int, str]) -> None:
    tasks = await requested(loader, 1, 2, 3)
    await loader.close()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 3
