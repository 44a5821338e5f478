"""A replica whose connections to MongoDB stall while a peer lives: the peer's heartbeats prove its view."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.faults.stores import DATABASE, Mongods
from tests.replicas import Client, reason_of, replica, until
from tests.servers import HOST

BOUND_S = 1.5
CALM_S = 2 * BOUND_S
"""For so long no answer may be STALE."""
STALLED = ("replica-1", "replica-1-tail")
"""The labels of the second replica's connections: reads and writes, and the change stream."""


@pytest.fixture
async def mongods() -> AsyncIterator[Mongods]:
    """A replica set of one behind a proxy."""
    mongods = Mongods(1)
    try:
        await mongods.open()
        yield mongods
    finally:
        await mongods.shut()


def is_stale(found: pb.FlagEvaluation) -> bool:
    return found.reason == types.REASON_STALE


async def greatest_age_s(client: Client, server: Server, seconds: float) -> float:
    """Evaluate the flag again and again; return the greatest age of the view. Infinite where an answer was STALE."""
    greatest, until_ = 0.0, time.monotonic() + seconds
    while time.monotonic() < until_:
        found = await client.evaluate("chat")
        age_s = time.monotonic() - server.replica.near.verified_at
        greatest = max(greatest, age_s, found.age_ms / 1000)
        if is_stale(found):
            return math.inf
        await asyncio.sleep(0.03)
    return greatest


async def change_directly(mongods: Mongods, status: str) -> None:
    """Change the flag as another program does, past the proxy."""

    def change() -> None:
        with pymongo.MongoClient[dict[str, Any]](HOST, mongods.members[0].port, directConnection=True) as direct:
            direct[DATABASE]["feature_flags"].update_one({"key": "chat"}, {"$set": {"status": status}})

    await asyncio.to_thread(change)


async def test_a_replica_without_mongodb_stays_within_the_bound_while_a_peer_lives_and_says_stale_after(
    mongods: Mongods, redis_clean_url: str
) -> None:
    [proxy] = mongods.proxies
    settings = {"cache_url": redis_clean_url, "staleness_bound_s": BOUND_S}
    async with AsyncExitStack() as peer, replica(store_url=mongods.replica_url(1), **settings) as (client, server):
        await client.create("chat", status=types.FLAG_STATUS_DISABLED)
        _, peer_server = await peer.enter_async_context(replica(store_url=mongods.replica_url(0), **settings))
        await until(lambda: peer_server.replica.follower.feed_up)
        joined_at = time.monotonic()  # the peer's stream must be older than the view that it proves
        await until(lambda: server.replica.near.verified_at > joined_at)
        for label in STALLED:
            assert proxy.open(label), "nothing is stalled, so nothing is tested"
            proxy.stall(label)
        await until(lambda: not server.replica.follower.store_up)

        # Where the machine stood still, the next span counts; without the proof every span has STALE answers.
        ages: list[float] = []
        while not ages or (ages[-1] >= BOUND_S and len(ages) < 4):
            ages.append(await greatest_age_s(client, server, CALM_S))
        assert ages[-1] < BOUND_S, ages
        assert not server.replica.follower.store_up

        await change_directly(mongods, "ENABLED")
        async with asyncio.timeout(10):
            while not (found := await client.evaluate("chat")).enabled:  # noqa: ASYNC110  asked as a caller does
                await asyncio.sleep(0.03)
        assert not is_stale(found)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="chat", enabled=False), timeout=10)
        assert reason_of(refused.value) == "STORE_UNAVAILABLE"

        await peer.aclose()
        async with asyncio.timeout(20):
            while not is_stale(found := await client.evaluate("chat")):  # noqa: ASYNC110  asked as a caller does
                await asyncio.sleep(0.03)
        assert found.age_ms > BOUND_S * 1000
        assert found.value.boolean_value is True, "the last known value"

        for label in STALLED:
            await proxy.heal(label)
        await until(lambda: server.replica.follower.store_up and server.replica.follower.feed_up)
        await until(lambda: time.monotonic() - server.replica.near.verified_at < BOUND_S)
        assert not is_stale(await client.evaluate("chat"))
