"""The only map from errors to gRPC statuses with google.rpc details. It never lets internal texts through."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from flagsvc.core import errors
from flagsvc.core.validation import MAX_CONTEXT_BYTES, MAX_CONTEXT_VALUES

log = structlog.get_logger(__name__)

DOMAIN = "flagsvc"
EVALUATION_STATUSES = {
    "FLAG_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, "Flag not found"),
    "TYPE_MISMATCH": (grpc.StatusCode.INVALID_ARGUMENT, "Type mismatch error"),
    "PARSE_ERROR": (grpc.StatusCode.DATA_LOSS, "Error parsing input or configuration"),
    "PROVIDER_NOT_READY": (grpc.StatusCode.UNAVAILABLE, "Provider not ready"),
    "GENERAL": (grpc.StatusCode.UNKNOWN, "General error"),
    "INVALID_CONTEXT": (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"The context is over {MAX_CONTEXT_BYTES} bytes or {MAX_CONTEXT_VALUES} fields and list elements",
    ),
}
"""flagd's status and text for each OpenFeature error code. The cause follows the text."""

_FLAGDS_EVALUATION = ("/flagd.evaluation.", "/schema.")

_PLAIN: Mapping[type[Exception], tuple[grpc.StatusCode, str, int | None]] = {
    errors.StoreUnavailable: (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", 1),
    errors.StoreForbidden: (grpc.StatusCode.PERMISSION_DENIED, "STORE_FORBIDDEN", None),
    errors.ChangeRefused: (grpc.StatusCode.FAILED_PRECONDITION, "STORE_REFUSES_CHANGE", None),
    errors.RevisionOutOfRange: (grpc.StatusCode.OUT_OF_RANGE, "REVISION_OUT_OF_RANGE", None),
    errors.RevisionsMissing: (grpc.StatusCode.FAILED_PRECONDITION, "REVISIONS_UNSUPPORTED", None),
    errors.NotRestorable: (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_NOT_RESTORABLE", None),
    errors.CacheUnavailable: (grpc.StatusCode.UNAVAILABLE, "CACHE_UNAVAILABLE", 1),
    errors.CacheMissing: (grpc.StatusCode.FAILED_PRECONDITION, "CACHE_MISSING", None),
    errors.Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", None),
    errors.AuditMissing: (grpc.StatusCode.FAILED_PRECONDITION, "AUDIT_MISSING", None),
    errors.PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", None),
    errors.AuthOff: (grpc.StatusCode.FAILED_PRECONDITION, "AUTH_OFF", None),
    errors.RolloutMissing: (grpc.StatusCode.FAILED_PRECONDITION, "ROLLOUT_MISSING", None),
    errors.FlagInUse: (grpc.StatusCode.FAILED_PRECONDITION, "FLAG_IN_USE", None),
    errors.SegmentNotFound: (grpc.StatusCode.NOT_FOUND, "SEGMENT_NOT_FOUND", None),
    errors.SegmentExists: (grpc.StatusCode.ALREADY_EXISTS, "SEGMENT_EXISTS", None),
    errors.SegmentInUse: (grpc.StatusCode.FAILED_PRECONDITION, "SEGMENT_IN_USE", None),
    errors.SegmentConflict: (grpc.StatusCode.ABORTED, "SEGMENT_CONFLICT", None),
    errors.SegmentsMissing: (grpc.StatusCode.FAILED_PRECONDITION, "SEGMENTS_UNSUPPORTED", None),
    errors.TokenFixed: (grpc.StatusCode.FAILED_PRECONDITION, "TOKEN_IN_FILE", None),
    errors.DenialNotFound: (grpc.StatusCode.NOT_FOUND, "DENIAL_NOT_FOUND", None),
    errors.ScheduleEnded: (grpc.StatusCode.FAILED_PRECONDITION, "SCHEDULE_ENDED", None),
    errors.ScheduleConflict: (grpc.StatusCode.ABORTED, "SCHEDULE_VERSION_CONFLICT", None),
    errors.SchedulesMissing: (grpc.StatusCode.FAILED_PRECONDITION, "SCHEDULES_UNSUPPORTED", None),
    errors.TokenRevoked: (grpc.StatusCode.FAILED_PRECONDITION, "TOKEN_REVOKED", None),
    errors.RightsChanged: (grpc.StatusCode.UNAVAILABLE, "RIGHTS_CHANGED", 0),
    errors.AccessUnknown: (grpc.StatusCode.UNAVAILABLE, "ACCESS_UNKNOWN", 1),
    errors.Stopping: (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING", 0),
    errors.StreamEnded: (grpc.StatusCode.UNAVAILABLE, "STREAM_ENDED", 0),
    errors.ChangesMissed: (grpc.StatusCode.UNAVAILABLE, "CHANGES_MISSED", 0),
    errors.SetNotCovered: (grpc.StatusCode.UNAVAILABLE, "FLAG_SET_NOT_COVERED", 0),
    errors.WritesUnsupported: (grpc.StatusCode.FAILED_PRECONDITION, "WRITES_UNSUPPORTED", None),
    errors.AnswerTooLarge: (grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE", None),
    errors.QuotaExceeded: (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", None),
    errors.Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS", 1),
    errors.DeadlinePassed: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED", None),
}
"""Errors without metadata: their status, their reason, and the seconds after which to retry (None: no advice)."""


MAX_MESSAGE = 700
"""Bytes of a status message. It is sent twice: as `grpc-message`, percent-encoded, and in the details."""
MAX_DETAILS_BYTES = 1_536
"""Bytes of listed violations. The details travel in base64, and clients accept 8 kB of trailers at most."""
_MAX_FIELD, _MAX_DESCRIPTION, _PER_VIOLATION = 256, 512, 16
_MAX_UTF8 = 4


Trailers = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A gRPC status: its code, the text for the caller, and the google.rpc details."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    details: tuple[Message, ...] = ()
    retry_after_s: int = 0
    """Seconds for the header Retry-After; 0 for none."""
    packed: Trailers = ()
    """The trailing metadata of a failure that is kept."""

    def trailers(self) -> Trailers:
        """Return the trailing metadata: the details as `grpc-status-details-bin`, and `retry-after`."""
        if self.packed:
            return self.packed
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in (info, *self.details):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        retry_after = (("retry-after", str(self.retry_after_s)),) if self.retry_after_s else ()
        return (("grpc-status-details-bin", status.SerializeToString()), *retry_after)

    def sends_headers_first(self, method: str) -> bool:
        """Whether the caller gets headers before this status, as from flagd's evaluation services.

        gRPC clients retry only what failed without headers, and flagd's providers are configured to retry nearly every
        status: each error would take as long as their deadline. Retries of UNAVAILABLE help, by another replica.
        """
        return self.code is not grpc.StatusCode.UNAVAILABLE and method.startswith(_FLAGDS_EVALUATION)


def failure_for(method: str, error: Exception) -> Failure:
    """Return what the caller of `method` gets for an error.

    An error outside the domain's tree is logged. Its caller gets a fixed text with a request id that is in the log.
    The error loses its traceback, whose frames hold the request and all that was built of the answer: gRPC keeps the
    error in a circle, so that this would stay until the next full collection.
    """
    failure = _logged(method, error)
    _let_go(error)
    return failure


def _logged(method: str, error: Exception) -> Failure:
    if isinstance(error, grpc.aio.InternalError):  # gRPC could not send, for the caller is gone
        return Failure(grpc.StatusCode.CANCELLED, "the caller has left", "CALLER_LEFT")
    failure = _failure(error)
    if len(failure.message) > MAX_MESSAGE // _MAX_UTF8:
        failure = replace(failure, message=_cut(failure.message, MAX_MESSAGE))
    if isinstance(error, errors.FlagsvcError):
        return failure
    request_id = uuid.uuid4().hex[:12]
    log.error("call_failed", method=method, request_id=request_id, exc_info=error)
    return replace(failure, message=f"{failure.message}; request id {request_id}")


def _let_go(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of those that led to it."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _failure(error: Exception) -> Failure:
    text = str(error)
    if type(error) in _PLAIN:
        code, reason, retry_s = _PLAIN[type(error)]
        return Failure(code, text, reason, details=() if retry_s is None else (_retry_after(retry_s),))
    match error:
        case errors.InvalidRequest(violations=violations, reason=reason):
            return _invalid(violations, reason, text)
        case errors.FlagNotFound(key=key):
            resource = error_details_pb2.ResourceInfo(resource_type="flag", resource_name=key)
            return Failure(grpc.StatusCode.NOT_FOUND, text, "FLAG_NOT_FOUND", {"flagKey": key}, (resource,))
        case errors.TokenNotFound(token_id=found) | errors.ScheduleNotFound(schedule_id=found):
            kind = "token" if isinstance(error, errors.TokenNotFound) else "schedule"
            resource = error_details_pb2.ResourceInfo(resource_type=kind, resource_name=found)
            reason = f"{kind.upper()}_NOT_FOUND"
            return Failure(grpc.StatusCode.NOT_FOUND, text, reason, {f"{kind}Id": found}, (resource,))
        case errors.FlagExists(key=key):
            return Failure(grpc.StatusCode.ALREADY_EXISTS, text, "FLAG_ALREADY_EXISTS", {"flagKey": key})
        case errors.RevisionConflict(key=key, current=current):
            metadata = {"flagKey": key, "currentEtag": f'"{current}"'}
            return Failure(grpc.StatusCode.ABORTED, text, "FLAG_VERSION_CONFLICT", metadata)
        case errors.RevisionUnavailable(flag_set=flag_set, revision=revision):
            metadata = {"flagSet": flag_set, "revision": str(revision)}
            details = (_retry_after(1),)
            return Failure(grpc.StatusCode.UNAVAILABLE, text, "REVISION_UNAVAILABLE", metadata, details)
        case errors.RateLimited(caller=caller, kind=kind, rate=rate, retry_s=wait_s):
            return _rate_limited(text, caller, kind, rate, wait_s)
        case errors.EvaluationFailed(code=reason):
            code, meaning = EVALUATION_STATUSES[reason]
            return Failure(code, f"{meaning}: {text}" if text else meaning, reason)
        case _:
            return Failure(grpc.StatusCode.INTERNAL, "an internal error occurred", "INTERNAL")


@lru_cache(maxsize=256)
def _rate_limited(text: str, caller: str, kind: str, rate: float, wait_s: float) -> Failure:
    """Return the failure of a caller over its rate. Kept whole: such a caller gets the same one again and again."""
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(subject=caller, description=f"{kind}: {rate:g} a second")
    metadata = {"class": kind, "rate": f"{rate:g}"}
    advice = (_retry_after(wait_s), quota)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    found = Failure(code, text, "RATE_LIMITED", metadata, advice, retry_after_s=math.ceil(wait_s))
    return replace(found, packed=found.trailers()) if len(text) <= MAX_MESSAGE // _MAX_UTF8 else found


def _invalid(violations: Sequence[errors.Violation], reason: str, text: str) -> Failure:
    """Return the failure with as many violations as fit into MAX_DETAILS_BYTES, and how many more there are."""
    bad_request = error_details_pb2.BadRequest()
    size = 0
    for v in violations:
        field, description = _cut(v.field, _MAX_FIELD), _cut(str(v), _MAX_DESCRIPTION)
        size += len(field.encode()) + len(description.encode()) + len(reason) + _PER_VIOLATION
        if size > MAX_DETAILS_BYTES:
            break
        bad_request.field_violations.add(field=field, description=description, reason=reason)
    listed = len(bad_request.field_violations)
    metadata = {"field": _cut(violations[0].field, _MAX_FIELD)} if violations else {}
    if len(violations) > listed:
        metadata["violations"] = str(len(violations))
    message = text
    if len(violations) > 1 and (len(violations) > listed or len(text.encode(errors="replace")) > MAX_MESSAGE):
        message = _cut(str(violations[0]), _MAX_DESCRIPTION) + f"; and {len(violations) - 1} more violations"
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, message, reason, metadata, (bad_request,))


def _cut(text: str, limit: int) -> str:
    """Return the text with at most `limit` bytes of UTF-8, its end marked where it is cut."""
    data = text.encode(errors="replace")
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."


def _retry_after(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)
