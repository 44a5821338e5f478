"""The shared cache on a real Redis: which entry wins, what is read and written together, and what is a miss."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from flagsvc import turns
from flagsvc.adapters.redis import messages
from flagsvc.adapters.redis.cache import CHUNK, FETCHED_AT_ONCE, FETCHES, RedisCache
from flagsvc.core.documents import dumps
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import (
    NEVER,
    Announced,
    Entry,
    LeaseState,
    Subscribed,
)
from tests.redis_caches import MISSING, A, absent, ago, cache_on, entry
from tests.replicas import until
from tests.stores import cache_key, flag_id_at

UNKNOWN = math.inf
OLD, NEW = entry(2, name="old"), entry(2, name="new")
ORDERS = {
    "older loses": (entry(2), UNKNOWN, entry(1), UNKNOWN, entry(2)),
    "older loses, however fresh": (entry(2), UNKNOWN, entry(1), 0, entry(2)),
    "newer wins": (entry(1), UNKNOWN, entry(2), UNKNOWN, entry(2)),
    "newer wins, however old": (entry(1), 0, entry(2), UNKNOWN, entry(2)),
    "equal refreshes": (OLD, UNKNOWN, NEW, UNKNOWN, NEW),
    "equal refreshes when it is younger": (OLD, 3, NEW, 1, NEW),
    "equal does not when it is older": (NEW, 1, OLD, 3, NEW),
    "equal does not when nobody knows its age": (NEW, 1, OLD, UNKNOWN, NEW),
    "late fill loses to tombstone": (absent(3), UNKNOWN, entry(2), UNKNOWN, absent(3)),
    "delete wins": (entry(2), UNKNOWN, absent(3), UNKNOWN, absent(3)),
    "create after delete wins": (absent(3), UNKNOWN, entry(4), UNKNOWN, entry(4)),
    "found wins over not found": (absent(), UNKNOWN, entry(0), UNKNOWN, entry(0)),
    "not found loses": (entry(0), UNKNOWN, absent(), UNKNOWN, entry(0)),
    "not found loses, however fresh": (entry(2), 3, absent(2), 0, entry(2)),
    "found loses to a younger not found": (absent(2), 1, entry(2), 3, absent(2)),
    "not found loses to tombstone": (absent(3), UNKNOWN, absent(), UNKNOWN, absent(3)),
    "create wins over not found": (absent(), UNKNOWN, entry(1), UNKNOWN, entry(1)),
    "numbers, not texts": (entry(9), UNKNOWN, entry(10), UNKNOWN, entry(10)),
    "large revisions": (entry(2**53 - 1), UNKNOWN, entry(2**53 - 2), UNKNOWN, entry(2**53 - 1)),
}


@pytest.mark.parametrize(("first", "first_age", "then", "then_age", "kept"), ORDERS.values(), ids=ORDERS.keys())
async def test_what_is_held_after_two_puts(  # noqa: PLR0917  a row of the table
    cache: RedisCache, first: Entry, first_age: float, then: Entry, then_age: float, kept: Entry
) -> None:
    assert await cache.put([first], ago(first_age))
    assert await cache.put([then], ago(then_age))
    assert await cache.peek([A]) == [kept]


@pytest.mark.parametrize(("first", "then"), [(entry(5), entry(4)), (entry(5), absent(4)), (absent(5), entry(4))])
async def test_a_forced_put_wins_over_everything(cache: RedisCache, first: Entry, then: Entry) -> None:
    await cache.put([first], ago(0))
    assert await cache.put([then], NEVER, force=True)
    assert await cache.peek([A]) == [then]


async def test_an_entry_that_was_read_long_ago_is_held_as_old_as_it_is(cache: RedisCache) -> None:
    await cache.put([entry(1)], ago(30))
    found = await cache.fetch(A, 60)
    assert found
    assert found.entry == entry(1)
    assert 29.5 < time.monotonic() - found.as_of < 32


async def test_many_entries_at_once(cache: RedisCache) -> None:
    entries = [entry(n + 1, key=f"k{n}") for n in range(1_700)]
    assert await cache.put(entries, ago(0))
    assert await cache.peek([e.id for e in entries]) == entries
    assert await cache.peek([FlagId("default", "nope"), entries[3].id]) == [None, entries[3]]


async def test_many_entries_may_take_longer_than_one_command(redis_clean_url: str) -> None:
    async with cache_on(redis_clean_url, timeout_s=0.005) as cache:
        await until(lambda: cache._redis.clock.known)
        assert await cache.put([entry(n + 1, key=f"k{n}") for n in range(CHUNK)], ago(0))


read_flag = messages._flag


async def test_entries_are_written_and_read_in_turns(cache: RedisCache, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [entry(n + 1, key=f"k{n}") for n in range(300)]
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    handled: list[FlagId] = []
    monkeypatch.setattr(messages, "dumps", lambda flag: handled.append(flag.id) or dumps(flag))
    monkeypatch.setattr(messages, "_flag", lambda fields: handled.append(A) or read_flag(fields))
    for work in (cache.put(entries, ago(0)), cache.peek([each.id for each in entries]), _all_of(cache)):
        handled.clear()
        running, most = asyncio.ensure_future(work), 0
        while not running.done():
            before = len(handled)
            await asyncio.sleep(0)
            most = max(most, len(handled) - before)
        assert (len(handled), most) == (300, 1)


async def _all_of(cache: RedisCache) -> list[Entry]:
    return [each async for piece in cache.entries() for each in piece]


async def test_what_has_many_values_is_written_and_read_outside_the_event_loop(
    cache: RedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {f"{number:x}": number for number in range(2_001)}
    large = Entry.of(Flag(key="a", revision=1, variants={"on": values}))
    threads: list[str] = []

    def noted(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda value: threads.append(threading.current_thread().name) or work(value)

    monkeypatch.setattr(messages, "dumps", noted(dumps))
    monkeypatch.setattr(messages, "_flag", noted(read_flag))
    events = cache.events()
    assert await anext(events) == Subscribed()
    assert await cache.put([large], ago(0))
    assert await cache.announce(Announced(large))
    assert await anext(events) == Announced(large)
    assert await cache.peek([A]) == [large]
    assert [name.startswith("off-loop") for name in threads] == [True] * 4
    assert await cache.announce(Announced(entry(2)))
    assert await anext(events) == Announced(entry(2))
    assert [name.startswith("off-loop") for name in threads[4:]] == [False] * 2


async def test_times_to_live(redis_clean_url: str, cache: RedisCache) -> None:
    await cache.put([entry(n + 1, key=f"k{n}") for n in range(50)], ago(0))
    await cache.put([absent(1), Entry.absent(MISSING)], ago(0))
    with redis.Redis.from_url(redis_clean_url) as direct:
        lives = {direct.ttl(f"feature-flag:k{n}") for n in range(50)}
        assert min(lives) >= 265
        assert max(lives) <= 330
        assert len(lives) > 5, "without jitter all would expire at once"
        assert 290 < direct.ttl("feature-flag:a") <= 300
        assert 0 < direct.ttl("feature-flag:missing") <= 5


async def test_a_flag_that_a_reader_does_not_find_is_cached_briefly_and_a_tombstone_longer(
    redis_clean_url: str, cache: RedisCache
) -> None:
    with redis.Redis.from_url(redis_clean_url) as direct:
        found = await cache.fetch(A, 5)
        assert found
        await cache.put([absent(7)], ago(0), fills=True)
        assert 0 < direct.ttl("feature-flag:a") <= 5
        await cache.put([absent(8)], ago(0))
        found = await cache.fetch(A, -1)
        assert found
        await cache.put([absent(9)], ago(0), fills=True)
        assert await cache.peek([A]) == [absent(9)]
        assert direct.ttl("feature-flag:a") > 290


def test_no_two_flags_share_a_key() -> None:
    names = ["a", "b", "a:b", ":", "a@b", "@a", "default", "%3A", "a%b", "feature-flag", "ñ", ""]
    ids = [FlagId(s, k) for s in [*names[:-1], "default:a"] for k in names]
    assert len({cache_key(i) for i in ids}) == len(set(ids))
    assert [flag_id_at(cache_key(i).encode()) for i in ids] == ids


UNREADABLE = [
    "",
    "x",
    "1:1:{}",
    "3:0:1:{}",
    "3:a1b2c3d4:1:{}",
    "3:a1b2c3d4:x:1:{}",
    "3:a1b2c3d4:0:x:{}",
    "3:a1b2c3d4:0:9:{",
    "3:a1b2c3d4:0:9:[]",
    "3:a1b2c3d4:0:9:7",
    "3:a1b2c3d4:0:1:{]}",
    pytest.param('3:a1b2c3d4:0:1:{"config":' + "[" * 50_000 + "]" * 50_000 + "}", id="deep"),
]


@pytest.mark.parametrize("text", UNREADABLE)
async def test_an_unreadable_entry_is_a_miss_and_is_replaced(
    cache: RedisCache, redis_clean_url: str, text: str
) -> None:
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.set("feature-flag:a", text)
    assert await cache.peek([A]) == [None]
    assert [piece async for piece in cache.entries()] == []
    found = await cache.fetch(A, 5)
    assert found
    assert (found.entry, found.as_of) == (None, NEVER)
    assert await cache.put([entry(5)], ago(0), fills=True)
    assert await cache.peek([A]) == [entry(5)]


async def test_a_key_of_another_type_is_a_miss_and_is_replaced(cache: RedisCache, redis_clean_url: str) -> None:
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.rpush("feature-flag:a", "another application's")
        direct.rpush("flagsvc:cache-lease", "another application's")
    assert await cache.peek([A]) == [None]
    found = await cache.fetch(A, 5)
    assert found
    assert found.fills
    assert await cache.put([entry(5)], ago(0))
    assert (await cache.acquire_lease(ago(0), 5)).state is LeaseState.HELD
    assert await cache.peek([A]) == [entry(5)]
    assert cache.available
    assert cache.state()["errors_total"] == 0


async def test_all_entries_are_found_among_the_keys_of_other_programs(cache: RedisCache, redis_clean_url: str) -> None:
    ours = [entry(n + 1, key=f"k:{n}", flag_set=["default", "b:c", "ñ"][n % 3]) for n in range(3_000)]
    await cache.put(ours, ago(0))
    await cache.put([absent(4_000)], ago(0))
    await cache.fetch(MISSING, 5)
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.mset({f"session:{n}": "x" for n in range(5_000)})
        direct.mset(
            {
                "feature-flags:a": "3:a1b2c3d4:0:1:{}",
                "feature-flag@default:a": "3:a1b2c3d4:0:1:{}",
                "feature-flag@b c:a": "3:a1b2c3d4:0:1:{}",
            }
        )
        direct.mset({"feature-flag:theirs": "on", b"feature-flag:\xff": "3:a1b2c3d4:0:1:{}"})
        direct.rpush("feature-flag:list", "x")
    pieces = [piece async for piece in cache.entries()]
    assert len(pieces) > 1
    assert {each.id: each for piece in pieces for each in piece} == {each.id: each for each in [*ours, absent(4_000)]}


async def test_five_hundred_concurrent_reads_share_the_pool(cache: RedisCache) -> None:
    await cache.put([entry(1)], ago(0))
    found = await asyncio.gather(*(cache.peek([A]) for _ in range(500)))
    assert found == [[entry(1)]] * 500
    assert cache.available


async def test_reads_that_are_wanted_at_once_share_round_trips(cache: RedisCache, redis_clean_url: str) -> None:
    ids = [FlagId("default", f"flag-{number}") for number in range(100)]
    held = [entry(number + 1, key=flag_id.key) for number, flag_id in enumerate(ids)]
    await cache.put(held, ago(0))
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.set("feature-flag:flag-7", "3:broken")
        await cache.fetch(MISSING, 5)  # so that the script is known
        direct.config_resetstat()
        found = await asyncio.gather(*(cache.fetch(flag_id, 5) for flag_id in (*ids, MISSING)))
        stats: Any = direct.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] <= FETCHES + len(ids) / FETCHED_AT_ONCE + 1
    assert all(found)
    entries = [each.entry for each in found if each]
    assert entries == [*held[:7], None, *held[8:], None]
    assert [each.fills for each in found if each] == [*[False] * 7, True, *[False] * 92, False], "one fills each"


async def test_a_wide_entry_survives_the_round_trip(cache: RedisCache) -> None:
    wide = replace(
        Flag(key="a", revision=7, config={"big": 2**62, "whole": 2.0, "ñ": [None, True, {"x": []}]}),
        metadata={"n": 9_007_199_254_740_993},
        variants={"a": {"k": 1}, "b": {}},
    )
    await cache.put([Entry.of(wide)], ago(0))
    [found] = await cache.peek([A])
    assert repr(found) == repr(Entry.of(wide))
