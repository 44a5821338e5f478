"""How late the event loop runs, and when that means that new evaluations have to be refused.

The rule is CoDel's: a burst, or one long step, makes the loop late for a moment and is let through. Only if the loop is
late again and again during a whole interval is there more work than it can do; then new work is refused until it is on
time again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

TICK_S = 0.05
TARGET_S = 0.2
"""The loop is on time if a timer runs at most this late."""
INTERVAL_S = 1.0
"""Seconds without one timer on time after which new work is refused."""


class Lateness:
    """Measures the running event loop once a tick, and calls `changed` when new work has to be refused or may go on."""

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self._changed = changed
        self._late_since = math.inf
        self.is_late = False
        self.most_s = 0.0
        """The latest that a timer ran."""

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.measured(loop.time() - due, loop.time())

    def measured(self, late_s: float, now: float) -> None:
        """Take one measurement: how late a timer ran at a moment."""
        self.most_s = max(self.most_s, late_s)
        self._late_since = min(self._late_since, now) if late_s > TARGET_S else math.inf
        is_late = now - self._late_since >= INTERVAL_S
        if is_late is not self.is_late:
            self.is_late = is_late
            self._changed(is_late)
