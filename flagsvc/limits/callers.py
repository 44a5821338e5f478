"""Whose share a call takes from: the token's or other identity's, else that of the address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flagsvc.api.common.peers import network_of
from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.limits.share import Share
from flagsvc.limits.table import Table


def share_of(table: Table, caller: Identity, connection: Any, peer_of: Callable[[Any], str]) -> Share:
    """Return a caller's share. `peer_of`: returns the address of the connection, as `Peers.of`."""
    if caller is not UNCHECKED:
        share = table.by_identity.get(caller)
        if share is not None:
            return share
        if caller.kind is not Kind.ANONYMOUS:
            return table.of_identity(caller, _rate_of(caller, table))
    peer = peer_of(connection)
    return table.by_address.get(peer) or table.of_address(peer, network_of(peer))


def _rate_of(caller: Identity, table: Table) -> float:
    """Return a caller's own rate, which is of evaluations; 0 if it has none."""
    return caller.rate if table.kind == "evaluate" else 0.0
