"""What an outage of a real Redis costs: one timeout, then misses, and no error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import redis

from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.core.errors import CacheUnavailable
from flagsvc.core.model import FlagId
from flagsvc.ports import (
    LeaseAnswer,
    LeaseState,
)
from tests.redis_caches import A, ago, cache_on, entry, heartbeat
from tests.replicas import until
from tests.servers import RedisServer, free_port


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
