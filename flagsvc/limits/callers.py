"""Whose share a call takes from: the token's or other identity's, else that of the address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.peers import network_of
from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.limits.share import Share
from flagsvc.limits.table import Table


def share_of(table: Table, connection: Any, peer_of: Callable[[Any], str]) -> Share:
    """Return the share of the call that runs now. `peer_of`: returns the address of its connection, as `Peers.of`."""
    caller = CALLER.get()
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
