"""Accepts the connections of the gRPC port, and decides by their first bytes who serves them.

Where TLS ends here one day, ALPN decides instead: `h2` is HTTP/2, `http/1.1` and none are HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

import structlog

from flagsvc.api.common.peers import Peers, host_of, peer_name
from flagsvc.api.http.server import HttpServer
from flagsvc.background import BackgroundTasks
from flagsvc.front.crowding import CallCounter, Crowding
from flagsvc.front.inner import inner
from flagsvc.front.pipe import End
from flagsvc.listening import BACKLOG

log = structlog.get_logger(__name__)

PREFACE = b"PRI * HTTP/2.0"
"""What every HTTP/2 connection begins with, and no request of HTTP/1.1."""
SILENT_S = 10.0
"""Seconds in which a connection must send enough to be told apart."""
UNACKNOWLEDGED_S = 60
"""Seconds after which the kernel ends a connection whose client takes nothing of what was sent."""
STOP_S = 1.0
"""Seconds for clients to take what gRPC has sent before it stopped."""


class Front:
    """The gRPC port. `http` serves its HTTP/1.1 connections and counts all of them; gRPC listens at `inner`.

    `taken_up` returns how many gRPC calls have been taken up since the start.
    """

    def __init__(self, listening: socket.socket, http: HttpServer, peers: Peers, taken_up: Callable[[], int]) -> None:
        self.inner, self.http, self.peers = inner(), http, peers
        self.connections, self.crowding = http.connections, Crowding(taken_up)
        self._listening = listening
        self._acceptor: asyncio.Server | None = None
        self._tasks = BackgroundTasks()
        self.undecided: set[Undecided] = set()
        self.pipes: set[Caller] = set()
        if listening.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted sockets inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1_000)

    async def start(self) -> None:
        """Accept connections. gRPC accepts them by then."""
        await self.http.start()
        self._tasks.start(self.crowding.run(), "crowding")
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if self._listening.family == socket.AF_UNIX else loop.create_server
        self._acceptor = await create(lambda: Undecided(self), sock=self._listening, backlog=BACKLOG)

    def close(self) -> None:
        """Accept no more connections."""
        if self._acceptor is not None:
            self._acceptor.close()
        self._listening.close()
        for connection in list(self.undecided):
            connection.give_way()

    async def stop(self) -> None:
        """End all connections; gRPC has stopped, and what it sent before is still passed on."""
        await self.http.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while self.pipes:  # noqa: ASYNC110  ends at the timeout
                    await asyncio.sleep(0.01)
        for pipe in list(self.pipes):
            pipe.transport.abort()
        await self._tasks.close()

    def pass_on(self, transport: asyncio.Transport, caller: str, data: bytes) -> None:
        """Serve an HTTP/2 connection, from what has arrived of it."""
        transport.pause_reading()
        end = Caller(self, host_of(caller))
        end.connection_made(transport)
        transport.set_protocol(end)
        self._tasks.start(self._join(end, caller, data), "front")

    async def _join(self, end: Caller, caller: str, data: bytes) -> None:
        """Connect a caller's connection with gRPC."""
        try:
            transport, _, name = await self.inner.connect(lambda: End(self.crowding).join(end))
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


class Undecided(asyncio.Protocol):
    """A new connection. It is counted from its beginning, and ends if it stays silent."""

    transport: asyncio.Transport
    _counted = False

    def __init__(self, front: Front) -> None:
        self._front, self._received = front, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and make room for it where there are too many."""
        loop, front = asyncio.get_running_loop(), self._front
        self.transport, self.waiting_since = cast("asyncio.Transport", transport), loop.time()
        self.caller = peer_name(transport.get_extra_info("peername"))
        self._timer = loop.call_later(SILENT_S, self.transport.abort)
        if not front.connections.admit(host_of(self.caller)):
            self.transport.abort()
            return
        self._counted = True
        if front.connections.too_many:
            front.connections.make_room([*front.undecided, *front.http.waiting()], self)
        if self._counted:
            front.undecided.add(self)

    def data_received(self, data: bytes) -> None:
        """Hand the connection over once it can be told apart."""
        self._received += data
        begun = self._received[: len(PREFACE)]
        if not self._counted or begun == PREFACE[: len(begun)] != PREFACE:
            return  # it gave way, or the next bytes decide
        self._timer.cancel()
        self._front.undecided.discard(self)
        self._counted = False  # whoever serves it counts its end
        if begun == PREFACE:
            self._front.pass_on(self.transport, self.caller, self._received)
        else:
            self._front.http.take_over(self.transport, host_of(self.caller), self._received)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Count the connection as closed."""
        self._timer.cancel()
        self._leave()

    def give_way(self) -> None:
        """End the connection."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        """Count the connection as closed, once."""
        self._front.undecided.discard(self)
        if self._counted:
            self._counted = False
            self._front.connections.closed(host_of(self.caller))


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
