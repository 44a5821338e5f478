"""Redis and MongoDB are killed, frozen and restored under load: evaluations outlive their stores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import pymongo
import pytest
import redis

from flagsvc.adapters.build import store_for
from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.model import FlagId
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Checkpoint, Heartbeat, Subscribed
from flagsvc.replication.timing import Timing
from flagsvc.settings import Settings
from tests.conftest import FIRST
from tests.replicas import Client, reason_of, replica, until, until_serving
from tests.servers import Mongod, RedisServer
from tests.stopwatch import Starvation, Stopwatch
from tests.stores import owner_at

pytestmark = pytest.mark.xdist_group(FIRST)

AUTHOR = Author(datetime.now(UTC))
KEYS = [f"flag-{n}" for n in range(8)]
USUAL = {"cache_timeout_s": Settings().cache_timeout_s}
SLOW_S, HANGING_S = 0.04, 0.5
CALM_S = 0.5
"""Time of calls before the fault, to measure the machine's present speed."""


class Load:
    """Evaluations at a steady rate, with the wait and answer of each recorded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: list[tuple[float, float]] = []
        self._calm = 0
        self._starvation = Starvation()
        self.wrong: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with self._starvation.recorded():
            tasks = [asyncio.create_task(self._call(number)) for number in range(8)]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def calm(self) -> None:
        """Let some time pass without a fault."""
        await asyncio.sleep(CALM_S)
        self._calm = len(self._calls)

    @property
    def waits(self) -> list[float]:
        """How long each call took; waits for a CPU do not count."""
        return [self._starvation.counted_s(*call) for call in self._calls]

    def check_waits(self) -> None:
        """Few calls may wait for a time-out before the breaker opens; none may hang.

        If each waited for the time-out, half of all calls would.
        """
        waits = self.waits
        usual = sorted(waits[: self._calm])[int(self._calm * 0.95)]
        slow = [wait for wait in waits if wait > max(SLOW_S, 3 * usual)]
        message = f"{len(slow)} of {len(waits)} calls waited long, before {usual * 1e3:.0f} ms"
        assert len(slow) <= len(waits) * 0.15, message
        assert max(waits) < HANGING_S + 10 * usual, f"{max(waits):.3f} s"

    async def _call(self, number: int) -> None:
        while True:
            started = time.monotonic()
            try:
                found = await self._client.evaluate(KEYS[number])
                if not found.enabled:
                    self.wrong.append(str(found))
            except grpc.aio.AioRpcError as error:
                self.wrong.append(f"{error.code()} {error.details()}")
            self._calls.append((started, time.monotonic()))
            await asyncio.sleep(0.03)


async def fill(client: Client) -> None:
    await until_serving(client)
    for key in KEYS:
        await client.create(key, status=types.FLAG_STATUS_ENABLED)


@pytest.mark.parametrize(
    ("fault", "near_cache_entries"),
    [
        pytest.param("kill", 100_000, id="kill-near-cache"),
        pytest.param("pause", 0, id="pause-no-near-cache"),
        pytest.param("kill", 0, id="kill-no-near-cache", marks=pytest.mark.long),
        pytest.param("pause", 100_000, id="pause-near-cache", marks=pytest.mark.long),
    ],
)
async def test_no_evaluation_fails_or_waits_while_redis_is_away_and_returns(
    mongo_database_url: str, redis_server: RedisServer, fault: str, near_cache_entries: int
) -> None:
    settings = {"store_url": mongo_database_url, "cache_url": redis_server.url, **USUAL}
    async with replica(**settings, near_cache_entries=near_cache_entries) as (client, server):
        await fill(client)
        load = Load(client)
        async with load.running():
            await load.calm()
            getattr(redis_server, fault)()
            await until_serving(client, "cache", serving=False)
            await asyncio.sleep(2)
            flag = await client.toggle(KEYS[0], True)
            assert (await client.evaluate(KEYS[0])).revision == flag.revision
            await asyncio.to_thread(redis_server.start) if fault == "kill" else redis_server.resume()
            await until_serving(client, "cache")
            await until(lambda: server.replica.follower.channels.subscription_up)
            await asyncio.sleep(0.5)
        assert load.wrong == []
        load.check_waits()
        if not near_cache_entries:
            await client.evaluate(KEYS[1])
            assert (await client.evaluate(KEYS[1])).source == types.DEFINITION_SOURCE_CACHE


async def test_known_flags_answer_and_writes_fail_cleanly_while_mongodb_is_stopped(
    mongod: Mongod, redis_clean_url: str
) -> None:
    async with replica(store_url=mongod.url, cache_url=redis_clean_url) as (client, _):
        await fill(client)
        load = Load(client)
        async with load.running():
            await load.calm()
            await asyncio.to_thread(mongod.kill)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.toggle(KEYS[0], False)
            assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert "127.0.0.1" not in str(caught.value.details())
            await until_serving(client, "store", serving=False)
            assert await client.serving()
            await asyncio.sleep(3)
            assert len((await client.stub.ListFlags(pb.ListFlagsRequest())).flags) == 8
            assert (await client.evaluate("unknown")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
            await asyncio.to_thread(mongod.start)
            await until_serving(client, "store", seconds=20)
        assert load.wrong == []
        load.check_waits()
        assert (await client.evaluate(KEYS[0])).enabled
        with pymongo.MongoClient(mongod.url) as direct:
            database = direct.get_default_database("flagsvc")
            assert database["feature_flags"].find_one({"key": KEYS[0]})["status"] == "ENABLED"
            assert database["feature_flag_history"].count_documents({"featureKey": KEYS[0]}) == 1
        assert (await client.toggle(KEYS[0], False)).revision > 0


async def test_with_both_stores_away_answers_come_from_memory_and_are_stale_past_the_bound(
    mongod: Mongod, redis_server: RedisServer
) -> None:
    settings = {"store_url": mongod.url, "cache_url": redis_server.url, "staleness_bound_s": 1.0, **USUAL}
    async with replica(**settings) as (client, _):
        await fill(client)
        redis_server.kill()
        mongod.pause()
        load = Load(client)
        async with load.running():
            await asyncio.sleep(5)
        assert load.wrong == []
        assert max(load.waits) < HANGING_S
        found = await client.evaluate(KEYS[0])
        assert (found.reason, found.value.boolean_value) == (types.REASON_STALE, True)
        assert found.age_ms >= 1_000
        mongod.resume()
        await asyncio.to_thread(redis_server.start)
        await until_serving(client, "store", seconds=20)
        while (await client.evaluate(KEYS[0])).reason != types.REASON_STATIC:  # noqa: ASYNC110  until a poll
            await asyncio.sleep(0.02)


async def test_readiness_waits_for_the_store_and_health_changes_both_ways_repeatedly(
    mongod: Mongod, redis_clean_url: str
) -> None:
    mongod.stop()
    settings = {"store_url": mongod.url, "cache_url": redis_clean_url, "near_cache_entries": 0}
    async with replica(**settings) as (client, _):
        assert await client.serving("liveness")
        assert not await client.serving("readiness")
        for _ in range(2):
            await asyncio.to_thread(mongod.start)
            await until_serving(client, "store", seconds=20)
            await until_serving(client, "readiness", seconds=20)
            await asyncio.to_thread(mongod.kill)
            await until_serving(client, "store", serving=False)
            assert await client.serving("liveness")


async def test_a_replica_catches_up_on_changes_missed_while_the_channel_was_cut(
    mongo_database_url: str, redis_server: RedisServer
) -> None:
    settings = {"store_url": mongo_database_url, "cache_url": redis_server.url}
    async with replica(**settings) as (one, _), replica(**settings) as (two, server):
        await fill(one)
        await until(lambda: server.replica.follower.channels.subscription_up)
        redis_server.kill()
        flag = await one.toggle(KEYS[0], False)
        await asyncio.to_thread(redis_server.start)
        since = Stopwatch()
        while (await two.evaluate(KEYS[0])).revision < flag.revision:
            assert not since.is_past(5), "past the staleness bound"
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("heal", ["subscribe", "heartbeat"])
async def test_a_lost_announcement_heals_before_the_replicas_own_poll(
    mongo_database_url: str, redis_server: RedisServer, heal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer dies between commit and announcement; the change stream is silent, and the next poll is 24 s away."""

    async def silent_changes(_: MongoStore) -> AsyncIterator[Subscribed | Checkpoint]:
        yield Subscribed()
        while True:
            yield Checkpoint(time.monotonic())
            await asyncio.sleep(0.2)

    monkeypatch.setattr(MongoStore, "changes", silent_changes)
    rare = replace(Timing.of_bound(60.0), poll_every_s=60.0)
    monkeypatch.setattr(Timing, "of_bound", lambda _: rare)
    settings = {"store_url": mongo_database_url, "cache_url": redis_server.url, "staleness_bound_s": 60.0}
    async with replica(**settings) as (client, server):
        await fill(client)
        await until(lambda: server.replica.follower.channels.subscription_up)
        await asyncio.sleep(0.5)
        dying = store_for(mongo_database_url)
        entry = await dying.write(FlagId("default", KEYS[0]), changes.toggle(KEYS[0], False, None, AUTHOR))
        await dying.close()
        assert entry
        await asyncio.sleep(1.5)
        assert (await client.evaluate(KEYS[0])).revision < entry.revision, "nothing was lost, so nothing is tested"
        if heal == "subscribe":
            with redis.Redis.from_url(redis_server.url) as direct:
                direct.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        else:
            other = RedisCache(redis_server.url, timeout_s=1.0, identity=owner_at(redis_server.url))
            heartbeat = Heartbeat(replica="other", number=1, revisions={"default": entry.revision})
            assert await other.send_heartbeat(heartbeat, 10.0)
            await other.close()
        since = Stopwatch()
        while (await client.evaluate(KEYS[0])).revision < entry.revision:
            assert not since.is_past(3)
            await asyncio.sleep(0.02)
