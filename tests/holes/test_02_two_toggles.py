"""Hole 2: two replicas change one flag at the same time, and the stores end up with different orders of the changes."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pymongo

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.holes.stage import (
    DISABLED,
    ENABLED,
    NEAR,
    NONE,
    OVERFULL,
    Cached,
    Gate,
    Running,
    database,
    running,
    until_answered,
)

TOGGLES = 12


async def agreed(replicas: list[Running], mongo_url: str, redis_url: str, newest: int) -> None:
    """MongoDB, Redis, every replica and the history agree on flag a, which has this revision."""
    for each in replicas:
        await until_answered(each.client, "a", newest)
    with pymongo.MongoClient(mongo_url) as direct, Cached(redis_url) as cached:
        stored = database(direct)["feature_flags"].find_one({"key": "a"})
        rows = list(database(direct)["feature_flag_history"].find({"featureKey": "a"}).sort("revision", 1))
        entry = cached.entry("a")
    enabled = stored["status"] == "ENABLED"
    assert stored["revision"] == newest
    assert entry is not None
    assert entry.flag is not None
    assert (entry.revision, entry.flag.status.value) == (newest, stored["status"])
    for each in replicas:
        found = await each.client.evaluate("a")
        assert (found.revision, found.enabled, found.status) == (newest, enabled, ENABLED if enabled else DISABLED)
    assert [row["revision"] for row in rows] == sorted({row["revision"] for row in rows})
    assert rows[-1]["revision"] == newest
    for before, after in pairwise(rows):
        new, previous = before["newValue"], after["previousValue"]
        assert previous["status"] == new["status"], f"revision {after['revision']} does not follow {before['revision']}"
    assert rows[-1]["newValue"]["status"] == stored["status"]
    listed = await replicas[0].client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="a", page_size=1000))
    assert [each.revision for each in listed.entries] == [row["revision"] for row in reversed(rows)]


async def test_02_two_replicas_that_toggle_at_the_same_time_leave_one_order_everywhere(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with running(NEAR, NEAR, OVERFULL, NONE, **urls) as replicas:
        for key in "abc":
            await replicas[0].client.create(key)

        async def toggling(writer: Running, enabled: bool) -> list[int]:
            return [(await writer.client.toggle("a", enabled ^ (n % 2 == 0))).revision for n in range(TOGGLES)]

        results = await asyncio.gather(*(toggling(w, e) for w in replicas[:2] for e in (True, False)))
        revisions = sorted(revision for each in results for revision in each)
        assert revisions == list(range(4, 4 + 4 * TOGGLES)), "a change has no revision of its own"
        await agreed(replicas, mongo_database_url, redis_clean_url, revisions[-1])


async def test_02_the_first_to_commit_and_last_to_cache_does_not_win(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with running(NEAR, NEAR, NONE, **urls) as replicas:
        first, second, _ = replicas
        await first.client.create("a")
        gate = Gate(first.replica.store, "write")
        slow = asyncio.create_task(first.client.toggle("a", True))
        await gate.until_reached()
        newest = (await second.client.toggle("a", False)).revision
        gate.open()
        assert (await slow).revision == newest - 1
        with Cached(redis_clean_url) as cached:
            entry = cached.entry("a")
        assert entry is not None
        assert entry.revision == newest, "the older change was cached over the newer one"
        await agreed(replicas, mongo_database_url, redis_clean_url, newest)
