"""HTTP/2 clients that call and do not read: by hand, because gRPC's own clients read ahead of their applications."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _WINDOW = 0, 1, 3, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_CONNECTION_WINDOW = 2**30


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value  # a literal without indexing


class Unreading:
    """One connection. Its streams have HTTP/2's first window of 64 kB, which nobody makes larger."""

    def __init__(self, port: int | str) -> None:
        """`port`: a number, or the path of a unix socket."""
        self._socket = socket.socket(socket.AF_UNIX if isinstance(port, str) else socket.AF_INET)
        self._socket.settimeout(10)
        self._socket.connect(port if isinstance(port, str) else ("127.0.0.1", port))
        self._next = 1
        window = frame(_WINDOW, 0, 0, struct.pack(">I", _CONNECTION_WINDOW))
        self._socket.sendall(PREFACE + frame(_SETTINGS, 0, 0) + window)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(self, path: str, request: bytes | None = b"") -> int:
        """Begin a call, and return its stream's number. With the request None the call stays without a message."""
        stream, self._next = self._next, self._next + 2
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "flagsvc"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        block = b"".join(field(name.encode(), value.encode("latin-1")) for name, value in fields.items())
        frames = frame(_HEADERS, _END_HEADERS, stream, block)
        if request is not None:
            frames += frame(_DATA, _END_STREAM, stream, struct.pack(">BI", 0, len(request)) + request)
        self._socket.sendall(frames)
        return stream

    def open_window(self, stream: int) -> None:
        """Take what waits for a stream."""
        self._socket.sendall(frame(_WINDOW, 0, stream, struct.pack(">I", _CONNECTION_WINDOW)))

    def frames(self, seconds: float) -> list[tuple[int, int, int, bytes]]:
        """Read what arrives until nothing has for so long: (kind, flags, stream, payload) of each frame."""
        found, rest = [], b""
        self._socket.settimeout(seconds)
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                return found
            if not data:
                return found
            rest += data
            while len(rest) >= 9 and len(rest) >= (end := 9 + int.from_bytes(rest[:3], "big")):
                kind, flags, stream = rest[3], rest[4], int.from_bytes(rest[5:9], "big")
                found.append((kind, flags, stream, rest[9:end]))
                rest = rest[end:]
                if kind in (_SETTINGS, _PING) and not flags & _ACK:
                    self._socket.sendall(frame(kind, _ACK, 0, found[-1][3] if kind == _PING else b""))

    def data_of(self, seconds: float) -> dict[int, int]:
        """Read what arrives, as `frames` does: bytes of data by stream."""
        sizes: dict[int, int] = {}
        for kind, _, stream, payload in self.frames(seconds):
            if kind == _DATA:
                sizes[stream] = sizes.get(stream, 0) + len(payload)
        return sizes
