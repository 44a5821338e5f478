"""The keeper on a real Redis: what it vouches for is never older than what it says, whatever was lost before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents, Vouched
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.view.near_cache import NearCache

A = FlagId("default", "a")
LEASE_S = 4.0


def entry(revision: int) -> Entry:
    return Entry.of(Flag(key="a", revision=revision))


class LossyCache(RedisCache):
    """Redis behind a line that loses the next puts."""

    lose = 0

    async def put(self, entries: Sequence[Entry], as_of: float, **options: Any) -> bool:
        if self.lose and entries:
            self.lose -= 1
            return False
        return await super().put(entries, as_of, **options)

    async def vouch(self, as_of: float, lease_s: float, *, anew: bool, entries: Sequence[Entry] = ()) -> Vouched:
        if self.lose and entries:
            self.lose -= 1
            return Vouched.LOST
        return await super().vouch(as_of, lease_s, anew=anew, entries=entries)


@pytest.fixture
async def cache(redis_clean_url: str) -> AsyncIterator[LossyCache]:
    cache = LossyCache(redis_clean_url, timeout_s=1.0)
    await cache.open()
    yield cache
    await cache.close()


def loaded(revision: int, limit: int = 10) -> NearCache:
    near = NearCache(limit, 5.0)
    near.merge(
        StoreContents([Flag(key="a", revision=revision)], {"default": revision}), time.monotonic(), time.monotonic()
    )
    return near


async def age_of(cache: RedisCache) -> tuple[int, float]:
    """What Redis holds of the flag, and how old it may be."""
    found = await cache.fetch(A, 1e6)
    assert found is not None
    return (found.entry.revision if found.entry else -1), time.monotonic() - found.as_of


async def test_it_puts_everything_and_vouches_for_it_again_and_again(cache: LossyCache) -> None:
    near = loaded(3)
    keeper = CacheLease(near, cache)
    await keeper._keep(LEASE_S)
    assert keeper.is_holder
    assert (await age_of(cache))[0] == 3
    near.mark_verified(confirmed_at := time.monotonic())
    await keeper._keep(LEASE_S)
    revision, age = await age_of(cache)
    assert (revision, age < time.monotonic() - confirmed_at + 0.1) == (3, True)


async def test_a_change_that_its_writer_did_not_put_is_put_before_the_next_word(cache: LossyCache) -> None:
    near = loaded(3)
    keeper = CacheLease(near, cache)
    await keeper._keep(LEASE_S)
    near.apply_change(entry(4), time.monotonic())
    near.mark_verified(time.monotonic())
    cache.lose = 1
    await keeper._keep(LEASE_S)
    revision, age = await age_of(cache)
    assert revision == 3, "the put was lost"
    await asyncio.sleep(0.2)
    assert (await age_of(cache))[1] >= age + 0.2, "so nothing newer is vouched for"
    near.mark_verified(time.monotonic())
    await keeper._keep(LEASE_S)
    assert (await age_of(cache))[0] == 4


async def test_a_change_is_put_with_every_word_until_one_reaches_it(cache: LossyCache, redis_clean_url: str) -> None:
    near = loaded(3)
    keeper = CacheLease(near, cache)
    await keeper._keep(LEASE_S)
    near.apply_change(entry(4), time.monotonic())
    await keeper._keep(LEASE_S)  # a word about the moment before that
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.delete("feature-flag:a")
    near.mark_verified(time.monotonic())
    await keeper._keep(LEASE_S)
    assert (await age_of(cache))[0] == 4


async def test_what_was_noted_and_then_overtaken_by_a_load_is_not_put_as_if_it_were_new(cache: LossyCache) -> None:
    near = NearCache(10, 5.0)
    keeper = CacheLease(near, cache)
    asked_at = time.monotonic()
    near.apply_change(entry(2), time.monotonic())
    near.merge(StoreContents([Flag(key="a", revision=3)], {"default": 3}), asked_at, asked_at)
    cache.lose = 1
    await keeper._keep(LEASE_S)
    await keeper._keep(LEASE_S)
    revision, age = await age_of(cache)
    assert revision == 3 or age > LEASE_S, f"revision {revision} is vouched for as of {age:.3f} s ago"


async def test_what_was_noted_and_overtaken_and_is_not_held_makes_it_begin_anew(cache: LossyCache) -> None:
    near = NearCache(1, 5.0)
    keeper = CacheLease(near, cache)
    near.mark_gap({}, time.monotonic())
    await keeper._keep(LEASE_S)
    assert (keeper.is_holder, keeper.acquired) == (True, 1)
    near.apply_change(entry(2), time.monotonic())
    near.apply_read(entry(3), time.monotonic(), time.monotonic())
    near.apply_read(Entry.of(Flag(key="b", revision=1)), time.monotonic(), time.monotonic())
    near.mark_verified(time.monotonic())
    await keeper._keep(LEASE_S)
    assert keeper.acquired == 2
    assert (await age_of(cache))[0] == -1


@pytest.mark.parametrize("loss", ["emptied", "old mark"])
async def test_a_redis_that_is_not_what_it_was_is_not_believed(
    cache: LossyCache, redis_clean_url: str, loss: str
) -> None:
    near = loaded(3)
    keeper = CacheLease(near, cache)
    await keeper._keep(LEASE_S)
    with redis.Redis.from_url(redis_clean_url) as direct:
        old = {key: direct.dump(key) for key in direct.scan_iter()}
        near.apply_change(entry(4), time.monotonic())
        near.mark_verified(time.monotonic())
        await keeper._keep(LEASE_S)
        assert (await age_of(cache))[0] == 4
        direct.flushall()
        if loss == "old mark":
            for key, value in old.items():
                direct.restore(key, 10_000, value)
    near.mark_verified(time.monotonic())
    await keeper._keep(LEASE_S)
    assert not keeper.is_holder
    near.mark_verified(time.monotonic())
    await keeper._keep(LEASE_S)
    assert keeper.is_holder
    revision, age = await age_of(cache)
    assert (revision, age < 1.0) == (4, True)


async def test_only_one_of_two_keeps_and_the_other_takes_over(redis_clean_url: str, cache: LossyCache) -> None:
    other_cache = RedisCache(redis_clean_url, timeout_s=1.0)
    near, other_near = loaded(3), loaded(3)
    first, second = CacheLease(near, cache), CacheLease(other_near, other_cache)
    await first._keep(3.0)
    await second._keep(1.0)
    assert (first.is_holder, second.is_holder) == (True, False)
    deadline = time.monotonic() + 20
    while not second.is_holder:
        assert time.monotonic() < deadline
        other_near.mark_verified(time.monotonic())
        await second._keep(1.0)
    await other_cache.close()
