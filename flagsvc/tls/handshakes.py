"""TLS handshakes of the ports that serve HTTP. gRPC's own ports do theirs in gRPC."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

import structlog

from flagsvc.front.door import SILENT_S, Arrival, Door
from flagsvc.front.pipe import FLUSH_S

if TYPE_CHECKING:
    from flagsvc.tls.certificates import Certificates

log = structlog.get_logger(__name__)

RETRY_S = 1.0
"""Seconds until the next attempt to accept, where the process has no more descriptors."""


class Handshakes:
    """Accepts the connections of one listener. Each handshake uses the certificate of that moment."""

    def __init__(self, certificates: Certificates, listener: str) -> None:
        self.certificates, self.listener = certificates, listener
        self._accepting: asyncio.Task[None] | None = None

    async def open(self, door: Door, listening: socket.socket) -> Handshakes:
        """Accept connections; a door's Open."""
        listening.setblocking(False)
        self._accepting = door.tasks.begin(self._accept(door, listening), "tls-accept")
        return self

    def close(self) -> None:
        """Accept no more."""
        if self._accepting is not None:
            self._accepting.cancel()

    async def _accept(self, door: Door, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    connection, address = await loop.sock_accept(listening)
                except ConnectionError:  # it ended before it was accepted
                    continue
                except OSError as error:
                    log.warning("not_accepted", error=type(error).__name__, detail="It is tried again in a second.")
                    await asyncio.sleep(RETRY_S)
                    continue
                _Handshake(self, door, connection, address)


class _Handshake(asyncio.Protocol):
    """A new connection, until its handshake is done. It is counted meanwhile, so that handshakes are bounded too."""

    def __init__(self, handshakes: Handshakes, door: Door, connection: socket.socket, address: Any) -> None:
        self._certificates, self._listener = handshakes.certificates, handshakes.listener
        self._connection, self._begun = connection, False
        self._task = door.tasks.begin(self._shake_hands(), "tls-handshake")
        self._arrival = Arrival(door, address, self._abort)

    def _abort(self) -> None:
        self._task.cancel()
        if not self._begun:  # else its transport closes it
            self._connection.close()

    async def _shake_hands(self) -> None:
        self._begun = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                self._connection,
                ssl=self._certificates.context(self._listener),
                ssl_handshake_timeout=SILENT_S,
                ssl_shutdown_timeout=FLUSH_S,
            )
        except OSError:  # SSLError is one, and the caller may have gone
            self._certificates.failed_handshakes[self._listener] += 1
        finally:
            self._arrival.leave()  # unless it is served

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection be served by the protocol on which the handshake agreed."""
        agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        self._arrival.hand_over(cast("asyncio.Transport", transport), b"", http2=agreed == "h2")
