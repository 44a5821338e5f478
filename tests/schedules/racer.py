"""Replicas that execute schedules of one MongoDB, each in a process of its own; some die inside a transaction."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flagsvc.adapters.mongo.schedules import MongoSchedules
from flagsvc.replica import Replica
from flagsvc.schedules.progress import Progress
from flagsvc.settings import Settings
from tests.forks import context


def die_in_transaction(number: int) -> None:
    """Die in the Nth transaction: the flag, its history and the schedule are written, and nothing is committed.

    It leaves nothing to others, so that it gets there.
    """
    Progress.leave, Progress.is_stuck = (lambda *_: None), (lambda *_: True)  # type: ignore[method-assign]
    rebase, left = MongoSchedules._rebase, number

    async def rebased(self: MongoSchedules, *args: Any) -> None:
        nonlocal left
        await rebase(self, *args)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    MongoSchedules._rebase = rebased  # type: ignore[method-assign]


def race(url: str, dies_in: int) -> None:
    """Execute what is due until the process is ended. `dies_in`: the transaction in which it dies; 0: in none."""
    if dies_in:
        die_in_transaction(dies_in)
    asyncio.run(_run(url))


async def _run(url: str) -> None:
    replica = Replica(Settings(store_url=url, cache_url="none"))
    await replica.start()
    await asyncio.Event().wait()


@contextmanager
def racers(url: str, dying: Sequence[int], lasting: int) -> Iterator[Sequence[Any]]:
    """Run replicas: one for each number of `dying`, which dies there, and some that go on. Yield their processes."""
    numbers = (*dying, *[0] * lasting)
    processes = [context.Process(target=race, args=(url, number), daemon=True) for number in numbers]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()
