"""A circuit breaker: one failure opens it for all callers, and only a background probe closes it again."""

from __future__ import annotations


class Breaker:
    """Closed: calls are allowed. Open: no calls, so that a server that is down costs callers no time.

    Callers report the result of each call, but never probe. `failures` failed calls in a row open it.
    """

    def __init__(self, failures: int = 1) -> None:
        self._threshold = failures
        self._failed = 0
        self.is_open = False
        self.opened = 0

    def succeeded(self) -> None:
        """Report a successful call. It is ignored while open: it may have been sent before the failures began."""
        if not self.is_open:
            self._failed = 0

    def failed(self) -> bool:
        """Report a failed call. Return whether it opened the breaker."""
        if self.is_open:
            return False
        self._failed += 1
        if self._failed < self._threshold:
            return False
        self.is_open = True
        self.opened += 1
        return True

    def close(self) -> None:
        """Report a successful probe."""
        self.is_open = False
        self._failed = 0
