"""A circuit breaker: one failure opens it for everybody, and only a probe in the background closes it again."""

from __future__ import annotations


class Breaker:
    """Closed: calls go through. Open: none does, so a dead server costs nobody anything.

    Callers say how each call went; they never probe. `failures` in a row open it.
    """

    def __init__(self, failures: int = 1) -> None:
        self._threshold = failures
        self._failed = 0
        self.is_open = False
        self.opened = 0

    def succeeded(self) -> None:
        """A call went well. While open this says nothing: it may have been sent before the trouble began."""
        if not self.is_open:
            self._failed = 0

    def failed(self) -> bool:
        """A call failed; True when this opened the breaker."""
        if self.is_open:
            return False
        self._failed += 1
        if self._failed < self._threshold:
            return False
        self.is_open = True
        self.opened += 1
        return True

    def close(self) -> None:
        """A probe went well."""
        self.is_open = False
        self._failed = 0
