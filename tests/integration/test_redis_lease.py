"""How old the shared cache may be, on a real Redis: leases and fences, one replica's word for all, and reports."""

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
from flagsvc.adapters.redis.scripts import fill_key
from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER, Entry, Found, Vouched
from tests.integration.test_redis import A, absent, ago, cache_on, entry
from tests.replicas import until
from tests.servers import RedisServer

B = FlagId("default", "b")


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


def set_directly(url: str, name: str, text: str) -> None:
    with redis.Redis.from_url(url) as direct:
        direct.set(name, text, px=60_000)


def redis_ms(url: str) -> int:
    with redis.Redis.from_url(url) as direct:
        seconds, micros = direct.time()
        return int(seconds * 1000 + micros // 1000)


# Leases and fences


async def test_a_missing_entry_gives_the_first_who_asks_a_fence(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    first = await fetched(one)
    assert (first.entry, first.as_of) == (None, NEVER)
    assert first.fence
    assert await fetched(two) == Found(None, NEVER)
    assert (await fetched(two, B)).fence, "a lease is of one flag"
    assert await one.put([entry(1)], ago(0), fence=first.fence)
    found = await fetched(two)
    assert (found.entry, found.fence) == (entry(1), "")


async def test_fifty_at_once_get_one_fence(both: tuple[RedisCache, RedisCache]) -> None:
    found = await asyncio.gather(*(fetched(both[number % 2]) for number in range(50)))
    assert len([each for each in found if each.fence]) == 1


async def test_a_known_entry_is_given_with_its_age_and_no_fence_until_that_is_too_old(
    both: tuple[RedisCache, RedisCache],
) -> None:
    one, two = both
    as_of = ago(1.0)
    await one.put([entry(1)], as_of)
    for cache in both:
        found = await fetched(cache, within_s=1.5)
        assert (found.entry, found.fence) == (entry(1), "")
        assert as_of - 0.2 < found.as_of <= as_of, "never younger than it is"
    too_old = await fetched(two, within_s=0.5)
    assert (too_old.entry, too_old.as_of <= as_of) == (entry(1), True)
    assert too_old.fence
    assert not (await fetched(one, within_s=0.5)).fence


async def test_an_entry_that_nobody_vouches_for_is_given_with_a_fence(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await one.put([entry(1)], NEVER)
    found = await fetched(two, within_s=1e12)
    assert (found.entry, found.as_of) == (entry(1), NEVER)
    assert found.fence


async def test_a_fill_gives_its_lease_back(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    for held in (entry(1), entry(2), absent(3), absent(3)):
        found = await fetched(two, within_s=-1)
        assert found.fence
        assert await one.put([held], ago(0), fence=found.fence)
    overtaken = await fetched(one, within_s=-1)
    await two.put([entry(9)], ago(0))
    assert await one.put([entry(8)], ago(0), fence=overtaken.fence), "nothing older is there"
    assert (await fetched(two, within_s=-1)).fence


async def test_a_lease_runs_out_and_the_late_fill_of_its_holder_stores_nothing(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, two = both
    as_of = ago(0)
    gone = await fetched(one)
    with redis.Redis.from_url(redis_clean_url) as direct:
        assert 0 < direct.pttl(fill_key(A)) <= 1_000, "a lease lasts a second"
    assert not (await fetched(two)).fence
    found: list[Found] = []

    async def ask() -> None:
        while not found or not found[-1].fence:
            found.append(await fetched(two))
            await asyncio.sleep(0.02)

    await asyncio.wait_for(ask(), 15)
    assert time.monotonic() - as_of > 0.8
    assert not await one.put([entry(1)], as_of, fence=gone.fence), "another has it"
    assert await two.peek([A]) == [None]
    assert await two.put([entry(2)], ago(0), fence=found[-1].fence)
    assert not await one.put([entry(3)], as_of, fence=gone.fence), "nobody has it"
    assert await two.peek([A]) == [entry(2)]


async def test_an_entry_of_the_future_is_worth_nothing_and_is_replaced(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    """As after the server's clock went back by ten seconds."""
    one, two = both
    set_directly(redis_clean_url, "feature-flag:a", f"2:{redis_ms(redis_clean_url) + 10_000}:1:{{}}")
    await one.vouch(ago(0), 5, anew=True)
    found = await fetched(one)
    assert found.entry
    assert found.as_of == NEVER
    assert found.fence
    as_of = ago(0)
    assert await one.put([entry(1)], as_of, fence=found.fence)
    assert as_of - 0.2 < (await fetched(two)).as_of <= as_of


async def test_what_is_put_as_of_a_moment_to_come_is_worth_nothing(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await one.put([entry(1)], ago(-1))
    assert (await fetched(two)).as_of == NEVER
    assert await one.vouch(ago(-1), 5, anew=True) is Vouched.LOST


async def test_an_entry_that_only_looks_like_one_is_read_again_however_young(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, two = both
    set_directly(redis_clean_url, "feature-flag:a", f"2:{redis_ms(redis_clean_url)}:1:{{]}}")
    found = await fetched(one)
    assert (found.entry, found.as_of) == (None, NEVER)
    assert found.fence
    assert not (await fetched(two)).fence


# Vouching


async def test_a_word_makes_everything_young_that_was_put_since_it_began(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    began = ago(2.0)
    assert await one.vouch(began, 4, anew=True) is Vouched.KEPT
    await one.put([entry(1)], began)
    await two.put([entry(2, key="b")], ago(1.5))
    assert await one.vouch(word := ago(0.1), 4, anew=False) is Vouched.KEPT
    for flag_id in (A, B):
        found = await fetched(two, flag_id, within_s=0.5)
        assert not found.fence
        assert word - 0.2 < found.as_of <= word
    assert await one.vouch(word := ago(0), 4, anew=False) is Vouched.KEPT
    assert word - 0.2 < (await fetched(two)).as_of <= word


@pytest.mark.parametrize("anew", [False, True])
async def test_what_was_put_before_the_word_began_is_not_vouched_for(
    both: tuple[RedisCache, RedisCache], anew: bool
) -> None:
    one, two = both
    if anew:
        await one.vouch(ago(3), 5, anew=True)
    await two.put([entry(1)], ago(2))
    await two.put([entry(1, key="b")], NEVER)
    began = ago(1)
    assert await one.vouch(began, 5, anew=True) is Vouched.KEPT
    assert await one.vouch(ago(0), 5, anew=False) is Vouched.KEPT
    found = await fetched(two, within_s=1.5)
    assert found.as_of < began
    assert found.fence
    assert (await fetched(two, B)).as_of == NEVER
    await two.put([entry(1)], read := ago(0), fence=found.fence)
    assert (await fetched(two)).as_of > read - 0.2, "what is read again counts"


@pytest.mark.parametrize("held", [None, 1])
async def test_what_comes_late_where_nothing_newer_is_known_is_kept_but_not_vouched_for(
    both: tuple[RedisCache, RedisCache], held: int | None
) -> None:
    one, two = both
    if held is not None:
        await two.put([entry(held)], ago(2))
    await one.vouch(ago(1), 5, anew=True)
    await one.vouch(ago(0), 5, anew=False)
    assert await two.put([entry(2)], ago(0.5)), "a writer is told that its new flag is there"
    found = await fetched(two)
    assert found.entry == entry(2)
    assert found.as_of == NEVER
    assert found.fence


async def test_a_word_that_began_says_nothing_newer_of_what_is_younger(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await one.vouch(ago(2), 5, anew=True)
    await two.put([entry(1)], as_of := ago(0.5))
    assert as_of - 0.2 < (await fetched(two)).as_of <= as_of


async def test_only_one_vouches(both: tuple[RedisCache, RedisCache], redis_clean_url: str) -> None:
    one, two = both
    assert await one.vouch(ago(0), 0.6, anew=True) is Vouched.KEPT
    for anew in (True, False):
        assert await two.vouch(ago(0), 5, anew=anew) is Vouched.OTHERS
    assert await one.vouch(ago(0), 0.4, anew=False) is Vouched.KEPT
    taken: list[Vouched] = []

    async def take() -> None:
        while Vouched.KEPT not in taken:
            taken.append(await two.vouch(ago(0), 5, anew=True))
            await asyncio.sleep(0.02)

    await asyncio.wait_for(take(), 3)
    assert set(taken) == {Vouched.OTHERS, Vouched.KEPT}
    assert await one.vouch(ago(0), 5, anew=False) is Vouched.OTHERS
    assert await one.vouch(ago(0), 5, anew=True) is Vouched.OTHERS
    with redis.Redis.from_url(redis_clean_url) as direct:
        assert 4_000 < direct.pttl("flagsvc:cache-lease") <= 5_000
        assert await two.vouch(ago(2), 5, anew=False) is Vouched.KEPT
        assert 2_000 < direct.pttl("flagsvc:cache-lease") <= 3_000, "it lasts from its own moment"


async def test_a_word_runs_out(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    began = ago(1)
    await one.vouch(began, 1.5, anew=True)
    await one.put([entry(1)], began)
    word = ago(0)
    assert await one.vouch(word, 0.3, anew=False) is Vouched.KEPT
    assert not (await fetched(two, within_s=0.9)).fence
    await asyncio.sleep(0.35)
    found = await fetched(two, within_s=0.9)
    assert found.as_of <= began, "only as of its own moment"
    assert found.fence
    assert await one.vouch(ago(0), 5, anew=False) is Vouched.LOST


async def test_a_word_is_kept_only_on_the_one_given_last(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, _ = both
    assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST, "it never began"
    assert await one.vouch(ago(0), 30, anew=True) is Vouched.KEPT
    assert await one.vouch(ago(0), 30, anew=True) is Vouched.KEPT
    with redis.Redis.from_url(redis_clean_url) as direct:
        before = direct.get("flagsvc:cache-lease")
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.KEPT
        assert before is not None
        direct.set("flagsvc:cache-lease", before, px=30_000)
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST, "until it begins anew"
        assert await one.vouch(ago(0), 30, anew=True) is Vouched.KEPT
        direct.flushall()
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST
        assert direct.get("flagsvc:cache-lease") is None


async def test_a_word_is_not_given_when_it_has_run_out_already_or_says_nothing(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, _ = both
    assert await one.vouch(ago(2), 1.5, anew=True) is Vouched.LOST
    assert await one.vouch(NEVER, 30, anew=True) is Vouched.LOST
    with redis.Redis.from_url(redis_clean_url) as direct:
        assert direct.get("flagsvc:cache-lease") is None


@pytest.mark.parametrize("mark", ["", "x", "other:1:2", "other:1:0:x", "other:1:0:{future}"])
async def test_a_mark_that_says_nothing_is_worth_nothing(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str, mark: str
) -> None:
    one, two = both
    await two.put([entry(1)], as_of := ago(1))
    mark = mark.replace("{future}", str(redis_ms(redis_clean_url) + 10_000))
    set_directly(redis_clean_url, "flagsvc:cache-lease", mark)
    found = await fetched(two, within_s=0.5)
    assert found.as_of <= as_of
    assert found.fence
    assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST
    assert await one.vouch(ago(0), 30, anew=True) is Vouched.KEPT


async def test_after_a_restart_from_an_old_dump_nothing_there_is_vouched_for(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as one, cache_on(redis_server.url, timeout_s=0.5) as two:
        await one.vouch(began := ago(1), 30, anew=True)
        await one.put([entry(1)], began)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.save()
        await two.put([entry(2)], ago(0))
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.KEPT
        await restart(redis_server, one, two)
        assert await two.peek([A]) == [entry(1)], "the old dump is what is tested"
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST
        assert (await fetched(two, within_s=0.9)).as_of <= began
        began = ago(0)
        assert await one.vouch(began, 30, anew=True) is Vouched.KEPT
        assert (await fetched(two, within_s=0.9)).as_of < began
        await one.put([entry(2)], began)
        assert (await fetched(two)).entry == entry(2)


async def test_after_a_restart_from_a_dump_with_the_newest_word_that_goes_on(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as one:
        await one.vouch(began := ago(0), 30, anew=True)
        await one.put([entry(1)], began)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.save()
        await restart(redis_server, one)
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.KEPT
        assert (await fetched(one)).as_of > began


async def test_a_word_whose_answer_was_lost_is_not_gone_on_from(redis_server: RedisServer) -> None:
    async with cache_on(redis_server.url, timeout_s=0.5) as one:
        await one.vouch(ago(0), 30, anew=True)
        with redis.Redis.from_url(redis_server.url) as direct:
            direct.save()
        redis_server.kill()
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST
        await restart(redis_server, one)
        assert await one.vouch(ago(0), 30, anew=False) is Vouched.LOST
        assert await one.vouch(ago(0), 30, anew=True) is Vouched.KEPT


async def restart(server: RedisServer, *caches: RedisCache) -> None:
    server.kill()
    for cache in caches:
        assert await cache.fetch(B, 5) is None
    await asyncio.to_thread(server.start)
    await until(lambda: all(cache.available for cache in caches))


async def test_vouching_begins_with_what_is_put_as_of_the_same_moment(both: tuple[RedisCache, RedisCache]) -> None:
    """However the server's clock comes to be known better in between."""
    one, two = both
    await fetched(one)
    assert one._clock._offset_ms is not None
    one._clock._offset_ms -= 50
    began = ago(0.5)
    await one.put([entry(1)], began)
    assert await one.vouch(began, 30, anew=True) is Vouched.KEPT
    await one.put([entry(1, key="b")], began)
    word = ago(0)
    assert await one.vouch(word, 30, anew=False) is Vouched.KEPT
    for flag_id in (A, B):
        assert word - 0.2 < (await fetched(two, flag_id)).as_of <= word


@pytest.mark.parametrize("speed", [0.9995, 1, 1.0005])
def test_the_servers_clock_is_never_seen_ahead_and_soon_seen_well(speed: float) -> None:
    chance, clock = random.Random(7), RedisClock()
    here, there_ms = 100.0, 1.7e12
    for step in range(3_000):
        sent_at, way, back = here, chance.uniform(0, 0.05), chance.uniform(0, 0.05)
        here += way + back
        there_ms += way * 1000 * speed
        shown = int(there_ms * 1000)
        there_ms += back * 1000 * speed
        clock.heard(shown, sent_at, here)
        error = there_ms - clock.stamp(here)
        assert error >= 0, step
        assert error < 15 or step < 200, "an answer that was long on its way spoils nothing"


def test_a_clock_that_went_back_is_believed_at_once() -> None:
    clock = RedisClock()
    clock.heard(1_000_000_000, 1.0, 1.001)
    assert clock.stamp(1.0) == 999_999
    clock.heard(990_000_000, 2.0, 2.001)
    assert clock.stamp(2.0) == 989_999
    assert clock.stamp(1.0) == 988_999


# Reports


async def test_reports_of_live_replicas_are_given_with_their_age(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    assert await one.reports() == []
    assert await one.report("one", "first: ñ", 30)
    second_at = time.monotonic()
    assert await one.report("one", "second: ñ", 30)
    await asyncio.sleep(0.2)
    third_at = time.monotonic()
    assert await two.report("two", "third", 30)
    told = dict(await two.reports() or ())
    now = time.monotonic()
    assert set(told) == {"second: ñ", "third"}
    assert 0.2 <= told["second: ñ"] < now - second_at + 0.05
    assert 0 <= told["third"] < now - third_at + 0.05
    assert await two.report("two", "third", 0.4)
    await asyncio.sleep(0.42)
    assert [text for text, _ in await one.reports() or ()] == ["second: ñ"]
    assert await one.report("one", "", 0)
    assert await one.reports() == []


async def test_reports_leave_nothing_behind(both: tuple[RedisCache, RedisCache], redis_clean_url: str) -> None:
    one, _ = both
    with redis.Redis.from_url(redis_clean_url) as direct:
        await one.report("gone", "x", 0.1)
        await one.report("one", "x", 60)
        await asyncio.sleep(0.12)
        assert await one.report("one", "y", 60)
        assert direct.zcard("flagsvc:replicas") == direct.hlen("flagsvc:heartbeats") == 1
        assert 55 < direct.ttl("flagsvc:replicas") <= 60
        assert 55 < direct.ttl("flagsvc:heartbeats") <= 60
        await one.report("two", "z", 0.1)
        assert direct.ttl("flagsvc:heartbeats") > 55, "one that goes soon takes no other with it"
        for name in ("one", "two"):
            await one.report(name, "", 60)
        assert direct.exists("flagsvc:replicas", "flagsvc:heartbeats") == 0


async def test_reports_survive_what_others_left_in_their_place(
    both: tuple[RedisCache, RedisCache], redis_clean_url: str
) -> None:
    one, _ = both
    set_directly(redis_clean_url, "flagsvc:replicas", "x")
    set_directly(redis_clean_url, "flagsvc:heartbeats", "x")
    assert await one.reports() == []
    assert await one.report("one", "x", 60)
    with redis.Redis.from_url(redis_clean_url) as direct:
        direct.hset("flagsvc:heartbeats", "bad", "no time")
        direct.zadd("flagsvc:replicas", {"bad": 2e12, "without": 2e12, "future": 2e12})
        direct.hset("flagsvc:heartbeats", "future", f"{redis_ms(redis_clean_url) + 10_000}:x")
    told = await one.reports()
    assert told
    assert [text for text, _ in told] == ["x"]
    assert one.errors == 0


async def test_entries_of_both_kinds_are_vouched_for(both: tuple[RedisCache, RedisCache]) -> None:
    one, two = both
    await one.vouch(began := ago(1), 30, anew=True)
    held: list[Entry] = [absent(3), entry(4, key="b")]
    await one.put(held, began)
    await one.vouch(word := ago(0), 30, anew=False)
    for each in held:
        found = await fetched(two, each.id, within_s=0.5)
        assert (found.entry, found.fence) == (each, "")
        assert word - 0.2 < found.as_of <= word
