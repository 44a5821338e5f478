"""What calls return: evaluations, writes and history entries, unpacked from the server's responses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from flagsvc_client._engine.model import Flag
from flagsvc_client.default_values import same_type
from flagsvc_client.details import NOTHING, ErrorCode, EvaluationDetails, JsonValue, Reason, Source
from flagsvc_client.rollouts.status import RolloutStatus, status_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.wire_flags import flag_of
from flagsvc_client.wire_values import from_value

T = TypeVar("T")
_REASONS = {types.Reason.Value(f"REASON_{reason}"): reason for reason in Reason}
_ERROR_CODES = {types.ErrorCode.Value(f"ERROR_CODE_{code}"): code for code in ErrorCode}
_STATUSES = {number: name.removeprefix("FLAG_STATUS_") for name, number in types.FlagStatus.items() if number}
_SOURCES = {
    number: Source(short)
    for name, number in types.DefinitionSource.items()
    if (short := name.removeprefix("DEFINITION_SOURCE_")) in Source.__members__
}


class WriteLevel(StrEnum):
    """How far a change has spread. Each level includes the ones before it.

    STORED: it is in the store. CACHED: it is in the shared cache and announced. APPLIED: every live replica serves it.
    """

    STORED = "STORED"
    CACHED = "CACHED"
    APPLIED = "APPLIED"


WRITE_LEVEL_NUMBERS = {level: pb.WriteLevel.Value(f"WRITE_LEVEL_{level}") for level in WriteLevel}
_WRITE_LEVELS = {number: level for level, number in WRITE_LEVEL_NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A change as stored, and how far it had spread. `flag` is None after a delete.

    `reached`: None if it was only checked (`validate_only`): nothing was stored, and the revision is that of now.
    `applied_by` and `lagging`: the replicas that serve the change, and those that had not confirmed it.
    `schedule_notes`: a line for each planned change of a field that was changed now. `notes`: what is valid in the rule
    and most likely not meant. `rollout`: after a call about the flag's rollout.
    """

    flag: Flag | None
    revision: int
    reached: WriteLevel | None
    applied_by: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()
    schedule_notes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rollout: RolloutStatus | None = None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of one flag. `via`: what made it in the actor's name, such as `schedule/ID`; empty for the actor."""

    flag_key: str
    action: str
    previous: JsonValue
    new: JsonValue
    actor: str
    reason: str
    created_at: datetime
    revision: int
    on_behalf_of: str = ""
    via: str = ""
    restored_revision: int = 0
    """The revision whose definition the change restored; 0 for other changes."""


def details_of(found: pb.FlagEvaluation, default: T) -> EvaluationDetails[T]:
    """Unpack an evaluation. A reason, error code or value kind of a newer release is UNKNOWN, GENERAL or a mismatch."""
    value: Any = default
    error_code = _ERROR_CODES.get(found.error_code, ErrorCode.GENERAL) if found.error_code else None
    message = found.error_message
    variant = found.variant or None
    if error_code is None and found.HasField("value"):
        value = from_value(found.value)
        if value is None or (default is not None and not same_type(value, default)):
            value, variant, error_code = default, None, ErrorCode.TYPE_MISMATCH
            message = "The flag's value has another type than the default"
    metadata = found.flag_metadata
    return EvaluationDetails(
        found.flag_key,
        value,
        variant,
        Reason.ERROR if error_code is not None else _REASONS.get(found.reason, Reason.UNKNOWN),
        error_code,
        message,
        {name: from_value(item) for name, item in metadata.items()} if metadata else NOTHING,
        found.revision,
        _SOURCES.get(found.source, Source.NONE),
        found.age_ms,
        _STATUSES.get(found.status, ""),
        found.enabled,
    )


def write_result_of(response: Any) -> WriteResult:
    """Unpack the response to a write; that to a delete has a revision and no flag."""
    spread = response.spread
    flag = flag_of(response.flag) if hasattr(response, "flag") else None
    revision = flag.revision if flag else response.revision
    return WriteResult(
        flag,
        revision,
        _WRITE_LEVELS.get(spread.reached, WriteLevel.STORED) if response.HasField("spread") else None,
        tuple(spread.applied_by),
        tuple(spread.lagging),
        tuple(getattr(response, "schedule_notes", ())),
        tuple(getattr(response, "notes", ())),
        status_of(response.status) if hasattr(response, "status") else None,
    )


def history_entry_of(entry: pb.HistoryEntry) -> HistoryEntry:
    """Unpack one history entry."""
    return HistoryEntry(
        flag_key=entry.flag_key,
        action=entry.action,
        previous=from_value(entry.previous_value) if entry.HasField("previous_value") else None,
        new=from_value(entry.new_value) if entry.HasField("new_value") else None,
        actor=entry.actor,
        reason=entry.reason,
        created_at=entry.created_at.ToDatetime(tzinfo=UTC),
        revision=entry.revision,
        on_behalf_of=entry.on_behalf_of,
        restored_revision=entry.restored_revision,
        via=entry.via,
    )
