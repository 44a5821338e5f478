"""Failed calls with the details that the server sends (google.rpc), and the same details for guards to send."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from flagsvc_client.stubs.flagsvc.errors.v1 import errors_pb2 as pb

DOMAIN = "flagsvc"
CLIENT_UNUSABLE = "CLIENT_UNUSABLE"
TRAILER = "grpc-status-details-bin"
_TYPE_URL = "type.googleapis.com/google.rpc."


class Violation(NamedTuple):
    """An invalid field, and what would be valid. `reason` is for programs, such as INVALID_FLAG."""

    field: str
    description: str
    reason: str = ""


class FlagServiceError(Exception):
    """A call that failed.

    `code`: gRPC's. `reason`: for programs, such as FLAG_VERSION_CONFLICT; empty if the server sent none. `metadata`:
    the values in the message by name, such as the flag's key. `violations`: invalid fields. `retry_after_s`: seconds
    after which a retry may succeed; None if the server sent none.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code, self.message, self.reason = code, message, reason
        self.metadata = dict(metadata or {})
        self.violations, self.retry_after_s = violations, retry_after_s


class FlagNotFound(FlagServiceError):
    """There is no such flag, or no such flag set."""


class FlagExists(FlagServiceError):
    """There is a flag of this key already."""


class FlagConflict(FlagServiceError):
    """The flag has changed since it was read: the etag is outdated."""


class TypeMismatch(FlagServiceError):
    """The flag's value has another type than the caller's default."""


class InvalidArgument(FlagServiceError):
    """A field of the request, a flag or a context is not valid; `violations` names the fields."""


class PermissionDenied(FlagServiceError):
    """The caller's identity has no right to this."""


class Unauthenticated(FlagServiceError):
    """The server wants a token or a certificate, and this one is none that it knows."""


class Unavailable(FlagServiceError):
    """The server cannot be reached or is not ready. Nothing is known of a write that was under way."""


class DeadlineExceeded(Unavailable):
    """The server did not answer in time."""


class RateLimited(FlagServiceError):
    """The server refuses more for now: a rate, a quota or a size is exceeded. `retry_after_s` may say when to retry."""


_KINDS: Mapping[grpc.StatusCode | str, type[FlagServiceError]] = {
    grpc.StatusCode.NOT_FOUND: FlagNotFound,
    grpc.StatusCode.ALREADY_EXISTS: FlagExists,
    grpc.StatusCode.ABORTED: FlagConflict,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RateLimited,
    "FLAG_NOT_FOUND": FlagNotFound,
    "TYPE_MISMATCH": TypeMismatch,
    "INVALID_CONTEXT": InvalidArgument,
    "PROVIDER_NOT_READY": Unavailable,
}
"""By gRPC's code; by reason for evaluations, which fail without one."""


def failure(code: grpc.StatusCode, message: str, reason: str = "", **fields: Any) -> FlagServiceError:
    """Return the exception of the kind that code and reason say; of no kind: FlagServiceError itself."""
    kind = _KINDS.get(code) or _KINDS.get(reason, FlagServiceError)
    return kind(code, message, reason, **fields)


def failure_of(error: BaseException) -> FlagServiceError:
    """Return the failure for whatever a transport raised."""
    if isinstance(error, grpc.RpcError):
        return of_rpc_error(error)
    if isinstance(error, TimeoutError):
        return failure(grpc.StatusCode.DEADLINE_EXCEEDED, "no message from the server for too long")
    return client_unusable(str(error))


def client_unusable(why: str) -> FlagServiceError:
    """Return the failure of a client that cannot send anything."""
    return failure(grpc.StatusCode.UNAVAILABLE, f"this client cannot be used: {why}", CLIENT_UNUSABLE)


def of_rpc_error(error: grpc.RpcError) -> FlagServiceError:
    """Return a failed call with its details; those that cannot be read are left out."""
    call: Any = error
    fields: dict[str, Any] = {}
    for detail in _details(call.trailing_metadata() or ()):
        with contextlib.suppress(DecodeError):
            fields |= _fields(detail)
    return failure(call.code(), call.details() or "", **fields)


def status_trailer(
    code: grpc.StatusCode, message: str, reason: str, metadata: Mapping[str, str]
) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata for a refusal with its reason, as the server sends it."""
    status = pb.Status(code=code.value[0], message=message)
    info = pb.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata))
    status.details.add(type_url=f"{_TYPE_URL}ErrorInfo", value=info.SerializeToString())
    return ((TRAILER, status.SerializeToString()),)


def _fields(detail: Any) -> dict[str, Any]:
    """Return what one detail adds to a FlagServiceError."""
    name = detail.type_url.removeprefix(_TYPE_URL)
    if name == "ErrorInfo":
        info = pb.ErrorInfo.FromString(detail.value)
        return {"reason": info.reason, "metadata": dict(info.metadata)}
    if name == "BadRequest":
        found = pb.BadRequest.FromString(detail.value).field_violations
        return {"violations": tuple(Violation(each.field, each.description, each.reason) for each in found)}
    if name == "RetryInfo":
        delay = pb.RetryInfo.FromString(detail.value).retry_delay
        return {"retry_after_s": delay.seconds + delay.nanos / 1e9}
    return {}


def _details(metadata: Iterable[Any]) -> list[Any]:
    for name, value in metadata:
        if name == TRAILER:
            try:
                return list(pb.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
