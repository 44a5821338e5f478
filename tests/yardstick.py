"""What work costs, in units of a fixed piece of work: a bound that holds on any machine, and beside any load."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_MEASURED_FOR_S = 5.0
"""How long the measured cost of the yardstick is used: longer, and the machine may have another speed by then."""
_measured: list[tuple[float, float]] = []
"""When the yardstick was measured last, and its CPU time."""


def cost(work: Callable[[], object], times: int = 3, *, enough: float = 0.0) -> float:
    """CPU time of the work in yardsticks, the least of several runs, of which one below `enough` is the last.

    Under coverage only the product is traced: it counts as a tenth.
    """
    traced = 10 if sys.gettrace() else 1
    least = float("inf")
    for _ in range(times):
        least = min(least, _cpu_s(work) / _yardstick_s() / traced)
        if least < enough:
            break
    return least


def _yardstick_s() -> float:
    """CPU time of the yardstick now, the least of several runs."""
    now = time.monotonic()
    if not _measured or now - _measured[-1][0] > _MEASURED_FOR_S:
        _measured[:] = [(now, min(_cpu_s(_yardstick) for _ in range(3)))]
    return _measured[-1][1]


def _yardstick() -> int:
    """Take about 10 ms."""
    return sum(number * number % 7 for number in range(150_000))


def _cpu_s(work: Callable[[], object]) -> float:
    """CPU time of this thread: waiting for a CPU does not count."""
    began = time.thread_time()
    work()
    return time.thread_time() - began
