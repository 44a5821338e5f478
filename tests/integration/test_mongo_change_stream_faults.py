"""The change stream while servers die, freeze, or take over from each other; and its checkpoints meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import pymongo
import pytest
from bson import Timestamp
from structlog.testing import capture_logs

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.errors import StoreUnavailable
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, ChangesUnsupported, Subscribed, UnversionedChange
from flagsvc.view.near_cache import NearCache
from tests.followers import follower_of
from tests.replica_sets import ReplicaSet
from tests.servers import Mongod
from tests.store_events import CHAT, DRIVERS, OTHER, SHIPPED_ONE, Received, Writers, create, toggle


@pytest.fixture(scope="module")
def members() -> Iterator[ReplicaSet]:
    """A set of three; each test leaves it whole."""
    with ReplicaSet() as found:
        yield found


@pytest.fixture(params=SHIPPED_ONE)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options with which a store uses each of the two drivers."""
    return DRIVERS[request.param]


@pytest.fixture
def waits() -> dict[str, float]:
    """The change stream's times where they are not the usual ones."""
    return {}


@pytest.fixture
async def alone(mongod: Mongod, options: dict[str, Any]) -> AsyncIterator[MongoStore]:
    """A store in a set of one that may be stopped or frozen."""
    async for store in opened(mongod.database_url("alkitu"), options):
        yield store


@pytest.fixture
async def among(members: ReplicaSet, options: dict[str, Any], waits: dict[str, float]) -> AsyncIterator[MongoStore]:
    """A store in an empty database of the set of three."""
    members.wait_until_whole()
    with pymongo.MongoClient[dict[str, Any]](members.url) as client:
        client.drop_database("alkitu")
    async for store in opened(members.database_url("alkitu"), options | waits):
        yield store


async def opened(url: str, options: dict[str, Any]) -> AsyncIterator[MongoStore]:
    store = MongoStore(url, **options)
    await store.open()
    yield store
    await store.close()


async def test_a_checkpoint_covers_every_change_acknowledged_before_it(among: MongoStore, members: ReplicaSet) -> None:
    await create(among)
    async with Received(among) as received:
        writers = Writers(among, members.url)
        await writers.run(lambda: time.sleep(2))
        await received.settled()
        writers.assert_all_received(received, (await among.get(CHAT)).revision)
        assert Subscribed() not in received.events[1:]
        assert len(writers.ours) + len(writers.foreign) > 50


@pytest.mark.parametrize("fault", ["step down", "kill", "freeze"])
async def test_nothing_is_lost_when_another_becomes_primary(among: MongoStore, members: ReplicaSet, fault: str) -> None:
    def replace() -> None:
        match fault:
            case "step down":
                members.step_down()
            case "kill":
                old = members.primary()
                old.kill()
                members.primary()
                old.start()
            case _:
                old = members.primary()
                old.pause()
                time.sleep(3)
                old.resume()

    await create(among)
    async with Received(among) as received:
        writers = Writers(among, members.url)
        await writers.run(replace)
        await received.settled()
        writers.assert_all_received(received, (await among.get(CHAT)).revision)
        assert among.stream_restarts > 0
        assert among.stream_up


@pytest.mark.parametrize("what", ["revisions", "load"])
async def test_a_primary_without_a_majority_verifies_nothing(among: MongoStore, members: ReplicaSet, what: str) -> None:
    await create(among)
    async with Received(among) as received:
        await received.settled()
        secondaries = members.secondaries()
        try:
            for member in secondaries:
                member.pause()
            asked_at = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await getattr(among, what)()
            assert time.monotonic() - asked_at < 3
        finally:
            for member in secondaries:
                member.resume()
        members.wait_until_whole()
        entry = await toggle(among)
        assert Announced(entry) in await received.settled()
        assert dict((await among.load()).revisions) == {"default": entry.revision} == dict(await among.revisions())


@pytest.mark.parametrize("waits", [{"prove_after_s": 60.0}])
async def test_a_member_that_is_behind_makes_no_checkpoint(among: MongoStore) -> None:
    await create(among)
    async with Received(among) as received:
        await received.settled()
        checkpoint = received.checkpoint
        among._change_stream.prove(time.monotonic(), Timestamp(2**31, 1))
        entry = await toggle(among)
        await received.until(lambda: Announced(entry) in received.events)
        await asyncio.sleep(1)
        assert received.checkpoint == checkpoint
        assert await received.settled() == [Announced(entry)]


@pytest.mark.parametrize("waits", [{"prove_after_s": 0.1, "stream_wait_s": 0.05}])
async def test_the_stream_alone_makes_checkpoints(among: MongoStore, members: ReplicaSet) -> None:
    async with Received(among) as received:
        for _ in range(3):
            now = time.monotonic()
            await received.until(lambda: received.checkpoint >= now, 3)  # noqa: B023 - awaited within the round
        secondaries = members.secondaries()
        try:
            for member in secondaries:
                member.pause()
            now = time.monotonic()
            await asyncio.sleep(1)
            assert received.checkpoint <= now
        finally:
            for member in secondaries:
                member.resume()


async def test_a_frozen_server_makes_no_checkpoint_until_it_continues(alone: MongoStore, mongod: Mongod) -> None:
    await create(alone)
    async with Received(alone) as received:
        await received.settled()
        paused_at = time.monotonic()
        mongod.pause()
        try:
            await asyncio.sleep(4)
            assert received.checkpoint <= paused_at
            assert not alone.stream_up
        finally:
            mongod.resume()
        resumed_at = time.monotonic()
        with pymongo.MongoClient[dict[str, Any]](mongod.url) as client:
            client["alkitu"]["feature_flags"].insert_one({"key": "other"})
        assert await received.settled() == [UnversionedChange(OTHER, 0)]
        assert time.monotonic() - resumed_at < 6
        assert alone.stream_up
        assert alone.stream_restarts > 0


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_the_stream_resumes_where_it_was_after_a_restart_of_the_server(
    alone: MongoStore, mongod: Mongod, how: str
) -> None:
    def restart() -> None:
        (mongod.kill if how == "kill" else mongod.stop)()
        time.sleep(0.5)
        mongod.start()

    await create(alone)
    async with Received(alone) as received:
        writers = Writers(alone, mongod.url)
        await writers.run(restart)
        await received.settled()
        writers.assert_all_received(received, (await alone.get(CHAT)).revision)
        assert Subscribed() not in received.events[1:]


async def test_saving_the_resume_token_never_fails(alone: MongoStore, mongod: Mongod) -> None:
    async with Received(alone) as received:
        await received.settled()
        mongod.stop()
        asked_at = time.monotonic()
        await alone.save_resume_token()
        assert time.monotonic() - asked_at < 3


async def test_a_user_who_may_not_read_the_stream(options: dict[str, Any], tmp_path: Path) -> None:
    with GuardedMongod(tmp_path / "key") as server:
        store = MongoStore(server.user_url, **options)
        try:
            await store.open()
            await create(store)
            with capture_logs() as logs:
                for _ in range(2):
                    with pytest.raises(ChangesUnsupported):
                        await anext(store.changes())
            assert [entry["log_level"] for entry in logs] == ["warning"]
            assert (await store.get(CHAT)).revision == 1
            assert (await store.get(FlagId("default", "none"))).revision == 1
        finally:
            await store.close()


async def test_a_wrong_password_is_logged_and_is_in_no_answer(options: dict[str, Any], tmp_path: Path) -> None:
    with GuardedMongod(tmp_path / "key") as server:
        store = MongoStore(server.user_url.replace(":secret@", ":wrong@"), **options)
        near = NearCache(10, 5.0)
        follower = follower_of(near, store)
        try:
            with capture_logs() as logs:
                follower.start()
                await asyncio.wait_for(follower.tried.wait(), 10)
                with pytest.raises(StoreUnavailable) as refused:
                    await create(store)
            events = {entry["event"]: entry for entry in logs}
            assert "Authentication failed" in events["store_unavailable"]["cause"]
            assert "Authentication failed" in events["change_failed"]["cause"]
            assert "uthenti" not in str(refused.value)
        finally:
            await follower.close()
            await store.close()


class GuardedMongod(Mongod):
    """A mongod whose user may do everything with the database but read its change streams."""

    def __init__(self, key: Path) -> None:
        super().__init__()
        self._key = key
        key.write_text("bWVtYmVycw==")
        key.chmod(0o600)

    @property
    def user_url(self) -> str:
        return self.database_url("alkitu").replace("://", "://flagsvc:secret@") + "&authSource=admin"

    def _command(self) -> list[str]:
        return [*super()._command(), "--auth", "--keyFile", str(self._key)]

    def __enter__(self) -> Self:
        super().__enter__()
        root = {"pwd": "secret", "roles": ["root"]}
        with pymongo.MongoClient(self.url) as client:
            client.admin.command("createUser", "root", **root)
        actions = ["find", "insert", "update", "remove", "createCollection", "createIndex", "listIndexes"]
        granted = [{"resource": {"db": "alkitu", "collection": ""}, "actions": [*actions, "listCollections"]}]
        with pymongo.MongoClient(self.url, username="root", password="secret") as client:
            client.admin.command("createRole", "writer", privileges=granted, roles=[])
            client.admin.command("createUser", "flagsvc", pwd="secret", roles=["writer"])
        return self
