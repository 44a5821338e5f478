"""A circuit breaker: one failure opens it for all callers, and only a background probe closes it again."""

from __future__ import annotations

import time

import structlog

from flagsvc.adapters.redis.causes import RedisCause
from flagsvc.background import backoff_s

PROBE_EVERY_S = 0.5
MAX_UNREACHABLE_S, MAX_REFUSED_S = 1.0, 5.0
"""The longest pause between two probes: a server that refuses needs an operator, and a failed probe costs it work."""
SOUND_S = 2.0
"""A breaker that has been closed for so long is sound: heartbeats and renewals have used the server by then."""
MAX_LOGGED = 20
"""Most causes that are logged in one outage."""

log = structlog.get_logger(__name__)


class Breaker:
    """Closed: calls are allowed. Open: no calls, so that a server that is down costs callers no time.

    Callers report the result of each call, but never probe. Each cause is logged once in an outage, which ends when the
    breaker has been closed for `SOUND_S`: until then a probe that succeeds may be wrong, and pauses keep growing.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.opened = 0
        self._cause: RedisCause | None = None
        self._logged: set[str] = set()
        self._failures = 0
        self._openings = 0
        self._closed_at = 0.0

    @property
    def cause(self) -> RedisCause | None:
        """Why it is open, or has been more than once in this outage."""
        return self._cause if self.is_open or self._openings > 1 else None

    def failed(self, cause: RedisCause) -> None:
        """Report a failed call. It opens the breaker."""
        if self.is_open:
            return
        self.is_open = True
        self.opened += 1
        self._openings += 1
        self._note(cause)

    def probe_failed(self, cause: RedisCause) -> None:
        """Report a failed probe of an open breaker. It knows the cause best: it waited longer than a caller may."""
        self._note(cause)

    def close(self) -> None:
        """Report a successful probe of an open breaker."""
        self.is_open = False
        self._closed_at = time.monotonic()

    def pause_s(self) -> float:
        """Return the seconds until the next probe, and end an outage that is over."""
        if not self.is_open:
            if self._cause is not None and time.monotonic() - self._closed_at >= SOUND_S:
                self._cause, self._failures, self._openings = None, 0, 0
                self._logged.clear()
                log.info("cache_available")
            return PROBE_EVERY_S
        is_refused = self._cause is not None and self._cause.is_refusal
        return backoff_s(self._failures - 1, PROBE_EVERY_S, MAX_REFUSED_S if is_refused else MAX_UNREACHABLE_S)

    def _note(self, cause: RedisCause) -> None:
        self._cause = cause
        self._failures += 1
        if cause.text not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(cause.text)
            log.warning(cause.problem, cause=cause.text, detail=f"Do this: {cause.cure}.")
