"""What the synchronous and the asyncio client share: requests, answers, and what happens when there is none."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import grpc

from flagsvc_client._engine.model import Flag
from flagsvc_client.contexts import put_context
from flagsvc_client.details import (
    NOTHING,
    Context,
    ErrorCode,
    EvaluationDetails,
    JsonValue,
    Reason,
    Source,
)
from flagsvc_client.errors import FlagServiceError, of_rpc_error
from flagsvc_client.flags import flag_message, flag_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.values import from_value

T = TypeVar("T")
Number = float
Seconds = float
"""The client's method `float` stands before the type of that name."""
log = logging.getLogger("flagsvc_client")

TIMEOUT_S = 0.5
WRITE_S = 5.0
"""How long a write may take by itself: it is made in a transaction."""
WAIT_S = 5.0
"""How long the server waits for a change to spread unless told otherwise."""
PAGE = 500
REPEATED_AFTER_S = 60.0
_REASONS = {types.Reason.Value(f"REASON_{reason}"): reason for reason in Reason}
_CODES = {types.ErrorCode.Value(f"ERROR_CODE_{code}"): code for code in ErrorCode}
_STATUSES = {number: name.removeprefix("FLAG_STATUS_") for name, number in types.FlagStatus.items() if number}
_SOURCES = {
    number: Source(short)
    for name, number in types.DefinitionSource.items()
    if (short := name.removeprefix("DEFINITION_SOURCE_")) in Source.__members__
}
ANY_TYPE = types.VALUE_TYPE_UNSPECIFIED
_KINDS = {
    bool: types.VALUE_TYPE_BOOLEAN,
    str: types.VALUE_TYPE_STRING,
    int: types.VALUE_TYPE_INTEGER,
    float: types.VALUE_TYPE_FLOAT,
    dict: types.VALUE_TYPE_OBJECT,
}


class WriteLevel(StrEnum):
    """How far a change has spread: in the store; in the shared cache and announced; answered by every live replica."""

    STORED = "STORED"
    CACHED = "CACHED"
    APPLIED = "APPLIED"


_LEVELS = {level: pb.WriteLevel.Value(f"WRITE_LEVEL_{level}") for level in WriteLevel}
_LEVEL_OF = {number: level for level, number in _LEVELS.items()}


@dataclass(frozen=True, slots=True)
class Written:
    """A change as stored, and how far it had spread. `flag` None: it was deleted."""

    flag: Flag | None
    revision: int
    reached: WriteLevel
    applied_by: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of one flag, as the history tells it."""

    flag_key: str
    action: str
    previous: JsonValue
    new: JsonValue
    actor: str
    reason: str
    created_at: datetime
    revision: int


class Session:
    """What one client asks with, and remembers: its flag set, its own writes, and what it said of troubles."""

    def __init__(self, flag_set: str, timeout_s: float, actor: str, *, raise_errors: bool) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s!r}; it must be a number of seconds above 0")
        self.flag_set, self.timeout_s, self.actor = flag_set, timeout_s, actor
        self.raise_errors = raise_errors
        self.written = 0
        """The newest revision that this client wrote: nothing older is asked for."""
        self._troubles = _Troubles()

    def evaluation(
        self, key: str, context: Context, wanted: types.ValueType.ValueType, min_revision: int
    ) -> pb.EvaluateFlagRequest:
        """Make the request. Raises FlagServiceError for a context that is none."""
        try:
            request = pb.EvaluateFlagRequest(
                flag_key=key, flag_set=self.flag_set, expected_type=wanted, min_revision=max(min_revision, self.written)
            )
        except ValueError as error:
            raise _not_a_request(error) from None
        if context:
            put_context(request.context, context)
        return request

    def batch(self, keys: Iterable[str], context: Context, min_revision: int) -> pb.BatchEvaluateFlagsRequest:
        """Make the request. Raises FlagServiceError for a context that is none."""
        try:
            request = pb.BatchEvaluateFlagsRequest(
                flag_keys=keys, flag_set=self.flag_set, min_revision=max(min_revision, self.written)
            )
        except ValueError as error:
            raise _not_a_request(error) from None
        if context:
            put_context(request.context, context)
        return request

    def reading(self, key: str) -> pb.GetFlagRequest:
        """Make the request for one definition."""
        return pb.GetFlagRequest(flag_key=key, flag_set=self.flag_set, min_revision=self.written)

    def creation(self, flag: Flag) -> pb.CreateFlagRequest:
        """Make the request. Raises FlagServiceError for a value that is none."""
        return pb.CreateFlagRequest(flag=self._packed(flag, ""))

    def updating(self, flag: Flag, fields: Iterable[str], etag: str) -> pb.UpdateFlagRequest:
        """Make the request. Raises FlagServiceError for a value that is none."""
        request = pb.UpdateFlagRequest(flag=self._packed(flag, etag))
        request.update_mask.paths.extend(fields)
        return request

    def watching(self, resume: int) -> pb.WatchFlagsRequest:
        """Make the request."""
        return pb.WatchFlagsRequest(flag_set=self.flag_set, resume_revision=resume)

    def write_timeout_s(self, wait_timeout_s: float | None) -> float:
        """Give the deadline of a write: its own time, and that for which the server waits."""
        return max(self.timeout_s, WRITE_S) + (WAIT_S if wait_timeout_s is None else wait_timeout_s)

    def interrupted(self, error: Exception) -> None:
        """Say that a watch was interrupted."""
        told = error_of(error)
        self._troubles.tell(f"watch {told.code.name}", "watch is resumed", told.message)

    def _packed(self, flag: Flag, etag: str) -> types.Flag:
        try:
            return flag_message(replace(flag, flag_set=self.flag_set), etag)
        except (TypeError, ValueError) as error:
            raise FlagServiceError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "INVALID_FLAG") from None

    def failed_batch(self, error: Exception) -> dict[str, EvaluationDetails[JsonValue]]:
        """Say that all flags of the set could not be evaluated: there is none to give."""
        self.failed("*", None, error)
        return {}

    def failed(self, key: str, default: T, error: Exception) -> EvaluationDetails[T]:
        """Let the default stand after a failure, and say so; raises FlagServiceError where that is asked for."""
        told = error_of(error)
        if self.raise_errors:
            raise told from error
        code = code_of(told)
        self._troubles.tell(f"{told.code.name} {told.reason}".strip(), _stands(key), told.message)
        return EvaluationDetails(key, default, reason=Reason.ERROR, error_code=code, error_message=told.message)

    def answered(self, found: pb.FlagEvaluation, default: T) -> EvaluationDetails[T]:
        """Give what the server evaluated; raises FlagServiceError for an error where that is asked for."""
        return self.checked(details_of(found, default))

    def checked(self, details: EvaluationDetails[T]) -> EvaluationDetails[T]:
        """Say what went wrong with an evaluation, if anything did."""
        if details.error_code is not None:
            if self.raise_errors:
                raise FlagServiceError(grpc.StatusCode.OK, details.error_message, details.error_code)
            self._troubles.tell(
                f"{details.error_code} {details.flag_key}", _stands(details.flag_key), details.error_message
            )
        return details

    def enabled(self, details: EvaluationDetails[Any], default: bool) -> bool:
        """Whether it is on; an unknown flag is not."""
        if details.error_code is None or details.error_code is ErrorCode.FLAG_NOT_FOUND:
            return details.enabled
        return default

    def wrote(self, response: Any) -> Written:
        """Unpack the answer to a write, and ask for nothing older from now on."""
        spread = response.spread
        flag = flag_of(response.flag) if hasattr(response, "flag") else None
        revision = flag.revision if flag else response.revision
        self.written = max(self.written, revision)
        reached = _LEVEL_OF.get(spread.reached, WriteLevel.STORED)
        return Written(flag, revision, reached, tuple(spread.applied_by), tuple(spread.lagging))

    def told(self, request: Any, reason: str, wait_for: WriteLevel | None, wait_timeout_s: float | None) -> Any:
        """Say in a write who makes it, why, and how far it is to spread."""
        request.actor, request.reason = self.actor, reason
        if wait_for is not None:
            request.wait_for = _LEVELS[WriteLevel(wait_for)]
        if wait_timeout_s is not None:
            request.wait_timeout.seconds = int(wait_timeout_s)
            request.wait_timeout.nanos = int(wait_timeout_s % 1 * 1e9)
        return request


def wanted_type(default: object) -> types.ValueType.ValueType:
    """Give the type that a default is of. Raises TypeError for one that no flag can have."""
    kind = _KINDS.get(default.__class__)
    if kind is None:
        kind = _KINDS[dict] if isinstance(default, Mapping) else None
    if kind is None:
        raise TypeError(f"default is {default!r}; it must be a bool, str, int, float or dict")
    return kind


def as_float(default: Number) -> Number:
    """Give a default for a flag of numbers, which may be whole."""
    return default + 0.0


def check_default(default: object, wanted: type) -> None:
    """Raise TypeError unless the default is of the type that the method answers; an int serves as a float."""
    if default.__class__ is wanted or (wanted is dict and isinstance(default, Mapping)):
        return
    if wanted is float and default.__class__ is int:
        return
    raise TypeError(f"default is {default!r}, a {type(default).__name__}; it must be a {wanted.__name__}")


def details_of(found: pb.FlagEvaluation, default: T) -> EvaluationDetails[T]:
    """Unpack an evaluation; what a newer server says and this release does not know is UNKNOWN or GENERAL."""
    value: Any = default
    error = _CODES.get(found.error_code, ErrorCode.GENERAL) if found.error_code else None
    message = found.error_message
    variant = found.variant or None
    if error is None and found.HasField("value"):
        value = from_value(found.value)
        if value is None or (default is not None and not _same_type(value, default)):
            value, variant, error = default, None, ErrorCode.TYPE_MISMATCH
            message = "The flag's value is of a type that this client did not ask for"
    reason = Reason.ERROR if error is not None else _REASONS.get(found.reason, Reason.UNKNOWN)
    metadata = found.flag_metadata
    return EvaluationDetails(
        found.flag_key,
        value,
        variant,
        reason,
        error,
        message,
        {name: from_value(item) for name, item in metadata.items()} if metadata else NOTHING,
        found.revision,
        _SOURCES.get(found.source, Source.NONE),
        found.age_ms,
        _STATUSES.get(found.status, ""),
        found.enabled,
    )


def error_of(error: Exception) -> FlagServiceError:
    """Give the failure as what callers catch."""
    if isinstance(error, FlagServiceError):
        return error
    if isinstance(error, grpc.RpcError):
        return of_rpc_error(error)
    if isinstance(error, TimeoutError):
        return FlagServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "the server said nothing for too long")
    return unusable(str(error))


def code_of(error: FlagServiceError) -> ErrorCode:
    """Give OpenFeature's code for a failed call."""
    if error.reason == ErrorCode.INVALID_CONTEXT:
        return ErrorCode.INVALID_CONTEXT
    if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return ErrorCode.PROVIDER_NOT_READY
    return ErrorCode.GENERAL


def history_of(entry: pb.HistoryEntry) -> HistoryEntry:
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
    )


def key_of(request: Any) -> str:
    """Give the key of the flag that a write is about."""
    key: str = request.flag.key if hasattr(request, "flag") else request.flag_key
    return key


def all_of(found: Mapping[str, EvaluationDetails[T] | None]) -> dict[str, EvaluationDetails[T]] | None:
    """Give all, or None where one is missing."""
    known = {key: details for key, details in found.items() if details is not None}
    return known if len(known) == len(found) else None


def unusable(why: str) -> FlagServiceError:
    """Give the failure of a client that cannot send anything."""
    return FlagServiceError(grpc.StatusCode.UNAVAILABLE, f"this client cannot be used: {why}", "CLIENT_UNUSABLE")


def _not_a_request(error: ValueError) -> FlagServiceError:
    """Give the failure of a key that is no text, or a revision that is none."""
    return FlagServiceError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "INVALID_REQUEST")


def _stands(key: str) -> str:
    return f"flag {key!r}: the default stands"


def _same_type(value: JsonValue, default: object) -> bool:
    if isinstance(default, Mapping):
        return isinstance(value, dict)
    return value.__class__ is default.__class__


class _Troubles:
    """Says each kind of trouble once a minute, with how often it came meanwhile."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def tell(self, kind: str, what: str, message: str) -> None:
        """Log it, or count it."""
        now = time.monotonic()
        with self._lock:
            if kind not in self._told and len(self._told) >= _KINDS_TOLD:
                kind = kind.partition(" ")[0]
            at, missed = self._told.get(kind, (-math.inf, 0))
            if now - at < REPEATED_AFTER_S:
                self._told[kind] = (at, missed + 1)
                return
            self._told[kind] = (now, 0)
        again = f" (and {missed} times since it was last told)" if missed else ""
        log.warning("%s: %s: %s%s", what, kind, message, again)


_KINDS_TOLD = 100
"""Past so many, flags are no longer told apart."""
