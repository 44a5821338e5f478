"""What Redis says is a hint: a forged message lives at most one staleness bound, and ends no flag set's writes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.replicas import Client, replica, until, until_serving
from tests.stores import CHANNEL, HEARTBEATS_KEY, REPLICAS_KEY, owner_at

ON = types.FLAG_STATUS_ENABLED
BOUND_S = 2.0


@asynccontextmanager
async def deployment(store_url: str, cache_url: str, count: int = 1) -> AsyncIterator[list[tuple[Client, Server]]]:
    """Replicas with two flags: `a` is on at revision 1, `b` at revision 2."""
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"store_url": store_url, "cache_url": cache_url, "staleness_bound_s": BOUND_S}
        found = [await stack.enter_async_context(replica(**settings)) for _ in range(count)]
        for client, server in found:
            await until_serving(client)
            await until(lambda server=server: server.replica.follower.channels.subscription_up)
        for key in ("a", "b"):
            await found[0][0].create(key, status=ON)
        for _, server in found:
            await until(lambda server=server: server.replica.near.contains("default", 2))
            await until(lambda server=server: not len(server.replica.follower.proof.hints))
        yield found


def publish(url: str, **fields: Any) -> None:
    """Publish as this deployment's store; without a flag it says that the flag is gone."""
    store = owner_at(url)
    text = json.dumps({"set": "default", "flag": None, **fields, "store": [store.id, store.name]})
    with redis.Redis.from_url(url) as direct:
        direct.publish(CHANNEL, text)


def off(key: str, revision: int) -> dict[str, Any]:
    flag = {"needs": [], "key": key, "status": "DISABLED", "revision": revision}
    return {"key": key, "revision": revision, "flag": flag}


@pytest.mark.parametrize("ahead", [1, 2, 9_000])
async def test_a_forged_message_lives_at_most_one_staleness_bound(
    store_url: str, redis_clean_url: str, ahead: int
) -> None:
    """Its revision is plausible: the next one, one beyond it, or one far ahead but within all bounds."""
    async with deployment(store_url, redis_clean_url) as [(client, server)]:
        follower, applied = server.replica.follower, list[int]()
        server.replica.near.when_changed(lambda entry: applied.append(entry.revision))
        publish(redis_clean_url, **off("a", 2 + ahead))
        began = time.monotonic()
        await until(lambda: 2 + ahead in applied)  # it is believed at first
        while not (await client.evaluate("a")).enabled:
            assert time.monotonic() - began < BOUND_S
            await asyncio.sleep(0.02)
        assert follower.proof.hints.contradicted == 1
        status = await client.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
        assert [problem.name for problem in status.replicas[0].problems] == ["announcements_contradicted"]
        # The real change of the forged revision is seen, written, and counts on from the store.
        await until(lambda: server.replica.near.contains("default", 2))
        assert (await client.create("c", status=ON)).revision == 3
        assert (await client.evaluate("c")).enabled
        assert (await client.toggle("a", False)).revision == 4
        assert not (await client.evaluate("a")).enabled


async def test_no_revision_out_of_bounds_or_far_ahead_is_applied(store_url: str, redis_clean_url: str) -> None:
    """The last one that MongoDB could count to once ended a flag set's writes for good."""
    async with deployment(store_url, redis_clean_url, 2) as [(one, _), (two, second)]:
        for revision in (2**63 - 4, 2**53 + 1, 2**53, 20_000, -1):
            publish(redis_clean_url, **off("a", revision))
            publish(redis_clean_url, key="a", revision=revision)
        await one.create("c", status=ON)  # comes after them on the channel
        await until(lambda: second.replica.near.contains("default", 3))
        for client in (one, two):
            assert (await client.evaluate("a")).enabled
        assert (await two.toggle("a", False)).revision == 4
        await until(lambda: second.replica.near.contains("default", 4))
        assert second.replica.follower.proof.hints.contradicted == 0


async def test_a_forged_revision_does_not_hide_the_change_that_has_it(store_url: str, redis_clean_url: str) -> None:
    """Another process's change is lost on the channel; a message has given its revision to another flag."""
    async with deployment(store_url, redis_clean_url, 2) as [(one, first), (two, second)]:
        cache = first.replica.cache
        assert cache is not None
        publish(redis_clean_url, key="z", revision=3)  # a deletion of a flag that nobody has
        await until(lambda: second.replica.near.changelogs.watermark("default") == 3)
        first.replica.writer._cache = None  # its announcements are lost
        await one.toggle("a", False)
        began = time.monotonic()
        while (await two.evaluate("a")).enabled:
            assert time.monotonic() - began < BOUND_S + 1
            await asyncio.sleep(0.02)


async def test_an_own_message_twice_and_late_contradicts_nothing(store_url: str, redis_clean_url: str) -> None:
    async with deployment(store_url, redis_clean_url, 2) as [(one, _), (_, second)]:
        for number in range(20):
            await one.toggle("a", bool(number % 2))
        publish(redis_clean_url, **off("a", 2))
        await until(lambda: second.replica.near.contains("default", 22))
        await until(lambda: not len(second.replica.follower.proof.hints))
        assert second.replica.follower.proof.hints.contradicted == 0
        assert second.replica.follower.proof.lineage.is_sound


async def test_a_poisoned_counter_of_an_older_version_does_not_end_writes(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    async with deployment(mongo_database_url, redis_clean_url) as [(client, _)]:
        with pymongo.MongoClient(mongo_database_url) as direct:
            counters = direct.get_default_database()["flagsvc_revisions"]
            counters.update_one({"_id": "default"}, {"$set": {"revision": 2**63 - 1}})
        assert (await client.create("c", status=ON)).revision == 3


GARBAGE = {
    "not a number": '{"heartbeat": NaN}',
    "deep": "[" * 100_000,
    "a huge number": '{"heartbeat":1,"replica":"x","revisions":{"default":1%s},"lastSeen":{}}' % ("0" * 400),
    "another type": "7",
    "half a character": '{"heartbeat":1,"replica":"\\ud800","revisions":{},"ageS":1,"streamAgeS":1,"lastSeen":{}}',
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_garbage_report_never_takes_the_status_away(tmp_path: Path, redis_clean_url: str, text: str) -> None:
    """Also where its place in Redis says that it never runs out."""
    async with deployment(f"sqlite:///{tmp_path}/flags.db", redis_clean_url) as [(client, server)]:
        store = owner_at(redis_clean_url)
        ours = text.replace('"heartbeat":1,', f'"heartbeat":1,"store":["{store.id}","{store.name}"],')
        with redis.Redis.from_url(redis_clean_url) as direct:
            now_ms = direct.time()[0] * 1000
            for name, score in (("soon", now_ms + 60_000), ("never", 1e300), ("ever", float("inf"))):
                direct.zadd(REPLICAS_KEY, {name: score})
                direct.hset(HEARTBEATS_KEY, name, f"{now_ms}:{ours}")
        status = await client.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
        assert [each.replica for each in status.replicas] == [server.replica.heartbeats.name]
        assert status.complete
        assert server.replica.cache_is_up()
