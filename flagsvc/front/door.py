"""Accepts connections and counts them from their beginning, until it is decided who serves them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from flagsvc.api.common.peers import network_of, peer_name
from flagsvc.api.http.server import HttpServer
from flagsvc.background import BackgroundTasks

SILENT_S = 10.0
"""Seconds in which a connection must send enough to be handed over."""


class Opened(Protocol):
    """What accepts connections."""

    def close(self) -> None:
        """Accept no more."""


Open = Callable[["Door", socket.socket], Awaitable[Opened]]
"""Begins to accept a listening socket's connections, each of which gets an Arrival."""


class Door:
    """A listening socket, which it closes. `http` serves its connections and counts all of them.

    `name_of`: returns what a connection's peer is called, in gRPC's form, from the peer's address.
    """

    def __init__(
        self, listening: socket.socket, http: HttpServer, open_: Open, name_of: Callable[[Any], str] = peer_name
    ) -> None:
        self.http, self.connections, self.name_of = http, http.connections, name_of
        self.tasks = BackgroundTasks()
        self.arrivals: set[Arrival] = set()
        self._listening, self._open = listening, open_
        self._opened: Opened | None = None

    async def start(self) -> None:
        """Accept connections."""
        self._opened = await self._open(self, self._listening)

    def close(self) -> None:
        """Accept no more connections, and end those that nobody serves yet."""
        if self._opened is not None:
            self._opened.close()
        for arrival in list(self.arrivals):
            arrival.give_way()

    async def stop(self) -> None:
        """End what is in progress."""
        await self.tasks.close()
        self._listening.close()

    def hand_over(self, transport: asyncio.Transport, caller: str, data: bytes, *, http2: bool) -> None:  # noqa: ARG002  there is one protocol here
        """Let a connection be served, from what has arrived of it."""
        self.http.take_over(transport, network_of(caller), data)


class Arrival:
    """A new connection. It is counted from its beginning, and ends if nobody serves it in time."""

    _counted = False
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, door: Door, address: Any, abort: Callable[[], object]) -> None:
        """Count the connection, and make room for it where there are too many. `address`: its peer's."""
        loop = asyncio.get_running_loop()
        self._door, self._abort, self.waiting_since = door, abort, loop.time()
        self.caller = door.name_of(address)
        if not door.connections.admit(network_of(self.caller)):
            abort()
            return
        self._counted = True
        self._timer = loop.call_later(SILENT_S, abort)
        if door.connections.too_many:
            door.connections.make_room([*door.arrivals, *door.http.waiting()], self)
        if self._counted:
            door.arrivals.add(self)

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, http2: bool) -> None:
        """Let the connection be served, unless it gave way to another one."""
        if self._counted:
            self._counted = False  # whoever serves it counts its end
            self.leave()
            self._door.hand_over(transport, self.caller, data, http2=http2)

    def give_way(self) -> None:
        """End the connection."""
        self.leave()
        self._abort()

    def leave(self) -> None:
        """Wait no more, and count the connection as closed, once."""
        if self._timer is not None:
            self._timer.cancel()
        self._door.arrivals.discard(self)
        if self._counted:
            self._counted = False
            self._door.connections.closed(network_of(self.caller))
