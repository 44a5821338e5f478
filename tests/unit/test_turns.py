"""Long work in turns: others run in between, one turn a round of the loop, and a cancelled call stops."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc import turns
from flagsvc.turns import (
    drained_in_turns,
    free_in_turns,
    in_turns,
    off_loop,
    run_in_turns,
    sorted_in_turns,
    sorted_pieces,
)


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every item end its turn."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)


async def rounds_until(work: asyncio.Task[None]) -> int:
    rounds = 0
    while not work.done():
        await asyncio.sleep(0)
        rounds += 1
    return rounds


async def test_others_run_between_two_turns() -> None:
    done: list[int] = []

    async def work() -> None:
        done.extend([item async for item in in_turns(range(50))])

    assert await rounds_until(asyncio.create_task(work())) >= 50
    assert done == list(range(50))


async def test_of_twenty_jobs_one_turn_runs_in_each_round() -> None:
    steps = 0

    async def work() -> None:
        nonlocal steps
        async for _ in in_turns(range(2 * turns.MANY)):
            steps += 1

    jobs = [asyncio.create_task(work()) for _ in range(20)]
    most = 0
    for _ in range(300):
        before = steps
        await asyncio.sleep(0)
        most = max(most, steps - before)
    assert most == 1
    assert steps > 100
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)


async def test_a_cancelled_job_ends_at_its_next_turn_and_holds_up_no_other() -> None:
    seen: list[int] = []
    first = asyncio.create_task(run_in_turns(seen.append(i) for i in range(100_000)))
    second = asyncio.create_task(run_in_turns(range(20)))
    await asyncio.sleep(0)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    await second
    assert len(seen) < 5


@given(st.lists(st.integers(), max_size=50), st.integers(1, 7))
def test_sorting_in_pieces_is_sorting(items: list[int], piece: int) -> None:
    async def sort() -> list[int]:
        return list(await sorted_in_turns(items, lambda item: item))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "SORTED_AT_ONCE", piece)
        assert asyncio.run(sort()) == sorted(items)


async def test_work_off_the_loop_has_one_thread() -> None:
    names = await asyncio.gather(*(off_loop(lambda: threading.current_thread().name) for _ in range(20)))
    assert len(set(names)) == 1
    assert names[0] != threading.current_thread().name


def test_no_more_is_sorted_at_once_than_takes_a_turn() -> None:
    pieces = list(sorted_pieces(range(5 * turns.SORTED_AT_ONCE + 1, 0, -1), lambda item: item))
    assert [len(piece) for piece in pieces] == [turns.SORTED_AT_ONCE] * 5 + [1]


class Counted:
    """Counts how many are freed."""

    freed = 0

    def __del__(self) -> None:
        Counted.freed += 1


async def most_freed_in_a_round(wanted: int) -> int:
    most = 0
    async with asyncio.timeout(20):
        while Counted.freed < wanted:
            before = Counted.freed
            await asyncio.sleep(0)
            most = max(most, Counted.freed - before)
    return most


async def test_what_a_long_container_holds_is_freed_in_turns() -> None:
    Counted.freed, number = 0, turns.MANY + 1
    free_in_turns({i: Counted() for i in range(number)})
    assert await most_freed_in_a_round(number) == 1
    Counted.freed = 0
    free_in_turns([Counted() for _ in range(number)])
    assert await most_freed_in_a_round(number) == 1


async def test_the_rest_of_a_long_list_is_freed_in_turns_where_its_reader_fails() -> None:
    Counted.freed, number = 0, 3 * turns.MANY

    async def read() -> None:
        async for _ in drained_in_turns([Counted() for _ in range(number)]):
            raise ValueError

    with contextlib.suppress(ValueError):
        await read()
    assert await most_freed_in_a_round(number) <= 2
