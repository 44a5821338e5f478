"""What MongoDB is asked for, so that nothing that is read later is older than what was read before."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.model import FlagId
from flagsvc.ports import Entry
from flagsvc.replication.follower import Follower
from flagsvc.view.near_cache import NearCache
from tests.store_events import CHAT, create, delete
from tests.unit.test_reader import peers_of


class Commands(CommandListener):
    """The reads that were sent, each with the moment up to which the server's reply goes."""

    def __init__(self) -> None:
        self._sent: dict[int, dict[str, Any]] = {}
        self.reads: list[tuple[str, dict[str, Any], Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self._sent[event.request_id] = dict(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        sent = self._sent.pop(event.request_id)
        if event.command_name == "find":
            self.reads.append((sent["find"], sent["readConcern"], event.reply["operationTime"]))

    def failed(self, event: CommandFailedEvent) -> None:
        raise AssertionError(event.failure)


@pytest.mark.parametrize("client", [AsyncIOMotorClient, pymongo.AsyncMongoClient])
async def test_what_is_read_later_is_not_older(mongo_database_url: str, client: Any) -> None:
    """Whichever member answers: what a linearizable read has seen, or the counter of what is not there, binds."""
    commands = Commands()
    store = MongoStore(mongo_database_url, client_factory=functools.partial(client, event_listeners=[commands]))
    try:
        await store.open()
        await store.load()
        await store.get(FlagId("default", "none"))
    finally:
        await store.close()
    names, concerns, moments = zip(*commands.reads, strict=True)
    flags, counters = "feature_flags", "flagsvc_revisions"
    assert names == (counters, flags, flags, counters, flags)
    assert concerns[0] == {"level": "linearizable"}
    assert concerns[1] == {"level": "majority", "afterClusterTime": moments[0]}
    assert concerns[2] == concerns[3] == {"level": "majority"}
    assert concerns[4] == {"level": "majority", "afterClusterTime": moments[3]}


class Interrupted(MongoStore):
    """Something happens once between its readings of the counters and of the flags."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def _newest(self, later: Any = None) -> dict[str, int]:
        counters = await super()._newest(later)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return counters


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made-anew"])
async def test_a_flag_that_is_deleted_while_everything_is_read_is_not_said_to_be_gone_before(
    mongo_database_url: str, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """At the revision of the counters, which were read first, it was still there."""
    store = Interrupted(mongo_database_url)
    await store.open()
    near = NearCache(10, 5.0)
    follower = Follower(near, store, None, peers_of(near))
    newest: list[Entry] = []

    async def deleted() -> None:
        newest.append(await delete(store))

    async def made_anew(flag_id: FlagId) -> Entry:
        newest.append(await create(store))
        return await MongoStore.get(store, flag_id)

    try:
        await create(store)
        await follower.load_all()
        store.meanwhile = deleted
        if again:
            monkeypatch.setattr(store, "get", made_anew)
        await follower.load_all()
        held = near.get(CHAT)
        assert held is not None
        assert held.entry == newest[-1]
    finally:
        await follower.close()
        await store.close()
