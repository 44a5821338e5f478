"""Bounds what failed verifications cost, for each network and for all together."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from flagsvc.core.errors import Overloaded

PER_NETWORK, PER_NETWORK_S = 100.0, 2.0
"""Failures that a network may cause at once, and further ones a second."""
IN_ALL, IN_ALL_S = 500.0, 50.0
MAX_NETWORKS = 10_000


@dataclass(slots=True)
class Budget:
    """A number of failures that is spent, and grows back with time."""

    most: float
    per_s: float
    left: float
    at: float

    def refill(self, now: float) -> float:
        """Return what is left now."""
        self.left, self.at = min(self.most, self.left + (now - self.at) * self.per_s), now
        return self.left


class Failures:
    """Counts failures by network. A network without failures is tried whatever others do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Budget(IN_ALL, IN_ALL_S, IN_ALL, clock())
        self._networks: OrderedDict[str, Budget] = OrderedDict()

    def check(self, peer: str) -> None:
        """Raise Overloaded if no further verification is paid for the peer's network now."""
        budget = self._networks.get(network_of(peer))
        if budget is None:
            return
        now = self._clock()
        if budget.refill(now) < 1 or (self._all.refill(now) < 1 and budget.left < budget.most):
            raise Overloaded("too many tokens from this network could not be verified; retry later")

    def failed(self, peer: str) -> None:
        """Count a failed verification."""
        network, now = network_of(peer), self._clock()
        budget = self._networks.setdefault(network, Budget(PER_NETWORK, PER_NETWORK_S, PER_NETWORK, now))
        budget.refill(now)
        self._all.refill(now)
        budget.left -= 1
        self._all.left -= 1
        self._networks.move_to_end(network)
        if len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)


def network_of(peer: str) -> str:
    """Return a peer's network: its IPv4 address, or the /64 of its IPv6 address; else the text itself, without port."""
    kind, _, rest = peer.partition(":")
    if kind != "ipv6":
        return peer.rpartition(":")[0] if kind == "ipv4" else kind
    address = unquote(rest).rpartition("]")[0].removeprefix("[").partition("%")[0]
    try:
        return str(ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        return kind
