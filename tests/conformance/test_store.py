"""The conformance suite of all stores: SQLite, and MongoDB with the driver that is shipped and with another."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest

from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import AnswerTooLarge, FlagExists, FlagNotFound, RevisionConflict
from flagsvc.core.json_values import same
from flagsvc.core.model import Change, Exposure, Flag, FlagId, HistoryEntry, Status
from flagsvc.ports import Entry, FlagStore

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
OPERATOR = "65c3f0a000000000000000aa"
CONFIG = {
    "big": 2**63 - 1,
    "small": -(2**63),
    "count": 3,
    "whole": 3.0,
    "rate": 0.1,
    "yes": True,
    "nothing": None,
    "texts": ["", "ä", "日本", "a\tb"],
    "deep": {"a": [{"b": [1, 1.0, [], {}]}]},
    "dotted.name": {"$ref": "x", "$date": "no date", "": 1},
}
CHAT = FlagId("default", "chat")


def author(seconds: float = 0, *, actor: str = OPERATOR, reason: str = "") -> Author:
    return Author(at=NOON + timedelta(seconds=seconds), actor=actor, reason=reason)


ON_MONGO = [
    pytest.param("mongo-motor", marks=pytest.mark.mongod),
    pytest.param("mongo-pymongo", marks=[pytest.mark.mongod, pytest.mark.long]),
]


@pytest.fixture(params=["sqlite", *ON_MONGO])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FlagStore]:
    made: FlagStore
    if request.param == "sqlite":
        made = importlib.import_module("flagsvc.adapters.sqlite").SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    else:
        mongo = importlib.import_module("flagsvc.adapters.mongo.store").MongoStore
        options = {"client_factory": pymongo.AsyncMongoClient} if request.param == "mongo-pymongo" else {}
        made = mongo(request.getfixturevalue("mongo_database_url"), **options)
    await made.open()
    yield made
    await made.close()


async def read(store: FlagStore, flag_id: FlagId) -> Flag | None:
    return (await store.get(flag_id)).flag


async def create(store: FlagStore, flag: Flag, by: Author | None = None) -> Entry:
    entry = await store.write(flag.id, changes.create(flag, by or author()))
    assert entry is not None
    return entry


async def toggle(store: FlagStore, enabled: bool, seconds: float, expected: int | None = None) -> Entry:
    entry = await store.write(CHAT, changes.toggle("chat", enabled, expected, author(seconds, reason="because")))
    assert entry is not None
    return entry


async def everything(store: FlagStore) -> dict[FlagId, Flag]:
    return {flag.id: flag for flag in (await store.load()).flags}


async def test_a_new_store_is_empty(store: FlagStore) -> None:
    await store.revisions()
    contents = await store.load()
    assert (list(contents.flags), dict(contents.revisions)) == ([], {})
    assert dict(await store.revisions()) == {}
    assert await read(store, CHAT) is None
    assert await store.history(CHAT, 50) == []


async def test_open_twice_keeps_everything(store: FlagStore) -> None:
    made = await create(store, Flag(key="chat"))
    await store.open()
    assert await read(store, CHAT) == made.flag


async def test_a_created_flag_is_read_back(store: FlagStore) -> None:
    flag = Flag(
        key="chat",
        name="Chat",
        description="Talk",
        status=Status.ENABLED,
        config=CONFIG,
        icon="Hash",
        badge="Pro",
        sort_order=-7,
        variants={"a": 1, "b": 2.0},
        default_variant="b",
        metadata={"team": "web", "tier": 1},
        owner="web",
        expires_at=NOON + timedelta(days=30),
        exposure=Exposure.PUBLIC,
    )
    entry = await create(store, flag)
    found = await read(store, CHAT)
    assert found is not None
    assert entry == Entry(CHAT, found.revision, found)
    assert found.revision == 1
    assert replace(found, created_at=None, updated_at=None, enabled_at=None, expires_at=None, revision=0) == replace(
        flag, expires_at=None
    )
    assert found.created_at == found.updated_at == found.enabled_at
    assert found.created_at is not None
    assert abs(found.created_at - NOON) < timedelta(milliseconds=1)
    assert await everything(store) == {CHAT: found}
    assert dict(await store.revisions()) == {"default": 1} == dict((await store.load()).revisions)


async def test_a_created_flag_has_history(store: FlagStore) -> None:
    await create(store, Flag(key="chat", config={"a": 1}), author(actor="ann", reason="needed"))
    [entry] = await store.history(CHAT, 50)
    assert isinstance(entry, HistoryEntry)
    assert (entry.key, entry.action, entry.actor, entry.reason) == ("chat", "CREATED", "ann", "needed")
    assert (entry.previous, entry.revision) == (None, 1)
    assert entry.new["config"] == {"a": 1}
    assert entry.new["createdAt"].startswith("2026-11-23T12:00:00.123")
    assert abs(entry.created_at - NOON) < timedelta(milliseconds=1)


async def test_json_keeps_its_types(store: FlagStore) -> None:
    await create(store, Flag(key="chat", config=CONFIG))
    for flag in (await read(store, CHAT), (await everything(store))[CHAT]):
        assert flag is not None
        assert same(flag.config, CONFIG)
        assert list(flag.config) == list(CONFIG)


async def test_a_toggle_moves_status_times_and_history(store: FlagStore) -> None:
    made = await create(store, Flag(key="chat", config={"n": 1}))
    on = await toggle(store, True, 1)
    off = await toggle(store, False, 2)
    again = await toggle(store, False, 3)
    assert made.revision < on.revision < off.revision < again.revision
    assert on.flag is not None
    assert on.flag.status is Status.ENABLED
    assert on.flag.enabled_at == on.flag.updated_at
    assert on.flag.disabled_at is None
    found = await read(store, CHAT)
    assert again.flag == found
    assert found is not None
    assert (found.status, found.enabled_at) == (Status.DISABLED, on.flag.enabled_at)
    assert found.config == {"n": 1}
    newest = [(e.action, e.previous, e.new, e.revision, e.reason) for e in await store.history(CHAT, 3)]
    assert newest == [
        ("DISABLED", {"status": "DISABLED"}, {"status": "DISABLED"}, again.revision, "because"),
        ("DISABLED", {"status": "ENABLED"}, {"status": "DISABLED"}, off.revision, "because"),
        ("ENABLED", {"status": "DISABLED"}, {"status": "ENABLED"}, on.revision, "because"),
    ]


async def test_an_update_changes_the_named_fields_only(store: FlagStore) -> None:
    await create(store, Flag(key="chat", name="Chat", description="old", config={"a": 1}, badge="Pro"))
    wanted = Flag(key="chat", name="ignored", description="new", badge=None)
    entry = await store.write(CHAT, changes.update(wanted, ["description", "badge"], None, author(1)))
    found = await read(store, CHAT)
    assert found is not None
    assert entry == Entry.of(found)
    assert (found.name, found.description, found.badge, found.config) == ("Chat", "new", None, {"a": 1})
    [newest] = await store.history(CHAT, 1)
    assert newest.action == "UPDATED"
    assert newest.previous == {"description": "old", "badge": "Pro"}
    assert newest.new == {"description": "new", "badge": None}


async def test_emptied_fields_are_gone(store: FlagStore) -> None:
    flag = Flag(key="chat", config={"a": 1}, variants={"a": 1}, metadata={"m": 1}, expires_at=NOON)
    await create(store, flag)
    fields = ["config", "variants", "metadata", "expires_at"]
    entry = await store.write(CHAT, changes.update(Flag(key="chat"), fields, None, author(1)))
    found = await read(store, CHAT)
    assert found is not None
    assert entry == Entry.of(found)
    assert (found.config, found.variants, found.metadata, found.expires_at) == (None, {}, {}, None)


@pytest.mark.parametrize(("old", "new"), [(1, 1.0), (1.0, 1), (1, True), (False, 0), ({}, []), (None, {"a": None})])
async def test_a_change_of_json_type_alone_is_a_change(store: FlagStore, old: object, new: object) -> None:
    await create(store, Flag(key="chat", config={"v": old}))
    wanted = Flag(key="chat", config={"v": new})
    entry = await store.write(CHAT, changes.update(wanted, ["config"], None, author(1)))
    found = await read(store, CHAT)
    assert found is not None
    assert same(found.config, {"v": new})
    assert entry is not None
    assert entry.flag is not None
    assert same(entry.flag.config, {"v": new})


async def test_a_write_that_meant_another_revision_is_refused(store: FlagStore) -> None:
    made = await create(store, Flag(key="chat"))
    on = await toggle(store, True, 1, expected=made.revision)
    with pytest.raises(RevisionConflict) as refused:
        await toggle(store, False, 2, expected=made.revision)
    assert refused.value.current == on.revision
    assert await read(store, CHAT) == on.flag
    assert len(await store.history(CHAT, 50)) == 2


async def test_an_absent_flag_has_the_revision_of_its_set(store: FlagStore) -> None:
    assert await store.get(CHAT) == Entry.absent(CHAT)
    other = await create(store, Flag(key="other"))
    assert await store.get(CHAT) == Entry.absent(CHAT, other.revision)
    assert await store.get(FlagId("staging", "chat")) == Entry.absent(FlagId("staging", "chat"))
    made = await create(store, Flag(key="chat"))
    assert await store.get(CHAT) == made
    gone = await store.write(CHAT, changes.delete("chat", None, author(1)))
    assert await store.get(CHAT) == gone


async def test_many_flags_read_at_once_are_each_what_they_are(store: FlagStore) -> None:
    """Flags of two sets with the same keys, some of them absent."""
    made = [await create(store, Flag(key=f"flag-{n}", flag_set=("default", "staging")[n % 2])) for n in range(6)]
    ids = [FlagId(flag_set, f"flag-{n}") for n in range(300) for flag_set in ("default", "staging")]
    there = {entry.id: entry for entry in made}
    counters = await store.revisions()
    expected = [there.get(flag_id) or Entry.absent(flag_id, counters[flag_id.flag_set]) for flag_id in ids]
    assert await asyncio.gather(*map(store.get, ids)) == expected


async def test_unknown_and_taken_keys_are_refused(store: FlagStore) -> None:
    with pytest.raises(FlagNotFound):
        await toggle(store, True, 0)
    with pytest.raises(FlagNotFound):
        await store.write(CHAT, changes.delete("chat", None, author()))
    made = await create(store, Flag(key="chat"))
    with pytest.raises(FlagExists):
        await create(store, Flag(key="chat", name="second"))
    assert await read(store, CHAT) == made.flag


async def test_a_deleted_flag_leaves_history_and_a_larger_revision(store: FlagStore) -> None:
    made = await create(store, Flag(key="chat"))
    gone = await store.write(CHAT, changes.delete("chat", made.revision, author(1)))
    assert gone is not None
    assert (gone.flag, gone.revision > made.revision) == (None, True)
    assert await read(store, CHAT) is None
    assert await everything(store) == {}
    assert dict(await store.revisions()) == {"default": gone.revision}
    again = await create(store, Flag(key="chat"), author(2))
    assert again.revision > gone.revision
    assert [e.action for e in await store.history(CHAT, 50)] == ["CREATED", "DELETED", "CREATED"]
    assert (await store.history(CHAT, 2))[1].new is None


async def test_revisions_grow_across_the_flags_of_a_set(store: FlagStore) -> None:
    entries = [await create(store, Flag(key=key)) for key in ("a", "b", "c")]
    assert [entry.revision for entry in entries] == [1, 2, 3]
    assert dict(await store.revisions()) == {"default": 3}


async def test_concurrent_toggles_chain(store: FlagStore) -> None:
    made = await create(store, Flag(key="chat"))
    entries = await asyncio.gather(*(toggle(store, bool(n % 3), n + 1) for n in range(20)))
    assert sorted(e.revision for e in entries) == list(range(made.revision + 1, made.revision + 21))
    chain = (await store.history(CHAT, 50))[::-1]
    assert len(chain) == 21
    last = {"status": made.flag.status.value} if made.flag else None
    for entry in chain[1:]:
        assert entry.previous == last
        last = entry.new
    assert [e.revision for e in chain] == sorted(e.revision for e in chain)
    found = await read(store, CHAT)
    assert found is not None
    assert last == {"status": found.status.value}
    assert found == max(entries, key=lambda e: e.revision).flag


async def test_concurrent_creates_make_one(store: FlagStore) -> None:
    attempts = (create(store, Flag(key="chat", name=str(n))) for n in range(8))
    results = await asyncio.gather(*attempts, return_exceptions=True)
    made = [r for r in results if isinstance(r, Entry)]
    assert len(made) == 1
    assert all(isinstance(r, FlagExists) for r in results if r is not made[0])
    assert await read(store, CHAT) == made[0].flag
    assert len(await store.history(CHAT, 50)) == 1


async def test_a_decision_that_raises_leaves_nothing_behind(store: FlagStore) -> None:
    made = await create(store, Flag(key="chat"))

    def refuse(current: Flag | None) -> Change:
        assert current == made.flag
        raise LookupError("no")

    with pytest.raises(LookupError):
        await store.write(CHAT, refuse)
    with pytest.raises(LookupError):
        await store.write(CHAT, refuse)
    assert await everything(store) == {CHAT: made.flag}
    assert dict(await store.revisions()) == {"default": made.revision}
    assert len(await store.history(CHAT, 50)) == 1
    assert (await toggle(store, True, 1)).revision == made.revision + 1


async def test_a_cancelled_caller_does_not_interrupt_a_write(store: FlagStore) -> None:
    await create(store, Flag(key="chat"))
    for n in range(20):
        task = asyncio.create_task(toggle(store, True, n + 1))
        await asyncio.sleep(n * 0.0005)
        task.cancel()
        await asyncio.wait([task])
    last = await toggle(store, False, 100)
    found = await read(store, CHAT)
    assert found == last.flag
    chain = [e.revision for e in await store.history(CHAT, 50)]
    assert chain == list(range(last.revision, 0, -1))


async def test_what_a_cancelled_caller_does_not_hear_is_nowhere(store: FlagStore) -> None:
    """A refusal that nobody waits for any more is no failure of the server, and no traceback in its log."""
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    for n in range(20):
        task = asyncio.create_task(toggle(store, True, n + 1))  # of a flag that does not exist
        await asyncio.sleep(n * 0.0005)
        task.cancel()
        await asyncio.wait([task])
    await create(store, Flag(key="chat"))  # writers wait for each other, so all have ended
    gc.collect()
    assert not logged


async def test_put_twice_changes_nothing(store: FlagStore) -> None:
    moment = NOON.replace(microsecond=0)
    flag = Flag(key="chat", config=CONFIG, created_at=moment, updated_at=moment, enabled_at=moment)
    first = await store.write(CHAT, changes.put(flag, author()))
    assert first is not None
    assert first.flag is not None
    assert replace(first.flag, revision=0) == flag
    assert await store.write(CHAT, changes.put(flag, author(1))) is None
    assert await read(store, CHAT) == first.flag
    assert len(await store.history(CHAT, 50)) == 1
    moved = await store.write(CHAT, changes.put(replace(flag, config={"a": 1}), author(2)))
    assert moved is not None
    assert await read(store, CHAT) == moved.flag
    assert (await store.history(CHAT, 1))[0].new == {"config": {"a": 1}}


async def test_flag_sets_are_apart(store: FlagStore) -> None:
    here = await create(store, Flag(key="chat", name="here"))
    there = await create(store, Flag(key="chat", name="there", flag_set="staging"))
    assert (here.revision, there.revision) == (1, 1)
    on = await store.write(there.id, changes.toggle("chat", True, None, author(1)))
    assert on is not None
    assert await read(store, CHAT) == here.flag
    assert await read(store, there.id) == on.flag
    assert await read(store, FlagId("other", "chat")) is None
    assert [e.action for e in await store.history(CHAT, 50)] == ["CREATED"]
    assert [e.action for e in await store.history(there.id, 50)] == ["ENABLED", "CREATED"]
    assert dict(await store.revisions()) == {"default": 1, "staging": 2}
    await store.write(there.id, changes.delete("chat", None, author(2)))
    assert await everything(store) == {CHAT: here.flag}


async def test_history_gives_the_newest_up_to_the_limit(store: FlagStore) -> None:
    await create(store, Flag(key="chat"))
    await create(store, Flag(key="chat2"))
    for n in range(5):
        await toggle(store, not n % 2, n + 1)
    assert [e.action for e in await store.history(CHAT, 3)] == ["ENABLED", "DISABLED", "ENABLED"]
    assert len(await store.history(CHAT, 50)) == 6
    assert await store.history(FlagId("default", "unknown"), 50) == []


async def test_a_history_of_large_flags_is_read_in_smaller_pages(store: FlagStore) -> None:
    await create(store, Flag(key="chat"))
    for number in range(25):
        wanted = Flag(key="chat", variants={name: str(number % 10) * 65_000 for name in "abcdefg"})
        await store.write(CHAT, changes.update(wanted, ["variants"], None, author(number)))
    with pytest.raises(AnswerTooLarge, match="smaller page_size"):
        await store.history(CHAT, 1_000)
    assert len(await store.history(CHAT, 10)) == 10
