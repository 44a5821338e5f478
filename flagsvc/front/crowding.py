"""Whether gRPC refuses calls because too many come in; then the front passes bytes on in larger portions.

gRPC refuses calls cheaply only if it reads many at once: one that arrives alone costs a wake-up, a read and a write,
which is a sixth of an answer. So while calls are refused, each connection is read every 50 ms only, in both directions.
Measured by `python -m benchmarks.overload`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PORTION_S = 0.05
"""Seconds between two reads of a connection while calls are refused."""
MEASURE_S = 0.1
REFUSED_SHARE = 0.3
"""Share of the calls that came and were not taken up, from which on calls count as refused, and not as waiting."""
MIN_CALLS = 100
"""Calls in one measurement below which nothing is concluded."""
PREFACE_BYTES, HEADER_BYTES, HEADERS = 24, 9, 1


class Crowding:
    """Compares the calls that come in with those that are taken up. `taken_up` returns their number since the start."""

    def __init__(self, taken_up: Callable[[], int]) -> None:
        self._taken_up = taken_up
        self.came = self._came_before = self._taken_before = 0
        self.pause_s = 0.0
        """Seconds for which a connection is not read after each read: 0 unless calls are refused."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            await asyncio.sleep(MEASURE_S)
            self.measure()

    def measure(self) -> None:
        """Decide from what happened since the last measurement."""
        taken = self._taken_up()
        came_now, taken_now = self.came - self._came_before, taken - self._taken_before
        self._came_before, self._taken_before = self.came, taken
        refused = came_now >= MIN_CALLS and came_now - taken_now > REFUSED_SHARE * came_now
        self.pause_s = PORTION_S if refused else 0.0


class CallCounter:
    """Counts the calls in the bytes of one HTTP/2 connection: a call begins with a HEADERS frame."""

    def __init__(self, crowding: Crowding) -> None:
        self._crowding = crowding
        self._next_frame = PREFACE_BYTES  # from the first byte that has not been counted
        self._cut = b""  # the beginning of a frame's header that has not arrived in whole

    def count(self, data: bytes) -> None:
        """Count in the next bytes of the connection."""
        if self._cut:
            data, self._cut = self._cut + data, b""
        at, end = self._next_frame, len(data)
        while at + HEADER_BYTES <= end:
            if data[at + 3] == HEADERS:
                self._crowding.came += 1
            at += HEADER_BYTES + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
        if at < end:
            self._cut, at = data[at:], end
        self._next_frame = at - end
