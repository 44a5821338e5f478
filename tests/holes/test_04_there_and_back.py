"""Hole 4: a flag goes from A to B and straight back to A, and the service sees no change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, tzinfo
from itertools import groupby
from typing import NamedTuple

import pymongo
import pytest

from flagsvc.api.flag_service import authors
from flagsvc.core.model import FlagId
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.holes.stage import (
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
    sync,
    until_answered,
    until_lease_held,
    watch,
)
from tests.replicas import until

THERE, BACK = ({"$set": {"status": status}} for status in ("ENABLED", "DISABLED"))
MOMENT = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Listening(NamedTuple):
    """Replicas with flag a switched off, and a stream of each kind at the second of them."""

    replicas: list[Running]
    watched: Stream
    synced: Stream
    evented: Stream

    async def agree(self, revision: int) -> None:
        """Every replica has this revision and the original state: off."""
        for each in self.replicas:
            await until_answered(each.client, "a", revision, 2)
            found = await each.client.evaluate("a")
            assert (found.revision, found.status) == (revision, DISABLED)


@asynccontextmanager
async def listening(mongo_url: str, redis_url: str) -> AsyncIterator[Listening]:
    async with running(NEAR, NEAR, OVERFULL, NONE, store_url=mongo_url, cache_url=redis_url) as replicas:
        for key in "abc":
            await replicas[0].client.create(key)
        await until_lease_held(replicas)
        await until(lambda: replicas[1].held("c") == 3)
        client = replicas[1].client
        streams = watch(client), sync(client), events(client)
        await until(lambda: all(stream.received for stream in streams) and len(streams[2].received) > 1)
        streams[2].received.clear()
        yield Listening(replicas, *streams)
        for stream in streams:
            await stream.close()


async def test_04_there_and_back_by_flagsvc_within_a_millisecond_and_a_second_is_two_changes(
    mongo_database_url: str, redis_clean_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedClock(datetime):
        """A clock that stands still, so that all changes have the same time."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return MOMENT.astimezone(tz)

    async with listening(mongo_database_url, redis_clean_url) as (replicas, watched, synced, evented):
        here = Listening(replicas, watched, synced, evented)
        one, two = replicas[0].client, replicas[1].client
        with monkeypatch.context() as patch:
            patch.setattr(authors, "datetime", StoppedClock)
            there, back = (await one.toggle("a", True)).revision, (await two.toggle("a", False)).revision
        await here.agree(back)
        again = [(await client.toggle("a", enabled)).revision for client, enabled in ((two, True), (one, False))]
        await here.agree(again[-1])
        await until(lambda: len(watched.changes) == 4)
        await until(lambda: synced.states[-1] == "DISABLED" and "a" in evented.keys)
        assert [change.revision for change in watched.changes] == [there, back, *again]
        assert [change.flag.status for change in watched.changes] == [ENABLED, DISABLED] * 2
        history = (await one.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="a"))).entries
        assert [entry.revision for entry in history][-3:] == [back, there, 1]
        assert history[-2].created_at == history[-3].created_at
        with Cached(redis_clean_url) as cached:
            entry = cached.entry("a")
            assert entry is not None
            assert entry.revision == again[-1]


async def test_04_there_and_back_by_another_program_gets_revisions_and_ends_right(
    mongo_database_url: str, redis_clean_url: str
) -> None:
    """One write leaves no trace of the state in between, not even a time; still, whoever saw it must get the other."""
    async with listening(mongo_database_url, redis_clean_url) as here:
        with pymongo.MongoClient(mongo_database_url) as direct:
            flags = database(direct)["feature_flags"]
            flags.bulk_write([pymongo.UpdateOne({"key": "a"}, change) for change in (THERE, BACK)])
            await until(lambda: here.replicas[1].held("a") > 3, 2)
            await asyncio.sleep(0.1)
            revision = revision_in(flags)
            await here.agree(revision)
            await until(settled(here, revision), 2)

            here.watched.received.clear()
            flags.update_one({"key": "a"}, THERE)
            await until(lambda: len(here.watched.changes) == 1 and here.synced.states[-1] == "ENABLED", 2)
            flags.update_one({"key": "a"}, BACK)
            await until(settled(here, revision + 2), 2)
            assert revision_in(flags) == revision + 2
        await here.agree(revision + 2)
        # A state that is read before it has a revision of its own is sent twice.
        statuses = [change.flag.status for change in here.watched.changes]
        assert [status for status, _ in groupby(statuses)] == [ENABLED, DISABLED]


def settled(here: Listening, revision: int) -> Callable[[], bool]:
    """Whether all streams received the change and know the last state."""

    def so() -> bool:
        last = here.watched.changes[-1:]
        newest = [(change.revision, change.flag.status) for change in last]
        near = here.replicas[1].replica.near.get(FlagId("default", "a"))
        assert near is not None
        return newest == [(revision, DISABLED)] and here.synced.states[-1] == "DISABLED" and "a" in here.evented.keys

    return so


def revision_in(flags: pymongo.collection.Collection[dict[str, object]]) -> int:
    found = flags.find_one({"key": "a"})
    assert found is not None
    return int(str(found["revision"]))
