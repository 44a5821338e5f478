"""The store on MongoDB: the existing system's documents in place, their shapes, and its indexes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pymongo
import pytest
from bson import Decimal128, Int64, ObjectId, json_util
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.json_values import same
from flagsvc.core.model import Flag, FlagId, Status

DOCUMENTS = Path(__file__).parents[1] / "data" / "feature_flags.extjson.ndjson"
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OPERATOR = "65c3f0a000000000000000aa"
AUTHOR = Author(at=NOON, actor=OPERATOR)
UPLOAD = FlagId("default", "file-upload")
CHAT = FlagId("default", "support-chat")
INT32 = 0x10

Rows = Database[dict[str, Any]]


def seed(database: Rows) -> None:
    """Insert the existing system's eight documents, with the indexes that Prisma makes."""
    rows = [
        json_util.loads(line, json_options=json_util.RELAXED_JSON_OPTIONS)
        for line in DOCUMENTS.read_text().splitlines()
    ]
    database["feature_flags"].insert_many(rows)
    database["feature_flags"].create_index("key", unique=True, name="feature_flags_key_key")
    database["feature_flags"].create_index("status", name="feature_flags_status_idx")
    database["feature_flag_history"].create_index("featureKey", name="feature_flag_history_featureKey_idx")
    database["feature_flag_history"].create_index("createdAt", name="feature_flag_history_createdAt_idx")


@pytest.fixture
def database(fresh_database_url: str) -> Iterator[Rows]:
    """What another program sees of the same database."""
    with pymongo.MongoClient[dict[str, Any]](fresh_database_url, tz_aware=True) as client:
        yield client.get_default_database()


@pytest.fixture
async def store(fresh_database_url: str, database: Rows) -> AsyncIterator[MongoStore]:
    seed(database)
    made = MongoStore(fresh_database_url)
    await made.open()
    yield made
    await made.close()


def raw(database: Rows, key: str) -> dict[str, Any]:
    found = database["feature_flags"].find_one({"key": key})
    assert found is not None
    return found


def bson_type(database: Rows, key: str, path: str) -> str:
    [row] = database["feature_flags"].aggregate([{"$match": {"key": key}}, {"$project": {"t": {"$type": f"${path}"}}}])
    return str(row["t"])


async def read(store: MongoStore, flag_id: FlagId) -> Flag | None:
    return (await store.get(flag_id)).flag


async def toggle(store: MongoStore, flag_id: FlagId, enabled: bool, by: Author = AUTHOR) -> Flag:
    entry = await store.write(flag_id, changes.toggle(flag_id.key, enabled, None, by))
    assert entry is not None
    assert entry.flag is not None
    return entry.flag


async def configure(store: MongoStore, flag_id: FlagId, config: object) -> Flag:
    wanted = Flag(key=flag_id.key, config=config)
    entry = await store.write(flag_id, changes.update(wanted, ["config"], None, AUTHOR))
    assert entry is not None
    assert entry.flag is not None
    return entry.flag


async def test_the_existing_documents_are_read_as_they_are(store: MongoStore) -> None:
    contents = await store.load()
    assert len(contents.flags) == 8
    assert not any(flag.problem for flag in contents.flags)
    assert {f.key for f in contents.flags if f.status is Status.ENABLED} == {
        "support-chat",
        "team-channels",
        "request-collaboration",
        "notifications",
    }
    upload = await read(store, UPLOAD)
    assert upload is not None
    wanted = {"maxFileSize": 52428800, "allowedTypes": ["image/*", "application/pdf", "text/*"]}
    assert same(upload.config, wanted)
    assert (upload.revision, upload.sort_order, upload.enabled_at) == (0, 7, None)
    assert upload.created_at == datetime(2026, 2, 8, 10, 0, 6, tzinfo=UTC)


async def test_a_toggle_touches_nothing_else(store: MongoStore, database: Rows) -> None:
    database["feature_flags"].update_one({"key": "file-upload"}, {"$set": {"foreign": {"n": Int64(1)}, "icon": None}})
    before = {row["key"]: row for row in database["feature_flags"].find()}
    await toggle(store, UPLOAD, True)
    on = raw(database, "file-upload")
    await toggle(store, UPLOAD, False)
    after = raw(database, "file-upload")
    old = before["file-upload"]
    moved = {"status": "ENABLED", "updatedAt": NOON, "enabledAt": NOON, "revision": 1}
    assert on == old | moved
    assert after == old | moved | {"status": "DISABLED", "disabledAt": NOON, "revision": 2}
    assert list(after)[: len(old)] == list(old)
    assert bson_type(database, "file-upload", "config.maxFileSize") == "int"
    assert bson_type(database, "file-upload", "foreign.n") == "long"
    others = {row["key"]: row for row in database["feature_flags"].find() if row["key"] != "file-upload"}
    assert others == {key: row for key, row in before.items() if key != "file-upload"}


async def test_explicit_nulls_stay(store: MongoStore, database: Rows) -> None:
    await configure(store, UPLOAD, {"maxFileSize": 1})
    after = raw(database, "file-upload")
    assert after["enabledAt"] is None
    assert "disabledAt" not in after
    assert "flagSet" not in after


async def test_bson_types_survive_an_update_of_their_neighbours(store: MongoStore, database: Rows) -> None:
    typed = {
        "long": Int64(5),
        "counted": Int64(1),
        "date": NOON,
        "money": Decimal128("1.10"),
        "id": ObjectId(),
        "bytes": b"\x00\x01",
        "double": 3.0,
        "text": {"$oid": OPERATOR},
        "list": [NOON, {"deep": Int64(7), "x": 1}],
        "gone": 1,
    }
    database["feature_flags"].update_one({"key": "file-upload"}, {"$set": {"config": typed}})
    flag = await read(store, UPLOAD)
    assert flag is not None
    assert flag.config["date"] == {"$date": "2026-11-23T12:00:00Z"}
    assert flag.config["money"] == {"$numberDecimal": "1.10"}
    assert flag.config["id"] == {"$oid": str(typed["id"])}
    assert same(flag.config["long"], 5)
    config = {name: value for name, value in flag.config.items() if name != "gone"} | {"counted": 2, "fresh": 1}
    config["list"] = [{"deep": 7, "x": 2}, *flag.config["list"]]
    changed = await configure(store, UPLOAD, config)
    assert same(changed.config, config)
    stored = raw(database, "file-upload")["config"]
    wanted = {name: value for name, value in typed.items() if name != "gone"} | {"counted": Int64(2), "fresh": 1}
    wanted["list"] = [{"deep": 7, "x": 2}, NOON, {"deep": Int64(7), "x": 1}]
    assert stored == wanted
    for name, kind in {"long": "long", "counted": "long", "double": "double", "fresh": "int", "date": "date"}.items():
        assert bson_type(database, "file-upload", f"config.{name}") == kind
    assert bson_type(database, "file-upload", "config.money") == "decimal"


async def test_history_and_audit_of_a_toggle_have_the_existing_shapes(store: MongoStore, database: Rows) -> None:
    await toggle(store, CHAT, False)
    history = database["feature_flag_history"].find_one({}, {"_id": 0})
    assert history == {
        "featureKey": "support-chat",
        "action": "DISABLED",
        "previousValue": {"status": "ENABLED"},
        "newValue": {"status": "DISABLED"},
        "userId": ObjectId(OPERATOR),
        "createdAt": NOON,
        "revision": 1,
    }
    audit = database["audit_logs"].find_one({}, {"_id": 0})
    assert audit == {
        "action": "TOGGLE_FEATURE",
        "resourceType": "FEATURE_FLAG",
        "resourceId": ObjectId("65c3f0a00000000000000000"),
        "userId": ObjectId(OPERATOR),
        "metadata": {
            "featureKey": "support-chat",
            "featureName": "Support Chat",
            "oldStatus": "ENABLED",
            "newStatus": "DISABLED",
            "action": "DISABLED",
        },
        "timestamp": NOON,
    }


async def test_history_and_audit_of_other_changes(store: MongoStore, database: Rows) -> None:
    await configure(store, CHAT, {"a": 1})
    wanted = Flag(key="support-chat", name="Chat", config={"a": 2})
    by = Author(at=NOON, actor="ann@example.org", reason="ticket 7")
    await store.write(CHAT, changes.update(wanted, ["name", "config"], None, by))
    await store.write(FlagId("default", "new"), changes.create(Flag(key="new"), AUTHOR))
    await store.write(CHAT, changes.delete("support-chat", None, AUTHOR))
    audits = list(database["audit_logs"].find({}, sort=[("_id", 1)]))
    assert [audit["action"] for audit in audits] == [
        "UPDATE_FEATURE_CONFIG",
        "UPDATE_FEATURE",
        "CREATE_FEATURE",
        "DELETE_FEATURE",
    ]
    old = {"enableWidget": True, "enableAnalytics": True, "autoAssignment": True}
    named = {"featureKey": "support-chat", "featureName": "Support Chat"}
    assert audits[0]["metadata"] == named | {"oldConfig": old, "newConfig": {"a": 1}}
    assert audits[1]["metadata"]["previousValue"] == {"name": "Support Chat", "config": {"a": 1}}
    assert audits[1]["userId"] == "ann@example.org"
    assert audits[2]["resourceId"] == raw(database, "new")["_id"]
    assert audits[3]["resourceId"] == ObjectId("65c3f0a00000000000000000")
    rows = list(database["feature_flag_history"].find({"featureKey": "support-chat"}, sort=[("_id", 1)]))
    assert [row.get("reason") for row in rows] == [None, "ticket 7", None]
    assert rows[0]["previousValue"] == {"config": old}
    assert [e.actor for e in await store.history(CHAT, 50)] == [OPERATOR, "ann@example.org", OPERATOR]


async def test_history_rows_of_the_old_service_are_listed_with_those_of_flagsvc(
    store: MongoStore, database: Rows
) -> None:
    await toggle(store, CHAT, False)
    foreign = {"featureKey": "support-chat", "action": "ENABLED", "previousValue": {"status": "DISABLED"}}
    foreign |= {"newValue": {"status": "ENABLED"}, "userId": ObjectId(OPERATOR), "createdAt": NOON.replace(minute=1)}
    database["feature_flag_history"].insert_one(foreign)
    await toggle(store, CHAT, False, Author(at=NOON.replace(minute=2)))
    rows = [(e.action, e.revision, e.actor) for e in await store.history(CHAT, 50)]
    assert rows == [("DISABLED", 2, "anonymous"), ("ENABLED", 0, OPERATOR), ("DISABLED", 1, OPERATOR)]


async def test_history_follows_revisions_where_clocks_disagree(store: MongoStore) -> None:
    for minute, enabled in ((5, False), (3, True), (4, False)):
        await toggle(store, CHAT, enabled, Author(at=NOON.replace(minute=minute)))
    assert [e.revision for e in await store.history(CHAT, 50)] == [3, 2, 1]


async def test_prisma_indexes_are_recognised(store: MongoStore, database: Rows) -> None:
    await store.open()
    assert set(database["feature_flags"].index_information()) == {
        "_id_",
        "feature_flags_key_key",
        "feature_flags_status_idx",
        "prerequisites.flagKey_1",  # which flags depend on one
    }
    assert set(database["feature_flag_history"].index_information()) == {
        "_id_",
        "feature_flag_history_featureKey_idx",
        "feature_flag_history_createdAt_idx",
        "createdAt_-1__id_-1",  # pages of the audit log over all flags
    }


async def test_the_old_index_allows_a_key_in_one_set_only(store: MongoStore, database: Rows) -> None:
    other = Flag(key="support-chat", flag_set="staging")
    with pytest.raises(InvalidRequest, match="support-chat"):
        await store.write(other.id, changes.create(other, AUTHOR))
    assert await read(store, other.id) is None
    assert database["feature_flag_history"].count_documents({}) == 0
    assert dict(await store.revisions()) == {}


async def test_an_empty_database_gets_its_own_indexes(fresh_database_url: str, database: Rows) -> None:
    store = MongoStore(fresh_database_url)
    await store.open()
    await store.open()
    await store.close()
    keys = {
        tuple(index["key"]): index.get("unique") for index in database["feature_flags"].index_information().values()
    }
    assert keys == {(("_id", 1),): None, (("flagSet", 1), ("key", 1)): True, (("prerequisites.flagKey", 1),): None}
    assert set(database["feature_flag_history"].index_information()) == {
        "_id_",
        "featureKey_1_createdAt_-1",
        "createdAt_-1__id_-1",
    }


async def test_a_malformed_document_affects_no_other_flag(store: MongoStore, database: Rows) -> None:
    hostile: list[dict[str, Any]] = [
        {"key": "status-list", "status": ["ENABLED"]},
        {"key": "infinite", "sortOrder": float("inf")},
        {"key": "date-name", "name": NOON},
        {"key": "text-date", "createdAt": "yesterday"},
        {"key": "null-set", "flagSet": None},
        {"key": 7},
        {"name": "no key"},
        {"key": "number-set", "flagSet": 7},
    ]
    database["feature_flags"].insert_many(hostile)
    encoded = bytearray(bson.encode({"_id": ObjectId(), "key": "far-date", "createdAt": NOON}))
    at = encoded.index(b"createdAt\x00") + len(b"createdAt\x00")
    encoded[at : at + 8] = (2**62).to_bytes(8, "little")
    database["feature_flags"].insert_one(RawBSONDocument(bytes(encoded)))  # type: ignore[arg-type]
    flags = {flag.key: flag for flag in (await store.load()).flags}
    assert len(flags) == 8 + 6
    bad = {key for key, flag in flags.items() if flag.problem}
    assert bad == {"status-list", "infinite", "date-name", "text-date", "far-date"}
    for key in bad:
        assert await read(store, FlagId("default", key)) == flags[key]
    assert flags["support-chat"].status is Status.ENABLED


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_toggle_repairs_a_malformed_status(store: MongoStore, database: Rows, enabled: bool) -> None:
    database["feature_flags"].update_one({"key": "support-chat"}, {"$set": {"status": 7, "name": NOON}})
    flag = await toggle(store, CHAT, enabled)
    assert flag == await read(store, CHAT)
    stored = raw(database, "support-chat")
    assert (stored["status"], stored["name"]) == ("ENABLED" if enabled else "DISABLED", NOON)


async def test_a_lost_counter_never_goes_back(store: MongoStore, database: Rows) -> None:
    for n in range(3):
        await toggle(store, CHAT, bool(n % 2))
    database["flagsvc_revisions"].delete_many({})
    assert (await toggle(store, UPLOAD, True)).revision == 4


async def test_concurrent_writers_of_several_replicas(store: MongoStore, fresh_database_url: str) -> None:
    others = [MongoStore(fresh_database_url) for _ in range(3)]
    try:
        work = [toggle(each, CHAT, bool(n % 2)) for n in range(8) for each in (store, *others)]
        flags = await asyncio.gather(*work)
    finally:
        for each in others:
            await each.close()
    assert sorted(flag.revision for flag in flags) == list(range(1, 33))
    chain = (await store.history(CHAT, 50))[::-1]
    assert all(later.previous == earlier.new for earlier, later in itertools.pairwise(chain))


async def test_a_foreign_write_in_between_is_not_lost(store: MongoStore, database: Rows) -> None:
    tried = 0

    def decide(current: Flag | None) -> changes.Change | None:
        nonlocal tried
        tried += 1
        if tried == 1:
            database["feature_flags"].update_one({"key": "support-chat"}, {"$set": {"status": "BETA", "foreign": 1}})
        return changes.toggle("support-chat", False, None, AUTHOR)(current)

    await store.write(CHAT, decide)
    assert tried == 2
    [entry] = await store.history(CHAT, 50)
    assert entry.previous == {"status": "BETA"}
    assert raw(database, "support-chat")["foreign"] == 1


async def test_reads_are_counted(store: MongoStore) -> None:
    before = store.reads
    await read(store, CHAT)
    await store.history(CHAT, 5)
    await store.load()
    assert store.reads - before == 4
    await store.get(FlagId("default", "none"))
    await store.revisions()
    assert store.reads - before == 8


async def test_flags_that_are_read_at_the_same_time_share_reads(store: MongoStore) -> None:
    before = store.reads
    await asyncio.gather(*(store.get(FlagId("default", f"none-{number}")) for number in range(1_000)))
    assert store.reads - before < 100
