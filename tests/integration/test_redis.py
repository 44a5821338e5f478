"""The shared cache on a real Redis: which entry wins, what an outage costs, and what the channel delivers."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from flagsvc import turns
from flagsvc.adapters.redis import messages
from flagsvc.adapters.redis.cache import CHUNK, FETCHED_AT_ONCE, FETCHES, RedisCache
from flagsvc.adapters.redis.messages import heartbeat_text
from flagsvc.core.documents import dumps
from flagsvc.core.errors import CacheUnavailable
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import (
    NEVER,
    Announced,
    CacheEvent,
    Entry,
    Heartbeat,
    LeaseAnswer,
    LeaseState,
    Problem,
    ReplicaStatus,
    Subscribed,
)
from tests.replicas import until
from tests.servers import RedisServer, free_port
from tests.stores import CHANNEL, STORE, cache_key, flag_id_at

A = FlagId("default", "a")
MISSING = FlagId("default", "missing")


@asynccontextmanager
async def cache_on(url: str, **settings: float) -> AsyncIterator[RedisCache]:
    cache = RedisCache(url, identity=STORE, **settings)  # type: ignore[arg-type]
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


@pytest.fixture
async def cache(redis_clean_url: str) -> AsyncIterator[RedisCache]:
    async with cache_on(redis_clean_url, timeout_s=5) as cache:
        yield cache


def entry(revision: int, *, key: str = "a", flag_set: str = "default", name: str = "") -> Entry:
    return Entry.of(Flag(key=key, flag_set=flag_set, name=name or f"at {revision}", revision=revision))


def absent(revision: int = 0) -> Entry:
    return Entry.absent(A, revision)


def heartbeat(replica: str, number: int = 1) -> Heartbeat:
    return Heartbeat(replica=replica, number=number, revisions={})


def ago(seconds: float) -> float:
    return time.monotonic() - seconds


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
    values = {f"{number:x}": number for number in range(9_000)}
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


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_reading_all_entries_fails_when_redis_goes_away(redis_server: RedisServer, fault: str) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as cache:
        await cache.put([entry(n + 1, key=f"k{n}") for n in range(3_000)], ago(0))
        pieces = cache.entries()
        assert await anext(pieces)
        getattr(redis_server, fault)()
        with pytest.raises(CacheUnavailable):
            async with asyncio.timeout(10):
                [piece async for piece in pieces]


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


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_an_outage_costs_one_timeout_and_then_nothing(redis_server: RedisServer, fault: str) -> None:
    async with cache_on(redis_server.url, timeout_s=0.2) as cache:
        await cache.put([entry(1)], ago(0))
        assert await cache.peek([A]) == [entry(1)]
        getattr(redis_server, fault)()
        started = time.perf_counter()
        assert await asyncio.gather(*(cache.peek([A]) for _ in range(50))) == [[None]] * 50
        assert time.perf_counter() - started < 2, "fifty time-outs would be ten seconds"
        assert not cache.available
        started = time.perf_counter()
        for _ in range(500):
            assert await cache.peek([A]) == [None]
            assert await cache.fetch(A, 5) is None
            assert not await cache.put([entry(2)], ago(0))
        assert time.perf_counter() - started < 2
        assert (await cache.acquire_lease(ago(0), 5)).state is LeaseState.UNREACHABLE
        assert not await cache.send_heartbeat(heartbeat("a"), 5)
        assert await cache.heartbeats() is None
        await asyncio.to_thread(redis_server.start if fault == "kill" else redis_server.resume)
        await until(lambda: cache.available, 5)
        assert await cache.put([entry(3)], ago(0))
        assert await cache.peek([A]) == [entry(3)]


@pytest.mark.parametrize("fault", ["no authentication", "read-only", "memory full"])
async def test_a_redis_that_refuses_commands_is_a_miss_and_never_an_error(
    redis_server: RedisServer, fault: str
) -> None:
    faults = {
        "no authentication": (("CONFIG SET", "requirepass", "secret"), ("CONFIG SET", "requirepass", "")),
        "read-only": (("REPLICAOF", "127.0.0.1", free_port()), ("REPLICAOF", "NO", "ONE")),
        "memory full": (("CONFIG SET", "maxmemory", 1), ("CONFIG SET", "maxmemory", 0)),
    }
    begin, end = faults[fault]
    with redis.Redis.from_url(redis_server.url) as direct:
        direct.execute_command(*begin)
        async with cache_on(redis_server.url, timeout_s=0.5) as cache:
            calls: list[tuple[Callable[[], Awaitable[object]], object]] = [
                (lambda: cache.put([entry(1)], ago(0)), False),
                (lambda: cache.fetch(A, 5), None),
                (lambda: cache.acquire_lease(ago(0), 5), LeaseAnswer(LeaseState.UNREACHABLE)),
            ]
            for call, answer in calls:
                cache._redis.breaker.close()
                assert await call() == answer
                assert not cache.available
            direct.execute_command(*end)
            await until(lambda: cache.available)
            assert await cache.put([entry(1)], ago(0))
            assert await cache.send_heartbeat(heartbeat("a"), 5)


async def test_scripts_that_redis_forgot_are_loaded_again(cache: RedisCache, redis_clean_url: str) -> None:
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.script_flush()
        assert await cache.put([entry(1), entry(1, key="b")], ago(0))
        direct.script_flush()
        found = await cache.fetch(A, 5)
        assert found
        assert found.entry == entry(1)
    assert cache.state()["errors_total"] == 0


async def test_connections_from_before_a_restart_do_not_count_as_errors(redis_server: RedisServer) -> None:
    ids = [FlagId("default", f"flag-{number}") for number in range(40)]
    async with cache_on(redis_server.url, timeout_s=0.5) as cache:
        await asyncio.gather(*(cache.peek([flag_id]) for flag_id in ids))
        redis_server.kill()
        await cache.peek(ids[:1])
        assert not cache.available
        await asyncio.to_thread(redis_server.start)
        await until(lambda: cache.available)
        errors = cache.state()["errors_total"]
        await asyncio.gather(*(cache.peek([flag_id]) for flag_id in ids))
        assert (cache.available, cache.state()["errors_total"]) == (True, errors)


async def test_a_cancelled_caller_does_not_open_the_breaker(cache: RedisCache) -> None:
    await cache.put([entry(1)], ago(0))
    task = asyncio.create_task(cache.peek([A]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cache.available
    assert await cache.peek([A]) == [entry(1)]


async def test_close_ends_at_any_moment_of_the_start(redis_clean_url: str) -> None:
    for step in range(60):
        async with asyncio.timeout(5), cache_on(redis_clean_url) as cache:
            subscriber = Subscriber(cache)
            await asyncio.sleep(step * 0.0001)
            await subscriber.close()


class Subscriber:
    """Everything that the channel delivered."""

    def __init__(self, cache: RedisCache) -> None:
        self.received: list[CacheEvent] = []
        self._task = asyncio.create_task(self._listen(cache))

    async def _listen(self, cache: RedisCache) -> None:
        async for event in cache.events():
            self.received.append(event)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.received)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_announcements_and_heartbeats_arrive_complete_and_in_order(cache: RedisCache) -> None:
    subscriber = Subscriber(cache)
    await until(lambda: subscriber.count(Subscribed) == 1)
    announced = [
        Announced(entry(1, name="señal")),
        Announced(absent(2), reply=True),
        Announced(entry(9), event_revision=7),
    ]
    heartbeats = [
        Heartbeat(
            replica="one",
            number=3,
            revisions={"default": 2, "x:y": 7},
            age_s=0.25,
            stream_age_s=60.5,
            last_seen={"two": (8, 0.125), "three": (1, math.inf)},
            status=STATUS,
        ),
        Heartbeat(replica="ñ", number=1, revisions={}, age_s=math.inf, stream_age_s=math.inf),
    ]
    for change in announced:
        assert await cache.announce(change)
    for sent in heartbeats:
        assert await cache.send_heartbeat(sent, 5)
    await cache.remove_heartbeat("one")
    await cache.announce(announced[0])
    await until(lambda: len(subscriber.received) == 7)
    assert subscriber.received[1:] == [*announced, *heartbeats, announced[0]], "a removal is not published"
    await subscriber.close()


STATUS = ReplicaStatus(
    version="1.2.3",
    started_at=datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    view_age_s=None,
    staleness_bound_s=5.0,
    ready=True,
    store_up=True,
    cache_up=True,
    subscription_up=False,
    change_feed="stream",
    change_feed_up=True,
    lease_left_s=3.5,
    flags=7,
    problems=(Problem("cache_unavailable", "it does not answer", "look at its log"),),
)
HEARTBEAT = {"heartbeat": 1, "replica": "a", "revisions": {}, "ageS": None, "streamAgeS": 0.0, "lastSeen": {}}
HEARTBEAT |= {"store": [STORE.id, STORE.name]}
OURS = f'"store":["{STORE.id}","{STORE.name}"]'
ANNOUNCEMENT = {"set": "default", "key": "b", "revision": 1, "flag": None, "store": [STORE.id, STORE.name]}
FLAG = {"needs": [], "key": "b", "revision": 1}
MALFORMED = [
    *("", "{", "[]", "7", f"{{{OURS}}}", f'{{"heartbeat": 7,{OURS}}}', f'{{"key": 1,{OURS}}}'),
    *(json.dumps({**ANNOUNCEMENT, "revision": value}) for value in ("x", 2**53 + 1, 2**70, -1, 1.0, True, math.nan)),
    *(json.dumps({**ANNOUNCEMENT, "eventRevision": value}) for value in (2**63 - 4, -1, "7")),
    *(
        json.dumps({**ANNOUNCEMENT, "flag": {**FLAG, **wrong}})
        for wrong in ({"key": "c"}, {"revision": 2}, {"flagSet": "x"})
    ),
    *(json.dumps({**ANNOUNCEMENT, name: value}) for name in ("set", "key") for value in ("", "x" * 2_000, 7, "\ud800")),
    *(json.dumps({**ANNOUNCEMENT, "store": value}) for value in (7, ["a"], ["a", "b\n"], ["", ""], ["a" * 500, "b"])),
    pytest.param(json.dumps({**ANNOUNCEMENT, "revision": 1})[:-1] + ',"x":' + "9" * 5_000 + "}", id="long number"),
    *(
        json.dumps({**HEARTBEAT, name: value})
        for name, value in [
            *(("revisions", {"a": 2**70}), ("lastSeen", {"a": [2**70, 1]}), ("replica", "x" * 2_000)),
            *(("ageS", 2**70), ("revisions", {"x" * 2_000: 1}), ("lastSeen", {str(n): [1, 1] for n in range(1_001)})),
            *(("heartbeat", "x"), ("heartbeat", math.inf), ("revisions", 7), ("revisions", {"a": "x"})),
            *(("lastSeen", {"a": None}), ("lastSeen", {"a": 7}), ("lastSeen", {"a": [1, -1]})),
            *((age, value) for age in ("ageS", "streamAgeS") for value in ("old", -1, math.nan, [])),
        ]
    ),
    *(
        json.dumps({name: value for name, value in HEARTBEAT.items() if name != left_out})
        for left_out in list(HEARTBEAT)[:-1]
    ),
    pytest.param(f'{{{OURS},"set":"a","key":"b","revision":1,"flag":' + "[" * 50_000 + "]" * 50_000 + "}", id="deep"),
]


def test_the_text_of_a_heartbeat() -> None:
    assert json.loads(heartbeat_text(heartbeat("a"), STORE), parse_constant=pytest.fail) == HEARTBEAT
    full = Heartbeat(
        replica="a", number=2, revisions={"default": 3}, age_s=0.5, stream_age_s=9.5, last_seen={"b": (4, 0.25)}
    )
    expected = {"heartbeat": 2, "replica": "a", "revisions": {"default": 3}, "ageS": 0.5, "streamAgeS": 9.5}
    expected |= {"lastSeen": {"b": [4, 0.25]}, "store": [STORE.id, STORE.name]}
    assert json.loads(heartbeat_text(full, STORE)) == expected


@pytest.mark.parametrize("message", MALFORMED)
async def test_a_malformed_message_is_logged_and_ignored(cache: RedisCache, redis_clean_url: str, message: str) -> None:
    subscriber = Subscriber(cache)
    await until(lambda: subscriber.count(Subscribed) == 1)
    with redis.Redis.from_url(redis_clean_url) as direct, capture_logs() as logs:
        direct.publish(CHANNEL, message)
        await cache.announce(Announced(entry(1)))
        await until(lambda: len(subscriber.received) == 2)
    assert subscriber.received[1] == Announced(entry(1))
    assert [line["event"] for line in logs] == ["malformed_message_ignored"]
    await subscriber.close()


@pytest.mark.parametrize(
    "change",
    [
        {"flags": "many"},
        {"ready": 1},
        {"started_at": 7},
        {"version": None},
        {"lease_left_s": None},
        {"field_of_a_later_version": True},
    ],
    ids=str,
)
async def test_a_heartbeat_with_the_status_of_another_version_still_counts(
    cache: RedisCache, redis_clean_url: str, change: dict[str, Any]
) -> None:
    sent = Heartbeat(replica="other", number=7, revisions={"default": 3}, last_seen={"a": (1, 0.5)}, status=STATUS)
    text = json.loads(heartbeat_text(sent, STORE))
    subscriber = Subscriber(cache)
    await until(lambda: subscriber.count(Subscribed) == 1)
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.publish(CHANNEL, json.dumps(text))
        direct.publish(CHANNEL, json.dumps({**text, "status": {**text["status"], **change}}))
    await until(lambda: subscriber.count(Heartbeat) == 2)
    assert subscriber.received[1:] == [sent, replace(sent, status=None)]
    await subscriber.close()


async def test_a_broken_channel_is_subscribed_again_and_reported(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as cache:
        subscriber = Subscriber(cache)
        await until(lambda: subscriber.count(Subscribed) == 1)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: subscriber.count(Subscribed) == 2)
        await asyncio.to_thread(redis_server.kill)
        assert not await cache.announce(Announced(entry(1)))
        await asyncio.to_thread(redis_server.start)
        await until(lambda: subscriber.count(Subscribed) == 3)
        assert subscriber.count(Announced) == 0, "announcements made meanwhile are lost"
        await subscriber.close()


async def test_a_silent_channel_is_replaced(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as cache:
        subscriber = Subscriber(cache)
        await until(lambda: subscriber.count(Subscribed) == 1)
        await until(lambda: subscriber.count(Subscribed) >= 2, 8)
        await subscriber.close()


async def test_a_wide_entry_survives_the_round_trip(cache: RedisCache) -> None:
    wide = replace(
        Flag(key="a", revision=7, config={"big": 2**62, "whole": 2.0, "ñ": [None, True, {"x": []}]}),
        metadata={"n": 9_007_199_254_740_993},
        variants={"a": {"k": 1}, "b": {}},
    )
    await cache.put([Entry.of(wide)], ago(0))
    [found] = await cache.peek([A])
    assert repr(found) == repr(Entry.of(wide))
