"""When the event loop's lag means that new evaluations have to be refused.

The rule is CoDel's: a burst, or one long step, makes the loop late for a moment and is let through. Only if the loop is
late again and again during a whole interval is there more work than it can do; then new work is refused until it is on
time again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

TARGET_S = 0.5
"""The loop is on time if a timer runs at most this late."""
INTERVAL_S = 1.0
"""Seconds without one timer on time after which new work is refused."""


class Lateness:
    """Calls `changed` when new work has to be refused, and when it may go on."""

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self._changed = changed
        self._late_since = math.inf
        self.is_late = False

    def measured(self, late_s: float, now: float) -> None:
        """Take one measurement: how late a timer ran at a moment."""
        self._late_since = min(self._late_since, now) if late_s > TARGET_S else math.inf
        is_late = now - self._late_since >= INTERVAL_S
        if is_late is not self.is_late:
            self.is_late = is_late
            self._changed(is_late)
