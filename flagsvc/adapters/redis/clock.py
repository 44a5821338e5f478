"""The clock of a Redis server, as one replica knows it from the answers it gets."""

from __future__ import annotations

from flagsvc.ports import NEVER

DRIFT = 0.001
"""By how much two clocks may differ in speed."""
STAMPS = 64
LONGEST_S = 1e9


class RedisClock:
    """What it shows is never later than the truth, and as near to it as the quickest answer was.

    Moments are seconds of `time.monotonic()`; no wall clock of this machine is asked.
    """

    def __init__(self) -> None:
        self._offset_ms: float | None = None
        self._heard_at = 0.0
        self._stamps: dict[float, int] = {}

    @property
    def known(self) -> bool:
        """Whether it ever was heard."""
        return self._offset_ms is not None

    def heard(self, micros: int, sent_at: float, received_at: float) -> None:
        """Take what the server's clock showed at some moment between the two."""
        lowest, highest = micros / 1000 - received_at * 1000, micros / 1000 - sent_at * 1000
        offset = lowest
        if self._offset_ms is not None:
            kept = self._offset_ms - DRIFT * (received_at - self._heard_at) * 1000
            if kept <= highest:
                offset = max(lowest, kept)
            else:  # The clock went back, or this is another server.
                self._stamps.clear()
        self._offset_ms, self._heard_at = offset, received_at

    def stamp(self, moment: float) -> int:
        """Give the moment in the server's ms, 0 for NEVER and while the clock is unknown.

        The same moment gets the same stamp: what is put as of a moment counts where vouching begins with that moment.
        """
        if moment == NEVER or self._offset_ms is None:
            return 0
        stamp = self._stamps.pop(moment, None) or int(self._offset_ms + moment * 1000)
        self._stamps[moment] = stamp
        if len(self._stamps) > STAMPS:
            del self._stamps[next(iter(self._stamps))]
        return stamp


def to_ms(seconds: float) -> int:
    """Give a length of time, infinite ones too, as Redis takes it."""
    return int(min(seconds, LONGEST_S) * 1000)
