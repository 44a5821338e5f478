"""gRPC calls as HTTP/2 frames by hand: wrong lengths and flags of messages, and frames that no client sends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct

from tests.fuzz.calling import CODES, FRAMES, REFUSED_BY_GRPC, Answer, Call
from tests.fuzz.odd import Odd, changed
from tests.unreading import PREFACE, field, frame

_WAIT_S = 0.3
_DATA, _HEADERS, _SETTINGS, _END_STREAM, _END_HEADERS = 0, 1, 4, 1, 4
_STATUS = re.compile(rb"grpc-status[\x01\x02](\d\d?)")
_REFUSED = re.compile(
    rb"Failed parsing HTTP/2|Illegal header key|Error parsing '|Metadata keys cannot|Compression bit set|Missing :|"
    rb"Duplicate '|Bad (?:content-type|method|path)|Invalid (?:gRPC|metadata|compression)|Unknown compression|"
    rb"Decompression"
)
"""What gRPC's transport says of bytes that are no call, with whichever status. flagsvc has not seen them."""
_PATHS = ("/flagsvc.v1.FlagService/EvaluateFlag", "/flagsvc.v1.FlagService/CreateFlag", "/grpc.health.v1.Health/Check")
_PATHS += ("/flagd.evaluation.v1.Service/ResolveAll", "/grpc.health.v1.Health/Watch", "", "*", "/\udcff")


class FrameCalls:
    """Makes connections of one call each."""

    def __init__(self, port: int, odd: Odd) -> None:
        self._port, self._odd, self._random = port, odd, odd.random

    def make(self, _name: str, corpus: list[bytes]) -> Call:
        """Return what is sent over a connection after its preface."""
        random = self._random
        fields = {":method": "POST", ":scheme": "http", ":path": random.choice(_PATHS), ":authority": "a"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        for _ in range(random.choice((0, 0, 0, 1, 2))):
            fields.pop(random.choice(list(fields)), None)
        if random.random() < 0.3:
            name = random.choice(
                ("grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "content-length", "x", "X", "")
            )
            fields[name] = random.choice(("1n", "0S", "99999999H", "-1S", "gzip", "x", "\0", "\u00e9" * 9, "a" * 99))
        block = b"".join(
            field(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in fields.items()
        )
        message = random.choice((b"", b"\x0a\x01a", random.randbytes(20)))
        prefix = struct.pack(
            ">BI", random.choice((0, 0, 1, 255)), random.choice((len(message), 0, 5, 2**24, 2**32 - 1))
        )
        data = frame(_HEADERS, _END_HEADERS, 1, block) + frame(
            _DATA, random.choice((0, _END_STREAM)), 1, prefix + message
        )
        if random.random() < 0.3:
            kind, flags = random.choice((*range(10), 255)), random.choice((0, 1, 4, 5, 255))
            data += frame(
                kind, flags, random.choice((0, 1, 2, 3, 2**31 - 1)), random.randbytes(random.choice((0, 4, 8, 99)))
            )
        if random.random() < 0.5:
            data = changed(data, corpus, random)
        return Call(FRAMES, [data], timeout=_WAIT_S, port=FRAMES)

    async def send(self, call: Call) -> Answer:
        """Send the frames, and return the status if there is one."""
        received = b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return Answer("NO_CONNECTION")
        try:
            writer.write(PREFACE + frame(_SETTINGS, 0, 0) + call.parts[0])
            async with asyncio.timeout(call.timeout):
                while part := await reader.read(65_536):
                    received += part
                    if match := _STATUS.search(received):
                        refused = _REFUSED.search(received)
                        return Answer(REFUSED_BY_GRPC if refused else CODES.get(int(match[1]), "?"), received)
        except TimeoutError:
            return Answer("WAITS", received)
        except OSError:
            return Answer("CLOSED", received)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return Answer("CLOSED", received)
