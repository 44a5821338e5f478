"""The HTTP server: uvicorn in this event loop, with time limits on clients that are slow or silent."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from flagsvc.api.common.peers import network_of, peer_name
from flagsvc.api.http.strict import StrictConnection

MAX_HEAD_BYTES = 16_384
HEADERS_S = 10.0
"""Seconds in which a request's head must arrive."""
WRITE_S = 60.0
"""Seconds in which a client must read a response that waits to be sent."""
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open. Load balancers time out sooner, so they never reuse a closed one."""
STOP_S = 1
"""Seconds for responses in progress to finish after the server stops accepting requests."""


class Waiting(Protocol):
    """A connection that waits for a request since a moment of the event loop's clock, and can give way to another."""

    waiting_since: float

    def give_way(self) -> None:
        """End, and count as ended at once."""


class Acceptor(Protocol):
    """Accepts connections for an HTTP server, and hands them over to it."""

    async def start(self) -> None:
        """Accept connections."""

    def close(self) -> None:
        """Accept no more connections."""

    async def stop(self) -> None:
        """End what is in progress."""


class Connections:
    """Counts the open connections of one port, by address; a network of 64 bits of IPv6 is one."""

    def __init__(self, limit: float, per_peer: float) -> None:
        self._limit, self._per_peer = limit, per_peer
        self._peers: Counter[str] = Counter()
        self.open = self.refused = 0

    @property
    def too_many(self) -> bool:
        """Whether more are open than the port may have."""
        return self.open > self._limit

    def admit(self, peer: str) -> bool:
        """Count a new connection; False, and not counted, if its address has too many."""
        if self._peers[peer] >= self._per_peer:
            self.refused += 1
            return False
        self.open += 1
        self._peers[peer] += 1
        return True

    def make_room(self, waiting: Sequence[Waiting], newest: Waiting) -> None:
        """End the connection that has waited longest for a request; the newest one if all others have one."""
        leaving = min(waiting, key=lambda other: other.waiting_since, default=newest)
        self.refused += 1
        leaving.give_way()  # it counts as ended at once, so that of several new connections each makes room

    def closed(self, peer: str) -> None:
        """Count the end of a connection that was admitted."""
        self.open -= 1
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]


class HttpServer:
    """Serves an ASGI application on a listening socket, which it closes; without one, only what is handed over to it.

    Beyond `max_connections` the connection that has waited longest for a request gives way to a new one. An address
    that has `max_per_peer` gets no new one. `acceptor`: makes what accepts the socket's connections in its place.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket | None,
        *,
        max_connections: float = math.inf,
        max_per_peer: float = math.inf,
        acceptor: Callable[[socket.socket, HttpServer], Acceptor] | None = None,
    ) -> None:
        self.connections = counted = Connections(max_connections, max_per_peer)

        class Counted(_Protocol):
            port = counted

        self._protocol = Counted
        self._acceptor = None if listening is None or acceptor is None else acceptor(listening, self)
        self._sockets = [] if listening is None or self._acceptor is not None else [listening]
        self._server = _Server(
            uvicorn.Config(
                app,
                http=Counted,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to accept requests."""
        self._task = asyncio.create_task(self._server.serve(self._sockets), name="ofrep")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0)
        if self._acceptor is not None:
            await self._acceptor.start()

    async def stop(self) -> None:
        """Close every connection: idle ones at once, the others after at most STOP_S."""
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.stop()
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        for listening in self._sockets:
            listening.close()

    def take_over(self, transport: asyncio.Transport, peer: str, data: bytes) -> None:
        """Serve a connection that is counted already, from what has arrived of it."""
        server = self._server
        protocol = self._protocol(config=server.config, server_state=server.server_state, app_state={})
        transport.set_protocol(protocol)
        protocol.begin(transport, peer)
        if data:  # none would be the connection's end
            protocol.data_received(data)

    def waiting(self) -> list[Waiting]:
        """Return the connections that wait for a request."""
        return [each for each in self._server.server_state.connections if isinstance(each, _Protocol) and each.waits]


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handling to the process."""
        yield


class _Protocol(H11Protocol):
    """uvicorn's protocol with time limits: by itself it waits for ever for a request's head and for a slow reader."""

    port: Connections
    peer: str | None = None
    """The address, while the connection is counted."""
    waiting_since = math.inf
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = StrictConnection(h11.SERVER, MAX_HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = network_of(peer_name(transport.get_extra_info("peername")))
        if not self.port.admit(peer):
            super().connection_made(transport)
            transport.abort()
            return
        self.begin(transport, peer)
        if self.port.too_many:
            self._make_room()

    def begin(self, transport: asyncio.Transport, peer: str) -> None:
        """Serve a connection that is counted."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self.peer = peer
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timer()
        self._end_write_timer()
        self.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            self.transport.close()  # the rest of a body is malformed, and its response has begun: no other can be sent
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # the client never read the response
        else:
            super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        self.waiting_since = self.loop.time()
        super().on_response_complete()

    def _make_room(self) -> None:
        """Close the connection that has waited longest for a request; this one if all others have one."""
        others = (other for other in self.connections if isinstance(other, _Protocol) and other is not self)
        self.port.make_room([other for other in others if other.waits], self)

    @property
    def waits(self) -> bool:
        """Whether the connection waits for a request."""
        return self.peer is not None and (self.cycle is None or self.cycle.response_complete)

    def give_way(self) -> None:
        """End the connection."""
        self.leave()
        self.transport.abort()

    def leave(self) -> None:
        """Count the connection as closed, once."""
        if self.peer is not None:
            self.port.closed(self.peer)
            self.peer = None

    def _watch_head(self) -> None:
        """Limit the time of a request's head from its first byte, and of the first head from the connection's start."""
        if self.conn.their_state is not h11.IDLE:
            self._end_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADERS_S, self.transport.close)

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
