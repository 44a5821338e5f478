"""The forms in which calls arrive: unary Connect, Connect streams and gRPC-Web, with messages in JSON or binary."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from flagsvc.core.errors import InvalidRequest, invalid

PREFIX_BYTES = 5
"""What precedes a message in a stream: a byte of flags and the size."""
COMPRESSED = 1
_UNITS_S = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_CONNECT_TIMEOUT, _GRPC_TIMEOUT = re.compile(r"\d{1,10}"), re.compile(r"(\d{1,8})([HMSmun])")


@dataclass(frozen=True, slots=True)
class Wire:
    """One form of call. `end_flag`: the flag of the last message of a framed one; 0 for unary Connect."""

    content_type: str
    is_json: bool
    end_flag: int
    coding_header: str
    timeout_header: str

    @property
    def is_framed(self) -> bool:
        """Whether messages have a prefix, and the status comes behind them."""
        return self.end_flag != 0

    @property
    def is_grpc_web(self) -> bool:
        """Whether this is gRPC-Web."""
        return self.timeout_header == "grpc-timeout"

    def serves(self, *, streams: bool) -> bool:
        """Whether this form can carry a method, by whether its answers are a stream."""
        return self.is_grpc_web or self.is_framed is streams

    def seconds(self, headers: Mapping[str, str]) -> float | None:
        """Return the call's time limit; None without one. Raises InvalidRequest."""
        text = headers.get(self.timeout_header)
        if text is None:
            return None
        if not self.is_grpc_web:
            if _CONNECT_TIMEOUT.fullmatch(text):
                return int(text) / 1_000
            raise invalid(self.timeout_header, text, "at most 10 digits, in milliseconds")
        if match := _GRPC_TIMEOUT.fullmatch(text):
            return int(match[1]) * _UNITS_S[match[2]]
        raise invalid(self.timeout_header, text, "at most 8 digits and a unit, one of H M S m u n")


def _wires() -> dict[str, Wire]:
    connect, stream = ("content-encoding", "connect-timeout-ms"), ("connect-content-encoding", "connect-timeout-ms")
    web = ("grpc-encoding", "grpc-timeout")
    forms = [
        ("application/json", True, 0, *connect),
        ("application/proto", False, 0, *connect),
        ("application/connect+json", True, 0x02, *stream),
        ("application/connect+proto", False, 0x02, *stream),
        ("application/grpc-web", False, 0x80, *web),
        ("application/grpc-web+proto", False, 0x80, *web),
        ("application/grpc-web+json", True, 0x80, *web),
    ]
    return {form[0]: Wire(*form) for form in forms}


WIRES = _wires()
"""Every form by its content type."""


def framed(flags: int, message: bytes) -> bytes:
    """Return a message with its prefix."""
    return struct.pack(">BI", flags, len(message)) + message


def unframed(body: bytes) -> tuple[bool, bytes]:
    """Return the one message of a request, and whether it is compressed. Raises InvalidRequest."""
    if len(body) < PREFIX_BYTES:
        raise _invalid(f"{len(body)} bytes")
    flags, size = struct.unpack(">BI", body[:PREFIX_BYTES])
    if flags & ~COMPRESSED or size != len(body) - PREFIX_BYTES:
        raise _invalid(f"{len(body)} bytes that begin with {body[:PREFIX_BYTES].hex()}")
    return bool(flags), body[PREFIX_BYTES:]


def _invalid(found: str) -> InvalidRequest:
    wanted = "one message behind a byte of flags (0, or 1 if it is compressed) and its size in 4 bytes"
    return invalid("request", found, wanted, "INVALID_REQUEST")
