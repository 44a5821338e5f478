"""gRPC statuses in the forms of Connect and gRPC-Web."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from google.rpc import status_pb2

Metadata = Sequence[tuple[str, str | bytes]]
Code = grpc.StatusCode
HTTP_STATUSES = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""HTTP status of a unary Connect call for each gRPC status; 500 for all others."""
DETAILS = "grpc-status-details-bin"
_TEXT = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""Characters that `grpc-message` has as they are."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended: its code, the text for the caller, and the trailing metadata."""

    code: grpc.StatusCode = Code.OK
    message: str = ""
    trailers: Metadata = ()

    @property
    def http_status(self) -> int:
        """The HTTP status of a unary Connect call."""
        return 200 if self.code is Code.OK else HTTP_STATUSES.get(self.code, 500)

    def connect_error(self) -> dict[str, Any]:
        """Return the error as Connect has it: `{"code": "not_found", "message": ..., "details": [...]}`."""
        name = "canceled" if self.code is Code.CANCELLED else self.code.name.lower()
        error: dict[str, Any] = {"code": name, "message": self.message}
        if details := [detail for key, value in self.trailers if key == DETAILS for detail in _details(value)]:
            error["details"] = details
        return error

    def connect_end(self) -> bytes:
        """Return the message that ends a Connect stream."""
        end: dict[str, Any] = {} if self.code is Code.OK else {"error": self.connect_error()}
        metadata: dict[str, list[str]] = {}
        for name, value in self.plain_trailers():
            metadata.setdefault(name, []).append(value)
        return json.dumps({**end, "metadata": metadata} if metadata else end).encode()

    def grpc_web_end(self) -> bytes:
        """Return the trailers that end a gRPC-Web call."""
        lines = [("grpc-status", str(self.code.value[0])), ("grpc-message", quote(self.message, safe=_TEXT))]
        lines += [(name, header_text(name, value)) for name, value in self.trailers]
        return "".join(f"{name}: {value}\r\n" for name, value in lines).encode()

    def plain_trailers(self) -> list[tuple[str, str]]:
        """Return the trailing metadata without the details, which a Connect error has in its body."""
        return [(name, header_text(name, value)) for name, value in self.trailers if name != DETAILS]


def header_text(name: str, value: str | bytes) -> str:
    """Return a metadata value as a header's: binary ones, whose names end in -bin, in base64."""
    if name.endswith("-bin"):
        data = value.encode() if isinstance(value, str) else value
        return base64.b64encode(data).decode().rstrip("=")
    return value if isinstance(value, str) else value.decode("latin-1")


def metadata_of(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str | bytes]]:
    """Return a request's headers as a call's metadata. A binary value that is not base64 is left out."""
    metadata: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if not name.endswith("-bin"):
            metadata.append((name, value))
            continue
        try:
            metadata.append((name, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)))
        except ValueError:
            continue
    return metadata


def _details(encoded: str | bytes) -> list[dict[str, str]]:
    packed = status_pb2.Status.FromString(encoded.encode() if isinstance(encoded, str) else encoded)
    return [
        {"type": each.type_url.rpartition("/")[2], "value": base64.b64encode(each.value).decode().rstrip("=")}
        for each in packed.details
    ]
