"""Reads of single things, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from flagsvc.adapters.mongo.batch_loader import BatchLoader
from flagsvc.core.errors import StoreUnavailable


class Reads:
    """Notes what is read; each read ends when it is let."""

    def __init__(self) -> None:
        self.acquired: list[list[int]] = []
        self._ends: list[asyncio.Future[None]] = []

    async def __call__(self, keys: Sequence[int]) -> dict[int, str]:
        self.acquired.append(list(keys))
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
def together(reads: Reads) -> BatchLoader[int, str]:
    return BatchLoader(reads, under_way=2, most=3)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def asked(together: BatchLoader[int, str], *keys: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(together.get(key)) for key in keys]
    await settled()
    return tasks


async def test_who_comes_while_enough_is_read_is_read_together(reads: Reads, together: BatchLoader[int, str]) -> None:
    tasks = await asked(together, 1, 2, 3, 4, 5, 6)
    assert reads.acquired == [[1], [2]]
    await reads.end(0)
    assert reads.acquired[2:] == [[3, 4, 5]], "at most three"
    await reads.end(1)
    assert reads.acquired[3:] == [[6]]
    await reads.end(2)
    await reads.end(3)
    assert [task.result() for task in tasks] == [f"value {key}" for key in range(1, 7)]
    assert len(reads.acquired) == 4


async def test_an_answer_is_of_a_read_that_began_after_the_question(
    reads: Reads, together: BatchLoader[int, str]
) -> None:
    first, _, later, beside = await asked(together, 1, 2, 1, 1)
    await reads.end(0)
    assert first.done()
    assert not later.done()
    assert reads.acquired[2:] == [[1]], "both of them share one"
    await reads.end(2)
    assert later.result() == beside.result() == "value 1"
    await together.close()


async def test_a_failure_is_told_to_those_of_its_read_alone(reads: Reads, together: BatchLoader[int, str]) -> None:
    one, two, three, four = await asked(together, 1, 2, 3, 4)
    await reads.end(0, StoreUnavailable())
    await reads.end(2, StoreUnavailable())
    for task in (one, three, four):
        with pytest.raises(StoreUnavailable):
            await task
    await reads.end(1)
    assert await two == "value 2"


async def test_who_leaves_takes_the_read_from_nobody(reads: Reads, together: BatchLoader[int, str]) -> None:
    _, _, leaving, staying = await asked(together, 1, 2, 3, 3)
    leaving.cancel()
    await reads.end(0)
    await reads.end(2)
    assert await staying == "value 3"
    await together.close()


async def test_closing_cancels_all_who_wait(together: BatchLoader[int, str]) -> None:
    tasks = await asked(together, 1, 2, 3)
    await together.close()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 3
