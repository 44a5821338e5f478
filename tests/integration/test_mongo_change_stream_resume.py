"""Where the change stream goes on: after a restart of the process, a lost history, or a place that is of no use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
from bson import Timestamp
from pymongo.database import Database

from flagsvc.adapters.mongo import change_stream
from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, ChangesUnsupported, Subscribed, UnversionedChange
from tests.servers import Mongod
from tests.store_events import CHAT, DRIVERS, OTHER, Heard, create, delete, revisions_told, toggle

Rows = Database[dict[str, Any]]
Open = Callable[[], MongoStore]
LATER, MOVED = FlagId("default", "later"), FlagId("default", "moved")


class FailingMongod(Mongod):
    """A mongod that fails on demand."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--setParameter", "enableTestCommands=1"]

    def fail(self, commands: list[str], times: int = 1, **how: Any) -> None:
        """Let the next so many of the tail's commands fail."""
        data = {"failCommands": commands, "appName": "flagsvc:told-apart-tail", **how}
        with pymongo.MongoClient(self.url) as client:
            client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)

    @property
    def named_url(self) -> str:
        """The URL of a database, for connections that can be told apart."""
        return self.database_url("alkitu") + "&appName=told-apart"


@pytest.fixture(scope="module")
def failing() -> Iterator[FailingMongod]:
    with FailingMongod() as server:
        yield server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been told is asked for much more often than it is."""
    monkeypatch.setattr(change_stream, "WAIT_MS", 30)
    monkeypatch.setattr(change_stream, "PROVE_S", 0.2)


@pytest.fixture(params=DRIVERS)
async def opened(request: pytest.FixtureRequest, failing: FailingMongod) -> AsyncIterator[Open]:
    """Make a store on each of the two drivers, as often as asked; as if each were a process of its own."""
    stores: list[MongoStore] = []

    def make() -> MongoStore:
        stores.append(MongoStore(failing.named_url, **DRIVERS[request.param]))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def database(failing: FailingMongod) -> Iterator[Rows]:
    """What another program sees; empty at first."""
    with pymongo.MongoClient[dict[str, Any]](failing.named_url, tz_aware=True) as client:
        client.drop_database("alkitu")
        yield client.get_default_database()


@pytest.fixture
async def store(opened: Open, database: Rows) -> MongoStore:
    made = opened()
    await made.open()
    return made


def place(database: Rows) -> dict[str, Any]:
    found = database["flagsvc_change_stream"].find_one({"_id": "feature_flags"})
    assert found is not None
    return found


async def test_a_later_process_hears_what_happened_in_between(opened: Open, store: MongoStore, database: Rows) -> None:
    flags = database["feature_flags"]
    async with Heard(store) as heard:
        entries = [await create(store), await create(store, OTHER)]
        assert await heard.settled() == [Announced(entry) for entry in entries]
        await store.save_resume_token()
    flags.update_one({"key": "chat"}, {"$set": {"name": "foreign"}})
    flags.insert_one({"key": "later"})
    entries = [await toggle(store, True, OTHER), await create(store, FlagId("default", "ours"))]
    flags.replace_one({"key": "other"}, {"key": "other", "revision": 3})
    later = opened()
    await later.load()
    async with Heard(later) as heard:
        told = await heard.settled()
        assert told[:2] == [UnversionedChange(CHAT, 1), UnversionedChange(LATER, 0)]
        assert revisions_told(told[2:4]) == [3, 4]
        assert told[3:] == [Announced(entries[1]), UnversionedChange(OTHER, 3)]
        assert heard.events[0] == Subscribed()


async def test_a_copy_of_what_an_earlier_process_told_is_foreign(
    opened: Open, store: MongoStore, database: Rows
) -> None:
    flags = database["feature_flags"]
    async with Heard(store) as heard:
        await create(store)
        await heard.settled()
        await store.save_resume_token()
    flags.replace_one({}, flags.find_one({}, {"_id": 0}) | {"name": "foreign"})
    async with Heard(opened()) as heard:
        assert await heard.settled() == [UnversionedChange(CHAT, 1)]


async def test_the_place_is_kept_only_where_it_moved(store: MongoStore, database: Rows) -> None:
    await store.save_resume_token()
    assert database["flagsvc_change_stream"].find_one({}) is None
    async with Heard(store) as heard:
        await create(store)
        await heard.settled()
    await store.save_resume_token()
    first = place(database)
    assert datetime.now(UTC) - first["at"] < timedelta(seconds=10)
    database["flagsvc_change_stream"].update_one({}, {"$set": {"mark": 1}})
    await store.save_resume_token()
    assert place(database) == first | {"mark": 1}


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"token": {"_data": "8265"}, "at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"token": {"_data": "no hex"}, "time": Timestamp(1, 1), "revisions": []},
        {"token": {}, "time": Timestamp(1, 1), "revisions": []},
        {"token": "text", "time": Timestamp(1, 1), "revisions": []},
        {"token": {"_data": "8265"}, "time": 7, "revisions": []},
        {"token": {"_data": "8265"}, "time": Timestamp(1, 1), "revisions": {"default": 1}},
        {"token": {"_data": "8265"}, "time": Timestamp(1, 1), "revisions": [{"flagSet": "default"}]},
        {"token": {"_data": "8265"}, "time": Timestamp(1, 1), "revisions": [7]},
        {"token": {"_data": "8265"}, "time": Timestamp(1, 1), "revisions": [{"flagSet": 1, "revision": "x"}]},
    ],
)
async def test_a_place_that_cannot_be_read_is_forgotten(
    store: MongoStore, database: Rows, kept: dict[str, Any]
) -> None:
    database["flagsvc_change_stream"].insert_one({"_id": "feature_flags"} | kept)
    await create(store)
    async with Heard(store) as heard:
        entry = await toggle(store)
        assert await heard.settled() == [Announced(entry)]
        assert heard.events == [Subscribed(), Announced(entry)]


async def test_a_place_ahead_of_the_server_is_given_up(opened: Open, store: MongoStore, database: Rows) -> None:
    async with Heard(store) as heard:
        await heard.settled()
        await store.save_resume_token()
    kept = place(database)
    data, hour = kept["token"]["_data"], 3600
    token = {"_data": f"{data[:2]}{int(data[2:10], 16) + hour:08X}{data[10:]}"}
    moved = {"token": token, "time": Timestamp(kept["time"].time + hour, 1)}
    database["flagsvc_change_stream"].update_one({}, {"$set": moved})
    async with Heard(opened()) as heard:
        await create(store)
        await heard.until(lambda: Subscribed() in heard.events[1:])
        assert not heard.tellings
        entry = await toggle(store)
        assert (await heard.settled())[-1] == Announced(entry)


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize(
    ("how", "lost"),
    [
        ({"errorCode": 286}, True),  # ChangeStreamHistoryLost
        ({"errorCode": 280}, True),  # ChangeStreamFatalError
        ({"errorCode": 136}, True),  # CappedPositionLost
        ({"errorCode": 10334}, True),  # BSONObjectTooLarge: the event would be met again and again
        ({"errorCode": 43}, False),  # CursorNotFound
        ({"closeConnection": True}, False),
    ],
)
async def test_only_a_lost_history_begins_anew(
    failing: FailingMongod, store: MongoStore, how: dict[str, Any], lost: bool, failures: int
) -> None:
    async with Heard(store) as heard:
        await create(store)
        await heard.settled()
        failing.fail(["getMore", "aggregate"], failures, **how)
        await heard.until(lambda: store.stream_restarts == failures and store.stream_up)
        entry = await toggle(store)
        told = await heard.settled()
    assert told == ([Subscribed(), Announced(entry)] if lost else [Announced(entry)])


async def test_a_place_from_which_nothing_comes_is_given_up(failing: FailingMongod, store: MongoStore) -> None:
    async with Heard(store) as heard:
        await heard.settled()
        failing.fail(["getMore"], 4, closeConnection=True)
        await heard.until(lambda: Subscribed() in heard.events[1:])
        entry = await create(store)
        assert await heard.settled() == [Subscribed(), Announced(entry)]


async def test_what_is_read_to_understand_an_event_may_fail(
    failing: FailingMongod, store: MongoStore, database: Rows
) -> None:
    flags = database["feature_flags"]
    async with Heard(store) as heard:
        for flag_id in (CHAT, OTHER, LATER):
            await create(store, flag_id)
        await heard.settled()
        failing.fail(["find"], 2, closeConnection=True)
        gone = await delete(store)
        flags.delete_one({"key": "other"})
        flags.update_one({"key": "later"}, {"$set": {"key": "moved"}})
        told = await heard.settled()
    assert store.stream_restarts == 2
    foreign = [
        UnversionedChange(OTHER, 2, gone=True),
        UnversionedChange(LATER, 3, gone=True),
        UnversionedChange(MOVED, 3),
    ]
    assert told == [Announced(gone), *foreign]


@pytest.mark.parametrize("code", [40573, 115, 59])
async def test_a_server_without_change_streams(failing: FailingMongod, store: MongoStore, code: int) -> None:
    failing.fail(["aggregate"], errorCode=code)
    with pytest.raises(ChangesUnsupported):
        await anext(store.changes())
    assert not store.stream_up


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_standalone_server_tells_nothing(driver: str) -> None:
    with Mongod(replica_set=False) as server:
        store = MongoStore(server.database_url("alkitu"), **DRIVERS[driver])
        try:
            with pytest.raises(ChangesUnsupported):
                await anext(store.changes())
        finally:
            await store.close()


async def test_the_end_of_the_store_ends_the_stream(opened: Open, database: Rows) -> None:
    store = opened()
    task = asyncio.create_task(everything(store))
    await asyncio.sleep(0.2)
    await store.close()
    async with asyncio.timeout(5):
        assert (await task)[0] == Subscribed()


async def everything(store: MongoStore) -> list[Any]:
    return [event async for event in store.changes()]


async def test_connections_have_the_name_that_the_url_gives(store: MongoStore, database: Rows) -> None:
    async with Heard(store) as heard:
        await store.revisions()
        await heard.settled()
        running = [{"$currentOp": {"idleConnections": True}}, {"$match": {"appName": {"$exists": True}}}]
        names = {row["appName"] for row in database.client.admin.aggregate(running)}
    assert {"flagsvc:told-apart", "flagsvc:told-apart-tail"} <= names
