"""Two connections joined: what arrives at one is sent by the other, no faster than that is taken."""

from __future__ import annotations

import asyncio
from typing import Self, cast

FLUSH_S = 10.0
"""Seconds that a side has to take what the other sent before it ended."""


class End(asyncio.Protocol):
    """One of the two ends."""

    transport: asyncio.Transport
    other: End
    _timer: asyncio.TimerHandle | None = None

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

    def pause_writing(self) -> None:
        """Read no more for this end until it has taken what waits."""
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

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
