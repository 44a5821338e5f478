"""Reads --wait-for into a write request, and reports the level that the change has reached."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration

from flagsvc.cli.exit_codes import NOT_REACHED
from flagsvc.cli.failures import print_error
from flagsvc.cli.options import DEFAULT_WAIT_S
from flagsvc.cli.terminal import say
from flagsvc.cli.usage import UsageError
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

APPLIED = "applied"
PATIENCE_S = 1.0
"""Seconds that a command waits for a level that nobody asked for, only to say how far the change has spread."""
_LEVELS = {"stored": pb.WRITE_LEVEL_STORED, "cached": pb.WRITE_LEVEL_CACHED, "applied": pb.WRITE_LEVEL_APPLIED}


class WaitFields(TypedDict, total=False):
    """The fields of a write request that say what to wait for."""

    wait_for: pb.WriteLevel.ValueType
    wait_timeout: Duration


def request_fields(args: argparse.Namespace, otherwise: str | None = None) -> WaitFields:
    """Read --wait-for and --wait-timeout. `otherwise`: the level to wait for a moment for. Raises UsageError."""
    if args.wait_for is None and args.wait_timeout is not None:
        raise UsageError("--wait-timeout needs --wait-for stored, cached or applied")
    level = args.wait_for or otherwise
    if level is None:
        return {}
    wait_timeout = Duration()
    wait_timeout.FromTimedelta(timedelta(seconds=_wait_s(args) if args.wait_for else PATIENCE_S))
    return {"wait_for": _LEVELS[level], "wait_timeout": wait_timeout}


def deadline_s(args: argparse.Namespace, otherwise: str | None = None) -> float:
    """Return the deadline of a write: the time-out of any call, plus the time to wait for the level."""
    return float(args.timeout) + (_wait_s(args) if args.wait_for else PATIENCE_S if otherwise else 0.0)


def where(spread: pb.WriteSpread) -> str:
    """Return where a change is now, in a few words."""
    applied, lagging = len(spread.applied_by), len(spread.lagging)
    if lagging:
        return f"on {applied} of {applied + lagging} replicas"
    if spread.reached < pb.WRITE_LEVEL_APPLIED:
        level = "stored, cached and announced" if spread.reached == pb.WRITE_LEVEL_CACHED else "stored"
        return f"{level}; other replicas see it within their staleness bound"
    return f"on all {applied} replicas" if applied > 1 else "on 1 replica"


def warn_of_lag(args: argparse.Namespace, spread: pb.WriteSpread) -> None:
    """Say which replicas lack a change, where nobody asked for a level."""
    if args.wait_for is None and spread.lagging:
        say(f"warning: {_so_far(APPLIED, spread)}; the change IS stored", error=True)


def spread_fields(spread: pb.WriteSpread) -> dict[str, Any]:
    """Return the reached level as JSON."""
    return {
        "revision": spread.revision,
        "reached": pb.WriteLevel.Name(spread.reached).removeprefix("WRITE_LEVEL_"),
        "appliedBy": list(spread.applied_by),
        "lagging": list(spread.lagging),
    }


def report_spread(args: argparse.Namespace, spread: pb.WriteSpread) -> int:
    """Print the reached level if --wait-for was given; return the exit status."""
    if args.wait_for is None:
        return 0
    if spread.reached < _LEVELS[args.wait_for]:
        wanted = "applied everywhere" if args.wait_for == "applied" else args.wait_for
        missed = f"not {wanted} after {_wait_s(args):g} s"
        text = f"{missed}: {_so_far(args.wait_for, spread)}; the change IS stored"
        print_error(text, code="NOT_REACHED", exit_code=NOT_REACHED)
        return NOT_REACHED
    if not args.json:
        say(f"revision {spread.revision}: {_reached(args.wait_for, spread)}")
    return 0


def _reached(level: str, spread: pb.WriteSpread) -> str:
    if level == "applied":
        count = len(spread.applied_by)
        return f"applied by {count} {'replica' if count == 1 else 'replicas'} ({', '.join(spread.applied_by)})"
    return "stored, cached and announced" if level == "cached" else "stored"


def _so_far(level: str, spread: pb.WriteSpread) -> str:
    others = "other replicas will see it within their staleness bound"
    if level != "applied":
        return f"the shared cache is unreachable, refuses writes, or is not configured; see: flagsvc status; {others}"
    applied = f"applied by {', '.join(spread.applied_by) or 'no known replica'}"
    if not spread.lagging:
        return f"{applied}; without the shared cache other live replicas are unknown; {others}"
    one = len(spread.lagging) == 1
    they, bounds = ("it", "its staleness bound") if one else ("they", "their staleness bounds")
    return f"{applied}; lagging: {', '.join(spread.lagging)} ({they} will see the change within {bounds})"


def _wait_s(args: argparse.Namespace) -> float:
    return DEFAULT_WAIT_S if args.wait_timeout is None else float(args.wait_timeout)
