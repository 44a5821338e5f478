"""What MongoDB is asked for, so that nothing that is read later is older than what was read before."""

from __future__ import annotations

import functools
from typing import Any

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from flagsvc.adapters.mongo import MongoStore
from flagsvc.core.model import FlagId


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
