"""The command `rollout`: shows the rollout of a flag, begins or changes one, pauses it, resumes it, rolls it back."""

from __future__ import annotations

import argparse
import math
import sys
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from flagsvc.api.flag_service.flag_messages import flag_to_message, received
from flagsvc.cli import options, render, times, wait_for
from flagsvc.cli.calls import Stub, with_stub
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.usage import UsageError, meant
from flagsvc.core.model import Flag
from flagsvc.core.rollouts import DEFAULT_BUCKET_BY, time_text
from flagsvc.core.shown_text import visible
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as flags
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2_grpc as pb_grpc

_STEPS = "--steps must be such as 1%,10%@+1h,100%@+1d: shares, each with when it begins, as +TIME from now or as a time"


class Stubs(NamedTuple):
    """The services that the command calls."""

    flags: Stub
    rollouts: pb_grpc.RolloutServiceStub


def rollout(args: argparse.Namespace) -> int:
    """Show a rollout, or change it and show it then. Exit status 1 if the call fails."""
    return with_stub(args, lambda stubs: _run(args, stubs), lambda c: Stubs(Stub(c), pb_grpc.RolloutServiceStub(c)))


def _run(args: argparse.Namespace, stubs: Stubs) -> int:
    is_new = args.to is not None or args.steps is not None or (args.over is not None and not args.rollback)
    if sum((is_new, args.pause, args.resume, args.rollback)) > 1:
        raise UsageError("give one of --to (with --over or --steps), --pause, --resume and --rollback")
    if is_new:
        return _begin(args, stubs)
    if args.from_variant is not None or args.by is not None:
        raise UsageError("--from and --by need --over or --steps")
    if args.pause or args.resume or args.rollback:
        return _change(args, stubs.rollouts)
    found = stubs.rollouts.GetRollout(
        pb.GetRolloutRequest(flag_key=args.key, flag_set=args.flag_set), timeout=args.timeout
    )
    render.show(_fields(args, found.status, found.revision))
    return OK


def _change(args: argparse.Namespace, stub: pb_grpc.RolloutServiceStub) -> int:
    fields: dict[str, Any] = {"flag_key": args.key, "flag_set": args.flag_set, "etag": args.etag}
    fields |= {"actor": options.actor_of(args), "reason": args.reason, **wait_for.request_fields(args)}
    timeout = wait_for.deadline_s(args)
    response: Any
    if args.pause:
        response = stub.PauseRollout(pb.PauseRolloutRequest(**fields), timeout=timeout)
    elif args.resume:
        response = stub.ResumeRollout(pb.ResumeRolloutRequest(**fields), timeout=timeout)
    else:
        over = None if args.over is None else Duration(seconds=_whole_seconds(args.over, "--over"))
        response = stub.RollbackRollout(pb.RollbackRolloutRequest(**fields, over=over), timeout=timeout)
    return _show(args, response.status, response.flag.revision, response.spread)


def _begin(args: argparse.Namespace, stubs: Stubs) -> int:
    """Write a rollout that begins now, or takes the place of the one under way."""
    read = flags.GetFlagRequest(flag_key=args.key, flag_set=args.flag_set)
    flag = received(stubs.flags.GetFlag(read, timeout=args.timeout).flag)
    wanted = Flag(key=flag.key, flag_set=flag.flag_set, rollout=_wanted(args, flag))
    request = flags.UpdateFlagRequest(
        flag=flag_to_message(wanted),
        update_mask=FieldMask(paths=["rollout"]),
        actor=options.actor_of(args),
        reason=args.reason,
        **wait_for.request_fields(args),
    )
    request.flag.etag = args.etag or flag.etag
    written = stubs.flags.UpdateFlag(request, timeout=wait_for.deadline_s(args))
    read_again = pb.GetRolloutRequest(flag_key=args.key, flag_set=args.flag_set)
    status = stubs.rollouts.GetRollout(read_again, timeout=args.timeout).status
    return _show(args, status, written.flag.revision, written.spread)


def _wanted(args: argparse.Namespace, flag: Flag) -> dict[str, Any]:
    known, before = flag.effective_variants, flag.rollout or {}
    to = args.to or before.get("to")
    if to is None:
        raise UsageError(f"--to is missing; it must be the variant to move to: {', '.join(known)}")
    for option, variant in (("--to", to), ("--from", args.from_variant)):
        if variant is not None and variant not in known:
            raise UsageError(f"{option} is {variant!r}{meant(variant, known)}; it must be one of {', '.join(known)}")
    origin = args.from_variant or (before.get("from") if before.get("to") == to else None) or _other(flag, to)
    if (args.over is None) == (args.steps is None):
        raise UsageError("give either --over, such as --over 3d, or --steps, such as --steps 1%,10%@+1h,100%@+1d")
    now = math.floor(time.time())
    wanted: dict[str, Any] = {"from": origin, "to": to}
    if args.steps is not None:
        wanted["points"] = [_point(step, now) for step in args.steps.split(",")]
    else:
        end = now + max(1, _whole_seconds(args.over, "--over"))
        wanted["points"] = [{"time": time_text(now), "share": 0}, {"time": time_text(end), "share": 100}]
        wanted["linear"] = True
    by = args.by or before.get("bucketBy", DEFAULT_BUCKET_BY)
    return wanted if by == DEFAULT_BUCKET_BY else {**wanted, "bucketBy": by}


def _other(flag: Flag, to: str) -> str:
    """Return the variant that callers have now: the other one of two, or the default variant."""
    others = [name for name in flag.effective_variants if name != to]
    if len(others) == 1:
        return others[0]
    if flag.effective_default in others:
        return str(flag.effective_default)
    raise UsageError(f"--from is missing; it must be the variant of those who have not moved: {', '.join(others)}")


def _point(step: str, now: int) -> dict[str, Any]:
    share, _, moment = step.strip().partition("@")
    try:
        percent = float(share.removesuffix("%"))
    except ValueError:
        raise UsageError(f"{_STEPS}; {step!r} has no share") from None
    if not moment or moment.startswith("+"):
        at = time_text(now + (_whole_seconds(moment[1:], "--steps") if moment else 0))
    else:
        at = _absolute(moment, step)
    return {"time": at, "share": int(percent) if percent.is_integer() else percent}


def _absolute(moment: str, step: str) -> str:
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        raise UsageError(f"{_STEPS}; {step!r} has no such time") from None
    if at.tzinfo is None:
        raise UsageError(f"{_STEPS}; the time of {step!r} has no zone: write it as 2026-12-01T09:00:00Z")
    return time_text(int(at.timestamp()))


def _whole_seconds(duration: str, option: str) -> int:
    return math.floor(times.seconds_of(duration, option))


def _show(args: argparse.Namespace, status: pb.RolloutStatus, revision: int, spread: flags.WriteSpread) -> int:
    shown = {"spread": wait_for.spread_fields(spread)} if args.json else {}
    render.show({**_fields(args, status, revision), **shown})
    if not status.enabled:
        text = f"note: the flag is switched off, so nobody gets a variant: flagsvc toggle {args.key} on"
        print(visible(text), file=sys.stderr)
    return wait_for.report_spread(args, spread)


def _fields(args: argparse.Namespace, status: pb.RolloutStatus, revision: int) -> dict[str, Any]:
    """Return what people and programs see of a rollout."""
    of, state = status.rollout, pb.RolloutState.Name(status.state).removeprefix("ROLLOUT_STATE_")
    fields: dict[str, Any] = {"flagKey": args.key, "state": state, "from": of.from_variant, "to": of.to_variant}
    if args.json:
        fields |= {"share": status.share, "time": _time(status.time), "enabled": status.enabled}
    else:
        fields["share"] = f"{status.share:g} %"
    if status.HasField("next_time"):
        fields["nextShare"] = status.next_share if args.json else f"{status.next_share:g} %"
        fields["nextTime"] = _time(status.next_time)
    if of.HasField("paused_at"):
        fields["pausedAt"] = _time(of.paused_at)
    if args.json:
        points = [{"time": time_text(point.time.seconds), "share": point.share} for point in of.points]
        fields |= {"points": points, "linear": of.linear, "startShare": of.start_share}
    else:
        last = of.points[-1]
        fields |= {"lastShare": f"{last.share:g} %", "lastTime": _time(last.time)}
        fields["way"] = "evenly" if of.linear else f"{len(of.points)} steps"
    return {**fields, "bucketBy": of.bucket_by, "revision": revision}


def _time(stamp: Any) -> Any:
    return stamp.ToDatetime(UTC)
