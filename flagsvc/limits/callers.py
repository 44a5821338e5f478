"""Whose share a call takes from: the token's or other identity's, else that of the address."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.peers import host_of
from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.limits.share import Share
from flagsvc.limits.table import Table

_BY_ADDRESS = frozenset({Kind.UNCHECKED, Kind.ANONYMOUS})
_IPV6 = "ipv6:"
_IPV6_PREFIX = 64


def share_of(table: Table, connection: Any, peer_of: Callable[[Any], str]) -> Share:
    """Return the share of the call that runs now. `peer_of`: returns the address of its connection, as `Peers.of`."""
    caller = CALLER.get()
    if caller is not UNCHECKED and caller.kind not in _BY_ADDRESS:
        key = (caller.kind, caller.id, caller.rate)
        return table.by_identity.get(key) or table.of_identity(key, str(caller), _rate_of(caller, table))
    peer = peer_of(connection)
    return table.by_address.get(peer) or table.of_address(peer, network_of(peer))


def network_of(peer: str) -> str:
    """Return the address in a peer's name, for IPv6 the network of 64 bits: one caller has all addresses of it."""
    host = host_of(peer)
    if not host.startswith(_IPV6):
        return host
    address = host.removeprefix(_IPV6).replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        return f"{_IPV6}{ipaddress.ip_network((address, _IPV6_PREFIX), strict=False)}"
    except ValueError:
        return host


def _rate_of(caller: Identity, table: Table) -> float:
    """Return a caller's own rate, which is of evaluations; 0 if it has none."""
    return caller.rate if table.kind == "evaluate" else 0.0
