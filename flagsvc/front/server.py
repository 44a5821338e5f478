"""Accepts the connections of the gRPC port, and decides by their first bytes who serves them.

Where TLS ends here, ALPN decides instead (`flagsvc.tls`): `h2` is HTTP/2, `http/1.1` and none are HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import structlog

from flagsvc.api.common.peers import Peers, network_of, peer_name
from flagsvc.api.http.server import HttpServer
from flagsvc.front.crowding import CallCounter, Crowding
from flagsvc.front.door import Arrival, Door, Open
from flagsvc.front.inner import inner
from flagsvc.front.pipe import End, Inner
from flagsvc.listening import BACKLOG

log = structlog.get_logger(__name__)

PREFACE = b"PRI * HTTP/2.0"
"""What every HTTP/2 connection begins with, and no request of HTTP/1.1."""
UNACKNOWLEDGED_S = 60
"""Seconds after which the kernel ends a connection whose client takes nothing of what was sent."""
STOP_S = 1.0
"""Seconds for clients to take what gRPC has sent before it stopped."""


async def by_first_bytes(door: Door, listening: socket.socket) -> asyncio.Server:
    """Accept connections in plain text."""
    loop = asyncio.get_running_loop()
    create = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
    return await create(lambda: _Undecided(door), sock=listening, backlog=BACKLOG)


class _Undecided(asyncio.Protocol):
    """A new connection, of which the first bytes decide."""

    def __init__(self, door: Door) -> None:
        self._door, self._received = door, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._arrival = Arrival(self._door, transport.get_extra_info("peername"), self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Hand the connection over once it can be told apart."""
        self._received += data
        begun = self._received[: len(PREFACE)]
        if begun == PREFACE or begun != PREFACE[: len(begun)]:
            self._arrival.hand_over(self._transport, self._received, http2=begun == PREFACE)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Count the connection as closed."""
        self._arrival.leave()


class Front(Door):
    """The gRPC port. `http` serves its HTTP/1.1 connections and counts all of them; gRPC listens at `inner`.

    `taken_up` returns how many gRPC calls have been taken up since the start. `outer`: the file of a unix socket.
    """

    def __init__(
        self,
        listening: socket.socket,
        http: HttpServer,
        peers: Peers,
        taken_up: Callable[[], int],
        open_: Open = by_first_bytes,
        *,
        outer: Path | None = None,
        name_of: Callable[[Any], str] = peer_name,
    ) -> None:
        super().__init__(listening, http, open_, name_of)
        self.inner, self.peers, self.crowding = inner(outer), peers, Crowding(taken_up)
        self.pipes: set[Caller] = set()
        if listening.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted sockets inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1_000)

    async def start(self) -> None:
        """Accept connections. gRPC accepts them by then."""
        await self.http.start()
        self.tasks.start(self.crowding.run(), "crowding")
        await super().start()

    async def stop(self) -> None:
        """End all connections; gRPC has stopped, and what it sent before is still passed on."""
        await self.http.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while self.pipes:  # noqa: ASYNC110  ends at the timeout
                    await asyncio.sleep(0.01)
        for pipe in list(self.pipes):
            pipe.transport.abort()
        await super().stop()
        self.inner.remove()

    def hand_over(self, transport: asyncio.Transport, caller: str, data: bytes, *, http2: bool) -> None:
        """Serve a connection, from what has arrived of it: HTTP/2 by gRPC."""
        if not http2:
            super().hand_over(transport, caller, data, http2=False)
            return
        transport.pause_reading()
        end = Caller(self, network_of(caller))
        end.connection_made(transport)
        transport.set_protocol(end)
        self.tasks.start(self._join(end, caller, data), "front")

    async def _join(self, end: Caller, caller: str, data: bytes) -> None:
        """Connect a caller's connection with gRPC."""
        try:
            transport, _, name = await self.inner.connect(lambda: Inner(self.crowding).join(end))
        except OSError as error:
            log.warning("grpc_not_reached", error=type(error).__name__, detail="gRPC took no connection in time.")
            end.transport.abort()
            return
        self.peers.add(name, caller)  # before gRPC can read a call
        end.inner_name = name
        end.calls.count(data)
        transport.write(data)
        if end.transport.is_closing():
            self.peers.remove(name)
            transport.abort()
        else:
            end.transport.resume_reading()


class Caller(End):
    """The caller's end of a connection that is passed on to gRPC."""

    inner_name = ""

    def __init__(self, front: Front, host: str) -> None:
        super().__init__(front.crowding)
        self._front, self._host, self.calls = front, host, CallCounter(front.crowding)
        front.pipes.add(self)

    def data_received(self, data: bytes) -> None:
        """Pass on what arrives, and count its calls."""
        self.calls.count(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection as closed."""
        self._front.pipes.discard(self)
        self._front.connections.closed(self._host)
        self._front.peers.remove(self.inner_name)
        if self.inner_name:
            super().connection_lost(exc)
