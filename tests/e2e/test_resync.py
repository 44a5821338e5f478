"""A store that was restored from a backup is noticed, and `flagsvc resync --confirm` replaces restarts and FLUSHDB."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pymongo
import pytest
import redis

from flagsvc.cli.main import main
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.replicas import Client, replica, until, until_serving
from tests.stores import OWNER_KEY

ON = types.FLAG_STATUS_ENABLED
Backup = Callable[[], Callable[[], None]]
"""Makes a backup, and returns what restores it in place."""


def sqlite_backup(url: str) -> Callable[[], None]:
    kept = sqlite3.connect(":memory:", check_same_thread=False)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as store:
        store.backup(kept)

    def restore() -> None:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as store:
            kept.backup(store)
        kept.close()

    return restore


def mongo_backup(url: str) -> Callable[[], None]:
    names = ("feature_flags", "feature_flag_history", "flagsvc_revisions")
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url)
    store = client.get_default_database()
    kept = {name: list(store[name].find()) for name in names}

    def restore() -> None:
        for name, documents in kept.items():
            store[name].delete_many({"_id": {"$nin": [document["_id"] for document in documents]}})
            for document in documents:
                store[name].replace_one({"_id": document["_id"]}, document, upsert=True)
        client.close()

    return restore


@pytest.fixture
async def pair(store_url: str, redis_clean_url: str) -> AsyncIterator[list[tuple[Client, Server]]]:
    settings: dict[str, Any] = {"store_url": store_url, "cache_url": redis_clean_url, "staleness_bound_s": 2.0}
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(replica(**settings)) for _ in range(2)]
        for client, server in both:
            await until_serving(client)
            await until(lambda server=server: server.replica.follower.channels.subscription_up)
        await until(lambda: len(both[0][1].replica.heartbeats._peers) == 2)
        yield both


async def names(client: Client) -> set[str]:
    status = await client.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
    return {problem.name for each in status.replicas for problem in each.problems}


async def test_a_restored_store_is_noticed_and_a_resync_makes_every_replica_follow_it(
    pair: list[tuple[Client, Server]], store_url: str, redis_clean_url: str
) -> None:
    (one, first), (two, second) = pair
    await one.create("a", status=ON)
    restore = (sqlite_backup if store_url.startswith("sqlite") else mongo_backup)(store_url)
    await one.toggle("a", False)
    await one.create("later", status=ON)
    await until(lambda: second.replica.near.contains("default", 3))
    await until(lambda: not len(second.replica.follower.proof.hints))
    restore()
    await until(lambda: not first.replica.follower.proof.lineage.is_sound)
    await until(lambda: not second.replica.follower.proof.lineage.is_sound)
    assert "store_went_back" in await names(one)
    assert not (await two.evaluate("a")).enabled, "no replica goes back by itself"

    described = await one.stub.Resync(pb.ResyncRequest(), timeout=10)
    assert (described.done, len(described.waiting)) == (False, 2)
    assert not first.replica.follower.proof.lineage.is_sound

    identity = first.replica.store.identity
    report = await one.stub.Resync(pb.ResyncRequest(confirm=True), timeout=20)
    assert (report.done, report.flags, list(report.waiting)) == (True, 1, [])
    assert set(report.resynced) == {server.replica.heartbeats.name for _, server in pair}
    for client, server in pair:
        assert (await client.evaluate("a")).enabled
        assert (await client.evaluate("later")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
        assert server.replica.store.identity != identity
        assert server.replica.cache_is_up()
    await until(lambda: any(server.replica.cache_lease.is_holder for _, server in pair))
    counters = await first.replica.store.revisions()
    toggled = await one.toggle("a", False)
    assert toggled.revision > counters["default"], "the store counts on from where it is"
    await until(lambda: second.replica.near.contains("default", toggled.revision))
    assert not (await two.evaluate("a")).enabled
    await until(lambda: all(server.replica.follower.proof.lineage.is_sound for _, server in pair))
    with redis.Redis.from_url(redis_clean_url) as direct:
        assert str(first.replica.store.identity.id).encode() in (direct.get(OWNER_KEY) or b"")  # type: ignore[union-attr]
        assert str(first.replica.store.identity.id).encode() in (direct.get("feature-flag:a") or b"")  # type: ignore[union-attr]


async def test_a_replica_that_misses_the_announcement_sees_the_new_identity(
    pair: list[tuple[Client, Server]], redis_clean_url: str
) -> None:
    (one, first), (two, second) = pair
    await one.create("a", status=ON)
    await until(lambda: second.replica.near.contains("default", 1))
    first.replica.cache.announce_identity = lambda: asyncio.sleep(0, False)  # type: ignore[union-attr,method-assign,assignment,return-value]
    report = await one.stub.Resync(pb.ResyncRequest(confirm=True), timeout=20)
    assert not report.waiting
    assert (await two.evaluate("a")).enabled
    assert second.replica.store.identity == first.replica.store.identity


async def test_answers_go_on_during_a_resync(pair: list[tuple[Client, Server]]) -> None:
    (one, _), (two, _) = pair
    await one.create("a", status=ON)
    await asyncio.sleep(0)
    resync = asyncio.create_task(_resync(one))
    answers = 0
    while not resync.done():
        assert (await one.evaluate("a")).enabled
        answers += 1
    assert answers
    await resync
    assert (await two.evaluate("a")).enabled


async def _resync(client: Client) -> None:
    await client.stub.Resync(pb.ResyncRequest(confirm=True), timeout=20)


async def test_the_command_does_nothing_without_confirm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        await until_serving(client)
        await client.create("a", status=ON)
        address = ("--address", f"127.0.0.1:{server.port}")
        identity = server.replica.store.identity
        assert await asyncio.to_thread(main, ["resync", *address]) == 1
        printed = capsys.readouterr()
        assert "1 replicas drop what they hold (1 flags)" in printed.out
        assert "flagsvc resync --confirm" in printed.err
        assert server.replica.store.identity == identity
        assert await asyncio.to_thread(main, ["resync", "--confirm", *address]) == 0
        assert "1 flags of sqlite:///" in capsys.readouterr().out
        assert server.replica.store.identity != identity


async def test_files_are_not_resynced(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text('{"flags": {}}')
    async with replica(store_url=f"file:{tmp_path}/flags.json") as (client, _):
        await until_serving(client)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _resync(client)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
