"""Bounds what failed verifications cost, for each network and for all together.

A network that fails too often is refused nothing for that: its tokens are verified one by one, slowly, in turns with
other such networks. So a right token of it waits, and is refused only where too many wait already.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from flagsvc.core.errors import Overloaded

PER_NETWORK, PER_NETWORK_S = 100.0, 2.0
"""Failures that a network may cause at once, and further ones a second."""
IN_ALL, IN_ALL_S = 500.0, 50.0
MAX_NETWORKS = 10_000
TURN_S = 0.005
"""Seconds that a verification in turns takes at least: all networks that fail too often get 200 a second."""
MAX_WAITING, MAX_WAITING_PER_NETWORK = 300, 50
"""Tokens that wait for a turn."""


@dataclass(slots=True)
class Budget:
    """A number of failures that is spent, and grows back with time. For a network also its turns."""

    most: float
    per_s: float
    left: float
    at: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0

    def refill(self, now: float) -> float:
        """Return what is left now."""
        self.left, self.at = min(self.most, self.left + (now - self.at) * self.per_s), now
        return self.left


class Failures:
    """Counts failures by network. A network without failures is tried at once, whatever others do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Budget(IN_ALL, IN_ALL_S, IN_ALL, clock())
        self._networks: OrderedDict[str, Budget] = OrderedDict()
        self._turn = asyncio.Lock()
        self._waiting = 0

    def check(self, peer: str) -> None:
        """Raise Overloaded if a further token of the peer's network would wait for its turn, and too many do."""
        budget = self._slow(peer)
        if budget is not None and (self._waiting >= MAX_WAITING or budget.waiting >= MAX_WAITING_PER_NETWORK):
            raise Overloaded("too many tokens from this network could not be verified; retry later")

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Verify a token in this block: at once, or if its network fails too often in its turn. Raises as `check`."""
        budget = self._slow(peer)
        if budget is None:
            yield
            return
        self.check(peer)
        self._waiting += 1
        budget.waiting += 1
        try:
            async with budget.turn, self._turn:  # one of each network waits for the turn of all
                yield
                await asyncio.sleep(TURN_S)
        finally:
            self._waiting -= 1
            budget.waiting -= 1

    def failed(self, peer: str) -> None:
        """Count a failed verification."""
        network, now = network_of(peer), self._clock()
        budget = self._networks.setdefault(network, Budget(PER_NETWORK, PER_NETWORK_S, PER_NETWORK, now))
        budget.left = max(0.0, budget.refill(now) - 1)
        self._all.left = max(0.0, self._all.refill(now) - 1)
        self._networks.move_to_end(network)
        if len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)

    def _slow(self, peer: str) -> Budget | None:
        """Return the budget of a network that fails too often; None for another one."""
        budget = self._networks.get(network_of(peer))
        if budget is None:
            return None
        now = self._clock()
        is_slow = budget.refill(now) < 1 or (self._all.refill(now) < 1 and budget.left < budget.most)
        return budget if is_slow else None


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
