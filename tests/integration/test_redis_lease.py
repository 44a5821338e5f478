"""How old entries in the shared cache may be, on a real Redis: fills, the cache lease, and kept heartbeats."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import redis

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.adapters.redis.clock import RedisClock
from flagsvc.adapters.redis.messages import heartbeat_text
from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER, Entry, Found, LeaseState
from tests.redis_caches import A, absent, ago, cache_on, entry, heartbeat
from tests.replicas import until
from tests.servers import RedisServer
from tests.stores import LEASE_KEY, STORE, cache_key, fill_key

B = FlagId("default", "b")
HELD, HELD_BY_OTHER, EXPIRED = LeaseState.HELD, LeaseState.HELD_BY_OTHER, LeaseState.EXPIRED
REPLICAS, HEARTBEATS = "flagsvc:replicas", "flagsvc:heartbeats"


@pytest.fixture
async def both(redis_clean_url: str) -> AsyncIterator[tuple[RedisCache, RedisCache]]:
    """The caches of two replicas."""
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(cache_on(redis_clean_url, timeout_s=5)) for _ in range(2)]
        yield one, two


async def fetched(cache: RedisCache, flag_id: FlagId = A, within_s: float = 5.0) -> Found:
    found = await cache.fetch(flag_id, within_s)
    assert found is not None
    return found


async def acquire(cache: RedisCache, as_of: float, lease_s: float = 30.0) -> LeaseState:
    return (await cache.acquire_lease(as_of, lease_s)).state


async def renew(cache: RedisCache, as_of: float, lease_s: float = 30.0) -> LeaseState:
    return (await cache.renew_lease(as_of, lease_s, ())).state


def set_directly(url: str, name: str, text: str) -> None:
    with redis.Redis.from_url(url) as direct:
        direct.set(name, text, px=60_000)


def redis_ms(url: str) -> int:
    with redis.Redis.from_url(url) as direct:
        seconds, micros = direct.time()
        return int(seconds * 1000 + micros // 1000)


# Fills


async def test_the_first_caller_that_misses_an_entry_fills_it(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    assert await fetched(one) == Found(None, NEVER, fills=True)
    assert await fetched(two) == Found(None, NEVER)
    assert (await fetched(two, B)).fills, "a fill concerns one flag"
    assert await one.put([entry(1)], ago(0), fills=True)
    found = await fetched(two)
    assert (found.entry, found.fills) == (entry(1), False)


async def test_of_fifty_concurrent_callers_one_fills(both: tuple[RedisCache, RedisCache]) -> None:
    found = await asyncio.gather(*(fetched(both[number % 2]) for number in range(50)))
    assert sum(each.fills for each in found) == 1


async def test_a_young_entry_is_returned_with_its_age_and_an_old_one_is_filled(
    both: tuple[RedisCache, RedisCache],
) -> None:
    one, two = both
    as_of = ago(1.0)
    await one.put([entry(1)], as_of)
    for cache in both:
        found = await fetched(cache, within_s=30)
        assert (found.entry, found.fills) == (entry(1), False)
        assert as_of - 0.2 < found.as_of <= as_of, "never younger than it is"
    too_old = await fetched(two, within_s=0.5)
    assert (too_old.entry, too_old.as_of <= as_of, too_old.fills) == (entry(1), True, True)
    assert not (await fetched(one, within_s=0.5)).fills


async def test_an_unverified_entry_is_returned_and_filled(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await one.put([entry(1)], NEVER)
    assert await fetched(two, within_s=1e12) == Found(entry(1), NEVER, fills=True)


async def test_a_put_that_fills_ends_the_fill_whatever_becomes_of_the_entry(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, two = both
    with redis.Redis.from_url(redis_clean_url) as direct:
        for held in (entry(1), entry(2), absent(3), absent(3)):
            assert (await fetched(two, within_s=-1)).fills
            assert direct.exists(fill_key(A)) == 1
            assert await one.put([held], ago(0), fills=True)
            assert direct.exists(fill_key(A)) == 0
        assert (await fetched(one, within_s=-1)).fills
        await two.put([entry(9)], ago(0))
        assert direct.exists(fill_key(A)) == 1, "a put that fills nothing leaves the fill alone"
        assert await one.put([entry(8)], ago(0), fills=True), "nothing older is there"
        assert (await fetched(two, within_s=-1)).fills


async def test_after_a_second_another_caller_fills_and_a_late_fill_never_replaces_a_newer_entry(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, two = both
    as_of = ago(0)
    assert (await fetched(one)).fills
    with redis.Redis.from_url(redis_clean_url) as direct:
        assert 0 < direct.pttl(fill_key(A)) <= 1_000
    async with asyncio.timeout(15):
        while not (await fetched(two)).fills:  # noqa: ASYNC110  only Redis knows
            await asyncio.sleep(0.02)
    assert time.monotonic() - as_of > 0.8
    assert await one.put([entry(1)], as_of, fills=True)
    assert await two.peek([A]) == [entry(1)], "a late fill is as good as any other put"
    assert await two.put([entry(2)], ago(0), fills=True)
    assert await one.put([entry(1)], as_of, fills=True)
    assert await two.peek([A]) == [entry(2)]


async def test_an_entry_from_the_future_is_unverified_and_is_replaced(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    """As after the server's clock went back by ten seconds."""
    one, two = both
    later = redis_ms(redis_clean_url) + 10_000
    set_directly(redis_clean_url, cache_key(A), f'3:{STORE.id}:{later}:1:{{"needs":[],"key":"a","revision":1}}')
    await acquire(one, ago(0))
    found = await fetched(one)
    assert found.entry
    assert (found.as_of, found.fills) == (NEVER, True)
    as_of = ago(0)
    assert await one.put([entry(1)], as_of, fills=True)
    assert as_of - 0.2 < (await fetched(two)).as_of <= as_of


async def test_an_entry_put_as_of_a_future_moment_is_unverified(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await one.put([entry(1)], ago(-1))
    assert (await fetched(two)).as_of == NEVER
    assert await acquire(one, ago(-1)) is EXPIRED


async def test_a_text_that_only_looks_like_an_entry_is_filled_however_young(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, two = both
    set_directly(redis_clean_url, cache_key(A), f"3:{STORE.id}:{redis_ms(redis_clean_url)}:1:{{]}}")
    assert await fetched(one) == Found(None, NEVER, fills=True)
    assert not (await fetched(two)).fills


# The cache lease


async def test_the_lease_verifies_everything_that_was_put_since_it_was_acquired(
    both: tuple[RedisCache, RedisCache],
) -> None:
    one, two = both
    acquired = ago(2.0)
    assert await acquire(one, acquired) is HELD
    await one.put([entry(1)], acquired)
    await two.put([entry(2, key="b")], ago(1.5))
    assert await renew(one, renewed := ago(0.1)) is HELD
    for flag_id in (A, B):
        found = await fetched(two, flag_id)
        assert not found.fills
        assert renewed - 0.2 < found.as_of <= renewed
    assert await renew(one, renewed := ago(0)) is HELD
    assert renewed - 0.2 < (await fetched(two)).as_of <= renewed


@pytest.mark.parametrize("held_before", [False, True])
async def test_entries_put_before_the_lease_was_acquired_are_not_verified_by_it(
    both: tuple[RedisCache, RedisCache], held_before: bool
) -> None:
    one, two = both
    if held_before:
        await acquire(one, ago(3))
    await two.put([entry(1)], ago(2))
    await two.put([entry(1, key="b")], NEVER)
    acquired = ago(1)
    assert await acquire(one, acquired) is HELD
    assert await renew(one, ago(0)) is HELD
    found = await fetched(two, within_s=1.5)
    assert (found.as_of < acquired, found.fills) == (True, True)
    assert (await fetched(two, B)).as_of == NEVER
    await two.put([entry(1)], read := ago(0), fills=True)
    assert (await fetched(two)).as_of > read - 0.2, "a new read counts"


@pytest.mark.parametrize("held", [None, 1])
async def test_a_late_entry_where_nothing_certified_is_held_is_kept_unverified(
    both: tuple[RedisCache, RedisCache], held: int | None
) -> None:
    """A newer one may have been there and been evicted."""
    one, two = both
    if held is not None:
        await two.put([entry(held)], ago(2))
    await acquire(one, ago(1))
    await renew(one, ago(0))
    assert await two.put([entry(2)], ago(0.5)), "its writer learns that nothing older is there"
    assert await fetched(two) == Found(entry(2), NEVER, fills=True)


async def test_the_lease_does_not_make_a_younger_entry_older(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await acquire(one, ago(2))
    await two.put([entry(1)], as_of := ago(0.5))
    assert as_of - 0.2 < (await fetched(two)).as_of <= as_of


async def test_only_one_replica_holds_the_lease(both: tuple[RedisCache, RedisCache], redis_clean_url: str) -> None:
    one, two = both
    assert await acquire(one, ago(0)) is HELD
    assert await acquire(two, ago(0)) is HELD_BY_OTHER
    assert await renew(two, ago(0)) is EXPIRED, "it never acquired the lease"
    assert await renew(one, ago(0), 0.4) is HELD
    states: list[LeaseState] = []
    async with asyncio.timeout(10):
        while HELD not in states:
            states.append(await acquire(two, ago(0), 30.0))
            await asyncio.sleep(0.02)
    assert set(states) == {HELD_BY_OTHER, HELD}
    assert await renew(one, ago(0)) is HELD_BY_OTHER
    assert await acquire(one, ago(0)) is HELD_BY_OTHER
    with redis.Redis.from_url(redis_clean_url) as direct:
        assert 29_000 < direct.pttl(LEASE_KEY) <= 30_000
        assert await renew(two, ago(12)) is HELD
        assert 17_000 < direct.pttl(LEASE_KEY) <= 18_000, "it runs from its own moment"


async def test_the_lease_runs_out(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    acquired = ago(1)
    await acquire(one, acquired)
    await one.put([entry(1)], acquired)
    renewed = ago(0)
    assert await renew(one, renewed, 0.3) is HELD
    await asyncio.sleep(0.35)
    found = await fetched(two, within_s=0.9)
    assert found.as_of <= acquired, "verified only as of its own moment"
    assert found.fills
    assert await renew(one, ago(0)) is EXPIRED


async def test_the_holder_never_takes_the_lease_for_longer_than_redis_does(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, _ = both
    with redis.Redis.from_url(redis_clean_url) as direct:
        for _ in range(20):
            as_of = ago(1)
            for answer in (await one.acquire_lease(as_of, 5), await one.renew_lease(as_of, 5, ())):
                left_ms = direct.pttl(LEASE_KEY)
                assert answer.state is HELD
                assert as_of + 4.8 < answer.held_until <= time.monotonic() + (left_ms + 1) / 1000


async def test_the_lease_is_renewed_only_on_the_record_that_was_written_last(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, _ = both
    assert await renew(one, ago(0)) is EXPIRED, "it was never acquired"
    assert await acquire(one, ago(0)) is HELD
    assert await acquire(one, ago(0)) is HELD
    with redis.Redis.from_url(redis_clean_url) as direct:
        before = direct.get(LEASE_KEY)
        assert await renew(one, ago(0)) is HELD
        assert before is not None
        direct.set(LEASE_KEY, before, px=30_000)
        assert await renew(one, ago(0)) is LeaseState.REPLACED
        assert await renew(one, ago(0)) is EXPIRED, "until it is acquired again"
        assert await acquire(one, ago(0)) is HELD
        direct.flushall()
        assert await renew(one, ago(0)) is EXPIRED
        assert direct.get(LEASE_KEY) is None


async def test_a_second_acquisition_has_another_record_even_as_of_the_same_moment(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    """So a dump from before it cannot be taken for it."""
    one, _ = both
    moment = ago(0)
    with redis.Redis.from_url(redis_clean_url) as direct:
        await acquire(one, moment)
        first = direct.get(LEASE_KEY)
        await acquire(one, moment)
        assert direct.get(LEASE_KEY) != first


async def test_a_lease_that_has_run_out_already_or_has_no_moment_is_not_acquired(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, _ = both
    assert await acquire(one, ago(2), 1.5) is EXPIRED
    assert await acquire(one, NEVER) is EXPIRED
    with redis.Redis.from_url(redis_clean_url) as direct:
        assert direct.get(LEASE_KEY) is None


@pytest.mark.parametrize("record", ["", "x", "other:1:2", "other:1:0:x", "other:1:0:{future}"])
async def test_an_invalid_lease_record_does_not_count(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str, record: str
) -> None:
    one, two = both
    await two.put([entry(1)], as_of := ago(1))
    assert await acquire(one, ago(0)) is HELD
    record = record.replace("{future}", str(redis_ms(redis_clean_url) + 10_000))
    set_directly(redis_clean_url, LEASE_KEY, record)
    found = await fetched(two, within_s=0.5)
    assert (found.as_of <= as_of, found.fills) == (True, True)
    assert await renew(one, ago(0)) is EXPIRED
    assert await acquire(one, ago(0)) is HELD


async def test_after_a_restart_from_an_old_dump_nothing_is_verified(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as one, cache_on(redis_server.url, timeout_s=0.5) as two:
        await acquire(one, acquired := ago(1))
        await one.put([entry(1)], acquired)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.save()
        await two.put([entry(2)], ago(0))
        assert await renew(one, ago(0)) is HELD
        await restart(redis_server, one, two)
        assert await two.peek([A]) == [entry(1)], "the old dump is what is tested"
        assert await renew(one, ago(0)) is LeaseState.REPLACED
        assert (await fetched(two, within_s=0.9)).as_of <= acquired
        acquired = ago(0)
        assert await acquire(one, acquired) is HELD
        assert (await fetched(two, within_s=0.9)).as_of < acquired
        await one.put([entry(2)], acquired)
        assert (await fetched(two)).entry == entry(2)


async def test_after_a_restart_from_a_dump_with_the_newest_record_the_lease_is_renewed(
    redis_server: RedisServer,
) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as one:
        await acquire(one, acquired := ago(0))
        await one.put([entry(1)], acquired)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.save()
        await restart(redis_server, one)
        assert await renew(one, ago(0)) is HELD
        assert (await fetched(one)).as_of > acquired


async def test_after_a_renewal_whose_answer_was_lost_the_lease_is_acquired_again(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as one:
        await acquire(one, ago(0))
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.save()
        redis_server.kill()
        assert await renew(one, ago(0)) is LeaseState.UNREACHABLE
        await restart(redis_server, one)
        assert await renew(one, ago(0)) is EXPIRED
        assert await acquire(one, ago(0)) is HELD


async def restart(server: RedisServer, *caches: RedisCache) -> None:
    server.kill()
    for cache in caches:
        assert await cache.fetch(B, 5) is None
    await asyncio.to_thread(server.start)
    await until(lambda: all(cache.available for cache in caches))


async def test_an_entry_put_as_of_the_moment_of_the_lease_is_verified_by_it(
    both: tuple[RedisCache, RedisCache],
) -> None:
    """Although the estimate of the server's clock becomes better in between."""
    one, two = both
    await fetched(one)
    assert one._redis.clock._offset_ms is not None
    one._redis.clock._offset_ms -= 50
    acquired = ago(0.5)
    await one.put([entry(1)], acquired)
    assert await acquire(one, acquired) is HELD
    await one.put([entry(1, key="b")], acquired)
    renewed = ago(0)
    assert await renew(one, renewed) is HELD
    for flag_id in (A, B):
        assert renewed - 0.2 < (await fetched(two, flag_id)).as_of <= renewed


async def test_entries_of_flags_that_exist_and_that_do_not_are_verified(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await acquire(one, acquired := ago(1))
    held: list[Entry] = [absent(3), entry(4, key="b")]
    await one.put(held, acquired)
    await renew(one, renewed := ago(0))
    for each in held:
        found = await fetched(two, each.id)
        assert (found.entry, found.fills) == (each, False)
        assert renewed - 0.2 < found.as_of <= renewed


# The server's clock


@pytest.mark.parametrize("speed", [0.9995, 1, 1.0005])
def test_the_estimate_of_the_servers_clock_is_never_ahead_and_soon_close(speed: float) -> None:
    chance, clock = random.Random(7), RedisClock()
    here, there_ms = 100.0, 1.7e12
    for step in range(3_000):
        sent_at, way, back = here, chance.uniform(0, 0.05), chance.uniform(0, 0.05)
        here += way + back
        there_ms += way * 1000 * speed
        shown = int(there_ms * 1000)
        there_ms += back * 1000 * speed
        clock.observe(shown, sent_at, here)
        error = there_ms - clock.to_server_ms(here)
        assert error >= 0, step
        assert error < 15 or step < 200, "a delayed answer does not make the estimate worse"


def test_a_clock_that_went_back_is_followed_at_once() -> None:
    clock = RedisClock()
    clock.observe(1_000_000_000, 1.0, 1.001)
    assert clock.to_server_ms(1.0) == 999_999
    clock.observe(990_000_000, 2.0, 2.001)
    assert clock.to_server_ms(2.0) == 989_999
    assert clock.to_server_ms(1.0) == 988_999


# Kept heartbeats


async def kept(cache: RedisCache) -> dict[tuple[str, int], float]:
    """Return the age of each kept heartbeat, by its replica and number."""
    found = await cache.heartbeats()
    assert found is not None
    return {(heartbeat.replica, heartbeat.number): age_s for heartbeat, age_s in found}


async def test_the_newest_heartbeat_of_each_live_replica_is_kept_with_its_age(
    both: tuple[RedisCache, RedisCache],
) -> None:
    one, two = both
    assert await one.heartbeats() == []
    assert await one.send_heartbeat(heartbeat("ñ", 1), 30)
    second_at = time.monotonic()
    assert await one.send_heartbeat(heartbeat("ñ", 2), 30)
    await asyncio.sleep(0.2)
    third_at = time.monotonic()
    assert await two.send_heartbeat(heartbeat("two"), 30)
    found = await kept(two)
    now = time.monotonic()
    assert found.keys() == {("ñ", 2), ("two", 1)}
    assert 0.2 <= found["ñ", 2] < now - second_at + 0.05
    assert 0 <= found["two", 1] < now - third_at + 0.05
    assert await two.send_heartbeat(heartbeat("two", 2), 0.2)
    await asyncio.sleep(0.25)
    assert (await kept(one)).keys() == {("ñ", 2)}, "a heartbeat expires"
    await one.remove_heartbeat("ñ")
    assert await one.heartbeats() == []


async def test_heartbeats_leave_nothing_behind(both: tuple[RedisCache, RedisCache], redis_clean_url: str) -> None:
    one, _ = both
    with redis.Redis.from_url(redis_clean_url) as direct:
        await one.send_heartbeat(heartbeat("gone"), 0.1)
        await one.send_heartbeat(heartbeat("one"), 60)
        await asyncio.sleep(0.12)
        assert await one.send_heartbeat(heartbeat("one", 2), 60)
        assert direct.zcard(REPLICAS) == direct.hlen(HEARTBEATS) == 1
        assert 55 < direct.ttl(REPLICAS) <= 60
        assert 55 < direct.ttl(HEARTBEATS) <= 60
        await one.send_heartbeat(heartbeat("two"), 0.1)
        assert direct.ttl(HEARTBEATS) > 55, "one that expires soon takes no other with it"
        for name in ("one", "two"):
            await one.remove_heartbeat(name)
        assert direct.exists(REPLICAS, HEARTBEATS) == 0


async def test_heartbeats_survive_what_other_programs_left_in_their_place(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, _ = both
    set_directly(redis_clean_url, REPLICAS, "x")
    set_directly(redis_clean_url, HEARTBEATS, "x")
    assert await one.heartbeats() == []
    assert await one.send_heartbeat(heartbeat("one"), 60)
    now_ms, text = redis_ms(redis_clean_url), heartbeat_text(heartbeat("other"), STORE)
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.zadd(REPLICAS, dict.fromkeys(("bad", "without", "future", "malformed"), now_ms + 60000))
        direct.hset(HEARTBEATS, "bad", text)
        direct.hset(HEARTBEATS, "future", f"{now_ms + 10_000}:{text}")
        direct.hset(HEARTBEATS, "malformed", f"{now_ms}:x")
    assert (await kept(one)).keys() == {("one", 1)}
    assert one.state()["errors_total"] == 0
