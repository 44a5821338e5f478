"""Hole 1: a reader is paused between its read of the store and its fill, and a change is made meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pymongo

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.holes.stage import (
    DISABLED,
    NEAR,
    NONE,
    OVERFULL,
    Cached,
    Gate,
    Running,
    at_once,
    database,
    running,
    until_answered,
    until_lease_held,
)
from tests.replicas import until
from tests.servers import RedisServer

BOUND_S = 2.0
FLAG_OF = {NEAR: "a", OVERFULL: "b", NONE: "c"}
"""Each reader has a flag of its own: of those who ask for the same flag, one reads and the others wait for it."""


def raise_counter(url: str) -> int:
    """Do what a writer does that never announces its change; return the revision."""
    with pymongo.MongoClient(url) as direct:
        counters = database(direct)["flagsvc_revisions"]
        raised = counters.find_one_and_update({"_id": "default"}, {"$inc": {"revision": 1}}, return_document=True)
    return int(raised["revision"])


async def paused_read(reader: Running, key: str, url: str, cached: Cached) -> tuple[Gate, asyncio.Task[object]]:
    """Let a replica read a flag from the store, and hold it there."""
    gate = Gate(reader.replica.store, "get")
    while not gate.reached.is_set():
        cached.evict(key)
        # A replica that holds all flags reads one only for a caller that requires a revision it does not have yet.
        wanted = {"min_revision": raise_counter(url)} if reader.replica.near.complete else {}
        asking = asyncio.create_task(reader.client.evaluate(key, **wanted))
        reaching = asyncio.create_task(gate.reached.wait())
        await asyncio.wait([asking, reaching], return_when=asyncio.FIRST_COMPLETED)
        reaching.cancel()
    return gate, asking


async def test_01_a_reader_paused_between_its_read_and_its_fill_does_not_bring_back_the_old_value(
    new_database_url: Callable[[], str], new_redis: Callable[[], RedisServer]
) -> None:
    """Where Redis has the newer entry, and where that entry was evicted, so that there is nothing to compare with."""
    await at_once(*(fills_late(new_database_url(), new_redis().url, evicted=evicted) for evicted in (False, True)))


async def fills_late(mongo_url: str, redis_url: str, *, evicted: bool) -> None:
    settings = {"store_url": mongo_url, "cache_url": redis_url, "staleness_bound_s": BOUND_S}
    async with running(NEAR, **settings) as (writer,):
        for key in "abcd":
            await writer.client.create(key, status=DISABLED)
        await until_lease_held([writer])
        async with running(*FLAG_OF, **settings) as readers:
            with Cached(redis_url) as cached:
                asked = zip(readers, FLAG_OF.values(), strict=True)
                paused = [await paused_read(reader, key, mongo_url, cached) for reader, key in asked]
                toggled_at = time.monotonic()
                new = {key: (await writer.client.toggle(key, True)).revision for key in FLAG_OF.values()}
                if evicted:
                    # Not before the lease holder has put the change again: from then on only readers fill.
                    await until_lease_held([writer, *readers])
                    cached.evict(*new)
                for gate, _ in paused:
                    gate.open()
                await asyncio.gather(*(asking for _, asking in paused))
                filled = {key: entry.revision for key in new if (entry := cached.entry(key)) is not None}
                assert evicted or filled == new, "an old fill took the place of a newer entry"
                async with running(NONE, **settings) as (late,):
                    await assert_ages_are_true(late, new, toggled_at)
                for each in (writer, *readers):
                    for key, revision in new.items():
                        assert (await each.client.evaluate(key)).revision == revision


async def assert_ages_are_true(late: Running, new: dict[str, int], toggled_at: float) -> None:
    """A replica that missed the change never claims that an old answer was verified after the change.

    A replica that knows of the change would correct the entry when asked.
    """
    until_then = time.monotonic() + BOUND_S * 0.6  # enough for the lease holder to put the change again
    while time.monotonic() < until_then:
        for key, revision in new.items():
            asked_at = time.monotonic()
            found = await late.client.evaluate(key)
            assert found.revision == revision or asked_at - found.age_ms / 1000 <= toggled_at, f"{found}"
        await asyncio.sleep(0.02)


async def test_01_a_load_of_everything_paused_before_it_is_taken_brings_nothing_back(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with running(NEAR, NEAR, **urls, staleness_bound_s=1.0) as (writer, reader):
        for key in "ab":
            await writer.client.create(key, status=DISABLED)
        await until_answered(reader.client, "b", 2)
        gate = Gate(reader.replica.store, "load")
        raise_counter(mongo_database_url)
        await gate.until_reached()
        toggled = (await writer.client.toggle("a", True)).revision
        await writer.client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="b"))
        created = (await writer.client.create("c")).revision
        await until(lambda: reader.held("c") == created)
        loads = reader.replica.follower.loader.loads
        gate.open()
        await until(lambda: reader.replica.follower.loader.loads > loads)
        assert (await reader.client.evaluate("a")).revision == toggled
        assert (await reader.client.evaluate("b")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
        assert (await reader.client.evaluate("c")).revision == created
        flags = (await reader.client.stub.ListFlags(pb.ListFlagsRequest())).flags
        assert [(flag.key, flag.revision) for flag in flags] == [("a", toggled), ("c", created)]
