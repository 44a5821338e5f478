"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random

MIN_LIMIT_S, MAX_LIMIT_S = 0.1, 5.0


class Backoff:
    """Exponential backoff with full jitter, so that many clients do not reconnect at the same moment."""

    def __init__(self) -> None:
        self._limit_s = MIN_LIMIT_S

    def next_delay_s(self) -> float:
        """Return a random delay, and double the limit for the next one."""
        delay_s = random.uniform(0, self._limit_s)  # noqa: S311  jitter needs no cryptography
        self._limit_s = min(self._limit_s * 2, MAX_LIMIT_S)
        return delay_s

    def reset(self) -> None:
        """Start with short delays again: the attempt succeeded."""
        self._limit_s = MIN_LIMIT_S
