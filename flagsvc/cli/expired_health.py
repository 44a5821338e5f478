"""A health check of this machine's own server whose certificate is not valid now.

The server serves on with it, and a restart makes it no newer, so a probe must not fail for that. gRPC's library refuses
such a certificate whoever asks; so the one call is made here, on HTTP/2's frames.
"""

from __future__ import annotations

import ssl
import struct
from typing import BinaryIO

from flagsvc.cli.tls import connected

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_POST, _HTTPS = b"\x83", b"\x87"
_AUTHORITY, _PATH, _CONTENT_TYPE = b"\x01", b"\x04", b"\x0f\x10"
"""Names by their number in HTTP/2's static table, of headers that are not kept in a table."""
_HEAD_BYTES, _PREFIX_BYTES = 9, 5
MAX_FRAMES = 100


def checked(address: str, path: str, message: bytes, timeout_s: float) -> bytes:
    """Make a unary call of one server on this machine, and return the response's message. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with connected(address) as plain, context.wrap_socket(plain) as secured:
        secured.settimeout(timeout_s)
        headers = _POST + _HTTPS + _text(_PATH, path) + _text(_AUTHORITY, "localhost")
        headers += _text(_CONTENT_TYPE, "application/grpc") + b"\x00\x02te" + _text(b"", "trailers")
        body = b"\0" + struct.pack(">I", len(message)) + message
        frames = _frame(_SETTINGS, 0, 0) + _frame(_HEADERS, _END_HEADERS, 1, headers)
        secured.sendall(_PREFACE + frames + _frame(_DATA, _END_STREAM, 1, body))
        with secured.makefile("rb") as received:
            for _ in range(MAX_FRAMES):
                kind, flags, stream, payload = _read(received)
                if kind == _DATA and stream == 1 and len(payload) >= _PREFIX_BYTES:
                    return payload[_PREFIX_BYTES:]
                if stream == 1 and flags & _END_STREAM:
                    break
                if kind == _SETTINGS and not flags & _ACK:
                    secured.sendall(_frame(_SETTINGS, _ACK, 0))
    raise ConnectionError("the server ended the call without a response")


def _text(name: bytes, value: str) -> bytes:
    return name + bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _read(received: BinaryIO) -> tuple[int, int, int, bytes]:
    """Return a frame's kind, flags, stream and payload. Raises ConnectionError."""
    head = received.read(_HEAD_BYTES)
    size = int.from_bytes(head[:3])
    payload = received.read(size)
    if len(head) < _HEAD_BYTES or len(payload) < size:
        raise ConnectionError("the server closed the connection")
    return head[3], head[4], int.from_bytes(head[5:]) & 0x7FFF_FFFF, payload
