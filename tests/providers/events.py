"""The provider events that an application sees, in any language."""

from __future__ import annotations

import threading
from dataclasses import dataclass

READY, CHANGED = "PROVIDER_READY", "PROVIDER_CONFIGURATION_CHANGED"
STALE, ERROR = "PROVIDER_STALE", "PROVIDER_ERROR"


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as a handler of the application saw it."""

    event: str
    flags: tuple[str, ...]
    at: int
    """time.monotonic_ns()"""


class Events:
    """What handlers saw, in order; `until` waits for more."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._changed = threading.Condition()

    def add(self, seen: Seen) -> None:
        with self._changed:
            self._seen.append(seen)
            self._changed.notify_all()

    def settle(self, flag: str) -> int:
        """Wait until the provider has an event for a flag that was new when it connected; return a position.

        Event streams begin with changes that may have been missed; Python's in-process provider reports the first set.
        """
        self.until(CHANGED, flag=flag)
        return self.mark()

    def mark(self) -> int:
        """Return a position for `until`: only later events count."""
        with self._changed:
            return len(self._seen)

    def until(self, event: str, *, flag: str = "", since: int = 0, seconds: float = 10) -> Seen:
        """Wait for an event after position `since`, for a flag if one is named."""

        def found() -> Seen | None:
            fits = (s for s in self._seen[since:] if s.event == event and (not flag or flag in s.flags))
            return next(fits, None)

        with self._changed:
            seen = self._changed.wait_for(found, seconds)
            others = [(other.event, other.flags) for other in self._seen[since:]]
            assert seen, f"no {event} {flag} within {seconds} s, only {others}"
            return seen

    def since(self, mark: int) -> list[Seen]:
        """Return all events after a position."""
        with self._changed:
            return self._seen[mark:]

    def names(self) -> list[str]:
        return [seen.event for seen in self.since(0)]
