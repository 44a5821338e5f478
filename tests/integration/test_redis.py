"""The shared cache on a real Redis: what wins, what it costs when Redis is away, and what the channel tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import redis

from flagsvc.adapters.redis import CHANNEL, RedisCache, cache_key
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Announced, Beat, Entry, Event, Subscribed
from tests.replicas import until
from tests.servers import RedisServer

A = FlagId("default", "a")


@asynccontextmanager
async def cache_on(url: str, **settings: float) -> AsyncIterator[RedisCache]:
    cache = RedisCache(url, **settings)  # type: ignore[arg-type]
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


@pytest.fixture
async def cache(redis_clean_url: str) -> AsyncIterator[RedisCache]:
    async with cache_on(redis_clean_url, timeout_s=0.5) as cache:
        yield cache


def entry(revision: int, *, key: str = "a", flag_set: str = "default", name: str = "") -> Entry:
    return Entry.of(Flag(key=key, flag_set=flag_set, name=name or f"at {revision}", revision=revision))


def tombstone(revision: int) -> Entry:
    return Entry(A, revision, None)


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        (entry(2), entry(1), entry(2)),
        (entry(1), entry(2), entry(2)),
        (entry(2, name="old"), entry(2, name="new"), entry(2, name="new")),
        (tombstone(3), entry(2), tombstone(3)),
        (entry(2), tombstone(3), tombstone(3)),
        (tombstone(3), entry(4), entry(4)),
        (Entry.absent(A), entry(0), entry(0)),
        (entry(0), Entry.absent(A), entry(0)),
        (tombstone(3), Entry.absent(A), tombstone(3)),
        (Entry.absent(A), entry(1), entry(1)),
        (entry(9), entry(10), entry(10)),
        (entry(2**53 - 1), entry(2**53 - 2), entry(2**53 - 1)),
    ],
    ids=[
        "older loses",
        "newer wins",
        "equal refreshes",
        "late fill loses to tombstone",
        "delete wins",
        "create after delete wins",
        "found wins over not found",
        "not found loses",
        "not found loses to tombstone",
        "create wins over not found",
        "numbers, not texts",
        "large revisions",
    ],
)
async def test_what_is_held_after_two_puts(cache: RedisCache, first: Entry, then: Entry, kept: Entry) -> None:
    assert await cache.put([first])
    assert await cache.put([then])
    assert await cache.get([A]) == [kept]


async def test_many_entries_at_once(cache: RedisCache) -> None:
    entries = [entry(n + 1, key=f"k{n}") for n in range(1_700)]
    assert await cache.put(entries)
    assert await cache.get([e.id for e in entries]) == entries
    assert await cache.get([FlagId("default", "nope"), entries[3].id]) == [None, entries[3]]


async def test_times_to_live(redis_clean_url: str, cache: RedisCache) -> None:
    await cache.put(
        [entry(n + 1, key=f"k{n}") for n in range(50)] + [tombstone(1), Entry.absent(FlagId("default", "n"))]
    )
    with redis.Redis.from_url(redis_clean_url) as direct:
        lives = {direct.ttl(f"feature-flag:k{n}") for n in range(50)}
        assert min(lives) >= 265
        assert max(lives) <= 330
        assert len(lives) > 5, "without jitter all would end at once"
        assert 290 < direct.ttl("feature-flag:a") <= 300
        assert 0 < direct.ttl("feature-flag:n") <= 5


def test_no_two_flags_share_a_key() -> None:
    names = ["a", "b", "a:b", ":", "a@b", "@a", "default", "%3A", "a%b", "feature-flag", ""]
    ids = [FlagId(s, k) for s in [*names[:-1], "default:a"] for k in names]
    assert len({cache_key(i) for i in ids}) == len(set(ids))


@pytest.mark.parametrize("text", ["", "x", "2:1:{}", "1:x:{}", "1:1:{", "1:1:[]", "1:1:7"])
async def test_an_unreadable_entry_is_a_miss_and_is_replaced(
    cache: RedisCache, redis_clean_url: str, text: str
) -> None:
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.set("feature-flag:a", text)
        assert await cache.get([A]) == [None]
        await cache.put([entry(5)])
        assert await cache.get([A]) == [entry(5)]


async def test_five_hundred_concurrent_reads_share_the_pool(cache: RedisCache) -> None:
    await cache.put([entry(1)])
    found = await asyncio.gather(*(cache.get([A]) for _ in range(500)))
    assert found == [[entry(1)]] * 500
    assert cache.available


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_redis_that_is_away_costs_one_time_out_and_then_nothing(redis_server: RedisServer, fault: str) -> None:
    async with cache_on(redis_server.url) as cache:
        await cache.put([entry(1)])
        getattr(redis_server, fault)()
        started = time.perf_counter()
        assert await asyncio.gather(*(cache.get([A]) for _ in range(50))) == [[None]] * 50
        assert time.perf_counter() - started < 0.1
        assert not cache.available
        started = time.perf_counter()
        for _ in range(1_000):
            assert await cache.get([A]) == [None]
            assert not await cache.put([entry(2)])
        assert time.perf_counter() - started < 0.1
        await asyncio.to_thread(redis_server.start if fault == "kill" else redis_server.resume)
        await until(lambda: cache.available, 5)
        assert await cache.put([entry(3)])
        assert await cache.get([A]) == [entry(3)]


async def test_connections_from_before_a_restart_do_not_count_as_trouble(redis_server: RedisServer) -> None:
    ids = [FlagId("default", f"flag-{number}") for number in range(40)]
    async with cache_on(redis_server.url, timeout_s=0.5) as cache:
        await asyncio.gather(*(cache.get([flag_id]) for flag_id in ids))
        redis_server.kill()
        await cache.get(ids[:1])
        assert not cache.available
        await asyncio.to_thread(redis_server.start)
        await until(lambda: cache.available)
        errors = cache.errors
        await asyncio.gather(*(cache.get([flag_id]) for flag_id in ids))
        assert (cache.available, cache.errors) == (True, errors)


async def test_a_caller_who_leaves_opens_no_breaker(cache: RedisCache) -> None:
    await cache.put([entry(1)])
    task = asyncio.create_task(cache.get([A]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cache.available
    assert await cache.get([A]) == [entry(1)]


class Ear:
    """Everything that the channel told."""

    def __init__(self, cache: RedisCache) -> None:
        self.heard: list[Event] = []
        self._task = asyncio.create_task(self._listen(cache))

    async def _listen(self, cache: RedisCache) -> None:
        async for event in cache.events():
            self.heard.append(event)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.heard)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_announcements_are_heard_whole_and_in_order(cache: RedisCache) -> None:
    ear = Ear(cache)
    await until(lambda: ear.count(Subscribed) == 1)
    told: list[Event] = [Announced(entry(1, name="señal")), Announced(tombstone(2)), Beat({"default": 2, "x:y": 7})]
    for event in told:
        assert await cache.announce(event)  # type: ignore[arg-type]
    await until(lambda: len(ear.heard) == 4)
    assert ear.heard[1:] == told
    await ear.close()


@pytest.mark.parametrize(
    "message", ["", "{", "[]", "{}", '{"beat": 7}', '{"key": 1}', '{"set":"a","key":"b","revision":"x","flag":null}']
)
async def test_a_malformed_announcement_is_ignored(cache: RedisCache, redis_clean_url: str, message: str) -> None:
    ear = Ear(cache)
    await until(lambda: ear.count(Subscribed) == 1)
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.publish(CHANNEL, message)
    await cache.announce(Announced(entry(1)))
    await until(lambda: len(ear.heard) == 2)
    assert ear.heard[1] == Announced(entry(1))
    await ear.close()


async def test_a_cut_channel_is_subscribed_anew_and_says_so(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url) as cache:
        ear = Ear(cache)
        await until(lambda: ear.count(Subscribed) == 1)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: ear.count(Subscribed) == 2)
        await asyncio.to_thread(redis_server.kill)
        assert not await cache.announce(Announced(entry(1)))
        await asyncio.to_thread(redis_server.start)
        await until(lambda: ear.count(Subscribed) == 3)
        assert ear.count(Announced) == 0, "what was said meanwhile is lost, and nobody invents it"
        await ear.close()


async def test_a_channel_that_falls_silent_is_made_anew(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url) as cache:
        ear = Ear(cache)
        await until(lambda: ear.count(Subscribed) == 1)
        await until(lambda: ear.count(Subscribed) >= 2, 8)
        await ear.close()


async def test_a_wide_entry_survives_the_round_trip(cache: RedisCache) -> None:
    wide = replace(
        Flag(key="a", revision=7, config={"big": 2**62, "whole": 2.0, "ñ": [None, True, {"x": []}]}),
        metadata={"n": 9_007_199_254_740_993},
        variants={"a": {"k": 1}, "b": {}},
    )
    await cache.put([Entry.of(wide)])
    [found] = await cache.get([A])
    assert repr(found) == repr(Entry.of(wide))
