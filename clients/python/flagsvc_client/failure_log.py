"""The client's logger, and log lines that do not flood it."""

from __future__ import annotations

import logging
import math
import threading
import time

log = logging.getLogger("flagsvc_client")
"""Every record has `event`, a stable name to alert on."""
REPEAT_AFTER_S = 60.0
MAX_KINDS = 100


class FailureLog:
    """Logs each kind of failure at most once a minute, with the number of repetitions since."""

    def __init__(self) -> None:
        self._logged: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def warn(self, event: str, kind: str, what: str, message: str) -> None:
        """Log the failure, or count it. Beyond MAX_KINDS, kinds that begin with the same word are one kind."""
        now = time.monotonic()
        with self._lock:
            if kind not in self._logged and len(self._logged) >= MAX_KINDS:
                kind = kind.partition(" ")[0]
            logged_at, suppressed = self._logged.get(kind, (-math.inf, 0))
            if now - logged_at < REPEAT_AFTER_S:
                self._logged[kind] = (logged_at, suppressed + 1)
                return
            self._logged[kind] = (now, 0)
        repeated = f" (repeated {suppressed} times since it was last logged)" if suppressed else ""
        log.warning("%s: %s: %s%s", what, kind, message, repeated, extra={"event": event})
