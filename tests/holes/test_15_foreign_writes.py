"""Hole 15: another program changes flags in the store, as Prisma does, and the service does not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
from bson import ObjectId
from pymongo.client_session import ClientSession

from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.holes.stage import (
    CALM,
    DISABLED,
    ENABLED,
    NEAR,
    NONE,
    OVERFULL,
    Cached,
    Running,
    Stream,
    database,
    events,
    running,
    until_lease_held,
    watch,
)
from tests.replicas import replica, until
from tests.stopwatch import Stopwatch

WITHIN_S = 1.0
Database = pymongo.database.Database[dict[str, Any]]


def toggle(to: Database, key: str, status: str, session: Any = None) -> None:
    """Switch a flag as the existing service does: its fields, then a history row, without any revision."""
    now = datetime.now(UTC)
    fields = {"status": status, "updatedAt": now, "enabledAt" if status == "ENABLED" else "disabledAt": now}
    before = to["feature_flags"].find_one({"key": key}, session=session) or {}
    to["feature_flags"].update_one({"key": key}, {"$set": fields}, session=session)
    row = {"featureKey": key, "action": status, "userId": ObjectId(), "createdAt": now}
    row |= {"previousValue": {"status": before.get("status")}, "newValue": {"status": status}}
    to["feature_flag_history"].insert_one(row, session=session)


def toggle_in_transaction(to: Database, key: str, status: str) -> None:
    """The same for two flags in one transaction; repeated after a conflict, as MongoDB requires."""

    def both(session: ClientSession) -> None:
        toggle(to, key, status, session)
        toggle(to, "b", status, session)

    with to.client.start_session() as session:
        session.with_transaction(both)


def insert(to: Database, key: str, status: str) -> None:
    now = datetime.now(UTC)
    document = {"key": key, "name": key, "category": "addon", "status": status, "sortOrder": 0, "config": None}
    to["feature_flags"].insert_one({**document, "createdAt": now, "updatedAt": now})


class Served:
    """Replicas of every kind, a watch and an event stream at each, and a direct connection to the database."""

    def __init__(self, replicas: list[Running], direct: Database, cached: Cached) -> None:
        self.replicas, self.direct, self.cached = replicas, direct, cached
        self.watches = [watch(each.client) for each in replicas]
        self.events = [events(each.client) for each in replicas]
        self.revision = 0

    @property
    def streams(self) -> list[Stream]:
        return [*self.watches, *self.events]

    async def change(
        self, key: str, seen: Callable[[Any], bool], work: Callable[[], None], *, gone: bool = False
    ) -> None:
        """Let the other program work; every replica serves the change in time, with a new revision, and sends it on."""
        for stream in self.events:
            stream.received.clear()
        await asyncio.to_thread(work)
        since = Stopwatch()
        for each in self.replicas:
            while not seen(found := await each.client.evaluate(key)):
                assert not since.is_past(WITHIN_S), (found, each.server.settings.near_cache_entries)
                await asyncio.sleep(0.005)
        for each in self.watches:
            await until(lambda e=each: e.last_of(key)[0] > self.revision and e.last_of(key)[1] is not gone)
        for number, each in enumerate(self.events):
            await until(lambda e=each: key in e.keys or e.ended)
            if each.ended:  # a replica that missed changes does not know which: providers drop all values and reconnect
                assert "missed changes" in str(each.ended.details())
                self.events[number] = events(self.replicas[number].client)
                await until(lambda e=self.events[number]: e.received)
        shown = {each.last_of(key)[0] for each in self.watches}
        assert min(shown) > self.revision
        self.revision = max(shown)
        if not gone:
            stored = self.direct["feature_flags"].find_one({"key": key})
            assert stored is not None
            assert stored["revision"] in shown
            assert (entry := self.cached.entry(key)) is not None
            assert entry.revision == stored["revision"]


async def test_15_changes_as_prisma_makes_them_are_served_everywhere_in_time_and_sent_to_watchers(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    urls = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    with pymongo.MongoClient(mongo_database_url) as client, Cached(redis_clean_url) as cached:
        direct = database(client)
        for key in "abc":
            insert(direct, key, "DISABLED")
        async with running(NEAR, OVERFULL, NONE, **urls) as replicas:
            await until_lease_held(replicas)
            served = Served(replicas, direct, cached)
            await until(lambda: all(stream.received for stream in served.streams))
            await served.change("a", lambda f: f.enabled, lambda: toggle(direct, "a", "ENABLED"))
            await served.change("a", lambda f: not f.enabled, lambda: toggle_in_transaction(direct, "a", "DISABLED"))
            await served.change("b", lambda f: f.enabled, lambda: toggle_in_transaction(direct, "a", "ENABLED"))
            await served.change("new", lambda f: f.status == DISABLED, lambda: insert(direct, "new", "DISABLED"))
            await served.change("new", lambda f: f.enabled, lambda: toggle(direct, "new", "ENABLED"))
            await asyncio.sleep(0.7)  # replicas that leave assigning revisions to others have polled by now
            await served.change(
                "new",
                lambda f: f.status not in (ENABLED, DISABLED) and not f.enabled,
                lambda: direct["feature_flags"].delete_one({"key": "new"}) and None,
                gone=True,
            )
            own = (await replicas[0].client.toggle("a", False)).revision
            assert own > served.revision
            for stream in served.streams:
                await stream.close()


async def test_15_a_flag_that_was_deleted_and_recreated_while_a_replica_was_down_gets_no_smaller_revision(
    mongo_database_url: str, redis_clean_url: str, tmp_path: Path
) -> None:
    """The document has no revision yet; the snapshot has one of the flag before."""
    settings = {"store_url": mongo_database_url, "cache_url": redis_clean_url, "snapshot_file": str(tmp_path / "saved")}
    async with running(NEAR, **settings) as (before,):
        await before.client.create("a", status=ENABLED)
        await before.client.toggle("a", False)
        known = (await before.client.toggle("a", True)).revision
    with pymongo.MongoClient(mongo_database_url) as client, Cached(redis_clean_url) as cached:
        direct = database(client)
        direct["feature_flags"].delete_one({"key": "a"})
        insert(direct, "a", "DISABLED")
        cached.redis.flushdb()
    async with replica(**CALM, **settings) as (asked, _):
        answers = [await asked.evaluate("a")]
        while answers[-1].revision <= known and len(answers) < 2_000:
            answers.append(await asked.evaluate("a"))
            await asyncio.sleep(0.002)
    revisions = [found.revision for found in answers]
    assert revisions == sorted(revisions)
    assert (answers[0].revision, answers[0].reason) == (known, types.REASON_STALE), "it began with the snapshot"
    assert answers[-1].status == DISABLED
