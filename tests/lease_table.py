"""How well a healthy replica keeps the cache lease, by staleness bound, on a real MongoDB and Redis.

python -m tests.lease_table [SECONDS]    a row for each bound, measured for so long (9 s)
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import NamedTuple

import structlog

from tests.replicas import replica, until
from tests.servers import Mongod, RedisServer

BOUNDS_S = (5.0, 3.0, 2.5, 1.5, 1.0)
_SAMPLE_EVERY_S = 0.01


class Row(NamedTuple):
    """What was seen of one replica. `longest_pause_s`: the longest time between two samples."""

    bound_s: float
    share_held: float
    acquired: int
    greatest_view_age_s: float
    longest_pause_s: float


async def measure(store_url: str, cache_url: str, bound_s: float, seconds: float) -> Row:
    """Run a replica in this process, and watch it from when it first holds the lease."""
    settings = {"store_url": store_url, "cache_url": cache_url, "staleness_bound_s": bound_s}
    async with replica(**settings) as (_, server):
        lease, near = server.replica.cache_lease, server.replica.near
        await until(lambda: lease.is_holder)
        held: list[bool] = []
        view_age_s = pause_s = 0.0
        last = began = time.monotonic()
        while last - began < seconds:
            await asyncio.sleep(_SAMPLE_EVERY_S)
            now = time.monotonic()
            held.append(lease.is_holder)
            view_age_s, pause_s = max(view_age_s, now - near.verified_at), max(pause_s, now - last)
            last = now
        return Row(bound_s, sum(held) / len(held), lease.acquired, view_age_s, pause_s)


async def _table(seconds: float) -> None:
    print("bound s | lease held | acquired | greatest view age s | longest pause s")  # noqa: T201
    for bound_s in BOUNDS_S:
        with Mongod() as mongod, RedisServer() as redis:
            row = await measure(mongod.database_url("flags"), redis.url, bound_s, seconds)
        shown = f"{row.acquired:8} | {row.greatest_view_age_s:19.2f} | {row.longest_pause_s:15.2f}"
        print(f"{row.bound_s:7.1f} | {row.share_held:10.1%} | {shown}", flush=True)  # noqa: T201


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(_table(float(sys.argv[1]) if len(sys.argv) > 1 else 9.0))
