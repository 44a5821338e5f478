"""One connection through the proxy: two ends, and the data in transit between them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.proxy import Proxy

_FULL = 1 << 20
_NO_LINGER = struct.pack("ii", 1, 0)


class Connection:
    """A client and its upstream. `stalled` is about this connection alone, whatever the rule of its label."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.label = ""
        self.known = False
        self.stalled = False
        self.client, self.upstream = End(self), End(self)
        self.up, self.down = Way(self, self.client, self.upstream), Way(self, self.upstream, self.client)
        self.client.out, self.upstream.out = self.up, self.down

    def flow(self) -> None:
        """Forward what may be forwarded."""
        self.up.flow()
        self.down.flow()

    def cut(self) -> None:
        """Close both sides in order; data in transit is lost."""
        for end in (self.client, self.upstream):
            end.close()

    def reset(self) -> None:
        """Break both sides."""
        for end in (self.client, self.upstream):
            end.reset()

    def abort(self) -> None:
        """Drop both sides at once."""
        for end in (self.client, self.upstream):
            if end.transport is not None:
                end.transport.abort()

    def half_close(self, *, to_upstream: bool) -> None:
        """Shut one direction: its reader sees the end, and what its writer still sends is lost."""
        (self.up if to_upstream else self.down).shut()

    def lost(self, end: End) -> None:
        """Handle that one side is gone: once what it sent has arrived, the other side is closed too."""
        end.out.take(None)
        other = self.upstream if end is self.client else self.client
        if other.transport is None or other.gone:
            self.proxy.forget(self)


class End(asyncio.Protocol):
    """One socket of a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: Any = None
        self.out: Way
        self.gone = False
        self.ended = False
        """Whether no more data comes from here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self.transport = transport
        if self is self.connection.client:
            self.connection.proxy.accepted(self.connection)
        elif self.connection.client.gone:
            self.close()
        self.connection.flow()

    def data_received(self, data: bytes) -> None:
        """Take data that arrived. While the connection has no label, the data is searched for one."""
        self.out.take(data)
        if not self.connection.known:
            self.connection.proxy.greeted(self.connection, b"".join(part for _, part in self.out.held if part))

    def eof_received(self) -> bool:
        """Handle the end of this direction; the other goes on."""
        self.ended = True
        self.out.take(None)
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        """The socket is closed."""
        self.gone = self.ended = True
        self.connection.lost(self)

    def pause_writing(self) -> None:
        """Handle that the reader here is slow."""
        self._towards_here().blocked = True

    def resume_writing(self) -> None:
        """Handle that the reader has caught up."""
        self._towards_here().blocked = False
        self._towards_here().flow()

    @property
    def open(self) -> bool:
        """Whether data can be read from here or written to here."""
        return self.transport is not None and not self.gone and not self.transport.is_closing()

    def close(self) -> None:
        """Close in order."""
        if self.open:
            self.transport.close()

    def reset(self) -> None:
        """Close so that the peer sees a reset."""
        if self.open:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.transport.abort()

    def _towards_here(self) -> Way:
        return self.connection.down if self is self.connection.client else self.connection.up


class Way:
    """One direction: what came from `source` and was not yet written to `target`, with the time at which it is due."""

    def __init__(self, connection: Connection, source: End, target: End) -> None:
        self.connection, self.source, self.target = connection, source, target
        self.held: deque[tuple[float, bytes | None]] = deque()
        self.blocked = False
        self._size = 0
        self._shut = self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def take(self, data: bytes | None) -> None:
        """Take data, or (None) the end."""
        if self._shut:
            return
        due = asyncio.get_running_loop().time() + self.connection.proxy.hold_s(self.connection)
        self.held.append((due, data))
        self._size += len(data or b"")
        self.flow()
        if self._size > _FULL and not self._paused and self.source.open:
            self._paused = True
            self.source.transport.pause_reading()

    def shut(self) -> None:
        """Send the target the end, and lose what comes later."""
        self._shut = True
        self.held.clear()
        self._size = 0
        self._finish()

    def flow(self) -> None:
        """Write to the target what is due."""
        loop = asyncio.get_running_loop()
        while self.held and self._open():
            due, data = self.held[0]
            if due > loop.time():
                if self._timer is None:
                    self._timer = loop.call_at(due, self._due)
                break
            self.held.popleft()
            if data is None:
                self._finish()
                break
            self._size -= len(data)
            if self.target.open:
                self.target.transport.write(data)
        if self._paused and self._size <= _FULL // 2 and self.source.open:
            self._paused = False
            self.source.transport.resume_reading()

    def _open(self) -> bool:
        target = self.target.transport
        return target is not None and not self.blocked and not self.connection.proxy.is_stalled(self.connection)

    def _due(self) -> None:
        self._timer = None
        self.flow()

    def _finish(self) -> None:
        """Pass the end on: half-close while the other direction is open, otherwise close."""
        target = self.target
        if self.source.gone or target.ended:
            target.close()
        elif target.open:
            target.transport.write_eof()
