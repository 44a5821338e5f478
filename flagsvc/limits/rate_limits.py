"""The rate limits of one replica: who is refused, what is counted, and what an operator sees of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

import structlog

from flagsvc.core.errors import RateLimited
from flagsvc.limits.leasing import Leasing, Lender
from flagsvc.limits.share import Share
from flagsvc.limits.table import Table
from flagsvc.ports import Problem
from flagsvc.telemetry import Sample

LOG_EVERY_S = 10.0
_ADDRESSES = ("ipv4:", "ipv6:", "unix")

log = structlog.get_logger(__name__)


class Mode(StrEnum):
    """What FLAGSVC_RATE_LIMITS decides."""

    OFF = "off"
    SHADOW = "shadow"
    """Count and log what would be refused."""
    ENFORCE = "enforce"


class RateLimits:
    """The tables of all classes. A call takes from its caller's share; a share that runs low goes through `take`."""

    def __init__(
        self, mode: Mode, rates: Mapping[str, float], lender: Lender | None, count_replicas: Callable[[], int]
    ) -> None:
        """`rates`: units per second of one caller, by class."""
        self._is_enforced, self._lender = mode is Mode.ENFORCE, lender
        self.tables = {kind: Table(kind, rate, time.monotonic) for kind, rate in rates.items()}
        self.leasing = Leasing(self.tables.values(), lender, count_replicas)
        self._logged_at = -LOG_EVERY_S

    def charge(self, table: Table, share: Share, units: int) -> None:
        """Take units of a share. Raises RateLimited. `grpc_calls` does so itself for calls of one unit."""
        if share.left >= share.low:
            share.left -= units
        else:
            self.take(table, share, units)

    def take(self, table: Table, share: Share, units: int) -> None:
        """Take units of a share that runs low. Raises RateLimited."""
        self.leasing.wants(share)
        if share.left >= 1.0:
            share.left -= units
            return
        share.refused += units
        table.refused += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            outcome = "refused" if self._is_enforced else "let through, for FLAGSVC_RATE_LIMITS is shadow"
            detail = f"A caller is over its rate: {outcome}. At most one such line is written in {LOG_EVERY_S:g} s."
            log.warning("rate_limited", caller=share.caller, kind=table.kind, rate=share.rate, detail=detail)
        if self._is_enforced:
            caller = "this address" if share.caller.startswith(_ADDRESSES) else share.caller
            raise RateLimited(caller, table.kind, share.rate, share.retry_s)

    def problems(self) -> Iterator[Problem]:
        """Yield that the replicas do not share the limits now."""
        if not self.leasing.is_divided:
            return
        cause, cure = (self._lender.cause, self._lender.cure) if self._lender is not None else ("", "")
        detail = (
            f"Redis cannot be asked about rate limits{f' ({cause})' if cause else ''}: each replica grants its part"
            f" of each rate, by the last known number of replicas, {self.leasing.replicas}"
        )
        yield Problem("rate_limits_divided", detail, cure or "see cache_unavailable")

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        about = "Calls over their caller's rate: refused, or with FLAGSVC_RATE_LIMITS=shadow let through."
        for kind, table in self.tables.items():
            yield Sample("flagsvc_rate_limited_total", about, table.refused, {"class": kind})
        about = "Callers with a share of their rate on this replica."
        for kind, table in self.tables.items():
            yield Sample("flagsvc_rate_limit_callers", about, len(table), {"class": kind})
        calls = self._lender.calls if self._lender is not None else 0
        yield Sample("flagsvc_rate_limit_leases_total", "Scripts sent to Redis for rate limits.", calls)
        about = "1 while Redis cannot be asked, and each replica grants its part of each rate."
        yield Sample("flagsvc_rate_limits_divided", about, int(self.leasing.is_divided))
