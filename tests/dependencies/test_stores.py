"""Segments and prerequisites in every store: what the transaction of a change writes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import pymongo
import pytest

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core import changes
from flagsvc.core.audit import AuditQuery
from flagsvc.core.errors import FlagInUse, InvalidRequest, RevisionOutOfRange, SegmentInUse, SegmentNotFound
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.core.requests import WriteRequest
from flagsvc.core.segments import Segment, SegmentDecide, SegmentId, create, delete, update
from flagsvc.ports import FlagStore
from flagsvc.ports.revisions import RolledBack
from flagsvc.ports.segments import SegmentStore, SegmentWritten
from flagsvc.serving.reader import Reader
from flagsvc.serving.rollbacks import set_rollback
from flagsvc.view.near_cache import NearCache
from tests.conformance.test_store import author, read, store
from tests.followers import follower_of
from tests.revisions.test_stores import age

__all__ = ["store"]
PRO, STAFF = '{"==":[{"var":"plan"},"pro"]}', '{"==":[{"var":"staff"},true]}'


def flag(key: str, *parents: str, segments: Sequence[str] = ()) -> Flag:
    rule = {"if": [{"or": [{"$ref": f"segment:{name}"} for name in segments]}, "on", "off"]}
    prerequisites = [{"flagKey": parent, "variants": ["on"]} for parent in parents]
    return Flag(
        key=key,
        status=Status.ENABLED,
        targeting=json.dumps(rule) if segments else None,
        prerequisites=prerequisites or None,
    )


async def make(store: FlagStore, *flags: Flag) -> None:
    for each in flags:
        await store.write(each.id, changes.create(each, author()))


async def put(store: FlagStore, name: str, rule: str, *, flag_set: str = "default") -> SegmentWritten:
    segment = Segment(name=name, flag_set=flag_set, rule=rule)
    there = [each.name for each in await kept(store).of_set(flag_set)]
    decide = update(segment, ["rule"], None, author(5)) if name in there else create(segment, author(4))
    return await kept(store).write(segment.id, decide)


def kept(store: FlagStore) -> SegmentStore:
    assert store.segments is not None
    return store.segments


async def depend(store: FlagStore, key: str, *parents: str) -> None:
    await store.write(FlagId("default", key), changes.update(flag(key, *parents), ["prerequisites"], None, author(6)))


async def carried(store: FlagStore, key: str) -> dict[str, str]:
    found = await read(store, FlagId("default", key))
    assert found is not None
    return dict(found.evaluators)


async def test_a_flag_gets_its_segments_and_a_change_of_one_writes_every_user(store: FlagStore) -> None:
    await put(store, "pro", PRO)
    await put(store, "nested", '{"!":{"$ref":"segment:pro"}}')
    await make(store, flag("a", segments=["pro"]), flag("b", segments=["nested"]), flag("c"))
    assert await carried(store, "b") == {"segment:nested": '{"!":{"$ref":"segment:pro"}}', "segment:pro": PRO}
    before = (await store.revisions())["default"]
    done = await put(store, "pro", STAFF)
    assert [entry.id.key for entry in done.entries] == ["a", "b"]
    assert [entry.revision for entry in done.entries] == [before + 1, before + 2]
    assert done.segment is not None
    assert (done.segment.revision, (await store.revisions())["default"]) == (before + 2, before + 2)
    assert (await carried(store, "a"), (await carried(store, "b"))["segment:pro"]) == ({"segment:pro": STAFF}, STAFF)
    [newest, *_] = await store.history(FlagId("default", "a"), 5)
    assert (newest.action, newest.via, newest.new["evaluators"]) == ("UPDATED", "segment/pro", {"segment:pro": STAFF})
    entry = await store.get(FlagId("default", "a"))
    assert entry.flag == done.entries[0].flag
    assert await put(store, "pro", STAFF) == SegmentWritten(done.segment)


async def test_a_segment_that_no_flag_uses_takes_no_revision_and_still_has_a_version(store: FlagStore) -> None:
    await make(store, flag("a"))
    revisions = await store.revisions()
    first, second = await put(store, "pro", PRO), await put(store, "pro", STAFF)
    assert await store.revisions() == revisions
    assert first.segment is not None
    assert second.segment is not None
    assert (first.segment.etag, second.segment.etag) == ('"1"', '"2"')
    assert await kept(store).get(SegmentId("default", "pro")) == second.segment
    with pytest.raises(SegmentNotFound):
        await kept(store).get(SegmentId("other", "pro"))


async def test_a_segment_in_use_cannot_be_deleted_and_a_missing_one_cannot_be_used(store: FlagStore) -> None:
    with pytest.raises(InvalidRequest, match="'segment:pro'; it must be the name of a segment"):
        await make(store, flag("a", segments=["pro"]))
    await put(store, "pro", PRO)
    await put(store, "nested", '{"!":{"$ref":"segment:pro"}}')
    await make(store, flag("a", segments=["pro"]))
    one = SegmentId("default", "pro")
    assert await kept(store).users(one) == (["a"], ["nested"])
    with pytest.raises(SegmentInUse, match='the flags "a" and the segments "nested"'):
        await kept(store).write(one, delete("pro", None, author()))
    await store.write(FlagId("default", "a"), changes.delete("a", None, author()))
    await kept(store).write(SegmentId("default", "nested"), delete("nested", None, author()))
    await kept(store).write(one, delete("pro", None, author()))
    assert await kept(store).of_set("default") == []


async def test_a_change_that_would_break_a_flag_changes_nothing(store: FlagStore) -> None:
    await put(store, "pro", PRO)
    await make(store, flag("a", segments=["pro"]))
    before = await store.revisions()
    loops = {"map": [{"var": "l"}, {"map": [{"var": "m"}, {"in": [{"var": "x"}, {"var": "y"}]}]}]}
    with pytest.raises(InvalidRequest, match="of flag 'a'"):
        await put(store, "pro", json.dumps({"and": [loops for _ in range(90)]}))
    assert (await store.revisions(), await carried(store, "a")) == (before, {"segment:pro": PRO})
    assert (await kept(store).get(SegmentId("default", "pro"))).rule == PRO


async def test_a_change_of_a_segment_with_a_request_id_is_made_once(store: FlagStore) -> None:
    one = SegmentId("default", "pro")

    async def sent(name: str, decide: SegmentDecide, digest: bytes = b"d") -> SegmentWritten:
        return await kept(store).write(one, decide, request=WriteRequest("ann", name, digest))

    creation = create(Segment(name="pro", rule=PRO), author(4))
    assert len({(await sent("c-1", creation)).segment for _ in range(2)}) == 1
    await make(store, flag("a", segments=["pro"]), flag("b", segments=["pro"]))
    change = update(Segment(name="pro", rule=STAFF), ["rule"], None, author(5))
    done = sorted(await asyncio.gather(*(sent("u-1", change) for _ in range(4))), key=lambda each: -len(each.entries))
    assert [len(each.entries) for each in done] == [2, 0, 0, 0]
    assert {(each.segment, *each.flags[0][:3], *each.flags[1][:3]) for each in done} == {
        (done[0].segment, "a", "UPDATED", 3, "b", "UPDATED", 4)
    }
    await put(store, "pro", PRO)
    again = await sent("u-1", change)
    assert (again.segment, list(again.flags)) == (done[0].segment, list(done[0].flags))
    assert await carried(store, "a") == {"segment:pro": PRO}, "a later change stays"
    with pytest.raises(InvalidRequest, match="a new id for a new write"):
        await sent("u-1", change, b"other")
    for key in ("a", "b"):
        await store.write(FlagId("default", key), changes.delete(key, None, author()))
    assert (await sent("d-1", delete("pro", None, author()))).segment is None
    await put(store, "pro", STAFF)
    assert await sent("d-1", delete("pro", None, author())) == SegmentWritten(None, [])
    assert [each.name for each in await kept(store).of_set("default")] == ["pro"]


async def test_a_dry_run_stores_nothing(store: FlagStore) -> None:
    await put(store, "pro", PRO)
    await make(store, flag("a", segments=["pro"]))
    one, before = SegmentId("default", "pro"), await store.revisions()
    decide = update(Segment(name="pro", rule=STAFF), ["rule"], None, author())
    done = await kept(store).write(one, decide, dry_run=True)
    assert ([each.key for each in done.flags], done.entries) == (["a"], ())
    assert (await store.revisions(), await carried(store, "a")) == (before, {"segment:pro": PRO})


async def test_flags_that_are_written_while_a_segment_changes_all_get_the_new_one(store: FlagStore) -> None:
    await put(store, "pro", PRO)
    flags = [flag(f"f{i}", segments=["pro"]) for i in range(8)]
    await asyncio.gather(make(store, *flags[:4]), put(store, "pro", STAFF), make(store, *flags[4:]))
    for each in flags:
        assert await carried(store, each.key) == {"segment:pro": STAFF}


async def test_a_family_is_read_at_once(store: FlagStore) -> None:
    await make(store, flag("top"), flag("left", "top"), flag("right", "top"), flag("child", "left", "right"))
    await make(store, replace(flag("top"), flag_set="other"))
    found = await store.get_family(FlagId("default", "child"))
    assert sorted(found.entries) == ["child", "left", "right", "top"]
    assert found.entries["top"].flag == (await store.get(FlagId("default", "top"))).flag
    assert found.revision == (await store.revisions())["default"]
    assert (await store.get_family(FlagId("default", "none"))).entries == {}


async def test_a_flag_that_is_deleted_elsewhere_is_gone_and_not_the_last_known_one(store: FlagStore) -> None:
    await make(store, flag("top"), flag("child", "top"), flag("other"))
    near = NearCache(2, 5.0)
    follower = follower_of(near, store)
    follower.tried.set()
    families = Reader(near, store, None, follower)._families
    child = FlagId("default", "child")
    before = await families.find(child)
    await store.write(child, changes.delete("child", None, author()))
    near.partial.gaps += 1  # what was kept may have been missed
    after = await families.find(child)
    assert before is not None
    assert after is not None
    assert (before.entries.keys(), after.entries.keys(), after.stale) == ({"top", "child"}, set(), False)


async def test_dependencies_are_checked_in_the_transaction(store: FlagStore) -> None:
    with pytest.raises(InvalidRequest, match="'top'; it must be the key of a flag that exists"):
        await make(store, flag("child", "top"))
    await make(store, flag("top"), flag("middle", "top"), flag("child", "middle"))
    with pytest.raises(InvalidRequest, match="top -> child -> middle -> top"):
        await depend(store, "top", "child")
    with pytest.raises(FlagInUse, match='prerequisite of "middle"'):
        await store.write(FlagId("default", "top"), changes.delete("top", None, author()))
    await store.write(FlagId("default", "top"), changes.toggle("top", False, None, author()))
    await store.write(FlagId("default", "child"), changes.delete("child", None, author()))


async def test_no_cycle_gets_in_whoever_writes_at_the_same_time(store: FlagStore) -> None:
    keys = [f"f{i}" for i in range(8)]
    await make(store, *map(flag, keys))
    ring = zip(keys, [*keys[1:], keys[0]], strict=True)
    done = await asyncio.gather(*(depend(store, key, parent) for key, parent in ring), return_exceptions=True)
    assert sum(each is None for each in done) == len(keys) - 1
    [refused] = [each for each in done if each is not None]
    assert isinstance(refused, InvalidRequest)
    assert "depend on themselves" in str(refused)


async def rolled_back(store: FlagStore, revision: int) -> RolledBack:
    return await store.roll_back("default", revision, set_rollback(revision, author()), author(), dry_run=False)


async def test_a_rollback_restores_segments_as_of_every_revision(store: FlagStore) -> None:
    assert store.definitions is not None
    await store.definitions.sweep(0)
    rules = [json.dumps({"==": [{"var": "n"}, number]}, separators=(",", ":")) for number in range(5)]
    await put(store, "pro", rules[0])
    await make(store, flag("a", segments=["pro"]))
    for rule in rules[1:]:
        await put(store, "pro", rule)
    for revision in (3, 1, 5, 2, 4):
        newest = (await store.revisions())["default"]
        done = await rolled_back(store, revision)
        assert [each.name for each in done.segments] == ["pro"]
        segment = await kept(store).get(SegmentId("default", "pro"))
        assert (segment.rule, segment.revision) == (rules[revision - 1], newest + 1)
        assert await carried(store, "a") == {"segment:pro": rules[revision - 1]}
    assert list((await rolled_back(store, 4)).segments) == []
    assert store.audit is not None
    entries = await store.audit.page(AuditQuery(subject="segment:pro"), 20)
    assert Counter(entry.action for entry in entries) == {"UpdateSegment": 9, "CreateSegment": 1}


async def test_retention_keeps_each_segments_newest_rule_at_the_horizon(store: FlagStore) -> None:
    assert store.definitions is not None
    await store.definitions.sweep(0)
    await put(store, "pro", PRO)
    await make(store, flag("a", segments=["pro"]))
    await put(store, "pro", STAFF)
    await put(store, "pro", '{"!":{"var":"x"}}')
    await put(store, "pro", PRO)
    await age(store, {0: 9_500, 1: 9_000, 2: 8_000, 3: 7_000, 4: 5_000})
    swept = await store.definitions.sweep(6_000)
    assert swept.removed == 4, "revisions 1 and 2 of the flag, 0 and 2 of the segment"
    with pytest.raises(RevisionOutOfRange):
        await rolled_back(store, 2)
    await rolled_back(store, 3)
    assert await carried(store, "a") == {"segment:pro": '{"!":{"var":"x"}}'}


async def test_a_change_of_a_segment_that_too_many_flags_use_is_refused(
    store: FlagStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, "pro", PRO)
    await make(store, *(flag(f"f{number}", segments=["pro"]) for number in range(4)))
    for name in ("flagsvc.ports.segments.MAX_AFFECTED", "flagsvc.adapters.mongo.segments.MAX_AFFECTED"):
        monkeypatch.setattr(name, 3)
    with pytest.raises(InvalidRequest, match="used by more than 3 flags"):
        await put(store, "pro", STAFF)
    decide = update(Segment(name="pro", rule="", description="for all"), ["description"], None, author())
    assert (await kept(store).write(SegmentId("default", "pro"), decide)).flags == []
    monkeypatch.setattr("flagsvc.ports.segments.MAX_AFFECTED", 4)
    monkeypatch.setattr("flagsvc.ports.segments.MAX_AFFECTED_MEMORY", 1_000)
    monkeypatch.setattr("flagsvc.adapters.mongo.segments.MAX_AFFECTED", 4)
    with pytest.raises(InvalidRequest, match="bytes of memory"):
        await put(store, "pro", STAFF)
    assert await carried(store, "f3") == {"segment:pro": PRO}


@pytest.mark.mongod
async def test_another_programs_flag_gets_its_segments_with_its_revision(mongo_database_url: str) -> None:
    with closing(pymongo.MongoClient(mongo_database_url)) as client:
        made = MongoStore(mongo_database_url)
        await made.open()
        try:
            await put(made, "pro", PRO)
            foreign = {"key": "a", "name": "a", "status": "ENABLED", "targeting": flag("a", segments=["pro"]).targeting}
            stale = foreign | {"key": "b", "evaluators": {"segment:pro": STAFF}}
            missing = foreign | {"key": "c", "targeting": flag("c", segments=["none"]).targeting}
            client.get_default_database()["feature_flags"].insert_many([foreign, stale, missing])
            entries = [await made.assign_revision(FlagId("default", key), 0) for key in "abc"]
            found = [entry.flag.evaluators for entry in entries if entry is not None and entry.flag is not None]
            assert found == [{"segment:pro": PRO}, {"segment:pro": PRO}, {}]
            assert await carried(made, "b") == {"segment:pro": PRO}
        finally:
            await made.close()
