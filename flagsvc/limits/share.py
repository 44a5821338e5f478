"""One replica's share of a caller's rate. Pure.

Calls take from `left`, which is a number in memory. It has two parts. The float belongs to the replica: it may be used
before anybody was asked, and is charged afterwards. The rest was lent, for about one lease interval of demand.

The limits of all replicas together add up to `BURST_S` seconds of the rate: the lender's capacity, the floats, and what
is regained while a loan lies unused.
"""

from __future__ import annotations

from flagsvc.limits.gcra import Lent, Limit, Wish

LEASE_S = 0.2
"""Seconds between two leases, on average."""
BURST_S = 2.0
"""A caller may use so many seconds of its rate at once, over all replicas, after a pause."""
FLOAT_S, CAPACITY_S = 1.0, 0.75
"""The parts of the burst: the replicas' floats together, and what can be on loan."""
SPARE = 1.25
"""What is asked for, as a multiple of the demand since the last lease."""
MIN_ELAPSED_S = 0.02
_ROUNDING = 1e-3
"""Units that the lender may cut off."""


class Share:
    """A share.

    `left`: units that calls can take here. A call passes while one is left; a large call may take more than that, and
    what it took beyond is paid back before the next one passes.

    `low`: below so many units a lease is needed. `is_active`: it is settled at each lease. `is_limited`: the last lease
    had less than was wanted. `refused`: units of calls refused since.

    `elsewhere`: units that calls of a second thread took. Only that thread writes it, and nothing else of a share.
    `folded`: how many of them `left` is without.
    """

    __slots__ = (
        "_base",
        "_credit",
        "_float",
        "_settled_at",
        "_wanted",
        "caller",
        "elsewhere",
        "folded",
        "is_active",
        "is_limited",
        "left",
        "local_due",
        "low",
        "marked",
        "name",
        "rate",
        "refused",
    )

    def __init__(self, name: str, caller: str, rate: float, replicas: int, now: float) -> None:
        """`name`: the share's name for the lender; `caller`: for people. `rate`: units per second of all replicas."""
        self.name, self.caller, self.rate = name, caller, rate
        self._float = self._credit = self._base = self.left = max(1.0, FLOAT_S * rate / replicas)
        self.low = max(1.0, self._float / 2)
        self.refused = self._wanted = 0.0
        self.elsewhere = self.folded = 0
        self.is_active = self.is_limited = False
        self._settled_at = now
        self.local_due = 0.0
        self.marked = -1.0

    @property
    def limit(self) -> Limit:
        """What the lender goes by."""
        return Limit(self.rate, CAPACITY_S * self.rate)

    @property
    def retry_s(self) -> float:
        """Seconds after which a refused call may pass."""
        return max(LEASE_S, (1.0 - self.left) / self.rate)

    def fold(self) -> None:
        """Subtract what a second thread took. For a moment that thread sees too few units left, never too many."""
        taken = self.elsewhere
        self.left -= taken - self.folded
        self.folded = taken

    def wish(self, now: float, replicas: int) -> Wish:
        """Return what to settle with the lender. Calls go on meanwhile."""
        self.fold()
        kept = min(self._credit, max(self.left, 0.0))
        charged, self._credit = self._credit - kept, kept
        self._resize(replicas)  # after what was used is charged: only unused credit can be too much
        kept = self._credit
        elapsed = min(max(now - self._settled_at, MIN_ELAPSED_S), LEASE_S)
        demand = (self._base - self.left + self.refused) * LEASE_S / elapsed
        target = 0.0 if demand <= self._float / 2 else min(SPARE * demand, CAPACITY_S * self.rate)
        lent = self.left - kept
        returned = max(lent - target, 0.0)
        self.left -= returned
        self._base, self.refused, self._settled_at = self.left, 0.0, now
        self._wanted = max(target - lent, 0.0)
        return Wish(charged, returned, self._wanted)

    def settle(self, lent: Lent) -> None:
        """Take what was lent, and refill the float as far as the lender has room."""
        refill = min(self._float - self._credit, lent.room)
        self._credit += refill
        self.left += lent.granted + refill
        self._base += lent.granted + refill
        self.is_limited = lent.granted < self._wanted - _ROUNDING
        self.is_active = self._wanted > 0 or self.left < self._float - _ROUNDING or self.left > self._float + _ROUNDING

    def _resize(self, replicas: int) -> None:
        """Fit the float to the number of replicas."""
        self._float = max(1.0, FLOAT_S * self.rate / replicas)
        self.low = max(1.0, self._float / 2)
        surplus = self._credit - self._float
        if surplus > 0:
            self._credit -= surplus
            self.left -= surplus
            self._base -= surplus
