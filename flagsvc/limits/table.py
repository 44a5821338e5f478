"""The callers of one class of calls, each with this replica's share of its rate. Bounded; knows no transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b

from flagsvc.core.access.identity import Identity
from flagsvc.limits.share import Share

MAX_SHARES = 10_000
"""Callers of a class with a share of their own; all further ones have one together."""
MAX_ADDRESSES = 20_000
OTHERS = "others"


class Table:
    """The shares of one class. `rate`: units per second of a caller that has no rate of its own."""

    def __init__(self, kind: str, rate: float, clock: Callable[[], float]) -> None:
        self.kind, self.rate, self._clock = kind, rate, clock
        self.replicas = 1
        self.refused = 0
        """Calls refused, or in shadow mode let through beyond the rate."""
        self._shares: dict[tuple[str, float], Share] = {}
        self._others: Share | None = None
        self.by_address: dict[str, Share] = {}
        """Shares by a connection's address with its port: most calls find theirs here."""

        self.by_identity: dict[Identity, Share] = {}
        """Shares by identity. A caller that has changed, or has another secret, is another object of one share."""

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[Share]:
        yield from self._shares.values()
        if self._others is not None:
            yield self._others

    def of_caller(self, caller: str, rate: float = 0.0) -> Share:
        """Return a caller's share. `rate`: its own, in units per second; 0 if it has none."""
        key = (caller, rate or self.rate)
        share = self._shares.get(key)
        if share is not None:
            return share
        if len(self._shares) >= MAX_SHARES:
            if self._others is None:
                self._others = self._new(OTHERS, self.rate)
            return self._others
        share = self._shares[key] = self._new(caller, rate or self.rate)
        return share

    def of_identity(self, caller: Identity, rate: float) -> Share:
        """Return the share of a caller that is known by its credential."""
        share = self.of_caller(str(caller), rate)
        if len(self.by_identity) >= MAX_ADDRESSES:
            self.by_identity.clear()
        self.by_identity[caller] = share
        return share

    def of_address(self, peer: str, caller: str) -> Share:
        """Return the share of a caller that is known by its address. `peer`: the address with its port."""
        share = self.of_caller(caller)
        if len(self.by_address) >= MAX_ADDRESSES:
            self.by_address.clear()
        self.by_address[peer] = share
        return share

    def sweep(self) -> None:
        """Forget shares that nobody used since the last sweep, and that owe nothing."""
        for share in self._shares.values():
            share.fold()
        idle = [key for key, share in self._shares.items() if not share.is_active and share.left == share.marked]
        for key in idle:
            del self._shares[key]
        if idle:
            self.by_address.clear()
            self.by_identity.clear()
        for share in self._shares.values():
            share.marked = share.left

    def _new(self, caller: str, rate: float) -> Share:
        return Share(f"{self.kind}:{_digest(caller)}", caller, rate, self.replicas, self._clock())


def _digest(caller: str) -> str:
    """Return what stands for a caller in Redis: of one length, and no name of anybody."""
    return blake2b(caller.encode(errors="surrogatepass"), digest_size=12).hexdigest()
