"""Where the change stream resumes: after a restart of the process, a lost history, or with an unusable resume token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
from bson import Timestamp
from pymongo.database import Database

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, ChangesUnsupported, Subscribed, UnversionedChange
from tests.replicas import until
from tests.servers import Mongod
from tests.store_events import (
    CHAT,
    DRIVERS,
    OTHER,
    SHIPPED_ONE,
    SHORT_WAITS,
    Received,
    announced_revisions,
    create,
    delete,
    toggle,
)

Rows = Database[dict[str, Any]]
Open = Callable[[], MongoStore]
LATER, MOVED = FlagId("default", "later"), FlagId("default", "moved")


class FailingMongod(Mongod):
    """A mongod that fails on demand."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--setParameter", "enableTestCommands=1"]

    def fail(self, commands: list[str], times: int = 1, **how: Any) -> None:
        """Let the next so many commands of the change stream's client fail."""
        data = {"failCommands": commands, "appName": "flagsvc:named-tail", **how}
        with pymongo.MongoClient(self.url) as client:
            client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)

    @property
    def named_url(self) -> str:
        """The URL of a database, with a name for its connections."""
        return self.database_url("alkitu") + "&appName=named"


@pytest.fixture(scope="module")
def failing() -> Iterator[FailingMongod]:
    with FailingMongod(durable=False) as server:
        yield server


@pytest.fixture(params=SHIPPED_ONE)
async def opened(request: pytest.FixtureRequest, failing: FailingMongod) -> AsyncIterator[Open]:
    """Make a store on each of the two drivers, as often as asked; as if each were a process of its own."""
    stores: list[MongoStore] = []

    def make() -> MongoStore:
        stores.append(MongoStore(failing.named_url, **DRIVERS[request.param], **SHORT_WAITS))
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


def saved_point(database: Rows) -> dict[str, Any]:
    found = database["flagsvc_change_stream"].find_one({"_id": "feature_flags"})
    assert found is not None
    return found


async def test_a_later_process_receives_what_happened_in_between(
    opened: Open, store: MongoStore, database: Rows
) -> None:
    flags = database["feature_flags"]
    async with Received(store) as received:
        entries = [await create(store), await create(store, OTHER)]
        assert await received.settled() == [Announced(entry) for entry in entries]
        await store.save_resume_token()
    flags.update_one({"key": "chat"}, {"$set": {"name": "foreign"}})
    flags.insert_one({"key": "later"})
    entries = [await toggle(store, True, OTHER), await create(store, FlagId("default", "ours"))]
    flags.replace_one({"key": "other"}, {"key": "other", "revision": 3})
    later = opened()
    await later.load()
    async with Received(later) as received:
        delivered = await received.settled()
        assert delivered[:2] == [UnversionedChange(CHAT, 1), UnversionedChange(LATER, 0)]
        assert announced_revisions(delivered[2:4]) == [3, 4]
        assert delivered[3:] == [Announced(entries[1]), UnversionedChange(OTHER, 3)]
        assert received.events[0] == Subscribed()


async def test_a_copy_of_a_document_that_an_earlier_process_delivered_is_foreign(
    opened: Open, store: MongoStore, database: Rows
) -> None:
    flags = database["feature_flags"]
    async with Received(store) as received:
        await create(store)
        await received.settled()
        await store.save_resume_token()
    flags.replace_one({}, flags.find_one({}, {"_id": 0}) | {"name": "foreign"})
    async with Received(opened()) as received:
        assert await received.settled() == [UnversionedChange(CHAT, 1)]


async def test_the_resume_token_is_saved_only_where_it_moved(store: MongoStore, database: Rows) -> None:
    await store.save_resume_token()
    assert database["flagsvc_change_stream"].find_one({}) is None
    async with Received(store) as received:
        await create(store)
        await received.settled()
    await store.save_resume_token()
    first = saved_point(database)
    assert datetime.now(UTC) - first["at"] < timedelta(seconds=10)
    database["flagsvc_change_stream"].update_one({}, {"$set": {"mark": 1}})
    await store.save_resume_token()
    assert saved_point(database) == first | {"mark": 1}


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
async def test_an_unreadable_resume_token_is_ignored(store: MongoStore, database: Rows, kept: dict[str, Any]) -> None:
    database["flagsvc_change_stream"].insert_one({"_id": "feature_flags"} | kept)
    await create(store)
    async with Received(store) as received:
        entry = await toggle(store)
        assert await received.settled() == [Announced(entry)]
        assert received.events == [Subscribed(), Announced(entry)]


async def test_a_resume_token_ahead_of_the_server_is_given_up(opened: Open, store: MongoStore, database: Rows) -> None:
    async with Received(store) as received:
        await received.settled()
        await store.save_resume_token()
    kept = saved_point(database)
    data, hour = kept["token"]["_data"], 3600
    token = {"_data": f"{data[:2]}{int(data[2:10], 16) + hour:08X}{data[10:]}"}
    moved = {"token": token, "time": Timestamp(kept["time"].time + hour, 1)}
    database["flagsvc_change_stream"].update_one({}, {"$set": moved})
    async with Received(opened()) as received:
        await create(store)
        await received.until(lambda: Subscribed() in received.events[1:])
        assert not received.checkpoints
        entry = await toggle(store)
        assert (await received.settled())[-1] == Announced(entry)


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize(
    ("how", "lost"),
    [
        ({"errorCode": 286}, True),  # ChangeStreamHistoryLost
        ({"errorCode": 280}, True),  # ChangeStreamFatalError
        ({"errorCode": 136}, True),  # CappedPositionLost
        ({"errorCode": 10334}, True),  # BSONObjectTooLarge: the event would be read again and again
        ({"errorCode": 43}, False),  # CursorNotFound
        ({"closeConnection": True}, False),
    ],
)
async def test_only_a_lost_history_begins_a_new_stream(
    failing: FailingMongod, store: MongoStore, how: dict[str, Any], lost: bool, failures: int
) -> None:
    async with Received(store) as received:
        await create(store)
        await received.settled()
        failing.fail(["getMore", "aggregate"], failures, **how)
        await received.until(lambda: store.stream_restarts == failures and store.stream_up)
        entry = await toggle(store)
        delivered = await received.settled()
    assert delivered == ([Subscribed(), Announced(entry)] if lost else [Announced(entry)])


async def test_a_resume_token_from_which_nothing_comes_is_given_up(failing: FailingMongod, store: MongoStore) -> None:
    async with Received(store) as received:
        await received.settled()
        failing.fail(["getMore"], 4, closeConnection=True)
        await received.until(lambda: Subscribed() in received.events[1:])
        entry = await create(store)
        assert await received.settled() == [Subscribed(), Announced(entry)]


async def test_a_read_that_an_event_needs_may_fail(failing: FailingMongod, store: MongoStore, database: Rows) -> None:
    flags = database["feature_flags"]
    async with Received(store) as received:
        for flag_id in (CHAT, OTHER, LATER):
            await create(store, flag_id)
        await received.settled()
        failing.fail(["find"], 2, closeConnection=True)
        gone = await delete(store)
        flags.delete_one({"key": "other"})
        flags.update_one({"key": "later"}, {"$set": {"key": "moved"}})
        delivered = await received.settled()
    assert store.stream_restarts == 2
    foreign = [
        UnversionedChange(OTHER, 2, gone=True),
        UnversionedChange(LATER, 3, gone=True),
        UnversionedChange(MOVED, 3),
    ]
    assert delivered == [Announced(gone), *foreign]


@pytest.mark.parametrize("code", [40573, 115, 59])
async def test_a_server_without_change_streams(failing: FailingMongod, store: MongoStore, code: int) -> None:
    failing.fail(["aggregate"], errorCode=code)
    with pytest.raises(ChangesUnsupported):
        await anext(store.changes())
    assert not store.stream_up


@pytest.mark.parametrize("driver", SHIPPED_ONE)
async def test_a_standalone_server_delivers_nothing(driver: str) -> None:
    with Mongod(replica_set=False) as server:
        store = MongoStore(server.database_url("alkitu"), **DRIVERS[driver])
        try:
            with pytest.raises(ChangesUnsupported):
                await anext(store.changes())
        finally:
            await store.close()


async def test_closing_the_store_ends_the_stream(opened: Open, database: Rows) -> None:
    store = opened()
    events: list[Any] = []
    task = asyncio.create_task(everything(store, events))
    await until(lambda: bool(events))
    await store.close()
    async with asyncio.timeout(20):
        await task
    assert events[0] == Subscribed()


async def everything(store: MongoStore, events: list[Any]) -> None:
    async for event in store.changes():
        events.append(event)  # noqa: PERF401  a list that is read meanwhile


async def test_connections_have_the_name_that_the_url_gives(store: MongoStore, database: Rows) -> None:
    async with Received(store) as received:
        await store.revisions()
        await received.settled()
        running = [{"$currentOp": {"idleConnections": True}}, {"$match": {"appName": {"$exists": True}}}]
        names = {row["appName"] for row in database.client.admin.aggregate(running)}
    assert {"flagsvc:named", "flagsvc:named-tail"} <= names
