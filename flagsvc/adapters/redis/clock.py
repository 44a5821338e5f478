"""An estimate of the Redis server's clock, from the times in its replies."""

from __future__ import annotations

from flagsvc.ports import NEVER

MAX_DRIFT = 0.001
"""The maximum relative difference between the speeds of two clocks."""
MAX_REMEMBERED = 64
MAX_DURATION_S = 1e9


class RedisClock:
    """Estimates the server's time. The estimate is never too late, and as close as the fastest reply allows.

    Moments are in seconds of `time.monotonic()`. The wall clock of this machine is not used.
    """

    def __init__(self) -> None:
        self._offset_ms: float | None = None
        self._observed_at = 0.0
        self._remembered: dict[float, int] = {}

    @property
    def known(self) -> bool:
        """Whether the server's time has been observed."""
        return self._offset_ms is not None

    def observe(self, micros: int, sent_at: float, received_at: float) -> None:
        """Record the server's time in µs since 1970, read at some moment between the two."""
        lowest, highest = micros / 1000 - received_at * 1000, micros / 1000 - sent_at * 1000
        offset = lowest
        if self._offset_ms is not None:
            previous = self._offset_ms - MAX_DRIFT * (received_at - self._observed_at) * 1000
            if previous <= highest:
                offset = max(lowest, previous)
            else:  # The server's clock was set back, or this is another server.
                self._remembered.clear()
        self._offset_ms, self._observed_at = offset, received_at

    def to_server_ms(self, moment: float) -> int:
        """Return the server's time in ms at a moment; 0 for NEVER, and while the server's time is unknown.

        Equal moments return equal times: an entry put as of the moment at which a lease begins is under that lease.
        """
        if moment == NEVER or self._offset_ms is None:
            return 0
        server_ms = self._remembered.pop(moment, None) or int(self._offset_ms + moment * 1000)
        self._remembered[moment] = server_ms
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return server_ms


def to_ms(seconds: float) -> int:
    """Return a duration, which may be infinite, in the ms that Redis accepts."""
    return int(min(seconds, MAX_DURATION_S) * 1000)
