"""Moments on the command line: a revision, a time, or so long ago or from now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flagsvc.cli import times
from flagsvc.cli.usage import UsageError
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

FORMS = "a revision such as 41, a time such as 2026-11-30T09:00:00Z, 2h for two hours ago, or +2h for in two hours"


def as_of(text: str | None, option: str = "--at") -> pb.AsOf | None:
    """Return the moment; None for now. Raises UsageError."""
    if text is None:
        return None
    if text.isdecimal():
        if not 0 < int(text) < 2**63:
            raise UsageError(f"{option} is {text!r}; it must be {FORMS}")
        return pb.AsOf(revision=int(text))
    found = pb.AsOf()
    found.time.FromDatetime(_time(text, option))
    return found


def shown(moment: pb.Moment) -> str:
    """Return a moment for people."""
    return f"revision {moment.revision}, {times.absolute(moment.time.ToDatetime(tzinfo=UTC))}"


def fields(moment: pb.Moment) -> dict[str, object]:
    """Return a moment as JSON."""
    return {"revision": moment.revision, "time": moment.time.ToDatetime(tzinfo=UTC).isoformat().replace("+00:00", "Z")}


def _time(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    later = text.startswith("+")
    try:
        length = timedelta(seconds=times.seconds_of(text.removeprefix("+"), option))
        return times.now() + length if later else times.now() - length
    except (UsageError, OverflowError):
        raise UsageError(f"{option} is {text!r}; it must be {FORMS}") from None
