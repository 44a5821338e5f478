"""A gRPC server that is replaced when it has stopped by itself.

grpcio's server stops for good, and silently, when something in its main loop fails, as a call's path that is no UTF-8
did before `grpc_paths`. The process would live on without gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import grpc
import structlog

log = structlog.get_logger(__name__)

AddPort = Callable[[str], int]
CHECK_EVERY_S = 0.05
GRACE_S = 0.5
"""Seconds that the calls of a server that has stopped have to finish."""


class Bindable(Protocol):
    """An address that a server listens at."""

    def bind(self, add_port: AddPort) -> int:
        """Let gRPC listen, and return the port. It may be called again."""
        ...


class LastingServer:
    """The server of one listener: what `build` makes, again and again, always at the same addresses."""

    def __init__(self, name: str, build: Callable[[], grpc.aio.Server]) -> None:
        """`name`: the listener's."""
        self.name, self._build, self._server = name, build, build()
        self._bindings: list[Callable[[AddPort], int]] = []
        self._stopping = False
        self.replaced = 0

    def listen(self, address: Bindable) -> int:
        """Bind an address, and return its port. Raises OSError."""
        self._bindings.append(address.bind)
        return address.bind(self._server.add_insecure_port)

    async def start(self) -> None:
        """Accept calls."""
        await self._server.start()

    async def run(self) -> None:
        """Replace a server that has stopped, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            if not self._stopping and not _runs(self._server):
                await self._replace()

    async def stop(self, grace_s: float) -> None:
        """Stop, with so much time for the calls in progress."""
        self._stopping = True
        await self._server.stop(grace_s)

    async def _replace(self) -> None:
        """Serve with a new server. If an address cannot be bound, the next turn tries again."""
        stopped, new = self._server, self._build()
        try:
            for bind in self._bindings:
                bind(new.add_insecure_port)
        except (OSError, RuntimeError) as error:
            log.warning("grpc_port_not_bound", listener=self.name, error=str(error), detail="It is tried again.")
            return
        self._server = new
        await new.start()
        self.replaced += 1
        log.warning(
            "grpc_server_replaced",
            listener=self.name,
            detail="gRPC had stopped by itself. Its connections are closed.",
        )
        await stopped.stop(GRACE_S)


def _runs(server: grpc.aio.Server) -> bool:
    """Whether the server accepts calls. grpcio says so only inside."""
    inner = getattr(server, "_server", None)
    return inner is None or bool(getattr(inner, "is_running", lambda: True)())
