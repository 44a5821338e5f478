"""The one map from domain errors to gRPC statuses, with google.rpc details. Nothing internal passes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from flagsvc.core.errors import (
    CacheMissing,
    CacheUnavailable,
    EvaluationFailed,
    FlagExists,
    FlagNotFound,
    InvalidRequest,
    Overloaded,
    RevisionConflict,
    RevisionUnavailable,
    Stopping,
    StoreUnavailable,
    StreamEnded,
    WritesUnsupported,
)
from flagsvc.core.validation import MAX_CONTEXT_BYTES

DOMAIN = "flagsvc"
EVALUATION_STATUSES = {
    "FLAG_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, "Flag not found"),
    "TYPE_MISMATCH": (grpc.StatusCode.INVALID_ARGUMENT, "Type mismatch error"),
    "PARSE_ERROR": (grpc.StatusCode.DATA_LOSS, "Error parsing input or configuration"),
    "PROVIDER_NOT_READY": (grpc.StatusCode.UNAVAILABLE, "Provider not ready"),
    "GENERAL": (grpc.StatusCode.INTERNAL, "General error"),
    "INVALID_CONTEXT": (grpc.StatusCode.RESOURCE_EXHAUSTED, f"The context is over {MAX_CONTEXT_BYTES} bytes"),
}
"""flagd's statuses and texts; but GENERAL is not UNKNOWN, which providers would call again in vain."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A gRPC status: code, text and google.rpc details."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    details: tuple[Message, ...] = ()

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Give the trailing metadata that carries the details."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in (info, *self.details):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


def failure_of(error: Exception) -> Failure:  # noqa: C901, PLR0912  a table
    """Map an error; whatever is not the domain's becomes a fixed text."""
    text = str(error)
    match error:
        case InvalidRequest(violations=violations, reason=reason):
            bad = error_details_pb2.BadRequest()
            for v in violations:
                bad.field_violations.add(field=v.field, description=str(v), reason=reason)
            names = {"field": violations[0].field} if violations else {}
            return Failure(grpc.StatusCode.INVALID_ARGUMENT, text, reason, names, (bad,))
        case FlagNotFound(key=key):
            named = error_details_pb2.ResourceInfo(resource_type="flag", resource_name=key)
            return Failure(grpc.StatusCode.NOT_FOUND, text, "FLAG_NOT_FOUND", {"flagKey": key}, (named,))
        case FlagExists(key=key):
            return Failure(grpc.StatusCode.ALREADY_EXISTS, text, "FLAG_ALREADY_EXISTS", {"flagKey": key})
        case RevisionConflict(key=key, current=current):
            told = {"flagKey": key, "currentEtag": f'"{current}"'}
            return Failure(grpc.StatusCode.ABORTED, text, "FLAG_VERSION_CONFLICT", told)
        case StoreUnavailable():
            return Failure(grpc.StatusCode.UNAVAILABLE, text, "STORE_UNAVAILABLE", details=(_retry_after(1),))
        case RevisionUnavailable(flag_set=flag_set, revision=revision):
            told = {"flagSet": flag_set, "revision": str(revision)}
            details = (_retry_after(1),)
            return Failure(grpc.StatusCode.UNAVAILABLE, text, "REVISION_UNAVAILABLE", told, details)
        case CacheUnavailable():
            return Failure(grpc.StatusCode.UNAVAILABLE, text, "CACHE_UNAVAILABLE", details=(_retry_after(1),))
        case CacheMissing():
            return Failure(grpc.StatusCode.FAILED_PRECONDITION, text, "CACHE_MISSING")
        case Stopping():
            return Failure(grpc.StatusCode.UNAVAILABLE, text, "SERVER_STOPPING", details=(_retry_after(0),))
        case StreamEnded():
            return Failure(grpc.StatusCode.UNAVAILABLE, text, "STREAM_ENDED", details=(_retry_after(0),))
        case WritesUnsupported():
            return Failure(grpc.StatusCode.FAILED_PRECONDITION, text, "WRITES_UNSUPPORTED")
        case EvaluationFailed(code=reason):
            return Failure(*EVALUATION_STATUSES[reason], reason)
        case Overloaded():
            return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, text, "TOO_MANY_REQUESTS", details=(_retry_after(1),))
        case _:
            return Failure(grpc.StatusCode.INTERNAL, "an internal error occurred", "INTERNAL")


def _retry_after(seconds: int) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds))
