"""Times for people: always in UTC and marked so, and how long ago they are."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_UNITS = ((365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def now() -> datetime:
    """Return the current time."""
    return datetime.fromtimestamp(time.time(), UTC)


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
