"""Settles the shares that are in use with the lender, a few times a second, beside the calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from flagsvc.limits.gcra import Lent, Limit, Wish, settle
from flagsvc.limits.share import LEASE_S, Share
from flagsvc.limits.table import Table

JITTER = 0.25
"""Leases are so much earlier or later: no replica is always the first to ask."""
MIN_PAUSE_S = 0.05
"""A share that runs low is settled before its time, but not more often than this."""
CHUNK = 200
"""Shares settled in one round trip."""
SWEEP_S = 30.0
ASSUMED_REPLICAS = 3
"""Until the first lease; then heartbeats have said how many there are."""


class Lender(Protocol):
    """What all replicas borrow from.

    `calls`: how often it was asked. `cause`, `cure`: why it failed the last time, and what to do; empty if it did not.
    """

    calls: int
    cause: str
    cure: str

    async def settle(self, shares: Sequence[Share], wishes: Sequence[Wish]) -> list[Lent] | None:
        """Return what is lent to each share; None if the lender cannot be asked."""


class Leasing:
    """The shares in use. `lender` None: there is nobody to share with.

    `replicas`: their number, as last known. `is_divided`: the lender cannot be asked, so each replica lends itself an
    equal part of each rate.
    """

    def __init__(
        self,
        tables: Iterable[Table],
        lender: Lender | None,
        count_replicas: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables, self._lender, self._count, self._clock = tuple(tables), lender, count_replicas, clock
        self._active: list[Share] = []
        self._low = asyncio.Event()
        self._swept_at = clock()
        self._probe = Share("probe", "", 1.0, 1, clock())
        self._is_tried = lender is None
        self.replicas, self.is_divided = 1, False
        self._note_replicas(1 if lender is None else ASSUMED_REPLICAS)

    def wants(self, share: Share) -> None:
        """Settle a share that runs low: soon, unless the lender had not enough for it before."""
        if not share.is_active:
            share.is_active = True
            self._active.append(share)
        if not share.is_limited:
            self._low.set()

    async def run(self) -> None:
        """Settle for ever."""
        while True:
            await asyncio.sleep(MIN_PAUSE_S)
            pause_s = LEASE_S * random.uniform(1 - JITTER, 1 + JITTER) - MIN_PAUSE_S  # noqa: S311  no secret
            try:
                async with asyncio.timeout(pause_s):
                    await self._low.wait()
            except TimeoutError:
                pass
            await self.step()

    async def step(self) -> None:
        """Settle every share in use, once."""
        self._low.clear()
        active, self._active = self._active, []
        if not active and (self.is_divided or not self._is_tried):
            active = [self._probe]
        for start in range(0, len(active), CHUNK):
            await self._settle(active[start : start + CHUNK])
        if self._clock() - self._swept_at > SWEEP_S:
            self._swept_at = self._clock()
            for table in self._tables:
                table.sweep()
                await asyncio.sleep(0)

    async def _settle(self, shares: Sequence[Share]) -> None:
        now = self._clock()
        wishes = [share.wish(now, self.replicas) for share in shares]
        lent = await self._lender.settle(shares, wishes) if self._lender is not None else None
        self.is_divided = self._lender is not None and lent is None
        if lent is None:
            await asyncio.sleep(0)  # other work goes between two portions
            lent = [self._lend_here(share, wish, now) for share, wish in zip(shares, wishes, strict=True)]
        else:
            self._is_tried = True
            self._note_replicas(max(1, self._count()))
            for share in shares:
                share.local_due = now + share.limit.capacity / share.rate  # an outage gives nobody a second burst
        for share, answer in zip(shares, lent, strict=True):
            share.settle(answer)
            if share.is_active and share is not self._probe:
                self._active.append(share)

    def _lend_here(self, share: Share, wish: Wish, now: float) -> Lent:
        """Lend from this replica's part of the rate."""
        limit = share.limit
        part = Limit(limit.rate / self.replicas, limit.capacity / self.replicas)
        share.local_due, lent = settle(share.local_due, now, part, wish)
        return lent

    def _note_replicas(self, replicas: int) -> None:
        if replicas != self.replicas:
            self.replicas = replicas
            for table in self._tables:
                table.replicas = replicas
