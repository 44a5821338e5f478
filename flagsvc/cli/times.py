"""Times for people: always in UTC and marked so, and how long ago they are; and durations such as `90d`."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta

from flagsvc.cli.usage import UsageError

_UNITS = ((365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_DURATIONS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MAX_S = 100 * 365 * 86_400


def now() -> datetime:
    """Return the current time in milliseconds, as stores keep it."""
    return datetime.fromtimestamp(int(time.time() * 1_000) / 1_000, UTC)


def before_now(duration: str, option: str) -> datetime:
    """Return the time so long ago. Raises UsageError."""
    return now() - timedelta(seconds=seconds_of(duration, option))


def after_now(duration: str, option: str) -> datetime:
    """Return the time in so long. Raises UsageError."""
    return now() + timedelta(seconds=seconds_of(duration, option))


def absolute(moment: datetime) -> str:
    """Return a time such as `2026-11-30 11:03:32Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def iso(moment: datetime) -> str:
    """Return a time such as `2026-11-30T11:03:32Z`, for programs."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def relative(moment: datetime) -> str:
    """Return how long ago a time is, such as `5 min ago`, or `in 3 d`."""
    seconds = (now() - moment).total_seconds()
    size, unit = next(((s, u) for s, u in _UNITS if abs(seconds) >= s), (1, "s"))
    count = int(abs(seconds) // size)
    return f"{count} {unit} ago" if seconds >= 0 else f"in {count} {unit}"


def seconds_of(text: str, option: str) -> float:
    """Return a duration such as `90d`, `12h`, `30m` or `0s` in seconds. Raises UsageError."""
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * _DURATIONS[unit]
    except (KeyError, ValueError):
        seconds = math.nan
    if not 0 <= seconds <= _MAX_S:
        raise UsageError(f"{option} is {text!r}; it must be a number with s, m, h or d behind it, such as 90d")
    return seconds
