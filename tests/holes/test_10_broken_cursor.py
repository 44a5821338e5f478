"""Hole 10: a cursor breaks in the middle of a listing, and the part before it is taken for everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.adapters.mongo import documents as mongo_documents
from flagsvc.core.model import Flag
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.holes.stage import NEAR, NONE, Running, at_once, database, running, watch
from tests.replicas import Client, until
from tests.servers import Mongod, RedisServer

FLAGS = 350
"""Four batches of a cursor."""
BREAKS_AT = 50


def keys(name: str) -> list[str]:
    return [f"{name}-{number:03}" for number in range(FLAGS)]


class Breaking:
    """Breaks the next listings of flags in their first batch, before the rest is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, break_it: Callable[[], None]) -> None:
        self._first, self._at = keys(name)[0], keys(name)[BREAKS_AT]
        self._break, self._read, self._listing = break_it, mongo_documents.to_flag, False
        self.armed = self.broken = 0
        monkeypatch.setattr(mongo_documents, "to_flag", self._to_flag)

    def _to_flag(self, raw: dict[str, Any]) -> Flag:
        flag = self._read(raw)
        self._listing = self._listing or flag.key == self._first
        if self.broken < self.armed and self._listing and flag.key == self._at:
            self._listing = False
            self.broken += 1
            self._break()
        return flag


def kill_cursors(url: str) -> None:
    """End the server's cursors of listings, as a failover or its own time-out does."""
    with pymongo.MongoClient(url) as direct:
        idle = direct.admin.aggregate([{"$currentOp": {"idleCursors": True}}, {"$match": {"type": "idleCursor"}}])
        name = database(direct).name
        listings = [c["cursor"]["cursorId"] for c in idle if c["cursor"]["originatingCommand"].get("find")]
        result = database(direct).command("killCursors", "feature_flags", cursors=listings)
        assert result["cursorsKilled"], name


async def all_there(asked: Running, name: str, *, ways: int) -> None:
    """Every way of listing returns all flags, or an error."""
    whole, client = pb.ListFlagsRequest(page_size=1000), asked.client
    listings = (client.stub.ListFlags(whole, timeout=30) for _ in range(ways))
    for listed in await asyncio.gather(*listings, return_exceptions=True):
        if isinstance(listed, grpc.aio.AioRpcError):
            assert listed.code() is grpc.StatusCode.UNAVAILABLE
        else:
            assert [flag.key for flag in listed.flags] == keys(name)
    await all_evaluated(client, keys(name))


async def all_evaluated(client: Client, flag_keys: list[str]) -> None:
    """Every flag is enabled at once or after a while, and none is ever missing.

    A replica that waits for a CPU cannot prove its view, and answers that it is not ready.
    """
    for _ in range(100):
        found = await client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=flag_keys), timeout=10)
        errors = {each.error_code for each in found.evaluations if not each.enabled}
        assert errors <= {types.ERROR_CODE_PROVIDER_NOT_READY}
        if not errors:
            return
        await asyncio.sleep(0.1)
    pytest.fail("some flags are not ready after 10 s")


def insert_all(url: str, name: str) -> None:
    with pymongo.MongoClient(url) as direct:
        documents = [{"key": key, "name": key, "status": "ENABLED", "sortOrder": n} for n, key in enumerate(keys(name))]
        database(direct)["feature_flags"].insert_many(documents)


def raise_counter(url: str) -> None:
    """Make replicas think that they have missed a change, so that they read everything."""
    with pymongo.MongoClient(url) as direct:
        database(direct)["flagsvc_revisions"].update_one({"_id": "default"}, {"$inc": {"revision": 1}}, upsert=True)


async def test_10_a_listing_that_breaks_in_the_middle_leaves_no_partial_set(
    mongo_database_url: str,
    frozen_mongod: Mongod,
    new_redis: Callable[[], RedisServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cursor at a start, in a list and while running; while running, the whole store; both at once."""
    name, other = "cursor", "server"
    cursors = Breaking(monkeypatch, name, lambda: kill_cursors(mongo_database_url))
    server = Breaking(monkeypatch, other, frozen_mongod.kill)
    await at_once(
        cursor_breaks(cursors, name, mongo_database_url, new_redis().url),
        server_breaks(server, other, frozen_mongod, new_redis().url),
    )


async def cursor_breaks(breaking: Breaking, name: str, mongo_url: str, redis_url: str) -> None:
    insert_all(mongo_url, name)
    breaking.armed = 1
    settings = {"store_url": mongo_url, "cache_url": redis_url, "staleness_bound_s": 1.5}
    async with running(NEAR, NONE, **settings) as (whole, partial):
        assert breaking.broken == 1, "the first load was not broken"
        watched = watch(whole.client)
        await until(lambda: bool(watched.received))
        assert len(watched.received[0].snapshot.flags) == FLAGS

        breaking.armed = 2
        await all_there(partial, name, ways=2)
        assert breaking.broken == 2, "the listing was not broken"

        breaking.armed, loads = 3, whole.replica.follower.loader.loads
        raise_counter(mongo_url)
        await until(lambda: breaking.broken == 3)
        await all_there(whole, name, ways=1)
        await until(lambda: whole.replica.follower.loader.loads > loads)
        await all_there(whole, name, ways=1)
        assert [change.flag_key for change in watched.changes if not change.HasField("flag")] == []
        await watched.close()


async def server_breaks(breaking: Breaking, name: str, mongod: Mongod, redis_url: str) -> None:
    url = mongod.database_url("hole_10")
    insert_all(url, name)
    settings = {"store_url": url, "cache_url": redis_url, "staleness_bound_s": 1.5, "store_timeout_s": 0.5}
    async with running(NEAR, **settings) as (whole,):
        breaking.armed, loads = 1, whole.replica.follower.loader.loads
        raise_counter(url)
        await until(lambda: breaking.broken == 1)
        await until(lambda: not whole.replica.follower.store_up)
        await all_there(whole, name, ways=1)
        await asyncio.to_thread(mongod.start)
        raise_counter(url)  # the kill may have come before it was on the disk
        await until(lambda: whole.replica.follower.loader.loads > loads)
        await all_there(whole, name, ways=1)
