"""Planned changes as callers see them, from and to messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from flagsvc_client._engine.model import Flag
from flagsvc_client.flag_fields import flag_with
from flagsvc_client.stubs.flagsvc.v1 import schedule_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.wire_flags import flag_message, flag_of


class ScheduleState(StrEnum):
    """What became of a schedule. UNKNOWN: a state of a newer release."""

    PENDING = "PENDING"
    HELD = "HELD"
    EXECUTED = "EXECUTED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    MISSED = "MISSED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"


class OnConflict(StrEnum):
    """What a due schedule does if a field that it changes was changed after it was planned."""

    HOLD = "HOLD"
    APPLY = "APPLY"
    SKIP = "SKIP"


_NUMBERS: Mapping[ScheduleState, pb.ScheduleState.ValueType] = {
    state: pb.ScheduleState.Value(f"SCHEDULE_STATE_{state}")
    for state in ScheduleState
    if state is not ScheduleState.UNKNOWN
}
_STATES: Mapping[int, ScheduleState] = {number: state for state, number in _NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class Schedule:
    """One planned change. `changes`: the fields of `patch` that it sets. `detail`: why it ended as it did.

    `local_time`: its time in its zone. `executed_revision`: the change's, 0 if it was not made.
    """

    id: str
    flag_key: str
    execute_at: datetime
    zone: str
    local_time: str
    state: ScheduleState
    changes: tuple[str, ...]
    patch: Flag
    detail: str
    conflicts: tuple[str, ...]
    created_by: str
    on_behalf_of: str
    reason: str
    executed_revision: int
    etag: str


def schedule_of(message: pb.Schedule) -> Schedule:
    """Unpack a schedule."""
    return Schedule(
        id=message.id,
        flag_key=message.flag_key,
        execute_at=message.execute_time.ToDatetime(tzinfo=UTC),
        zone=message.time_zone,
        local_time=message.local_time,
        state=_STATES.get(message.state, ScheduleState.UNKNOWN),
        changes=tuple(message.update_mask.paths),
        patch=_patch(message.patch),
        detail=message.detail,
        conflicts=tuple(each.description for each in message.conflicts),
        created_by=message.created_by,
        on_behalf_of=message.on_behalf_of,
        reason=message.reason,
        executed_revision=message.executed_revision,
        etag=message.etag,
    )


def _patch(message: types.Flag) -> Flag:
    """Unpack a flag that has the changed fields only."""
    whole = types.Flag(status=types.FLAG_STATUS_DISABLED)
    whole.MergeFrom(message)
    return flag_of(whole)


def planned(key: str, fields: Mapping[str, Any]) -> pb.Schedule:
    """Return a message with a change of a flag. Raises TypeError for a field that no flag has."""
    message = pb.Schedule(flag_key=key, patch=flag_message(flag_with(key, fields), ""))
    message.patch.ClearField("flag_set")  # it is the request's
    message.update_mask.paths.extend(fields)
    return message


def put_time(message: pb.Schedule, at: datetime, zone: str) -> None:
    """Set when it is due: an aware time, or a local one of the zone."""
    message.time_zone = zone
    if at.tzinfo is None:
        message.local_time = at.isoformat()
    else:
        message.execute_time.FromDatetime(at)


def put_lateness(message: pb.Schedule, seconds: float | None) -> None:
    """Set how late it may be made; None: as the server says."""
    if seconds is not None:
        message.max_lateness.FromTimedelta(timedelta(seconds=seconds))


def conflict_number(on_conflict: OnConflict | str) -> pb.OnConflict.ValueType:
    """Return the number of a word. Raises ValueError."""
    return pb.OnConflict.Value(f"ON_CONFLICT_{OnConflict(on_conflict)}")


def state_number(state: ScheduleState | str) -> pb.ScheduleState.ValueType:
    """Return the number of a state. Raises KeyError for UNKNOWN, ValueError for another word."""
    return _NUMBERS[ScheduleState(state)]
