"""Commands about planned changes: `schedule` plans one, `schedules` lists, shows, moves, executes and cancels them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

from flagsvc.api.flag_service.flag_messages import flag_to_message, received
from flagsvc.cli import arguments, options, render, times, wait_for
from flagsvc.cli.calls import with_stub
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.pages import MAX_PAGE, pages
from flagsvc.cli.tables import Column, print_list
from flagsvc.cli.usage import UsageError
from flagsvc.core.documents import to_document
from flagsvc.core.model import STORED_NAMES, Flag
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as pb_grpc

Stub = pb_grpc.ScheduleServiceStub
_LIST = (
    *(Column("id"), Column("key", name="flagKey"), Column("at"), Column("state")),
    *(Column("local time", rank=3, name="localTime"), Column("change", rank=1, least=12)),
    *(Column("planned by", rank=4, name="createdBy"), Column("reason", rank=2, least=12)),
)


def create(args: argparse.Namespace) -> int:
    """Plan a change of a flag."""
    pairs = [*args.fields, *([f"status={args.status}"] if args.status else [])]
    edits = arguments.read_edits(pairs)
    if not edits:
        raise UsageError("name what is to change: --status enabled, or FIELD=VALUE")
    if parts := [edit for edit in edits if edit.part]:
        name = STORED_NAMES[parts[0].field]
        raise UsageError(f"{name}.{parts[0].part} is a part of {name}; plan the whole field: {name}=VALUE")
    flag = arguments.edited(Flag(key=args.key, flag_set=args.flag_set), edits)
    schedule = _with_when(args, pb.Schedule(flag_key=args.key, patch=flag_to_message(flag)))
    schedule.update_mask.paths.extend(dict.fromkeys(edit.field for edit in edits))
    request = pb.CreateScheduleRequest(flag_set=args.flag_set, schedule=schedule, **_author_fields(args))
    return _with(args, lambda stub: _show(stub.CreateSchedule(request, timeout=args.timeout).schedule))


def list_schedules(args: argparse.Namespace) -> int:
    """List schedules by time: those that have not ended, unless others are asked for."""
    given = [pb.ScheduleState.Value(f"SCHEDULE_STATE_{name.upper()}") for name in args.state or ()]
    states = given or ([number for number in pb.ScheduleState.values() if number] if args.all else [])
    request = pb.ListSchedulesRequest(
        flag_set=args.flag_set, flag_key=args.key or "", states=states, page_size=MAX_PAGE
    )

    def listed(stub: Stub) -> int:
        found = [_fields(each) for page in pages(stub.ListSchedules, request, args.timeout) for each in page.schedules]
        of_what = f"of flag {args.key!r}" if args.key else f"in set {args.flag_set!r}"
        print_list(
            _LIST, found, f"no such schedules {of_what}; plan one with: flagsvc schedule KEY status=ENABLED --at TIME"
        )
        return OK

    return _with(args, listed)


def show(args: argparse.Namespace) -> int:
    """Show one schedule."""
    request = pb.GetScheduleRequest(flag_set=args.flag_set, id=args.id)
    return _with(args, lambda stub: _show(stub.GetSchedule(request, timeout=args.timeout).schedule))


def cancel(args: argparse.Namespace) -> int:
    """End a schedule before its time."""
    request = pb.CancelScheduleRequest(**_names(args))
    return _with(args, lambda stub: _show(stub.CancelSchedule(request, timeout=args.timeout).schedule))


def execute(args: argparse.Namespace) -> int:
    """Execute a schedule now."""
    request = pb.ExecuteScheduleRequest(**_names(args), **wait_for.request_fields(args))

    def executed(stub: Stub) -> int:
        response = stub.ExecuteSchedule(request, timeout=wait_for.deadline_s(args))
        spread = {"spread": wait_for.spread_fields(response.spread)} if args.json else {}
        render.show({**_fields(response.schedule), **spread})
        return wait_for.report_spread(args, response.spread)

    return _with(args, executed)


def update(args: argparse.Namespace) -> int:
    """Change when a schedule is due, how late it may be, or what it does on a conflict; it is then planned again."""
    schedule = _with_when(args, pb.Schedule(id=args.id, etag=args.etag))
    given = {
        "local_time": args.at,
        "execute_time": args.after,
        "time_zone": args.zone,
        "on_conflict": args.on_conflict,
        "max_lateness": args.max_lateness,
    }
    mask = [name for name, value in given.items() if value is not None]
    if not mask:
        raise UsageError("name what to change: --at, --in, --zone, --on-conflict or --max-lateness")
    request = pb.UpdateScheduleRequest(flag_set=args.flag_set, schedule=schedule, **_author_fields(args))
    request.update_mask.paths.extend(mask)
    return _with(args, lambda stub: _show(stub.UpdateSchedule(request, timeout=args.timeout).schedule))


def _with(args: argparse.Namespace, command: Callable[[Stub], int]) -> int:
    return with_stub(args, command, Stub)


def _with_when(args: argparse.Namespace, schedule: pb.Schedule) -> pb.Schedule:
    """Return a schedule with what the options say of its time. The server reads local times."""
    if args.at:
        schedule.local_time = args.at
    if args.after:
        schedule.execute_time.FromDatetime(times.after_now(args.after, "--in"))
    schedule.time_zone = args.zone or ""
    if args.on_conflict:
        schedule.on_conflict = pb.OnConflict.Value(f"ON_CONFLICT_{args.on_conflict.upper()}")
    if args.max_lateness:
        schedule.max_lateness.FromTimedelta(timedelta(seconds=times.seconds_of(args.max_lateness, "--max-lateness")))
    return schedule


def _names(args: argparse.Namespace) -> dict[str, Any]:
    return {"flag_set": args.flag_set, "id": args.id, "etag": args.etag, **_author_fields(args)}


def _author_fields(args: argparse.Namespace) -> dict[str, Any]:
    return {"actor": options.actor_of(args), "reason": args.reason}


def _show(schedule: pb.Schedule) -> int:
    render.show(_fields(schedule))
    return OK


def _fields(schedule: pb.Schedule) -> dict[str, Any]:
    document = to_document(received(schedule.patch))
    names = [STORED_NAMES.get(path, path) for path in schedule.update_mask.paths]
    return {
        "id": schedule.id,
        "flagKey": schedule.flag_key,
        "flagSet": schedule.flag_set,
        "at": schedule.execute_time.ToDatetime(UTC),
        "localTime": schedule.local_time,
        "zone": schedule.time_zone,
        "state": pb.ScheduleState.Name(schedule.state).removeprefix("SCHEDULE_STATE_"),
        "change": {name: document.get(name) for name in names},
        "onConflict": pb.OnConflict.Name(schedule.on_conflict).removeprefix("ON_CONFLICT_"),
        "maxLatenessS": schedule.max_lateness.ToTimedelta().total_seconds(),
        "conflicts": [
            {
                "kind": pb.ConflictKind.Name(each.kind).removeprefix("CONFLICT_KIND_"),
                "field": each.field or None,
                "description": each.description,
            }
            for each in schedule.conflicts
        ]
        or None,
        "detail": schedule.detail or None,
        "createdBy": schedule.created_by or None,
        "onBehalfOf": schedule.on_behalf_of or None,
        "reason": schedule.reason or None,
        "created": schedule.create_time.ToDatetime(UTC),
        "ended": schedule.end_time.ToDatetime(UTC) if schedule.HasField("end_time") else None,
        "executedRevision": schedule.executed_revision or None,
        "lateByS": schedule.late_by.ToTimedelta().total_seconds() if schedule.HasField("late_by") else None,
        "etag": schedule.etag,
    }
