"""Who a caller is by address, whichever way its connection took."""

from __future__ import annotations

import ipaddress
from typing import Any, Protocol
from urllib.parse import quote

_IPV6 = "ipv6:"
_IPV6_PREFIX = 64


class HasPeer(Protocol):
    """A call's context."""

    def peer(self) -> str:
        """Return the peer of the call's connection."""
        ...


class Peers:
    """The callers whose connections are passed on to gRPC: `context.peer()` is then the name of the inner connection.

    A name that is not in the table belongs to another program on this machine and stands for nobody else. The kernel
    gives a name to one connection at a time, so no other program can take one that is in the table.
    """

    def __init__(self) -> None:
        self._callers: dict[str, str] = {}

    def add(self, inner: str, caller: str) -> None:
        """Record who is behind an inner connection."""
        self._callers[inner] = caller

    def remove(self, inner: str) -> None:
        """Forget an inner connection that has ended."""
        self._callers.pop(inner, None)

    def of(self, context: HasPeer) -> str:
        """Return a call's peer in gRPC's form: `ipv4:10.0.0.1:50000`."""
        peer = context.peer()
        return self._callers.get(peer, peer)


def peer_name(address: Any) -> str:
    """Return a socket's address (host, port, ...) in gRPC's form; `unix:` for one that has none."""
    if not isinstance(address, tuple):
        return "unix:"
    host, port = ipaddress.ip_address(str(address[0]).partition("%")[0]), address[1]
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped:
        host = host.ipv4_mapped  # an IPv4 caller of a socket that listens on both
    return f"ipv4:{host}:{port}" if host.version == 4 else f"ipv6:{quote(f'[{host}]', safe=':')}:{port}"  # noqa: PLR2004


def host_of(peer: str) -> str:
    """Return the address in a peer's name, without the port: `ipv4:10.0.0.1` of `ipv4:10.0.0.1:50000`."""
    return peer.rpartition(":")[0]


def network_of(peer: str) -> str:
    """Return the address in a peer's name, for IPv6 the network of 64 bits: one caller has all addresses of it.

    It is what limits of one address are counted by.
    """
    host = host_of(peer)
    if not host.startswith(_IPV6):
        return host
    address = host.removeprefix(_IPV6).replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        return f"{_IPV6}{ipaddress.ip_network((address, _IPV6_PREFIX), strict=False)}"
    except ValueError:
        return host
