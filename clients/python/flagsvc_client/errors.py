"""Failed calls, with the details that the server tells (google.rpc), and the same for guards to send."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from flagsvc_client.stubs.flagsvc.errors.v1 import errors_pb2 as pb

DOMAIN = "flagsvc"
TRAILER = "grpc-status-details-bin"
_TYPE_URL = "type.googleapis.com/google.rpc."


class Violation(NamedTuple):
    """A field that is wrong, and what would be right. `reason` is for programs, such as INVALID_FLAG."""

    field: str
    description: str
    reason: str = ""


class FlagServiceError(Exception):
    """A call that failed.

    `code`: gRPC's. `reason`: for programs, such as FLAG_VERSION_CONFLICT; empty when not told. `metadata`: what the
    message speaks of, by name. `violations`: fields that are wrong. `retry_after_s`: seconds after which it may go
    better; None when not told.
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


def of_rpc_error(error: grpc.RpcError) -> FlagServiceError:
    """Read what a failed call tells; details that cannot be read are left out."""
    call: Any = error
    told: dict[str, Any] = {}
    for detail in _details(call.trailing_metadata() or ()):
        with contextlib.suppress(DecodeError):
            told |= _read(detail)
    return FlagServiceError(call.code(), call.details() or "", **told)


def status_trailer(
    code: grpc.StatusCode, message: str, reason: str, metadata: Mapping[str, str]
) -> tuple[tuple[str, bytes], ...]:
    """Give the trailing metadata that tells a refusal with its reason, as the server does."""
    status = pb.Status(code=code.value[0], message=message)
    info = pb.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata))
    status.details.add(type_url=f"{_TYPE_URL}ErrorInfo", value=info.SerializeToString())
    return ((TRAILER, status.SerializeToString()),)


def _read(detail: Any) -> dict[str, Any]:
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
