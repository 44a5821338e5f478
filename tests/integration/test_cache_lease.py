"""The cache lease on a real Redis: entries are never older than certified, and one replica at a time holds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, LeaseAnswer, LeaseState, StoreContents
from flagsvc.replication import cache_lease
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache
from tests.near_caches import merge
from tests.replicas import until
from tests.servers import RedisServer
from tests.stores import LEASE_KEY, STORE

A = FlagId("default", "a")
TIMING = Timing.of_bound(5.0)
LASTING = replace(TIMING, lease_s=60.0)
"""For tests in which the lease must not run out, however slow the machine is."""


def entry(revision: int) -> Entry:
    return Entry.of(Flag(key="a", revision=revision))


class LossyCache(RedisCache):
    """Redis behind a connection that loses the next puts; `given` are the views' moments that it was given."""

    lose = 0

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.given: list[float] = []

    async def put(self, entries: Sequence[Entry], as_of: float, **options: Any) -> bool:
        if self.lose and entries:
            self.lose -= 1
            return False
        return await super().put(entries, as_of, **options)

    async def renew_lease(self, as_of: float, lease_s: float, entries: Sequence[Entry]) -> LeaseAnswer:
        self.given.append(as_of)
        if self.lose and entries:
            self.lose -= 1
            return LeaseAnswer(LeaseState.UNREACHABLE)
        return await super().renew_lease(as_of, lease_s, entries)


@pytest.fixture
async def cache(redis_clean_url: str) -> AsyncIterator[LossyCache]:
    cache = LossyCache(redis_clean_url, timeout_s=1.0, identity=STORE)
    await cache.open()
    yield cache
    await cache.close()


def loaded(revision: int, limit: int = 10) -> NearCache:
    near = NearCache(limit, 5.0)
    now = time.monotonic()
    merge(near, StoreContents([Flag(key="a", revision=revision)], {"default": revision}), now, now)
    return near


async def age_of(cache: RedisCache) -> tuple[int, float]:
    """Return the flag's revision in Redis, and how old it may be."""
    found = await cache.fetch(A, 1e6)
    assert found is not None
    return (found.entry.revision if found.entry else -1), time.monotonic() - found.as_of


# What is put, and what is certified


async def test_the_holder_puts_everything_and_certifies_it_with_each_renewal(cache: LossyCache) -> None:
    near = loaded(3)
    lease = CacheLease(near, cache, LASTING)
    await lease.step()
    assert lease.is_holder
    assert (await age_of(cache))[0] == 3
    verified_at = time.monotonic()
    near.mark_verified(verified_at)
    await lease.step()
    revision, age_s = await age_of(cache)
    assert revision == 3
    assert age_s < time.monotonic() - verified_at + 0.1


async def test_the_lease_is_renewed_while_everything_is_put(cache: LossyCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_lease, "CHUNK", 2)
    near, now = NearCache(20, 5.0), time.monotonic()
    flags = [Flag(key=f"k{number}", revision=number) for number in range(1, 11)]
    merge(near, StoreContents(flags, {"default": 10}), now, now)
    lease = CacheLease(near, cache, replace(LASTING, renew_every_s=0.0))
    await lease.step()
    assert cache.given == [now] * 5
    assert lease.is_holder
    assert None not in await cache.peek([flag.id for flag in flags])
    near.partial.gaps += 1  # changes were missed
    await lease.step()
    assert len(cache.given) == 10
    monkeypatch.setattr(near, "ids", lambda: (near.mark_gap({}, now), iter([flag.id for flag in flags]))[1])
    near.partial.gaps += 1
    await lease.step()
    assert len(cache.given) == 10, "what is put now is not everything"


async def test_a_change_that_its_writer_did_not_put_is_put_before_the_next_renewal(cache: LossyCache) -> None:
    near = loaded(3)
    covered = near.verified_at
    lease = CacheLease(near, cache, LASTING)
    await lease.step()
    await asyncio.sleep(0.2)
    near.apply_change(entry(4), time.monotonic())
    near.mark_verified(time.monotonic())
    cache.lose = 1
    await lease.step()
    revision, age_s = await age_of(cache)
    assert revision == 3, "the put was lost"
    assert age_s > time.monotonic() - covered - 0.1, "so nothing newer is certified"
    near.mark_verified(time.monotonic())
    await lease.step()
    assert (await age_of(cache))[0] == 4


async def test_a_change_is_put_with_every_renewal_until_one_covers_it(cache: LossyCache, redis_clean_url: str) -> None:
    near = loaded(3)
    lease = CacheLease(near, cache, LASTING)
    await lease.step()
    near.apply_change(entry(4), time.monotonic())
    await lease.step()  # as of a moment before the change
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.delete("feature-flag:a")
    near.mark_verified(time.monotonic())
    await lease.step()
    assert (await age_of(cache))[0] == 4


async def test_a_change_that_a_load_has_overtaken_is_not_put_as_if_it_were_new(cache: LossyCache) -> None:
    near = NearCache(10, 5.0)
    lease = CacheLease(near, cache, TIMING)
    asked_at = time.monotonic()
    near.apply_change(entry(2), time.monotonic())
    merge(near, StoreContents([Flag(key="a", revision=3)], {"default": 3}), asked_at, asked_at)
    cache.lose = 1
    await lease.step()
    await lease.step()
    revision, age_s = await age_of(cache)
    assert revision == 3 or age_s > TIMING.lease_s, f"revision {revision} is certified as of {age_s:.3f} s ago"


async def test_a_change_that_was_overtaken_and_evicted_makes_the_holder_acquire_again(cache: LossyCache) -> None:
    near = NearCache(1, 5.0)
    lease = CacheLease(near, cache, TIMING)
    near.mark_gap({}, time.monotonic())
    await lease.step()
    assert (lease.is_holder, lease.acquired) == (True, 1)
    near.apply_change(entry(2), time.monotonic())
    near.apply_read(entry(3), time.monotonic(), time.monotonic())
    near.apply_read(Entry.of(Flag(key="b", revision=1)), time.monotonic(), time.monotonic())
    near.mark_verified(time.monotonic())
    await lease.step()
    assert lease.acquired == 2
    assert (await age_of(cache))[0] == -1


@pytest.mark.parametrize(("loss", "reason"), [("emptied", "expired"), ("old dump", "replaced")])
async def test_after_redis_lost_data_the_lease_is_acquired_again(
    cache: LossyCache, redis_clean_url: str, loss: str, reason: str
) -> None:
    near = loaded(3)
    lease = CacheLease(near, cache, LASTING)
    await lease.step()
    with redis.Redis.from_url(redis_clean_url) as direct:
        old = {key: direct.dump(key) for key in direct.scan_iter()}
        near.apply_change(entry(4), time.monotonic())
        near.mark_verified(time.monotonic())
        await lease.step()
        assert (await age_of(cache))[0] == 4
        direct.flushall()
        if loss == "old dump":
            for key, value in old.items():
                direct.restore(key, 60_000, value)
    near.mark_verified(time.monotonic())
    assert await losses(lease) == [reason]
    assert not lease.is_holder
    near.mark_verified(time.monotonic())
    await lease.step()
    assert (lease.is_holder, lease.acquired) == (True, 2)
    revision, age_s = await age_of(cache)
    assert (revision, age_s < 1.0) == (4, True)


# Who holds it


async def losses(lease: CacheLease) -> list[str]:
    """Take one step; return why the lease was lost in it, as logged."""
    with capture_logs() as lines:
        await lease.step()
    return [line["reason"] for line in lines if line["event"] == "cache_lease_lost"]


async def test_an_old_view_acquires_no_lease_but_renews_the_one_it_holds(cache: LossyCache) -> None:
    """After a pause of the process the view is old, and a renewal that was skipped would lose the lease."""
    near = loaded(3)
    near.verified_at = time.monotonic() - 0.51 * LASTING.lease_s
    lease = CacheLease(near, cache, LASTING)
    await lease.step()
    assert (lease.is_holder, lease.acquired) == (False, 0)
    near.verified_at = time.monotonic() - 0.4 * LASTING.lease_s
    await lease.step()
    assert (lease.is_holder, lease.acquired) == (True, 1)
    near.verified_at = old = time.monotonic() - 0.9 * LASTING.lease_s
    await lease.step()
    assert cache.given == [old]
    assert 0 < lease.left_s <= 0.1 * LASTING.lease_s, "it runs from the view's moment on"
    near.verified_at = time.monotonic()
    await lease.step()
    assert (lease.is_holder, lease.acquired) == (True, 1)
    assert lease.left_s > 0.9 * LASTING.lease_s


async def test_a_view_as_old_as_the_lease_lasts_is_not_renewed_and_the_reason_is_logged(cache: LossyCache) -> None:
    near, timing = loaded(3), replace(TIMING, lease_s=1.0)
    lease = CacheLease(near, cache, timing)
    near.mark_verified(time.monotonic())
    await lease.step()
    assert lease.is_holder
    await until(lambda: not lease.is_holder)
    assert await losses(lease) == ["view_too_old"]
    assert await losses(lease) == [], "it is logged once"
    assert cache.given == []
    near.mark_verified(time.monotonic())
    await lease.step()
    assert (lease.is_holder, lease.acquired) == (True, 2)


async def test_a_holder_whose_redis_freezes_says_by_its_own_clock_that_the_lease_ran_out(
    redis_server: RedisServer,
) -> None:
    cache = LossyCache(redis_server.url, timeout_s=0.5, identity=STORE)
    await cache.open()
    near, timing = loaded(3), replace(TIMING, lease_s=2.0)
    lease = CacheLease(near, cache, timing)
    near.mark_verified(time.monotonic())
    await lease.step()
    assert lease.is_holder
    redis_server.pause()
    near.mark_verified(time.monotonic())
    assert await losses(lease) == ["unreachable"], "the renewal was not answered"
    redis_server.resume()
    await until(lambda: cache.available)
    near.mark_verified(acquired_at := time.monotonic())
    await lease.step()
    assert lease.is_holder
    redis_server.pause()
    assert await cache.fetch(A, 5) is None
    assert not cache.available, "the breaker is open, so no renewal is sent"
    reasons: list[str] = []
    while (now := time.monotonic()) and lease.is_holder:
        assert now < acquired_at + timing.lease_s
        near.mark_verified(time.monotonic())
        reasons += await losses(lease)
        await asyncio.sleep(0.02)
    assert lease.left_s == 0
    near.mark_verified(time.monotonic())
    reasons += await losses(lease)
    assert reasons == ["unreachable"]
    redis_server.resume()
    await cache.close()


async def test_a_lease_that_another_replica_took_is_lost_and_logged(cache: LossyCache, redis_clean_url: str) -> None:
    """As when Redis failed over to a server that did not have the record."""
    lease = CacheLease(loaded(3), cache, LASTING)
    await lease.step()
    async with RedisOf(redis_clean_url) as other_cache:
        with redis.Redis.from_url(redis_clean_url) as direct:
            direct.delete(LEASE_KEY)
        other = CacheLease(loaded(3), other_cache, LASTING)
        await other.step()
        assert other.is_holder
        assert await losses(lease) == ["held_by_other"]
        assert not lease.is_holder


class RedisOf:
    """The cache of another replica, while it is needed."""

    def __init__(self, url: str) -> None:
        self._cache = RedisCache(url, timeout_s=1.0, identity=STORE)

    async def __aenter__(self) -> RedisCache:
        await self._cache.open()
        return self._cache

    async def __aexit__(self, *_: object) -> None:
        await self._cache.close()


async def test_two_replicas_never_hold_the_lease_at_once_while_it_moves_from_one_to_the_other(
    cache: LossyCache, redis_clean_url: str
) -> None:
    timing = replace(TIMING, lease_s=0.6)
    async with RedisOf(redis_clean_url) as other_cache:
        views = loaded(3), loaded(3)
        leases = CacheLease(views[0], cache, timing), CacheLease(views[1], other_cache, timing)
        holders: list[tuple[bool, ...]] = []

        async def watch() -> None:
            while True:
                holders.append(tuple(lease.is_holder for lease in leases))
                await asyncio.sleep(0.001)

        async def until_holder(number: int, verified: Sequence[int]) -> None:
            """Let both replicas take their steps, those of `verified` with a view of now, until this one holds it."""
            async with asyncio.timeout(20):
                while not leases[number].is_holder:
                    for each in verified:
                        views[each].mark_verified(time.monotonic())
                    await asyncio.gather(*(lease.step() for lease in leases))
                    await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        for turn in range(4):
            await until_holder(turn % 2, [turn % 2])  # the other's view is no longer verified, so it loses the lease
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert (True, True) not in holders
        assert {(True, False), (False, True), (False, False)} == set(holders)
        assert all(lease.acquired >= 2 for lease in leases), (
            "each took it from the other; a slow machine may lose it once more"
        )
