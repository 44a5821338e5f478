"""The change stream while servers die, freeze, or take over from each other; and what it says of the time meanwhile."""

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

from flagsvc.adapters.mongo import change_stream
from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.errors import StoreUnavailable
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, ChangesUnsupported, Subscribed, UnversionedChange
from flagsvc.replication.follower import Follower
from flagsvc.view.near_cache import NearCache
from tests.replica_sets import ReplicaSet
from tests.servers import Mongod
from tests.store_events import CHAT, DRIVERS, OTHER, Heard, Writers, create, toggle
from tests.unit.test_reader import peers_of


@pytest.fixture(scope="module")
def members() -> Iterator[ReplicaSet]:
    """A set of three; each test leaves it whole."""
    with ReplicaSet() as found:
        yield found


@pytest.fixture(params=DRIVERS)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What makes a store use each of the two drivers."""
    return DRIVERS[request.param]


@pytest.fixture
async def alone(mongod: Mongod, options: dict[str, Any]) -> AsyncIterator[MongoStore]:
    """A store in a set of one that may be stopped or frozen."""
    async for store in opened(mongod.database_url("alkitu"), options):
        yield store


@pytest.fixture
async def among(members: ReplicaSet, options: dict[str, Any]) -> AsyncIterator[MongoStore]:
    """A store in an empty database of the set of three."""
    members.wait_until_whole()
    with pymongo.MongoClient[dict[str, Any]](members.url) as client:
        client.drop_database("alkitu")
    async for store in opened(members.database_url("alkitu"), options):
        yield store


async def opened(url: str, options: dict[str, Any]) -> AsyncIterator[MongoStore]:
    store = MongoStore(url, **options)
    await store.open()
    yield store
    await store.close()


async def test_what_was_acknowledged_before_was_told(among: MongoStore, members: ReplicaSet) -> None:
    await create(among)
    async with Heard(among) as heard:
        writers = Writers(among, members.url)
        await writers.run(lambda: time.sleep(2))
        await heard.settled()
        writers.assert_all_heard(heard, (await among.get(CHAT)).revision)
        assert Subscribed() not in heard.events[1:]
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
    async with Heard(among) as heard:
        writers = Writers(among, members.url)
        await writers.run(replace)
        await heard.settled()
        writers.assert_all_heard(heard, (await among.get(CHAT)).revision)
        assert among.stream_restarts > 0
        assert among.stream_up


@pytest.mark.parametrize("what", ["revisions", "load"])
async def test_a_primary_without_a_majority_confirms_nothing(among: MongoStore, members: ReplicaSet, what: str) -> None:
    await create(among)
    async with Heard(among) as heard:
        await heard.settled()
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
        assert Announced(entry) in await heard.settled()
        assert dict((await among.load()).revisions) == {"default": entry.revision} == dict(await among.revisions())


async def test_a_member_that_is_behind_says_nothing_of_the_time(
    among: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_stream, "PROVE_S", 60)
    await create(among)
    async with Heard(among) as heard:
        await heard.settled()
        checkpoint = heard.checkpoint
        among._tail.prove(time.monotonic(), Timestamp(2**31, 1))
        entry = await toggle(among)
        await heard.until(lambda: Announced(entry) in heard.events)
        await asyncio.sleep(1)
        assert heard.checkpoint == checkpoint
        assert await heard.settled() == [Announced(entry)]


async def test_the_stream_alone_tells_of_the_time(
    among: MongoStore, members: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_stream, "PROVE_S", 0.1)
    monkeypatch.setattr(change_stream, "WAIT_MS", 50)
    async with Heard(among) as heard:
        for _ in range(3):
            now = time.monotonic()
            await heard.until(lambda: heard.checkpoint >= now, 3)  # noqa: B023 - awaited within the round
        secondaries = members.secondaries()
        try:
            for member in secondaries:
                member.pause()
            now = time.monotonic()
            await asyncio.sleep(1)
            assert heard.checkpoint <= now
        finally:
            for member in secondaries:
                member.resume()


async def test_a_frozen_server_tells_nothing_until_it_goes_on(alone: MongoStore, mongod: Mongod) -> None:
    await create(alone)
    async with Heard(alone) as heard:
        await heard.settled()
        paused_at = time.monotonic()
        mongod.pause()
        try:
            await asyncio.sleep(4)
            assert heard.checkpoint <= paused_at
            assert not alone.stream_up
        finally:
            mongod.resume()
        resumed_at = time.monotonic()
        with pymongo.MongoClient[dict[str, Any]](mongod.url) as client:
            client["alkitu"]["feature_flags"].insert_one({"key": "other"})
        assert await heard.settled() == [UnversionedChange(OTHER, 0)]
        assert time.monotonic() - resumed_at < 6
        assert alone.stream_up
        assert alone.stream_restarts > 0


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_restarted_server_goes_on_where_it_was(alone: MongoStore, mongod: Mongod, how: str) -> None:
    def restart() -> None:
        (mongod.kill if how == "kill" else mongod.stop)()
        time.sleep(0.5)
        mongod.start()

    await create(alone)
    async with Heard(alone) as heard:
        writers = Writers(alone, mongod.url)
        await writers.run(restart)
        await heard.settled()
        writers.assert_all_heard(heard, (await alone.get(CHAT)).revision)
        assert Subscribed() not in heard.events[1:]


async def test_keeping_the_place_never_fails(alone: MongoStore, mongod: Mongod) -> None:
    async with Heard(alone) as heard:
        await heard.settled()
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


async def test_a_wrong_password_stands_in_the_log_and_in_no_answer(options: dict[str, Any], tmp_path: Path) -> None:
    with GuardedMongod(tmp_path / "key") as server:
        store = MongoStore(server.user_url.replace(":secret@", ":wrong@"), **options)
        near = NearCache(10, 5.0)
        follower = Follower(near, store, None, peers_of(near))
        try:
            with capture_logs() as logs:
                follower.start()
                await asyncio.wait_for(follower.tried.wait(), 10)
                with pytest.raises(StoreUnavailable) as refused:
                    await create(store)
            told = {entry["event"]: entry for entry in logs}
            assert "Authentication failed" in told["store unavailable"]["cause"]
            assert "Authentication failed" in told["a change failed"]["cause"]
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
