"""Takes units of shares for calls that a second thread answers. It writes nothing that the event loop writes."""

from __future__ import annotations

from flagsvc.core.access.identity import Identity, Kind
from flagsvc.limits.share import Share
from flagsvc.limits.table import Table

_BY_ADDRESS = (Kind.UNCHECKED, Kind.ANONYMOUS)


class SecondThread:
    """The shares of one class, for one thread besides the event loop's.

    It refuses nobody. Whoever has no share here yet, or one that runs low, is left to the event loop, which knows what
    other replicas have used and decides.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._low: dict[Share, None] = {}

    def share(self, caller: Identity, peer: str) -> Share | None:
        """Return the share that a call takes from, by `took`; None if the event loop has to decide."""
        table = self._table
        share = table.by_address.get(peer) if caller.kind in _BY_ADDRESS else table.by_identity.get(caller)
        if share is None:
            return None
        if share.folded - share.elsewhere + share.left >= share.low:  # in this order: see `Share.fold`
            return share
        self._low[share] = None
        return None

    @staticmethod
    def took(share: Share) -> None:
        """Take the unit of a call that was answered."""
        share.elsewhere += 1

    def fold(self) -> None:
        """Subtract what was taken of the shares that run low. Call it in the event loop, before it decides."""
        while self._low:
            self._low.popitem()[0].fold()
