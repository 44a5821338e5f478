"""Two replicas on one Redis and one MongoDB: the cost of a check, and how fast a toggle is everywhere."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis
from bson import json_util

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, replica, until, until_serving
from tests.stores import owner_at

TOGGLES = 100
EIGHT = Path(__file__).parents[1] / "data" / "feature_flags.extjson.ndjson"


@pytest.fixture
async def pair(mongo_database_url: str, redis_clean_url: str) -> AsyncIterator[tuple[Client, Client]]:
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            settings = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
            client, server = await stack.enter_async_context(replica(**settings))
            await until_serving(client)
            await until(lambda server=server: server.replica.follower.channels.subscription_up)
            clients.append(client)
        yield clients[0], clients[1]


def insert_eight(url: str) -> list[dict[str, object]]:
    """Insert the existing system's documents as that system does, not through the importer."""
    documents = [json_util.loads(line) for line in EIGHT.read_text().splitlines()]
    with pymongo.MongoClient(url) as client:
        client.get_default_database()["feature_flags"].insert_many(documents)
    return documents


def finds(url: str) -> int:
    """Count the finds in the collection of flags so far."""
    with pymongo.MongoClient(url) as client:
        collections = client.admin.command("top")["totals"]
        return int(collections[f"{client.get_default_database().name}.feature_flags"]["queries"]["count"])


class Loads:
    """Counts the finds of loads, which come with time and on a slow machine, however little is asked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.finds = 0
        patch.setattr(MongoStore, "load", self._counted(MongoStore.load))

    def _counted(self, read: Callable[[MongoStore], Awaitable[Any]]) -> Callable[[MongoStore], Any]:
        def counted(store: MongoStore) -> Awaitable[Any]:
            self.finds += 1
            return read(store)

        return counted


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


async def test_existing_documents_evaluate_unchanged(mongo_database_url: str, redis_clean_url: str) -> None:
    documents = insert_eight(mongo_database_url)
    async with replica(store_url=mongo_database_url, cache_url=redis_clean_url) as (client, _):
        await until_serving(client)
        for document in documents:
            found = await client.evaluate(str(document["key"]))
            assert found.enabled is (document["status"] == "ENABLED")
        flag = (await client.stub.GetFlag(pb.GetFlagRequest(flag_key="file-upload"))).flag
        assert flag.config.object_value.fields["maxFileSize"].integer_value == 52428800


async def test_two_thousand_cold_evaluations_cost_a_handful_of_finds(
    mongo_database_url: str, redis_clean_url: str, loads: Loads
) -> None:
    documents = insert_eight(mongo_database_url)
    keys = [str(document["key"]) for document in documents]
    before = finds(mongo_database_url)
    async with replica(store_url=mongo_database_url, cache_url=redis_clean_url) as (client, _):

        async def caller(number: int) -> int:
            wanted = [keys[(number + i) % len(keys)] for i in range(40)]
            return sum([(await client.evaluate(key)).error_code == 0 for key in wanted])

        assert sum(await asyncio.gather(*map(caller, range(50)))) == 2_000
    assert finds(mongo_database_url) - before <= 6 + loads.finds


async def test_unknown_keys_cost_almost_nothing(mongo_database_url: str, pair: tuple[Client, Client]) -> None:
    one, two = pair
    before, memory = finds(mongo_database_url), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, 20_000, 1_000):
        request = pb.BatchEvaluateFlagsRequest(flag_keys=[f"unknown-{n}" for n in range(start, start + 1_000)])
        answer = await one.stub.BatchEvaluateFlags(request)
        assert {e.error_code for e in answer.evaluations} == {types.ERROR_CODE_FLAG_NOT_FOUND}
    assert finds(mongo_database_url) - before <= 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000, "kilobytes"
    await one.create("unknown-77", status=types.FLAG_STATUS_ENABLED)
    assert (await one.evaluate("unknown-77")).enabled
    await seen(two, "unknown-77", 1)


async def seen(client: Client, key: str, revision: int) -> float:
    """Ask until the answer has that revision; return the seconds it took."""
    started = time.perf_counter()
    while (await client.evaluate(key)).revision < revision:
        assert time.perf_counter() - started < 2, f"revision {revision} of {key} is not seen"
    return time.perf_counter() - started


async def test_a_hundred_toggles_are_seen_by_the_other_replica_in_order(pair: tuple[Client, Client]) -> None:
    one, two = pair
    await one.create("a")
    stream = two.stub.WatchFlags(pb.WatchFlagsRequest())
    await stream.read()
    waits = []
    for number in range(TOGGLES):
        flag = await one.toggle("a", number % 2 == 0)
        waits.append(await seen(two, "a", flag.revision))
    changes = [(await asyncio.wait_for(stream.read(), 5)).change for _ in range(TOGGLES)]
    assert [change.revision for change in changes] == list(range(2, TOGGLES + 2))
    assert [change.flag.status for change in changes[:2]] == [types.FLAG_STATUS_ENABLED, types.FLAG_STATUS_DISABLED]
    stream.cancel()
    waits.sort()
    p50, p99 = (waits[TOGGLES * percent // 100] * 1e3 for percent in (50, 99))
    print(f"toggle to other replica: p50 {p50:.2f} ms, p99 {p99:.2f} ms")  # noqa: T201


async def test_the_shared_cache_holds_what_was_written(pair: tuple[Client, Client], redis_clean_url: str) -> None:
    one, _ = pair
    await one.create("a", config=types.Value(object_value=types.ObjectValue()))
    with redis.Redis.from_url(redis_clean_url) as direct:
        schema, store, as_of, revision, body = direct.get("feature-flag:a").split(b":", 4)
        assert (schema, int(revision), json.loads(body)["status"]) == (b"3", 1, "DISABLED")
        assert store.decode() == owner_at(redis_clean_url).id
        assert abs(direct.time()[0] - int(as_of) / 1000) < 3
        assert 200 < direct.ttl("feature-flag:a") <= 330
        await one.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a"))
        assert direct.get("feature-flag:a").split(b":")[3:] == [b"2", b""]


async def test_without_near_cache_a_check_reads_redis_and_mongodb_once(
    mongo_database_url: str, redis_clean_url: str, loads: Loads
) -> None:
    insert_eight(mongo_database_url)
    async with replica(
        store_url=mongo_database_url, cache_url=redis_clean_url, near_cache_entries=0, staleness_bound_s=60
    ) as (client, _):
        await until_serving(client)
        first = await client.evaluate("support-chat")
        assert first.source == types.DEFINITION_SOURCE_STORE
        before = finds(mongo_database_url) - loads.finds
        for _ in range(100):
            assert (await client.evaluate("support-chat")).source == types.DEFINITION_SOURCE_CACHE
        assert finds(mongo_database_url) - before <= 1 + loads.finds
        assert (await client.evaluate("nope")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
        before = finds(mongo_database_url) - loads.finds
        for _ in range(50):
            assert (await client.evaluate("nope")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
        assert finds(mongo_database_url) - before <= 1 + loads.finds
        await client.create("nope", status=types.FLAG_STATUS_ENABLED)
        assert (await client.evaluate("nope")).enabled


async def test_concurrent_misses_of_one_key_are_one_read(
    mongo_database_url: str, redis_clean_url: str, loads: Loads
) -> None:
    insert_eight(mongo_database_url)
    async with replica(store_url=mongo_database_url, cache_url=redis_clean_url, near_cache_entries=0) as (client, _):
        await until_serving(client)
        before = finds(mongo_database_url) - loads.finds
        found = await asyncio.gather(*(client.evaluate("support-chat") for _ in range(200)))
        assert all(f.enabled for f in found)
        assert finds(mongo_database_url) - before <= 3 + loads.finds


async def test_a_caller_who_leaves_does_not_cancel_the_shared_read(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    insert_eight(mongo_database_url)
    async with replica(store_url=mongo_database_url, cache_url=redis_clean_url, near_cache_entries=0) as (client, _):
        await until_serving(client)
        impatient = client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="team-channels"))
        patient = asyncio.create_task(client.evaluate("team-channels"))
        await asyncio.sleep(0.001)
        impatient.cancel()
        assert (await patient).enabled


async def test_more_flags_than_the_near_cache_may_hold(mongo_database_url: str, redis_clean_url: str) -> None:
    insert_eight(mongo_database_url)
    settings = {"store_url": mongo_database_url, "cache_url": redis_clean_url, "near_cache_entries": 3}
    async with replica(**settings) as (client, server):
        await until_serving(client)
        for _ in range(3):
            assert (await client.evaluate("support-chat")).enabled
            assert not (await client.evaluate("analytics")).enabled
            assert (await client.evaluate("nope")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
        assert len((await client.stub.ListFlags(pb.ListFlagsRequest())).flags) == 8
        assert len(server.replica.near) <= 3
        await client.toggle("support-chat", False)
        assert not (await client.evaluate("support-chat")).enabled
