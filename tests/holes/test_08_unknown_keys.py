"""Hole 8: callers that ask for keys that do not exist reach the store with each call, and fill the memory."""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.replica import Replica
from flagsvc.settings import Settings
from tests.conftest import FIRST
from tests.holes.stage import ENABLED, NEAR, NONE, OVERFULL, Cached, Running, running, until_lease_held
from tests.replicas import until
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.xdist_group(FIRST)

GROWTH_KB = 30_000
DIFFERENT, TIMES = 200, 12
"""Where not all flags are in memory, each of these keys costs the store one read, however often it is asked for."""
READS_PER_KEY = 3
BATCH = 500
MAX_HIGH_WATER_MARKS = 150


class Reads:
    """Counts the store's reads, those of its polls apart: these come with time, however little is asked."""

    def __init__(self, replica: Replica) -> None:
        self._store, self._polled = replica.store, 0
        self._polling = ContextVar("polling", default=False)
        replica.follower._verify_view = self._poll(replica.follower._verify_view)  # type: ignore[method-assign]
        for name in ("_newest", "load"):
            setattr(self._store, name, self._noted(getattr(self._store, name)))
        self._before = self._store.reads

    def _poll(self, verify_view: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def poll() -> None:
            self._polling.set(True)
            try:
                await verify_view()
            finally:
                self._polling.set(False)

        return poll

    def _noted(self, read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        def noted(*args: Any) -> Awaitable[Any]:
            self._polled += self._polling.get()
            return read(*args)

        return noted

    @property
    def count(self) -> int:
        return int(self._store.reads) - self._before - self._polled


async def ask(asked: Running, first: int, count: int) -> None:
    """Ask for this many nonexistent keys in one call; every one gets an answer."""
    keys = [f"unknown-{number}" for number in range(first, first + count)]
    answer = await asked.client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=keys))
    assert {e.error_code for e in answer.evaluations} == {types.ERROR_CODE_FLAG_NOT_FOUND}


async def test_08_a_hundred_thousand_unknown_keys_cost_a_bounded_amount_and_a_create_is_seen_at_once(
    mongo_database_url: str, redis_clean_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flagsvc.view.partial_view.MAX_HIGH_WATER_MARKS", MAX_HIGH_WATER_MARKS)
    urls = {
        "store_url": mongo_database_url,
        "cache_url": redis_clean_url,
        "negative_ttl_s": 30.0,
        "cache_timeout_s": 5.0,
    }
    async with running(NEAR, OVERFULL, NONE, **urls) as replicas:
        whole, *partial = replicas
        for key in "abc":
            await whole.client.create(key)
        await until_lease_held(replicas)

        reads, memory = Reads(whole.replica), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for first in range(0, 100_000, 1_000):
            await ask(whole, first, 1_000)
        assert reads.count < 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < GROWTH_KB

        for number, each in enumerate(partial):
            reads = Reads(each.replica)
            for _ in range(TIMES):
                await ask(each, 0, DIFFERENT)
            # What one replica did not find, no other looks up. Twice is for an answer that came late on a busy machine.
            most = 2 * READS_PER_KEY * DIFFERENT if number == 0 else READS_PER_KEY * DIFFERENT
            assert reads.count <= most + 20 < DIFFERENT * TIMES
            assert len(each.replica.near) <= each.replica.near.limit
            assert len(each.replica.near.partial.high_water_marks) <= MAX_HIGH_WATER_MARKS
            assert len(each.replica.reader._lookup._reads) == 0
        with Cached(redis_clean_url) as cached:
            assert cached.redis.dbsize() < DIFFERENT + 20

        heard = [each.replica.follower.channels.received for each in partial]
        created = await whole.client.create("unknown-7", status=ENABLED)
        with Cached(redis_clean_url) as cached:
            entry = cached.entry("unknown-7")
        assert entry is not None
        assert entry.revision == created.revision, "it is still reported as unknown"
        assert (await whole.client.evaluate("unknown-7")).enabled
        for each, before in zip(partial, heard, strict=True):
            await until(lambda e=each, b=before: e.replica.follower.channels.received > b)
            assert (await each.client.evaluate("unknown-7")).revision == created.revision, "not seen at once"


async def test_08_a_large_batch_of_unknown_keys_is_looked_up_once_and_costs_nobody_the_shared_cache(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    """With a replica's own time-outs: load that it causes itself is not an outage of Redis.

    Keys of one call are read together.
    """
    usual = Settings()
    defaults = {"cache_timeout_s": usual.cache_timeout_s, "staleness_bound_s": usual.staleness_bound_s}
    urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with running(NONE, **urls, **defaults, negative_ttl_s=60.0) as (bare,):
        await bare.client.create("a")
        await until_lease_held([bare])
        for first in range(0, 20 * BATCH, BATCH):
            reads, since = Reads(bare.replica), Stopwatch()
            for _ in range(2):
                await ask(bare, first, BATCH)
            if bare.replica.cache_is_up():
                break
            assert since.starved_s > usual.cache_timeout_s, "nobody but the replica itself kept Redis waiting"
            await until(bare.replica.cache_is_up)
        assert bare.replica.cache_is_up()
        assert reads.count < BATCH
