"""Where a port listens: at a TCP address, or on a unix socket with a file of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from stat import S_ISSOCK
from typing import TypeVar

from flagsvc.urls import host_and_port

UNIX = "unix:"
OFF = -1
"""The number of a port that is not served."""
BACKLOG = 2_048
"""Connections that wait to be accepted."""
ALIVE_S = 1.0
"""Seconds in which a server that listens on a socket has accepted a connection, or has refused it."""
Port = int | str
"""A port's number, 0 for one that the system chooses, or `unix:PATH`."""
T = TypeVar("T")


class Address:
    """An address to listen on. A unix socket's file is put in place with its mode, and removed by `remove`.

    Its mode is 0660 less the umask: with the usual 022 only its own user can connect, with 007 its group too.
    """

    def __init__(self, host: str, port: Port) -> None:
        self._host, self.port = host, port if isinstance(port, int) else 0
        self.path = Path(port.removeprefix(UNIX)) if isinstance(port, str) else None
        self._own: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Return the address as in settings and logs: `127.0.0.1:8013` or `unix:PATH`."""
        return f"{UNIX}{self.path}" if self.path is not None else host_and_port(self._host, self.port)

    def socket(self) -> socket.socket:
        """Return a listening socket. Raises OSError."""
        if self.path is not None:
            return self._placed(self.path, _unix_socket)
        listening = _tcp_socket(self._host, self.port)
        self.port = listening.getsockname()[1]
        return listening

    def bind(self, add_port: Callable[[str], int]) -> int:
        """Let gRPC listen; return the port, 0 for a unix socket. Raises OSError. It may be called again."""
        try:
            if self.path is not None:
                self._placed(self.path, lambda path: add_port(f"{UNIX}{path}"))
            else:
                self.port = add_port(host_and_port(self._host, self.port))
        except RuntimeError:
            # gRPC does not say why it failed. A plain socket fails for the same reason, and does.
            self.socket().close()
            raise OSError("gRPC cannot bind it") from None
        return self.port

    def remove(self) -> None:
        """Remove the socket's file, unless another server has replaced it."""
        with contextlib.suppress(OSError):
            if self.path is not None and self._is_own(self.path):
                self.path.unlink()

    def _placed(self, path: Path, bind: Callable[[Path], T]) -> T:
        """Listen under a name that nobody knows, then move it to the path, over the file of a server that is gone.

        So the file has its mode before anybody can connect, and gRPC does not remove another server's file.
        """
        if not self._is_own(path):
            _refuse_if_taken(path)
        import secrets  # noqa: PLC0415  not for `flagsvc health`, which imports this module too

        unknown = path.with_name(f".{secrets.token_hex(4)}")
        mask = os.umask(0o177)
        try:
            bound = bind(unknown)
        finally:
            os.umask(mask)
        unknown.chmod(0o660 & ~mask)
        found = unknown.stat()
        unknown.rename(path)
        self._own = found.st_dev, found.st_ino
        return bound

    def _is_own(self, path: Path) -> bool:
        try:
            found = path.lstat()
        except OSError:
            return False
        return self._own == (found.st_dev, found.st_ino)


def _refuse_if_taken(path: Path) -> None:
    """Raise OSError if a server listens on the socket, or if the file is something else."""
    try:
        if not S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "the file exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ALIVE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _unix_socket(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _tcp_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    # asyncio sets TCP_NODELAY only on sockets that it made. Without it a second packet waits 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
