"""Two connections joined: what arrives at one is sent by the other, no faster than that is taken."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Self, cast

from flagsvc.front.crowding import Crowding

FLUSH_S = 10.0
"""Seconds that a side has to take what the other sent before it ended."""
_PIECE_BYTES = 65_536


class End(asyncio.Protocol):
    """One of the two ends."""

    transport: asyncio.Transport
    other: End
    _timer: asyncio.TimerHandle | None = None
    _waits = False
    """Whether it is not read for a while, because there are too many calls."""
    _is_full = False
    """Whether it is not read because the other end takes nothing."""

    def __init__(self, crowding: Crowding) -> None:
        self._crowding = crowding

    def join(self, other: End) -> Self:
        """Join both ends, before either reads: gRPC sends before it has received anything."""
        self.other, other.other = other, self
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass on what arrives."""
        self.other.transport.write(data)
        if self._crowding.pause_s:
            self.hold(waits=True)
            asyncio.get_running_loop().call_later(self._crowding.pause_s, lambda: self.hold(waits=False))

    def hold(self, *, waits: bool | None = None, full: bool | None = None) -> None:
        """Read on, or no more, for one of two reasons; it is read when neither holds."""
        self._waits = self._waits if waits is None else waits
        self._is_full = self._is_full if full is None else full
        if self.transport.is_closing():
            return
        if self._waits or self._is_full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """Read no more for this end until it has taken what waits."""
        self.other.hold(full=True)

    def resume_writing(self) -> None:
        """Read on for this end."""
        self.other.hold(full=False)

    def connection_lost(self, _exc: Exception | None) -> None:
        """End the other connection too."""
        if self._timer is not None:
            self._timer.cancel()
        self.other.close()

    def close(self) -> None:
        """End the connection when the client has taken what was sent."""
        if self._timer is None and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.transport.abort)
            self.transport.close()


class Inner(End):
    """The end at gRPC. Whatever gRPC sent before it closed its end is passed on."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Read the last words: a write that failed, since gRPC reads no more, has ended the reading too."""
        if exc is not None and not self.other.transport.is_closing():
            with contextlib.suppress(OSError):
                while data := os.read(self.transport.get_extra_info("socket").fileno(), _PIECE_BYTES):
                    self.other.transport.write(data)
        super().connection_lost(exc)
