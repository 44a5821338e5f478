"""What events of MongoDB's change stream mean: changes by flagsvc, and those of other programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pymongo
import pytest
from bson import ObjectId
from pymongo.database import Database

from flagsvc.adapters.mongo import change_stream
from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, Checkpoint, Entry, StoreEvent, Subscribed, UnversionedChange
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
    made,
    toggle,
)

Rows = Database[dict[str, Any]]
Open = Callable[[], MongoStore]


@pytest.fixture(params=SHIPPED_ONE)
async def opened(request: pytest.FixtureRequest, mongo_database_url: str) -> AsyncIterator[Open]:
    """Make a store on each of the two drivers, as often as asked."""
    stores: list[MongoStore] = []

    def make() -> MongoStore:
        stores.append(MongoStore(mongo_database_url, **DRIVERS[request.param], **SHORT_WAITS))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
async def store(opened: Open) -> MongoStore:
    made = opened()
    await made.open()
    return made


@pytest.fixture
async def received(store: MongoStore) -> AsyncIterator[Received]:
    async with Received(store) as events:
        yield events


@pytest.fixture
def client(mongo_database_url: str) -> Iterator[pymongo.MongoClient[dict[str, Any]]]:
    """Another program."""
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url, tz_aware=True) as made:
        yield made


@pytest.fixture
def database(client: pymongo.MongoClient[dict[str, Any]]) -> Rows:
    return client.get_default_database()


@pytest.fixture
def flags(database: Rows) -> Any:
    return database["feature_flags"]


async def next_of(events: AsyncIterator[StoreEvent], count: int) -> list[StoreEvent]:
    """Return so many of the next events, without checkpoints."""
    async with asyncio.timeout(10):
        found: list[StoreEvent] = []
        while len(found) < count:
            event = await anext(events)
            if not isinstance(event, Checkpoint):
                found.append(event)
    return found


async def test_changes_by_flagsvc_are_announced_in_order(store: MongoStore, received: Received) -> None:
    entries = [await create(store), await toggle(store), await create(store, OTHER), await toggle(store, False)]
    entries += [await delete(store), await create(store), await delete(store), await delete(store, OTHER)]
    delivered = await received.settled()
    assert announced_revisions(delivered) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(delivered) == 8
    assert all(Announced(entry) in delivered for entry in (entries[0], entries[2], *entries[6:]))


async def test_changes_by_several_replicas_in_several_sets_are_all_announced(
    opened: Open, store: MongoStore, received: Received
) -> None:
    there = FlagId("staging", "chat")
    for flag_id in (CHAT, there):
        await create(store, flag_id)
    stores = [store, opened(), opened()]
    work = [toggle(each, bool(n % 2), flag_id) for n in range(10) for each in stores for flag_id in (CHAT, there)]
    await asyncio.gather(*work)
    delivered = await received.settled()
    for flag_set in ("default", "staging"):
        of_set = [e for e in delivered if isinstance(e, Announced) and e.entry.id.flag_set == flag_set]
        assert announced_revisions(list(of_set)) == list(range(1, 32))
    assert len(delivered) == 62


async def test_a_flag_that_changed_again_is_announced_as_it_is_by_then(store: MongoStore, flags: Any) -> None:
    events = store.changes()
    assert await next_of(events, 1) == [Subscribed()]
    await create(store)
    entries = [await toggle(store, enabled) for enabled in (True, False, True)]
    delivered = await next_of(events, 4)
    last = entries[-1]
    assert delivered[1:] == [Announced(last, event_revision=2), Announced(last, event_revision=3), Announced(last)]
    gone = [await toggle(store), await delete(store)][-1]
    assert await next_of(events, 2) == [Announced(Entry(CHAT, gone.revision - 1, None)), Announced(gone)]
    flags.insert_one({"key": "other"})
    flags.delete_one({"key": "other"})
    assert await next_of(events, 2) == [UnversionedChange(OTHER, 0), UnversionedChange(OTHER, 0, gone=True)]
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_load_in_between_makes_no_change_foreign(store: MongoStore) -> None:
    events = store.changes()
    await next_of(events, 1)
    entries = [await create(store), await create(store, OTHER)]
    await store.load()
    assert await next_of(events, 2) == [Announced(entry) for entry in entries]
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_foreign_change_overtaken_by_one_of_flagsvc_is_announced_at_once(
    store: MongoStore, flags: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the event of the later change: a checkpoint may come in between, as it does here."""
    monkeypatch.setattr(change_stream, "_MAX_EVENTS", 1)
    await create(store)
    events = store.changes()
    await next_of(events, 1)
    flags.update_one({"key": "chat"}, {"$set": {"name": "foreign"}})
    entry = await toggle(store)
    assert await anext(events) == Announced(entry)
    assert await next_of(events, 1) == [Announced(entry)]
    flags.insert_one({"key": "other"})
    assert await next_of(events, 1) == [UnversionedChange(OTHER, 0)]
    await events.aclose()  # type: ignore[attr-defined]


async def test_foreign_changes_have_no_revision(store: MongoStore, received: Received, flags: Any) -> None:
    await create(store)
    await toggle(store)
    await received.settled()
    flags.insert_one({"key": "other", "status": "ENABLED"})
    assert await received.settled() == [UnversionedChange(OTHER, 0)]
    flags.update_one({"key": "chat"}, {"$set": {"status": "BETA"}})
    assert await received.settled() == [UnversionedChange(CHAT, 2)]
    copy = flags.find_one({"key": "chat"})
    flags.replace_one({"key": "chat"}, copy | {"status": "DISABLED"})
    assert await received.settled() == [UnversionedChange(CHAT, 2)]
    flags.update_one({"key": "chat"}, {"$unset": {"revision": ""}})
    assert await received.settled() == [UnversionedChange(CHAT, 0)]
    flags.delete_one({"key": "other"})
    assert await received.settled() == [UnversionedChange(OTHER, 0, gone=True)]
    flags.insert_one(copy | {"_id": ObjectId(), "key": "copied"})
    assert await received.settled() == [UnversionedChange(FlagId("default", "copied"), 2)]
    assert announced_revisions([Announced(await toggle(store))]) == announced_revisions(await received.settled()) == [3]


async def test_a_foreign_deletion_is_not_taken_for_one_by_flagsvc(
    store: MongoStore, received: Received, flags: Any
) -> None:
    await create(store)
    await delete(store)
    await create(store)
    await received.settled()
    flags.delete_one({"key": "chat"})
    assert await received.settled() == [UnversionedChange(CHAT, 3, gone=True)]


async def test_two_changes_that_cancel_each_other_are_both_delivered(
    store: MongoStore, received: Received, flags: Any
) -> None:
    await create(store)
    await received.settled()
    there, back = {"$set": {"status": "ENABLED"}}, {"$set": {"status": "DISABLED"}}
    flags.bulk_write([pymongo.UpdateOne({"key": "chat"}, there), pymongo.UpdateOne({"key": "chat"}, back)])
    assert await received.settled() == [UnversionedChange(CHAT, 1), UnversionedChange(CHAT, 1)]


@pytest.mark.parametrize(("bound", "value"), [("_MAX_EVENTS", 3), ("_MAX_BYTES", 2_000)])
async def test_a_checkpoint_comes_only_after_the_last_of_many_replies(
    store: MongoStore, flags: Any, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(change_stream, bound, value)
    events = store.changes()
    await next_of(events, 1)
    flags.insert_many([{"key": f"flag-{n}", "name": "x" * 100} for n in range(20)])
    delivered = [await anext(events) for _ in range(21)]
    assert [event for event in delivered if isinstance(event, UnversionedChange)] == delivered[:20]
    assert isinstance(delivered[20], Checkpoint)
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_foreign_transaction_is_delivered_whole(
    store: MongoStore, received: Received, client: pymongo.MongoClient[dict[str, Any]], flags: Any
) -> None:
    await create(store)
    await create(store, OTHER)
    await received.settled()
    with client.start_session() as session, session.start_transaction():
        flags.update_one({"key": "chat"}, {"$set": {"status": "BETA"}}, session=session)
        flags.insert_one({"key": "third"}, session=session)
        flags.delete_one({"key": "other"}, session=session)
    third = FlagId("default", "third")
    assert await received.settled() == [
        UnversionedChange(CHAT, 1),
        UnversionedChange(third, 0),
        UnversionedChange(OTHER, 2, gone=True),
    ]


@pytest.mark.parametrize("field", ["key", "flagSet"])
async def test_a_renamed_flag_is_gone_under_its_old_name(
    store: MongoStore, received: Received, flags: Any, field: str
) -> None:
    await create(store)
    await received.settled()
    there = FlagId("default", "moved") if field == "key" else FlagId("moved", "chat")
    flags.update_one({"key": "chat"}, {"$set": {field: "moved"}})
    assert await received.settled() == [UnversionedChange(CHAT, 1, gone=True), UnversionedChange(there, 1)]
    flags.update_one({}, {"$set": {"key": 7}})
    assert await received.settled() == [UnversionedChange(there, 1, gone=True)]
    flags.delete_one({})
    assert await received.settled() == [Subscribed()]


@pytest.mark.parametrize(
    ("revision", "has"), [(1000, 1000), (1, 1), ("x", 0), (-1, 0), (1.5, 0), (True, 0), (2**63 - 1, 0)]
)
async def test_a_revision_that_another_program_wrote_does_not_count(
    store: MongoStore, received: Received, flags: Any, revision: object, has: int
) -> None:
    await create(store)
    await toggle(store)
    await received.settled()
    flags.update_one({"key": "chat"}, {"$set": {"revision": revision}})
    assert await received.settled() == [UnversionedChange(CHAT, has)]
    entry = made(await store.assign_revision(CHAT, has))
    assert entry.revision == (1001 if has == 1000 else 3)
    assert entry == await store.get(CHAT)
    assert dict(await store.revisions()) == {"default": entry.revision}
    assert await received.settled() == [Announced(entry)]
    assert announced_revisions([Announced(await toggle(store))]) == announced_revisions(await received.settled())


async def test_documents_without_identity_are_skipped(store: MongoStore, received: Received, flags: Any) -> None:
    flags.insert_many([{"key": 7}, {"name": "none"}, {"key": "odd", "flagSet": 7}, {"_id": {"a": [1]}, "key": "other"}])
    flags.update_many({}, {"$set": {"status": 7}})
    assert await received.settled() == [UnversionedChange(OTHER, 0), UnversionedChange(OTHER, 0)]
    flags.delete_one({"_id": {"a": [1]}})
    assert await received.settled() == [UnversionedChange(OTHER, 0, gone=True)]


async def test_a_document_never_seen_may_have_been_any_flag(store: MongoStore, flags: Any) -> None:
    flags.insert_many([{"key": "chat"}, {"key": "other"}])
    async with Received(store) as received:
        flags.delete_one({"key": "chat"})
        assert await received.settled() == [Subscribed()]
        await store.load()
        flags.delete_one({"key": "other"})
        assert await received.settled() == [UnversionedChange(OTHER, 0, gone=True)]


@pytest.mark.parametrize("what", ["drop", "rename", "replace", "database"])
async def test_without_the_collection_a_new_stream_begins(
    store: MongoStore, received: Received, database: Rows, what: str
) -> None:
    await create(store)
    await received.settled()
    match what:
        case "drop":
            database.drop_collection("feature_flags")
        case "rename":
            database["feature_flags"].rename("aside")
        case "replace":
            database["aside"].insert_one({"key": "other"})
            database["aside"].rename("feature_flags", dropTarget=True)
        case _:
            database.client.drop_database(database.name)
    await received.until(lambda: Subscribed() in received.events[2:])
    received.take()
    assert store.stream_restarts >= 1
    database["feature_flags"].insert_one({"key": "later"})
    assert await received.settled() == [UnversionedChange(FlagId("default", "later"), 0)]
    entry = await create(store, FlagId("default", "ours"))
    assert await received.settled() == [Announced(entry)]


async def test_a_counter_that_went_back_begins_a_new_stream(
    store: MongoStore, received: Received, database: Rows
) -> None:
    await create(store)
    await create(store, OTHER)
    await create(store, FlagId("default", "third"))
    await received.settled()
    database["flagsvc_revisions"].update_one({"_id": "default"}, {"$set": {"revision": 1}})
    assert (await toggle(store)).revision == 2
    assert await received.settled() == [Subscribed()]
    assert announced_revisions([Announced(await toggle(store))]) == announced_revisions(await received.settled()) == [3]
