"""A change of another program gets one revision, whichever replicas ask, and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest
from bson import Decimal128, Int64, ObjectId
from pymongo.collection import Collection

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.errors import WritesUnsupported
from flagsvc.core.model import FlagId
from flagsvc.ports import Announced, Entry, UnversionedChange
from flagsvc.view.near_cache import NearCache
from tests.followers import follower_of
from tests.replicas import until
from tests.servers import Mongod
from tests.store_events import CHAT, DRIVERS, OTHER, SHIPPED_ONE, SHORT_WAITS, Received, create, delete, made, toggle

Rows = Collection[dict[str, Any]]


@pytest.fixture(params=SHIPPED_ONE)
async def stores(request: pytest.FixtureRequest, mongo_database_url: str) -> AsyncIterator[list[MongoStore]]:
    """Two replicas' stores of one database."""
    found = [MongoStore(mongo_database_url, **DRIVERS[request.param], **SHORT_WAITS) for _ in range(2)]
    await found[0].open()
    yield found
    for store in found:
        await store.close()


@pytest.fixture
def flags(mongo_database_url: str) -> Iterator[Rows]:
    """The flags as another program sees them."""
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url, tz_aware=True) as client:
        yield client.get_default_database()["feature_flags"]


async def counter(store: MongoStore, flag_set: str = "default") -> int:
    return dict(await store.revisions()).get(flag_set, 0)


async def test_assigning_a_revision_changes_nothing_else(stores: list[MongoStore], flags: Rows) -> None:
    typed = {"long": Int64(5), "money": Decimal128("1.10"), "id": ObjectId(), "at": datetime(2026, 1, 1, tzinfo=UTC)}
    row = {"key": "chat", "status": "BETA", "config": typed, "icon": None, "foreign": [Int64(1)], "updatedAt": None}
    flags.insert_one(row)
    entry = made(await stores[0].assign_revision(CHAT, 0))
    assert entry == await stores[0].get(CHAT)
    assert (entry.id, entry.revision) == (CHAT, 1)
    found = flags.find_one({})
    assert found == row | {"revision": 1}
    assert flags.count_documents({"config.long": {"$type": "long"}, "foreign": {"$type": "long"}}) == 1
    for name in ("feature_flag_history", "audit_logs"):
        assert flags.database[name].count_documents({}) == 0


async def test_a_flag_with_a_larger_revision_by_now_gets_none(stores: list[MongoStore]) -> None:
    await create(stores[0])
    await toggle(stores[0])
    assert await stores[1].assign_revision(CHAT, 1) is None
    await delete(stores[0])
    assert await stores[1].assign_revision(CHAT, 2) is None
    assert await counter(stores[0]) == 3
    gone = Entry.absent(CHAT, 4)
    assert await stores[1].assign_revision(CHAT, 3) == gone == await stores[0].get(CHAT)


async def test_the_same_key_in_another_set_is_another_flag(stores: list[MongoStore], flags: Rows) -> None:
    there = FlagId("staging", "chat")
    flags.insert_many([{"key": "chat", "flagSet": "staging"}, {"key": "chat", "flagSet": None}])
    assert made(await stores[0].assign_revision(there, 0)).id == there
    assert (await counter(stores[0], "staging"), await counter(stores[0])) == (1, 0)
    assert made(await stores[0].assign_revision(CHAT, 0)).id == CHAT


@pytest.mark.parametrize("revision", [0, 7, 7.0, 2**62 + 1, -5, "seven", float("nan")])
async def test_any_revision_that_the_counter_does_not_know_is_replaced(
    stores: list[MongoStore], flags: Rows, revision: Any
) -> None:
    await create(stores[0])
    flags.update_one({"key": "chat"}, {"$set": {"revision": revision}})
    entry = made(await stores[1].assign_revision(CHAT, 1))
    assert entry.revision == await counter(stores[0]) == (8 if revision == 7 else 2)
    assert entry == await stores[0].get(CHAT)
    assert entry.flag
    assert not entry.flag.problem
    assert (await toggle(stores[0])).revision == entry.revision + 1


async def test_without_a_counter_the_revisions_continue_from_the_flags(stores: list[MongoStore], flags: Rows) -> None:
    await create(stores[0])
    await create(stores[0], OTHER)
    flags.database["flagsvc_revisions"].delete_many({})
    assert made(await stores[1].assign_revision(CHAT, 1)).revision == await counter(stores[0]) == 3


async def test_many_concurrent_calls_assign_one_revision(stores: list[MongoStore], flags: Rows) -> None:
    await create(stores[0])
    for n in range(5):
        before = (await stores[0].get(CHAT)).revision
        flags.update_one({"key": "chat"}, {"$set": {"name": f"foreign {n}"}})
        asked = [store.assign_revision(CHAT, before) for store in stores for _ in range(4)]
        [entry] = [entry for entry in await asyncio.gather(*asked) if entry is not None]
        assert entry == await stores[0].get(CHAT)
        assert entry.revision == before + 1 == await counter(stores[0])


async def test_a_deleted_flag_gets_one_revision_for_each_call(stores: list[MongoStore], flags: Rows) -> None:
    await create(stores[0])
    flags.delete_one({})
    entries = await asyncio.gather(*(store.assign_revision(CHAT, 1) for store in stores for _ in range(4)))
    assert sorted(made(entry).revision for entry in entries) == list(range(2, 10))
    assert {made(entry).flag for entry in entries} == {None}
    assert await stores[0].get(CHAT) == Entry.absent(CHAT, 9)


async def test_revisions_assigned_among_changes_by_flagsvc(stores: list[MongoStore], flags: Rows) -> None:
    await create(stores[0])

    async def assign() -> list[int]:
        entries = [await stores[1].assign_revision(CHAT, (await stores[1].get(CHAT)).revision) for _ in range(15)]
        return [entry.revision for entry in entries if entry]

    async def change() -> list[int]:
        return [(await toggle(stores[0], bool(n % 2))).revision for n in range(15)]

    async def interfere() -> list[int]:
        for n in range(15):
            await asyncio.to_thread(flags.update_one, {"key": "chat"}, {"$set": {"name": f"foreign {n}"}})
        return []

    assigned = [revision for part in await asyncio.gather(assign(), change(), interfere()) for revision in part]
    assert sorted(assigned) == list(range(2, len(assigned) + 2))
    assert (await stores[0].get(CHAT)).revision == await counter(stores[0]) == max(assigned)


async def test_in_the_end_every_foreign_change_has_a_revision(stores: list[MongoStore], flags: Rows) -> None:
    ids = [FlagId("default", f"flag-{n}") for n in range(6)]
    for flag_id in ids:
        await create(stores[0], flag_id)

    def interfere() -> None:
        for n in range(60):
            flags.update_one({"key": f"flag-{n % 6}"}, {"$set": {"name": f"foreign {n}"}})

    async with Received(stores[0]) as first, Received(stores[1]) as second:
        working = [asyncio.to_thread(interfere), *(toggle(stores[0], bool(n % 2), ids[n % 3]) for n in range(20))]
        work = asyncio.gather(*working)
        delivered = []
        while not work.done() or any(isinstance(event, UnversionedChange) for event in delivered):
            pairs = zip(stores, (await first.settled(), await second.settled()), strict=True)
            delivered = [(store, event) for store, events in pairs for event in events]
            foreign = [(store, event) for store, event in delivered if isinstance(event, UnversionedChange)]
            await asyncio.gather(*(store.assign_revision(event.id, event.revision) for store, event in foreign))
            delivered = [event for _, event in delivered]
        await work
    for received in (first, second):
        last = {event.entry.id: event.entry for event in received.events if isinstance(event, Announced)}
        assert last == {flag_id: await stores[0].get(flag_id) for flag_id in ids}


async def test_a_deletion_that_only_a_load_found_is_not_taken_for_an_announced_one(
    stores: list[MongoStore], flags: Rows
) -> None:
    """The load finds the flag absent as of the set's counter, which is larger than the flag's last revision.

    Without a revision of its own, no heartbeat demands the deletion of a replica that did not receive it.
    """
    await create(stores[0])
    other = await create(stores[0], OTHER)
    near = NearCache(10, 5.0)
    follower = follower_of(near, stores[0])
    follower.start()
    try:
        await until(lambda: follower.proof.loaded.is_set() and near.changelogs.watermark("default") == other.revision)
        flags.delete_one({"key": "chat"})
        await follower.load_all()
        held = near.get(CHAT)
        assert held is not None
        assert held.entry == Entry.absent(CHAT, other.revision)
        await until(lambda: follower.proof.revision_assigner.assigned > 0)
        await until(lambda: not follower.proof.revision_assigner)
        assert await counter(stores[1]) == near.changelogs.watermark("default") > other.revision
    finally:
        await follower.close()


@pytest.mark.parametrize("driver", SHIPPED_ONE)
async def test_a_standalone_server_assigns_none(driver: str) -> None:
    with Mongod(replica_set=False) as server:
        store = MongoStore(server.database_url("alkitu"), **DRIVERS[driver])
        try:
            await store.open()
            with pytest.raises(WritesUnsupported):
                await store.assign_revision(CHAT, 0)
        finally:
            await store.close()
