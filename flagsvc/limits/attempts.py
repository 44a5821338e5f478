"""Which failed credentials are worth a record, bounded for each network: an IPv4 address, or 64 bits of IPv6.

A right credential is never refused for the failures of others behind the same address. A token of flagsvc that is wrong
costs what a right one costs, a digest and a lookup; what JWTs cost is bounded by their own verification.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flagsvc.api.common.peers import network_of

RECORDED_PER_S, RECORDED_BURST = 0.2, 5.0
"""Failures of one network that are logged and audited: so many at once, and then so many a second."""
MAX_NETWORKS = 10_000
"""Further networks count as one."""
SWEEP_S = 1.0
_OTHERS = "others"


class FailedAttempts:
    """`total`: failures; `unrecorded`: those that were only counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recorded = _Buckets(RECORDED_PER_S, RECORDED_BURST)
        self.total = self.unrecorded = 0

    def note(self, peer: str) -> bool:
        """Count a failure of a connection, named as `Peers.of` has it. Return whether to log and audit it."""
        now, network = self._clock(), network_of(peer)
        self.total += 1
        is_recorded = self._recorded.take(network, now)
        self.unrecorded += not is_recorded
        return is_recorded


class _Buckets:
    """The generic cell rate algorithm, one moment for each network: when all it has used is regained."""

    def __init__(self, rate: float, burst: float) -> None:
        self._each_s, self._burst_s = 1 / rate, burst / rate
        self._due: dict[str, float] = {}
        self._swept_at = -SWEEP_S

    def take(self, network: str, now: float) -> bool:
        if network not in self._due and len(self._due) >= MAX_NETWORKS:
            self._forget_idle(now)
            if len(self._due) >= MAX_NETWORKS:
                network = _OTHERS
        if not self.has_room(network, now):
            return False
        self._due[network] = max(self._due.get(network, now), now) + self._each_s
        return True

    def _forget_idle(self, now: float) -> None:
        """Forget networks that owe nothing, at most once a second: it looks at all of them."""
        if now - self._swept_at >= SWEEP_S:
            self._swept_at = now
            self._due = {name: due for name, due in self._due.items() if due > now}

    def has_room(self, network: str, now: float) -> bool:
        return self._due.get(network, now) + self._each_s - now <= self._burst_s + 1e-9
