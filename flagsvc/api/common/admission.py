"""Which calls may begin: so many at once, over whichever protocol they come, and none while the server stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from flagsvc.core.errors import Overloaded, Stopping

LINGER_S = 0.1
LINGER_MAX_S = 1.0


class Admission:
    """Counts unary calls and streams apart; who was let in with `enter` must `leave`."""

    def __init__(self, max_calls: int, max_streams: int) -> None:
        self._free = {False: max_calls, True: max_streams}
        self._limits = dict(self._free)
        self._stopping = False
        self._refused_at = 0.0

    def enter(self, stream: bool) -> None:
        """Let a call in. Raises Overloaded or Stopping."""
        if self._stopping:
            self._refused_at = time.monotonic()
            raise Stopping
        if self._free[stream] <= 0:
            raise Overloaded(
                f"the server already serves as many {'streams' if stream else 'calls'} as it can; try again"
            )
        self._free[stream] -= 1

    def leave(self, stream: bool) -> None:
        """Note that a call ended."""
        self._free[stream] += 1

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, so that none is cut off, and wait for those under way; at most `grace_s`."""
        self._stopping = True
        await _until(lambda: self._free == self._limits, grace_s)
        # A call that comes in while the transport stops would be cut off: let the callers notice first.
        await _until(lambda: time.monotonic() - self._refused_at > LINGER_S, LINGER_MAX_S)


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  ends at the deadline
        await asyncio.sleep(0.01)
