"""The read concerns with which MongoDB is asked, so that no later read is older than an earlier one."""

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
from flagsvc.view.near_cache import NearCache
from tests.followers import follower_of
from tests.store_events import CHAT, create, delete


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
async def test_a_later_read_is_not_older(mongo_database_url: str, client: Any) -> None:
    """Whichever member answers: it sees what a linearizable read, or the counter of a missing flag, has seen."""
    commands = Commands()
    store = MongoStore(mongo_database_url, client_factory=functools.partial(client, event_listeners=[commands]))
    try:
        await store.open()
        commands.reads.clear()
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
    """A store with a hook between its read of the counters and that of the flags."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def _newest(self, later: Any = None) -> dict[str, int]:
        counters = await super()._newest(later)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return counters


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "created-again"])
async def test_a_flag_deleted_during_a_load_is_absent_only_as_of_its_deletion(
    mongo_database_url: str, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """At the revision of the counters, which were read first, it was still there."""
    store = Interrupted(mongo_database_url)
    await store.open()
    near = NearCache(10, 5.0)
    follower = follower_of(near, store)
    newest: list[Entry] = []

    async def deleted() -> None:
        newest.append(await delete(store))

    async def created_again(flag_id: FlagId) -> Entry:
        newest.append(await create(store))
        return await MongoStore.get(store, flag_id)

    try:
        await create(store)
        await follower.load_all()
        store.meanwhile = deleted
        if again:
            monkeypatch.setattr(store, "get", created_again)
        await follower.load_all()
        held = near.get(CHAT)
        assert held is not None
        assert held.entry == newest[-1]
    finally:
        await follower.close()
        await store.close()
