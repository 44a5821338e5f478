"""Hole 3: Redis dies between a commit and the cache's refresh, and comes back empty or with an old dump."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import redis

from flagsvc.core.model import FlagId
from flagsvc.ports import LeaseAnswer, LeaseState
from tests.conftest import FIRST
from tests.holes.stage import (
    CALM,
    DISABLED,
    KINDS,
    NEAR,
    NONE,
    Asking,
    Cached,
    Gate,
    Running,
    at_once,
    running,
    until_lease_held,
)
from tests.replicas import replica, until, until_serving
from tests.servers import RedisServer
from tests.stores import LEASE_KEY, cache_key

pytestmark = pytest.mark.xdist_group(FIRST)

BOUND_S = 2.0


async def test_03_redis_back_empty_or_with_an_old_dump_serves_nothing_old(
    new_database_url: Callable[[], str], new_redis: Callable[[], RedisServer]
) -> None:
    """The three combinations that matter, and the dump whose lease record is still valid; all at once."""
    scenes = [
        served_nothing_old(new_database_url(), new_redis(), refreshed=False, dumped=False),
        served_nothing_old(new_database_url(), new_redis(), refreshed=True, dumped=False),
        served_nothing_old(new_database_url(), new_redis(), refreshed=False, dumped=True),
        served_nothing_young_but_old(new_database_url(), new_redis()),
    ]
    await at_once(*scenes)


async def served_nothing_old(database_url: str, server: RedisServer, *, refreshed: bool, dumped: bool) -> None:
    """Kill Redis after a commit, before or after its refresh; start it empty, or with a dump from before.

    The next lease holder is paused when it has the lease and has put nothing: no entry in Redis is trusted then.
    """
    settings = {"store_url": database_url, "cache_url": server.url, "staleness_bound_s": BOUND_S}
    async with running(NEAR, NEAR, NONE, **settings) as replicas, AsyncExitStack() as stack:
        writer = replicas[0]
        for key in "ab":
            await writer.client.create(key, status=DISABLED)
        await until_lease_held(replicas)
        if dumped:
            save(server)
        unasked = (await writer.client.toggle("b", True)).revision
        await until_lease_held(replicas)  # otherwise it would be put once more before anything else
        asking = [Asking(each) for each in replicas]
        for each in asking:
            stack.push_async_callback(each.stop)
        gate = Gate(writer.replica.store, "write")
        toggling = asyncio.create_task(writer.client.toggle("a", True))
        await gate.until_reached()
        committed_at = time.monotonic()
        if refreshed:
            gate.open()
            new = (await toggling).revision
            server.kill()
        else:
            server.kill()
            gate.open()
            new = (await toggling).revision
        # After that time nobody receives the announcement any more.
        await asyncio.sleep(committed_at + BOUND_S - time.monotonic())
        late = Running(*await stack.enter_async_context(replica(**{**CALM, **KINDS[NONE], **settings})))
        await until_serving(late.client)
        acquiring = [Gate(each.replica.cache, "acquire_lease", is_held) for each in (*replicas, late)]
        await asyncio.to_thread(server.start)
        await until(lambda: any(gate.reached.is_set() for gate in acquiring) and late.replica.cache_is_up())
        asking.append(Asking(late, "b"))  # nobody asked for this flag before, so nobody corrected it
        stack.push_async_callback(asking[-1].stop)
        await until(lambda: len(asking[-1].answers) > 1)
        for gate in acquiring:
            gate.open()
        await until_lease_held([*replicas, late])
        for each in asking:
            await each.end()
        assert (await late.client.evaluate("a")).revision == new  # this fills an entry that nobody has certified
        with Cached(server.url) as cached:
            await until(lambda: (entry := cached.entry("a")) is None or entry.revision == new)
    *before, after = asking
    for each in before:
        assert each.late_s(new, committed_at) <= BOUND_S
    assert {revision for _, revision, _ in after.answers} == {unasked}, "a later replica trusts the old entry"


async def served_nothing_young_but_old(database_url: str, server: RedisServer) -> None:
    """Restore a dump so quickly that the lease record in it has not run out; its writer still holds the lease.

    That replica does not notice, because it is paused meanwhile.
    """
    settings = {"store_url": database_url, "cache_url": server.url, "staleness_bound_s": 5.0}
    async with running(NEAR, NEAR, NONE, **settings) as replicas, AsyncExitStack() as stack:
        await replicas[0].client.create("a", status=DISABLED)
        await until(lambda: any(each.replica.cache_lease.is_holder for each in replicas))
        asking = [Asking(each) for each in replicas]
        for each in asking:
            stack.push_async_callback(each.stop)
        with Cached(server.url) as cached:
            held = (cache_key(FlagId("default", "a")), LEASE_KEY)
            dumped = [(key, cached.redis.dump(key)) for key in held]
            new = (await replicas[0].client.toggle("a", True)).revision
            holder = next(each.replica for each in replicas if each.replica.cache_lease.is_holder)
            gate = Gate(holder.cache, "renew_lease", is_held)
            await gate.until_reached()
            for key, text in dumped:
                cached.redis.restore(key, 5_000, text, replace=True)
        save(server)
        server.kill()
        await asyncio.to_thread(server.start)
        await until(lambda: holder.cache.available)
        gate.open()
        with Cached(server.url) as cached:  # put again by the next renewal, or when the lease is acquired again
            await until(lambda: (entry := cached.entry("a")) is not None and entry.revision == new, 5)
        async with running(NONE, **settings) as (late,):
            assert (await late.client.evaluate("a")).revision == new
        for each in asking:
            await each.end()


def is_held(answer: LeaseAnswer) -> bool:
    return answer.state is LeaseState.HELD


def save(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as direct:
        direct.save()
