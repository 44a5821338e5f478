"""Schedules from and to messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from flagsvc.api.common.answers import sendable
from flagsvc.api.flag_service.flag_messages import flag_from_message, flag_to_message
from flagsvc.api.flag_service.messages import masked
from flagsvc.core import validation
from flagsvc.core.errors import invalid, short_repr
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.schedules.model import (
    DEFAULT_LATENESS_S,
    MAX_LATENESS_S,
    OPEN,
    ConflictKind,
    Creator,
    OnConflict,
    Schedule,
    State,
    new_id,
)
from flagsvc.core.schedules.zones import instant_of, local_text, zone_of
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as pb

STATES = {state: pb.ScheduleState.Value(f"SCHEDULE_STATE_{state}") for state in State}
_STATES = {number: state for state, number in STATES.items()}
_ON_CONFLICT = {each: pb.OnConflict.Value(f"ON_CONFLICT_{each}") for each in OnConflict}
_OF_NUMBER = {pb.ON_CONFLICT_UNSPECIFIED: OnConflict.HOLD, **{number: each for each, number in _ON_CONFLICT.items()}}
_KINDS = {kind: pb.ConflictKind.Value(f"CONFLICT_KIND_{kind}") for kind in ConflictKind}
_TIMES = ("execute_time", "local_time", "time_zone")
_UPDATABLE = (*_TIMES, "patch", "on_conflict", "max_lateness")


def schedule_of(flag_set: str, message: pb.Schedule, creator: Creator, actor: str, reason: str) -> Schedule:
    """Return what is to be planned; the store sets number and times. Raises InvalidRequest."""
    flag_id = validation.flag_id(flag_set, message.flag_key, "schedule.flag_key")
    patch, fields = _patch(flag_id, message)
    return Schedule(
        id=new_id(),
        flag_id=flag_id,
        execute_at=_moment(message),
        zone=zone_of(message.time_zone, "schedule.time_zone").key,
        patch=patch,
        fields=fields,
        on_conflict=_on_conflict(message),
        max_lateness_s=_lateness_s(message),
        creator=creator,
        actor=actor,
        reason=reason,
        created_at=datetime.now(UTC),
    )


def fields_of(message: pb.Schedule, mask: list[str], current: Schedule) -> Mapping[str, Any]:
    """Return the fields that an update changes, by the names of `Schedule`. Raises InvalidRequest."""
    names = [name for name in mask if name != "update_mask"]
    if not names or not set(_UPDATABLE) >= set(names):
        wanted = f"fields among {', '.join(_UPDATABLE)}"
        raise invalid("update_mask", ", ".join(mask) or "empty", wanted, "INVALID_UPDATE_MASK")
    fields: dict[str, Any] = {}
    if "time_zone" in names:
        fields["zone"] = zone_of(message.time_zone, "schedule.time_zone").key
    if "execute_time" in names or "local_time" in names:
        whole = pb.Schedule(time_zone=fields.get("zone", current.zone), local_time=message.local_time)
        if message.HasField("execute_time"):
            whole.execute_time.CopyFrom(message.execute_time)
        fields["execute_at"] = _moment(whole)
    if "patch" in names:
        fields["patch"], fields["fields"] = _patch(current.flag_id, message)
    if "on_conflict" in names:
        fields["on_conflict"] = _on_conflict(message)
    if "max_lateness" in names:
        fields["max_lateness_s"] = _lateness_s(message)
    return fields


def states_of(request: pb.ListSchedulesRequest) -> list[State]:
    """Return the states that are asked for. Raises InvalidRequest."""
    for number in request.states:
        if number not in _STATES:
            raise invalid("states", number, f"among {', '.join(State)}")
    return [_STATES[number] for number in request.states] or sorted(OPEN)


def schedule_to_message(schedule: Schedule) -> pb.Schedule:
    """Pack a schedule. Its patch has the fields in the mask only."""
    message = pb.Schedule(
        id=schedule.id,
        flag_set=schedule.flag_id.flag_set,
        flag_key=schedule.flag_id.key,
        time_zone=schedule.zone,
        local_time=local_text(schedule.execute_at, schedule.zone),
        on_conflict=_ON_CONFLICT[schedule.on_conflict],
        max_lateness=_duration(schedule.max_lateness_s),
        state=STATES[schedule.state],
        detail=schedule.detail,
        created_by=str(schedule.creator),
        on_behalf_of=schedule.actor,
        reason=schedule.reason,
        base_revision=schedule.base_revision,
        executed_revision=schedule.executed_revision,
        etag=schedule.etag,
    )
    whole = flag_to_message(schedule.patch)
    for descriptor in whole.DESCRIPTOR.fields:
        if descriptor.name not in schedule.fields:
            whole.ClearField(descriptor.name)  # type: ignore[arg-type]  # each is a field of the message
    message.patch.CopyFrom(sendable(whole))
    message.update_mask.paths.extend(schedule.fields)
    for kind, field, text in schedule.conflicts:
        message.conflicts.add(kind=_KINDS[kind], field=field, description=text)
    message.execute_time.FromDatetime(schedule.execute_at)
    message.create_time.FromDatetime(schedule.created_at)
    if schedule.ended_at is not None:
        message.end_time.FromDatetime(schedule.ended_at)
    if schedule.state is State.EXECUTED:
        message.late_by.CopyFrom(_duration(schedule.late_s))
    return message


def _patch(flag_id: FlagId, message: pb.Schedule) -> tuple[Flag, tuple[str, ...]]:
    """Return the fields that change, in a flag that has nothing else."""
    for field, named, wanted in (
        ("schedule.flag_set", message.flag_set, flag_id.flag_set),
        ("schedule.patch.flag_set", message.patch.flag_set, flag_id.flag_set),
        ("schedule.patch.key", message.patch.key, flag_id.key),
    ):
        if named not in ("", wanted):
            raise invalid(field, named, f"empty, or {short_repr(wanted)} as in the request")
    fields = masked(list(message.update_mask.paths), "schedule.update_mask")
    patch = flag_from_message(message.patch)
    values = {name: getattr(patch, name) for name in fields}
    return Flag(key=flag_id.key, flag_set=flag_id.flag_set, **values), tuple(fields)


def _moment(message: pb.Schedule) -> datetime:
    """Return when a schedule is due, in milliseconds, as stores keep times."""
    if message.HasField("execute_time") == bool(message.local_time):
        raise invalid("schedule.execute_time", "set" if message.local_time else "not set", "set, or else local_time")
    if message.local_time:
        zone = zone_of(message.time_zone, "schedule.time_zone")
        found = instant_of(message.local_time, zone, "schedule.local_time")
    else:
        found = _time(message.execute_time)
    return found.replace(microsecond=found.microsecond // 1_000 * 1_000)


def _time(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid("schedule.execute_time", stamp.seconds, "a time until the year 9999") from None


def _on_conflict(message: pb.Schedule) -> OnConflict:
    if message.on_conflict not in _OF_NUMBER:
        raise invalid("schedule.on_conflict", message.on_conflict, f"one of {', '.join(OnConflict)}")
    return _OF_NUMBER[message.on_conflict]


def _lateness_s(message: pb.Schedule) -> float:
    if not message.HasField("max_lateness"):
        return DEFAULT_LATENESS_S
    seconds = float(message.max_lateness.seconds + message.max_lateness.nanos / 1e9)
    if not 1 <= seconds <= MAX_LATENESS_S:
        raise invalid("schedule.max_lateness", f"{seconds:g} s", f"1 to {MAX_LATENESS_S:g} s")
    return seconds


def _duration(seconds: float) -> Duration:
    whole = int(seconds // 1)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
