"""Builds the rate limits that the settings ask for, and what limits the calls of each protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flagsvc.api.common.interceptors import Before
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.peers import Peers
from flagsvc.api.ofrep.app import Limited, unlimited
from flagsvc.background import BackgroundTasks
from flagsvc.limits.grpc_calls import RateLimiting, taking_one
from flagsvc.limits.http_calls import OfrepLimit
from flagsvc.limits.rate_limits import Mode, RateLimits
from flagsvc.limits.weights import kind_of
from flagsvc.replica import Replica
from flagsvc.setting_values import rates
from flagsvc.settings import Settings
from flagsvc.telemetry import Sample

if TYPE_CHECKING:
    from flagsvc.limits.redis_lender import RedisLender


class Limiting:
    """The rate limits of a server. With FLAGSVC_RATE_LIMITS=off there are none, and nothing stands before a call."""

    def __init__(self, settings: Settings, replica: Replica) -> None:
        self._near = replica.near
        self.limits: RateLimits | None = None
        mode = Mode(settings.rate_limits)
        if mode is not Mode.OFF:
            self.limits = RateLimits(mode, rates(settings.rates), _lender(replica), replica.heartbeats.count)
            replica.more_problems.append(self.limits.problems)

    def wrappers(self) -> Sequence[Callable[[Listener, Peers], RateLimiting]]:
        """Return what makes the wrapper of a listener's handlers."""
        if self.limits is None:
            return ()
        return (partial(RateLimiting, self.limits, count=self._count),)

    def before(self, method: str, peers: Peers) -> Before | None:
        """Return what takes the first unit of each unary call of a method; None if its calls are not limited."""
        kind = kind_of(method)
        return None if self.limits is None or kind is None else taking_one(self.limits, kind, peers)

    def ofrep(self, listener: Listener) -> Limited:
        """Return what limits OFREP's handlers."""
        return unlimited if self.limits is None else OfrepLimit(self.limits, listener, self._count)

    def start(self, tasks: BackgroundTasks) -> None:
        """Begin to settle shares, as a task of the server's."""
        if self.limits is not None:
            tasks.start(self.limits.leasing.run(), "rate-limits")

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        if self.limits is not None:
            yield from self.limits.samples()

    def _count(self, flag_set: str) -> int:
        return self._near.totals_of(flag_set).flags


def _lender(replica: Replica) -> RedisLender | None:
    """Return what all replicas borrow from; None without a shared cache."""
    if replica.cache is None:
        return None
    from flagsvc.adapters.redis.cache import RedisCache  # noqa: PLC0415  a driver is imported only if it is used
    from flagsvc.limits.redis_lender import RedisLender  # noqa: PLC0415

    return RedisLender(replica.cache.client) if isinstance(replica.cache, RedisCache) else None
