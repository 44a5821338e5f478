"""The HTTP server in this process's event loop: uvicorn, with bounds on callers that are slow or never speak."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
"""Time that a request's head may take."""
WRITE_S = 60.0
"""Time in which a caller must have taken what waits for it."""
KEEP_ALIVE_S = 75
"""Time that a connection is kept without a request: longer than balancers keep theirs, who would meet a closed one."""
STOP_S = 1
"""Time that answers under way have once nothing new is let in."""
BACKLOG = 2_048


class HttpServer:
    """Serves an application on a port, which is taken at once. Raises OSError when it is taken already."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol,
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
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="ofrep")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110  uvicorn tells it no other way
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Close every connection, the idle ones at once."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


class _Protocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for ever for a request's head and for its answer to be taken."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timer()
        self._end_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # the answer was never taken
        else:
            super().timeout_keep_alive_handler()

    def _watch_head(self) -> None:
        """Bound the time of a head from its first byte, that of the first one from the connection's beginning."""
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


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError:
        raise OSError(f"port {port} on {host} cannot be listened on: is it taken?") from None
    # asyncio sees no TCP in a socket made like this; an answer's second packet would wait 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
