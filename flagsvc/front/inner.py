"""The inner address at which gRPC listens behind the front, and connections to it, each under a name of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from flagsvc.lasting_server import Bindable
from flagsvc.listening import Address

CONNECT_S = 2.0
"""Seconds in which gRPC must take a connection: it may be busy, or just be replaced."""
RETRY_S = 0.01


class Inner(Bindable, Protocol):
    """Where gRPC listens."""

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol, str]:
        """Connect; return the transport, the protocol, and what gRPC calls the peer. Raises OSError."""
        ...

    def remove(self) -> None:
        """Remove what it has left in the file system."""
        ...


class AbstractSocket:
    """An abstract unix socket (Linux): no file and no port. A connection is bound to a name that no other has."""

    def __init__(self) -> None:
        self._name = f"flagsvc-{secrets.token_hex(8)}"
        self._numbers = itertools.count(1)
        self.address = f"unix-abstract:{self._name}"

    def bind(self, add_port: Callable[[str], int]) -> int:
        """Let gRPC listen. Raises RuntimeError."""
        return add_port(self.address)

    def remove(self) -> None:
        """Remove nothing: its name ends with its server."""

    @property
    def _listens(self) -> str:
        """The name to connect to."""
        return f"\0{self._name}"

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol, str]:
        """Connect. Raises OSError."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + CONNECT_S
        while True:
            name = f"{self._name}-{next(self._numbers)}"
            connecting = socket.socket(socket.AF_UNIX)
            try:
                connecting.setblocking(False)
                connecting.bind(f"\0{name}")
                connecting.connect(self._listens)
            except OSError:  # its backlog is full, or nobody listens, or another program took the name
                connecting.close()
                if loop.time() > ends_at:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            return *await loop.create_unix_connection(factory, sock=connecting), f"unix-abstract:{name}"


class FileSocket(AbstractSocket):
    """A socket's file that only this server's user can open, beside the file that callers connect to.

    Abstract sockets have no permissions: whoever shares the network namespace could connect past that file's mode.
    """

    def __init__(self, beside: Path) -> None:
        super().__init__()
        self._paths = itertools.cycle([beside.with_name(f".{beside.name}-{number}") for number in (0, 1)])
        self._path: Path | None = None

    def bind(self, add_port: Callable[[str], int]) -> int:
        """Let gRPC listen, at another file than last time: a server that is replaced removes its file late."""
        self.remove()
        self._path = next(self._paths)
        self.address = f"unix:{self._path}"
        mask = os.umask(0o177)
        try:
            return add_port(self.address)
        finally:
            os.umask(mask)

    def remove(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    @property
    def _listens(self) -> str:
        return str(self._path)


class Loopback:
    """A TCP port of the loopback interface, for systems without abstract sockets."""

    def __init__(self) -> None:
        self._address = Address("127.0.0.1", 0)

    def bind(self, add_port: Callable[[str], int]) -> int:
        """Let gRPC listen, always on the port that the system has chosen first. Raises OSError."""
        return self._address.bind(add_port)

    def remove(self) -> None:
        """Remove nothing."""

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol, str]:
        """Connect. Raises OSError."""
        async with asyncio.timeout(CONNECT_S):
            transport, protocol = await asyncio.get_running_loop().create_connection(
                factory, "127.0.0.1", self._address.port
            )
        return transport, protocol, f"ipv4:127.0.0.1:{transport.get_extra_info('sockname')[1]}"


def inner(outer: Path | None = None) -> Inner:
    """Return the best that this system has. `outer`: the file of the socket that callers connect to, if it has one."""
    if sys.platform != "linux":
        return Loopback()
    return AbstractSocket() if outer is None else FileSocket(outer)
