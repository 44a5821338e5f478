"""Who calls: the address in a peer's name."""

from __future__ import annotations


def host_of(peer: str) -> str:
    """Return the address without the port: `ipv4:10.0.0.1` of `ipv4:10.0.0.1:50000`."""
    return peer.rpartition(":")[0]
