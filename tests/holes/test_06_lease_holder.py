"""Hole 6: the caller that reads the store for all others fails before it has shared what it read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import pymongo
import pytest

from flagsvc.adapters.redis.keys import Keys
from flagsvc.core.model import FlagId
from tests.databases import with_database
from tests.holes.stage import CALM_PROCESS, ENABLED, NONE, Cached, Gate, Running, running, until_lease_held
from tests.replicas import Client, Process, until, until_serving
from tests.stopwatch import Stopwatch

CALLERS = 20
IN_TIME_S = 1.5
"""A read lease expires after a second."""


class Scene(NamedTuple):
    """Two replicas without near cache, and a flag that is only in the store."""

    one: Running
    two: Running
    cached: Cached
    urls: dict[str, str]
    read_before: dict[str, int]

    async def until_leased(self) -> None:
        await until(lambda: bool(self.cached.redis.exists(Keys().fill(FlagId("default", "a")))))

    def reads(self, of: Running) -> int:
        """How often this replica has read the flag for a caller."""
        return of.replica.reader.stats.store - self.read_before[of.replica.heartbeats.name]

    async def all_answered(self, *clients: Client) -> float:
        """Many callers ask at once, and all get the answer. Return the seconds it took that count."""
        since = Stopwatch()
        found = await asyncio.gather(*(client.evaluate("a") for client in clients for _ in range(CALLERS)))
        assert {(each.enabled, each.error_code) for each in found} == {(True, 0)}
        return since.seconds


@pytest.fixture(scope="module")
async def pair(mongo_url: str, redis_url: str) -> AsyncIterator[tuple[list[Running], dict[str, str]]]:
    urls = {"store_url": with_database(mongo_url, "flagsvc_test_hole_06"), "cache_url": redis_url}
    with pymongo.MongoClient(mongo_url) as direct:
        async with running(NONE, NONE, **urls) as replicas:
            await replicas[0].client.create("a", status=ENABLED)
            yield replicas, urls
        direct.drop_database("flagsvc_test_hole_06")


@pytest.fixture
async def scene(pair: tuple[list[Running], dict[str, str]]) -> AsyncIterator[Scene]:
    replicas, urls = pair
    await until_lease_held(replicas)
    with Cached(urls["cache_url"]) as cached:
        cached.evict("a")
        yield Scene(
            *replicas,
            cached,
            urls,
            {each.replica.heartbeats.name: each.replica.reader.stats.store for each in replicas},
        )


async def test_06_a_lease_holder_that_is_killed_fails_nobody_else(scene: Scene) -> None:
    program = (sys.executable, "-m", "tests.holes.dying_reader")
    arguments = ("--store", scene.urls["store_url"], "--cache", scene.urls["cache_url"])
    with Process(*arguments, program=program, **CALM_PROCESS, FLAGSVC_NEAR_CACHE_ENTRIES="0") as process:
        doomed = Client(process.address)
        await until_serving(doomed)
        scene.cached.evict("a")
        asking = asyncio.create_task(doomed.evaluate("a"))
        await scene.until_leased()
        took = await scene.all_answered(scene.two.client)
        with pytest.raises(grpc.aio.AioRpcError):
            await asking
        assert process.process is not None
        assert process.process.poll() is not None
        await doomed.channel.close()
    assert took < IN_TIME_S
    assert scene.reads(scene.two) == 1


@asynccontextmanager
async def paused_holder(scene: Scene) -> AsyncIterator[tuple[Gate, asyncio.Task[Any]]]:
    """The first replica has the lease and has read the flag, and is paused there."""
    gate = Gate(scene.one.replica.store, "get")
    asking = asyncio.create_task(scene.one.client.evaluate("a"))
    try:
        await gate.until_reached()
        yield gate, asking
    finally:
        gate.open()


async def test_06_a_caller_who_leaves_takes_the_read_from_nobody(scene: Scene) -> None:
    async with paused_holder(scene) as (gate, asking):
        others = asyncio.create_task(scene.all_answered(scene.one.client, scene.two.client))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.sleep(0.1)
        gate.open()
        assert await others < IN_TIME_S
    assert (scene.reads(scene.one), scene.reads(scene.two)) == (1, 0)


async def test_06_a_lease_holder_whose_work_is_cancelled_holds_up_nobody_for_long(scene: Scene) -> None:
    async with paused_holder(scene) as (_, asking):
        others = asyncio.create_task(scene.all_answered(scene.two.client))
        await asyncio.sleep(0.1)
        await scene.one.replica.reader.close()
        assert await others < IN_TIME_S
        await asking
    assert scene.reads(scene.two) == 1


async def test_06_a_lease_holder_that_hangs_holds_up_nobody_for_long(scene: Scene) -> None:
    async with paused_holder(scene) as (gate, asking):
        assert await scene.all_answered(scene.two.client) < IN_TIME_S
        gate.open()
        assert (await asking).enabled
