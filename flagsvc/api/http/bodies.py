"""Reads requests' bodies, within limits of time, of size, and of the bytes of all bodies together."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import Receive

from flagsvc.turns import off_loop

MAX_READ_BYTES = 10_000_000
"""A larger body is still read, up to this size, because a client that is sending does not read the response."""
MAX_BODIES_BYTES = 64_000_000
"""Bytes of all bodies together that have arrived in part."""
BODY_S = 10.0
"""Seconds in which a body must arrive."""
_LARGE_BYTES = 131_072
"""A larger body is decompressed in the thread, because that takes longer than a turn."""
_GZIP = 16 + zlib.MAX_WBITS


class BodyRefused(Exception):
    """A body that is not read; its HTTP status and the text for the caller. `close`: its connection has to end."""

    def __init__(self, status: int, details: str, *, close: bool = False) -> None:
        super().__init__(details)
        self.status, self.details, self.close = status, details, close


class Disconnected(Exception):
    """The client disconnected before its request was read."""


class Bodies:
    """Reads requests' bodies, and bounds the bytes of all that have arrived in part."""

    def __init__(self, limit: int = MAX_BODIES_BYTES) -> None:
        self._limit = limit
        self.held = 0

    async def read(self, receive: Receive, limit: int, coding: str = "") -> bytes:
        """Read one body of at most `limit` bytes, also after it is decompressed. Raises BodyRefused or Disconnected.

        `coding`: the request's Content-Encoding.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                size = await self._fill(body, receive, limit)
        except TimeoutError:
            raise BodyRefused(408, "request body too slow", close=True) from None
        finally:
            self.held -= len(body)
        if size > limit:
            raise BodyRefused(413, "request body too large", close=size > MAX_READ_BYTES)
        return await decompressed(bytes(body), limit, coding)

    async def _fill(self, body: bytearray, receive: Receive, limit: int) -> int:
        """Append what arrives, up to the limit; return how much arrived."""
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= limit:
                if self.held + len(chunk) > self._limit:
                    raise BodyRefused(429, "too many request bodies arrive at once; retry later", close=True)
                body += chunk
                self.held += len(chunk)
            if size > MAX_READ_BYTES or not message.get("more_body", False):
                return size


async def decompressed(data: bytes, limit: int, coding: str) -> bytes:
    """Return data without its coding, which is gzip or none. Raises BodyRefused, also for more than `limit` bytes."""
    match coding.strip().lower():
        case "" | "identity":
            return data
        case "gzip" | "x-gzip":
            plain = await off_loop(_inflated, data, limit) if limit > _LARGE_BYTES else _inflated(data, limit)
            if len(plain) > limit:
                raise BodyRefused(413, "request body too large")
            return plain
    raise BodyRefused(415, f"unknown content encoding {coding[:40]!r}; use gzip or none")


def _inflated(data: bytes, limit: int) -> bytes:
    """Return the data decompressed, or its first bytes, just more than the limit. Raises BodyRefused."""
    plain = bytearray()
    while data:  # a gzip file may consist of several
        inflating = zlib.decompressobj(_GZIP)
        try:
            plain += inflating.decompress(data, limit + 1 - len(plain))
        except zlib.error:
            raise BodyRefused(400, "request body is not gzip, which its content encoding says") from None
        if len(plain) > limit:
            break
        if not inflating.eof:
            raise BodyRefused(400, "request body is gzip that ends too early")
        data = inflating.unused_data
    return bytes(plain)
