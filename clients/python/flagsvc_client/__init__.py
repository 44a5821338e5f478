"""The Python client of flagsvc: `FlagClient` is synchronous, `AsyncFlagClient` is for asyncio."""

from flagsvc_client._engine.model import Flag, Status
from flagsvc_client.access import Tls, TokenFile
from flagsvc_client.aio import AsyncFlagClient
from flagsvc_client.client_events import ClientEvent
from flagsvc_client.context_scope import context_scope
from flagsvc_client.details import ErrorCode, EvaluationContext, EvaluationDetails, Reason, Source
from flagsvc_client.errors import (
    DeadlineExceeded,
    FlagConflict,
    FlagExists,
    FlagNotFound,
    FlagServiceError,
    InvalidArgument,
    PermissionDenied,
    RateLimited,
    TypeMismatch,
    Unauthenticated,
    Unavailable,
    Violation,
)
from flagsvc_client.flag_fields import FlagFields
from flagsvc_client.hooks import Evaluated, Hook
from flagsvc_client.results import HistoryEntry, WriteLevel, WriteResult
from flagsvc_client.revisions.moments import FlagRevision, RolledBackFlag, RolledBackSegment, SetRollback
from flagsvc_client.rollouts.status import RolloutState, RolloutStatus
from flagsvc_client.schedules.planned import OnConflict, Schedule, ScheduleState
from flagsvc_client.segments.kept import Segment, SegmentUpdate, SegmentUsers
from flagsvc_client.sync import FlagClient
from flagsvc_client.watch_events import Change, Snapshot

__all__ = [
    "AsyncFlagClient",
    "Change",
    "ClientEvent",
    "DeadlineExceeded",
    "ErrorCode",
    "Evaluated",
    "EvaluationContext",
    "EvaluationDetails",
    "Flag",
    "FlagClient",
    "FlagConflict",
    "FlagExists",
    "FlagFields",
    "FlagNotFound",
    "FlagRevision",
    "FlagServiceError",
    "HistoryEntry",
    "Hook",
    "InvalidArgument",
    "OnConflict",
    "PermissionDenied",
    "RateLimited",
    "Reason",
    "RolledBackFlag",
    "RolledBackSegment",
    "RolloutState",
    "RolloutStatus",
    "Schedule",
    "ScheduleState",
    "Segment",
    "SegmentUpdate",
    "SegmentUsers",
    "SetRollback",
    "Snapshot",
    "Source",
    "Status",
    "Tls",
    "TokenFile",
    "TypeMismatch",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "WriteLevel",
    "WriteResult",
    "context_scope",
]

__version__ = "0.1.0"
