"""How each port listens: in plain text or with TLS, by the settings."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc

from flagsvc.api.http.server import Acceptor, HttpServer
from flagsvc.front.door import Door, Open
from flagsvc.front.server import by_first_bytes
from flagsvc.lasting_server import plain
from flagsvc.settings import Settings
from flagsvc.telemetry import Sample
from flagsvc.tls.handshakes import Handshakes

if TYPE_CHECKING:
    from flagsvc.tls.certificates import Certificates


class Ports:
    """Raises SettingsError for files that cannot be served."""

    def __init__(self, settings: Settings) -> None:
        self._certificates = _certificates(settings)
        self._plain = frozenset() if settings.management_tls else frozenset({"management"})
        mutual = self._certificates is not None and self._certificates.requires_client("grpc")
        self.has_front = settings.http_on_grpc_port and not mutual
        """Whether the gRPC port serves HTTP/1.1 too. gRPC itself must do the handshakes to know client certificates."""

    @property
    def encrypted(self) -> bool:
        """Whether callers' ports serve TLS."""
        return self._certificates is not None

    def add_port(self, listener: str) -> Callable[[grpc.aio.Server, str], int]:
        """Return how a gRPC server listens: behind the front in plain text."""
        certificates = self._certificates
        if certificates is None or (listener == "grpc" and self.has_front):
            return plain
        return lambda server, address: server.add_secure_port(address, certificates.grpc_credentials(listener))

    @property
    def open_front(self) -> Open:
        """What accepts connections for the front of the gRPC port."""
        return by_first_bytes if self._certificates is None else Handshakes(self._certificates, "grpc").open

    def acceptor(self, listener: str) -> Callable[[socket.socket, HttpServer], Acceptor] | None:
        """Return what makes the acceptor of an HTTP port; None: the HTTP server accepts by itself."""
        certificates = self._certificates
        if certificates is None or listener in self._plain:
            return None
        return lambda listening, http: Door(listening, http, Handshakes(certificates, listener).open)

    async def run(self) -> None:
        """Follow the certificate's files until cancelled."""
        if self._certificates is not None:
            await self._certificates.run()

    def samples(self) -> Iterator[Sample]:
        """Return the values for Prometheus."""
        return iter(()) if self._certificates is None else self._certificates.samples()


def _certificates(settings: Settings) -> Certificates | None:
    if not any((settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.management_tls)):
        return None
    from flagsvc.tls.certificates import certificates_of  # noqa: PLC0415  loads 8 MB that most servers do not need

    return certificates_of(settings)
