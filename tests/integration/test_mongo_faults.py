"""MongoDB that stops, freezes, interrupts a transaction, or has no transactions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import FlagsvcError, InvalidRequest, StoreUnavailable, WritesUnsupported
from flagsvc.core.model import Flag, FlagId
from tests.servers import Mongod
from tests.store_events import SHIPPED_ONE

AUTHOR = Author(at=datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
CHAT = FlagId("default", "support-chat")

Open = Callable[[str], MongoStore]


@pytest.fixture(params=SHIPPED_ONE)
def opened(request: pytest.FixtureRequest) -> Open:
    """Make a store on each of the two drivers."""
    if request.param == "motor":
        return MongoStore
    return lambda url: MongoStore(url, client_factory=pymongo.AsyncMongoClient)


async def read(store: MongoStore, flag_id: FlagId) -> Flag | None:
    return (await store.get(flag_id)).flag


async def toggle(store: MongoStore, flag_id: FlagId, enabled: bool) -> Flag:
    entry = await store.write(flag_id, changes.toggle(flag_id.key, enabled, None, AUTHOR))
    assert entry is not None
    assert entry.flag is not None
    return entry.flag


async def test_a_standalone_server_reads_and_refuses_writes(opened: Open) -> None:
    with Mongod(replica_set=False) as server:
        url = server.database_url("alkitu")
        with pymongo.MongoClient[dict[str, Any]](url) as client:
            flags = client.get_default_database()["feature_flags"]
            flags.insert_one({"key": "support-chat", "status": "ENABLED"})
            store = opened(url)
            try:
                await store.open()
                await store.revisions()
                assert [flag.key for flag in (await store.load()).flags] == ["support-chat"]
                assert (await read(store, CHAT)) is not None
                assert await store.history(CHAT, 5) == []
                with pytest.raises(WritesUnsupported) as refused:
                    await toggle(store, CHAT, False)
            finally:
                await store.close()
            assert str(server.port) not in str(refused.value)
            found = flags.find_one({})
            assert found is not None
            assert found["status"] == "ENABLED"


async def timed(work: Any) -> tuple[FlagsvcError, float]:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as refused:
        await work
    return refused.value, time.monotonic() - started


@pytest.mark.parametrize("fault", ["stop", "pause"])
async def test_every_call_fails_within_its_bound_while_the_server_is_gone(
    mongod: Mongod, opened: Open, fault: str
) -> None:
    store = opened(mongod.database_url("alkitu"))
    try:
        await store.open()
        made = await store.write(CHAT, changes.create(Flag(key="support-chat"), AUTHOR))
        assert made is not None
        (mongod.stop if fault == "stop" else mongod.pause)()
        asked = [
            toggle(store, CHAT, True),
            store.get(CHAT),
            store.revisions(),
            store.open(),
            store.revisions(),
            store.load(),
            store.history(CHAT, 5),
        ]
        for error, seconds in await asyncio.gather(*map(timed, asked)):
            assert seconds < 3
            assert str(mongod.port) not in str(error)
        mongod.start()
        mongod.resume()
        deadline = time.monotonic() + 10
        while True:
            try:
                await store.open()
                break
            except StoreUnavailable:
                assert time.monotonic() < deadline
        assert await read(store, CHAT) == made.flag
        assert len(await store.history(CHAT, 5)) == 1
        assert (await toggle(store, CHAT, True)).revision == made.revision + 1
    finally:
        await store.close()


class SlowKills:
    """The commands of a client; `killSessions` waits until a find is running."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self.may_kill = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admin, name)

    async def command(self, name: str, *values: Any) -> Any:
        if name == "killSessions":
            await self.may_kill.wait()
            await asyncio.sleep(0.2)
        return await self._admin.command(name, *values)


async def test_ending_an_interrupted_transaction_does_not_end_a_later_one(
    mongod: Mongod, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(mongod.database_url("alkitu"))
    try:
        await store.open()
        await store.write(CHAT, changes.create(Flag(key="support-chat"), AUTHOR))
        admin = SlowKills(store._client.admin)
        find = store._flags.find_one

        async def slowly(query: dict[str, Any], **options: Any) -> Any:
            admin.may_kill.set()
            return await find(query | {"$where": "sleep(500) || true"}, **options)

        monkeypatch.setattr(store._client, "admin", admin)
        mongod.stop()
        for _ in range(2):
            await timed(toggle(store, CHAT, True))
        mongod.start()
        monkeypatch.setattr(store._flags, "find_one", slowly)
        assert (await toggle(store, CHAT, False)).revision == 2
        monkeypatch.undo()
    finally:
        await store.close()


async def test_an_interrupted_transaction_blocks_nobody(
    mongod: Mongod, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mongod.database_url("alkitu")
    store, other = opened(url), opened(url)
    try:
        await store.open()
        made = await store.write(CHAT, changes.create(Flag(key="support-chat"), AUTHOR))
        update = store._flags.update_one

        async def freeze(*args: Any, **kwargs: Any) -> Any:
            mongod.pause()
            return await update(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(store._flags, "update_one", freeze)
            _, seconds = await timed(toggle(store, CHAT, True))
        assert seconds < 3
        mongod.resume()
        flag = await toggle(other, CHAT, True)
        assert made is not None
        assert flag.revision == made.revision + 1
        assert (await toggle(store, CHAT, False)).revision == made.revision + 2
        assert [e.action for e in await store.history(CHAT, 5)] == ["DISABLED", "ENABLED", "CREATED"]
    finally:
        await store.close()
        await other.close()


async def test_the_error_for_an_invalid_url_does_not_contain_it() -> None:
    with pytest.raises(InvalidRequest) as refused:
        MongoStore("mongodb://user:p@ss:word@host/db")
    assert "p@ss" not in str(refused.value)
    assert refused.value.__cause__ is None
