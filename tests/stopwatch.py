"""Time that counts: what a machine that is busy with other things took from a test and its servers does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator
from pathlib import Path

from tests import servers

SAMPLED_EVERY_S = 0.1


class Stopwatch:
    """Measures from its start. Waits for a CPU of any thread are left out: any may be what all others wait for.

    The threads are those of this process, which may contain replicas, and of the servers that it started.
    """

    def __init__(self) -> None:
        self._before, self._began = _waits_s(), time.monotonic()

    def is_past(self, seconds: float) -> bool:
        """Whether more than these seconds have passed."""
        passed = time.monotonic() - self._began
        return passed > seconds and passed - self.starved_s > seconds

    @property
    def seconds(self) -> float:
        """The seconds since the start that count."""
        passed = time.monotonic() - self._began
        return passed - self.starved_s

    @property
    def starved_s(self) -> float:
        """The seconds in which a thread could have run and got no CPU, those of all threads together."""
        return sum(waited - self._before.get(thread, 0.0) for thread, waited in _waits_s().items())


class Starvation:
    """Records all the time for how long threads got no CPU; says of a past span how much of it counts."""

    def __init__(self) -> None:
        self._at: list[float] = []
        self._starved_s: list[float] = []

    @contextlib.asynccontextmanager
    async def recorded(self) -> AsyncIterator[None]:
        """Record."""
        since = Stopwatch()
        self._sample(since)
        task = asyncio.create_task(self._run(since))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._sample(since)

    def counted_s(self, began: float, ended: float) -> float:
        """Return how many seconds between two moments of `time.monotonic()` count; not below 0."""
        before = max(0, bisect_right(self._at, began) - 1)
        after = min(len(self._at) - 1, bisect_left(self._at, ended))
        return max(0.0, ended - began - (self._starved_s[after] - self._starved_s[before]))

    async def _run(self, since: Stopwatch) -> None:
        while True:
            await asyncio.sleep(SAMPLED_EVERY_S)
            self._sample(since)

    def _sample(self, since: Stopwatch) -> None:
        self._starved_s.append(since.starved_s)
        self._at.append(time.monotonic())


def _waits_s() -> dict[str, float]:
    """Return for how long each thread has waited for a CPU so far; nothing where Linux does not say."""
    found = {}
    for pid in (os.getpid(), *servers.running()):
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                if (waited := waited_s(thread)) is not None:
                    found[thread.name] = waited
    return found


def waited_s(task: Path) -> float | None:
    """Return for how long a thread, by its folder in /proc, could have run and got no CPU; None if Linux does not say.

    The folder of a process stands for its main thread.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int((task / "schedstat").read_text().split()[1]) / 1e9
    return None
