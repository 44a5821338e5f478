"""Local times in IANA time zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from flagsvc.core.errors import invalid

_MAX_ZONE_CHARS = 64
_LOCAL = "a local time without an offset, such as 2026-12-01T09:00"


def zone_of(name: str, field: str) -> ZoneInfo:
    """Return the zone of this name; UTC for an empty one. Raises InvalidRequest, which names the field."""
    wanted = "an IANA time zone, such as Europe/Berlin or UTC"
    if len(name) > _MAX_ZONE_CHARS or not name.isascii():
        raise invalid(field, name, wanted)
    try:
        return ZoneInfo(name or "UTC")
    except (ValueError, OSError, LookupError):  # LookupError: there is no such zone
        raise invalid(field, name, wanted) from None


def instant_of(local: str, zone: ZoneInfo, field: str) -> datetime:
    """Return the moment of a local time, in UTC. Raises InvalidRequest.

    A time that occurs twice, because clocks are put back, is the first. One that is left out, because they are put
    forward, is the first moment after the gap.
    """
    try:
        naive = datetime.fromisoformat(local)
    except ValueError:
        raise invalid(field, local, _LOCAL) from None
    if naive.tzinfo is not None:
        raise invalid(field, local, _LOCAL)
    try:
        first = naive.replace(tzinfo=zone, fold=0).astimezone(UTC)
        return first if first.astimezone(zone).replace(tzinfo=None) == naive else _after_gap(naive, zone)
    except OverflowError:
        raise invalid(field, local, _LOCAL) from None


def local_text(at: datetime, zone: str) -> str:
    """Return a moment as local time with its offset, such as 2026-12-01T09:00:00+01:00."""
    try:
        return at.astimezone(ZoneInfo(zone)).isoformat(timespec="seconds")
    except (ValueError, OSError, LookupError):  # the zone was known when it was planned
        return at.astimezone(UTC).isoformat(timespec="seconds")


def _after_gap(naive: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment at which clocks are put forward over a local time."""
    before = naive.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = naive.replace(tzinfo=zone, fold=0).astimezone(UTC)
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        before, after = (middle, after) if middle.astimezone(zone).utcoffset() == offset else (before, middle)
    return after.replace(microsecond=0)
