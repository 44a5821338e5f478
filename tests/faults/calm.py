"""When no fault was active."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from tests.faults.record import NEVER, FaultWindow


class Calm:
    """The times in which no fault was active."""

    def __init__(self, faults: Iterable[FaultWindow]) -> None:
        self._faults = sorted(faults, key=lambda fault: fault.begin)
        self._begins: list[float] = []
        self._ends: list[float] = []
        for fault in self._faults:
            if self._ends and fault.begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], fault.end)
            else:
                self._begins.append(fault.begin)
                self._ends.append(fault.end)

    def between(self, start: float, end: float) -> bool:
        """Whether it was calm all the time."""
        return self.until(start) > end

    def until(self, start: float) -> float:
        """Return until when it stayed calm from this moment; a time before it when it was not calm."""
        place = bisect.bisect_right(self._begins, start)
        if place and self._ends[place - 1] >= start:
            return -NEVER
        return self._begins[place] if place < len(self._begins) else NEVER

    def since(self, moment: float) -> float:
        """Return since when it was calm at this moment; NEVER if it was not."""
        place = bisect.bisect_right(self._begins, moment)
        if not place:
            return -NEVER
        return self._ends[place - 1] if self._ends[place - 1] < moment else NEVER

    def during(self, start: float, end: float) -> list[FaultWindow]:
        """Return the faults that were active at some moment of this time."""
        return [fault for fault in self._faults if fault.begin <= end and fault.end >= start]
