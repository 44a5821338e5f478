"""SegmentService, and the links of flags, on a server of each store: written, checked, refused and rolled back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from flagsvc.api.common.values import to_value
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as segments
from flagsvc.generated.flagsvc.v1 import segment_service_pb2_grpc as segments_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, detail_of, reason_of, replica, until, until_serving

ON = types.FLAG_STATUS_ENABLED
PRO, STAFF = '{"==":[{"var":"plan"},"pro"]}', '{"==":[{"var":"staff"},true]}'
USES_PRO = '{"if":[{"$ref":"segment:pro"},"on","off"]}'
INVALID, FAILED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


class Segments:
    """Calls of SegmentService."""

    def __init__(self, client: Client) -> None:
        self.client, self.stub = client, segments_grpc.SegmentServiceStub(client.channel)

    async def create(self, name: str, rule: str = PRO, **fields: Any) -> segments.Segment:
        segment = segments.Segment(name=name, rule=rule, description=fields.pop("description", ""))
        request = segments.CreateSegmentRequest(segment=segment, **fields)
        return (await self.stub.CreateSegment(request, timeout=10)).segment

    async def update(self, name: str, rule: str, *, etag: str = "", **fields: Any) -> segments.UpdateSegmentResponse:
        segment = segments.Segment(name=name, rule=rule, etag=etag)
        request = segments.UpdateSegmentRequest(segment=segment, update_mask={"paths": ["rule"]}, **fields)
        return await self.stub.UpdateSegment(request, timeout=10)

    async def get(self, name: str) -> segments.GetSegmentResponse:
        return await self.stub.GetSegment(segments.GetSegmentRequest(name=name), timeout=10)

    async def delete(self, name: str, **fields: Any) -> None:
        await self.stub.DeleteSegment(segments.DeleteSegmentRequest(name=name, **fields), timeout=10)

    async def names(self, **fields: Any) -> tuple[list[str], str]:
        found = await self.stub.ListSegments(segments.ListSegmentsRequest(**fields), timeout=10)
        return [each.name for each in found.segments], found.next_page_token


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Client]:
    async with replica(store_url=store_url) as (found, server):
        await until_serving(found)
        await until(lambda: not server.replica.revision_sweep._is_first)
        yield found


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), reason_of(error.value), error.value.details() or ""


async def fields_refused(call: Any) -> dict[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is INVALID
    return {each.field: each.description for each in detail_of(error.value, "BadRequest").field_violations}


def needing(key: str, *parents: str, variants: tuple[str, ...] = ("on",)) -> types.Flag:
    links = [types.Prerequisite(flag_key=parent, variants=variants) for parent in parents]
    return types.Flag(key=key, status=ON, prerequisites=links)


async def link(client: Client, key: str, *parents: str, **fields: Any) -> pb.UpdateFlagResponse:
    request = pb.UpdateFlagRequest(flag=needing(key, *parents), update_mask={"paths": ["prerequisites"]}, **fields)
    return await client.stub.UpdateFlag(request, timeout=10)


async def history(client: Client, key: str) -> list[pb.HistoryEntry]:
    return list((await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key=key), timeout=10)).entries)


async def test_a_segment_is_created_used_changed_and_deleted(client: Client) -> None:
    calls = Segments(client)
    made = await calls.create("pro", description="Who pays")
    assert (made.name, made.flag_set, made.rule, made.etag) == ("pro", "default", PRO, '"1"')
    await client.create("a", status=ON, targeting=USES_PRO)
    await client.create("b", status=ON, targeting=USES_PRO)
    await calls.create("nested", '{"!":{"$ref":"segment:pro"}}')
    found = await calls.get("pro")
    assert (list(found.users.flag_keys), found.users.flags) == (["a", "b"], 2)
    assert (list(found.users.segment_names), found.segment.description) == (["nested"], "Who pays")

    planned = await calls.update("pro", STAFF, validate_only=True)
    assert ([(each.flag_key, each.revision) for each in planned.flags], planned.HasField("spread")) == (
        [("a", 0), ("b", 0)],
        False,
    )
    done = await calls.update("pro", STAFF, etag=made.etag, reason="staff first")
    assert [(each.flag_key, each.revision) for each in done.flags] == [("a", 3), ("b", 4)]
    assert (done.segment.revision, done.spread.revision, done.segment.rule) == (4, 4, STAFF)
    context = types.EvaluationContext(attributes={"staff": to_value(True)})
    evaluated = await client.evaluate("b", context=context, min_revision=done.segment.revision)
    assert (evaluated.variant, evaluated.revision) == ("on", 4)
    newest = (await history(client, "a"))[0]
    assert (newest.via, newest.reason, newest.action) == ("segment/pro", "staff first", "UPDATED")

    assert await refused(calls.update("pro", PRO, etag=made.etag)) == (
        grpc.StatusCode.ABORTED,
        "SEGMENT_CONFLICT",
        'Segment "pro" has version 3, not 1: read it again',
    )
    code, reason, text = await refused(calls.delete("pro"))
    assert (code, reason) == (FAILED, "SEGMENT_IN_USE")
    assert text == 'Segment "pro" cannot be deleted: it is used by the flags "a", "b" and the segments "nested"'
    await calls.delete("nested", validate_only=True)
    assert (await calls.names())[0] == ["nested", "pro"]
    await calls.delete("nested")
    assert (await refused(calls.get("nested")))[:2] == (grpc.StatusCode.NOT_FOUND, "SEGMENT_NOT_FOUND")


async def test_a_change_of_a_segment_that_is_sent_twice_is_made_once(client: Client) -> None:
    calls = Segments(client)
    made = [await calls.create("pro", request_id="c-1") for _ in range(2)]
    assert made[0] == made[1]
    await client.create("a", status=ON, targeting=USES_PRO)
    first = await calls.update("pro", STAFF, request_id="u-1")
    again = await calls.update("pro", STAFF, request_id="u-1", wait_for=pb.WRITE_LEVEL_STORED)
    assert (again.segment, again.flags, again.spread.revision) == (first.segment, first.flags, 2)
    await calls.update("pro", PRO)
    late = await calls.update("pro", STAFF, request_id="u-1")
    assert ((await calls.get("pro")).segment.rule, late.segment, late.spread.revision) == (PRO, first.segment, 3)
    assert (await refused(calls.update("pro", PRO, request_id="u-1")))[1] == "REQUEST_ID_REUSED"
    assert (await refused(calls.delete("pro", request_id="c-1")))[1] == "REQUEST_ID_REUSED"
    assert list(await fields_refused(calls.update("pro", PRO, request_id="x", validate_only=True))) == ["request_id"]
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a"), timeout=10)
    await calls.delete("pro", request_id="d-1")
    await calls.create("pro")
    await calls.delete("pro", request_id="d-1")
    assert (await calls.names())[0] == ["pro"]


async def test_a_change_of_a_segment_does_not_take_a_set_over_its_quota(store_url: str) -> None:
    async with replica(store_url=store_url, max_bytes_per_set=50_000) as (client, server):
        await until_serving(client)
        calls, near = Segments(client), server.replica.near
        await until(lambda: near.complete)
        await calls.create("pro")
        for key in ("a", "b"):
            await client.create(key, status=ON, targeting=USES_PRO)
        many = json.dumps({"in": [{"var": "plan"}, [f"plan-{number}" for number in range(300)]]})
        for only in (True, False):
            code, reason, text = await refused(calls.update("pro", many, validate_only=only))
            assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
            assert "bytes of memory, and FLAGSVC_MAX_BYTES_PER_SET is 50000" in text
        assert (await calls.get("pro")).segment.rule == PRO
        assert len((await calls.update("pro", STAFF)).flags) == 2
        await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a"), timeout=10)
        await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="b"), timeout=10)
        assert list((await calls.update("pro", many)).flags) == []


async def test_what_is_wrong_in_a_segment_is_named(client: Client) -> None:
    calls = Segments(client)
    await calls.create("pro")
    assert (await refused(calls.create("pro")))[:2] == (grpc.StatusCode.ALREADY_EXISTS, "SEGMENT_EXISTS")
    assert await refused(calls.create("a b")) == (
        INVALID,
        "INVALID_SEGMENT_NAME",
        "segment.name is 'a b'; it must be 1 to 100 letters, digits, _ and -",
    )
    assert list(await fields_refused(calls.create("x", "{"))) == ["segment.rule"]
    [(field, text)] = (await fields_refused(calls.create("x", '{"$ref":"segment:none"}'))).items()
    assert (field, text) == ("segment.rule", "segment.rule is 'segment:none'; it must be a segment of the set: pro, x")
    [text] = (await fields_refused(calls.update("pro", '{"$ref":"segment:pro"}'))).values()
    assert text == "segment.rule is pro -> pro; it must be segments that do not refer to themselves"
    request = segments.UpdateSegmentRequest(segment=segments.Segment(name="pro"), update_mask={"paths": ["name"]})
    assert list(await fields_refused(calls.stub.UpdateSegment(request))) == ["update_mask"]
    assert list(await fields_refused(calls.update("pro", STAFF, etag="x"))) == ["etag"]
    assert await calls.names() == (["pro"], "")


async def test_segments_are_listed_in_pages(client: Client) -> None:
    calls = Segments(client)
    for name in ("c", "a", "b"):
        await calls.create(name)
    first, token = await calls.names(page_size=2)
    assert (first, await calls.names(page_size=2, page_token=token)) == (["a", "b"], (["c"], ""))
    assert list(await fields_refused(calls.names(flag_set="other", page_token=token))) == ["page_token"]


async def test_links_are_checked_with_and_without_validate_only(client: Client) -> None:
    await client.create("top")
    await client.stub.CreateFlag(pb.CreateFlagRequest(flag=needing("child", "top")), timeout=10)
    for checked in (True, False):
        only = {"validate_only": checked}
        missing = client.stub.CreateFlag(pb.CreateFlagRequest(flag=needing("x", "none"), **only), timeout=10)
        assert list(await fields_refused(missing)) == ["flag.prerequisites[0].flagKey"]
        unknown = needing("x", "top", variants=("on", "blue"))
        call = client.stub.CreateFlag(pb.CreateFlagRequest(flag=unknown, **only), timeout=10)
        [(field, text)] = (await fields_refused(call)).items()
        assert field == "flag.prerequisites[0].variants[1]"
        assert text.endswith("it must be a variant of 'top': on, off")
        [text] = (await fields_refused(link(client, "top", "child", **only))).values()
        assert "top -> child -> top" in text
        many = client.stub.CreateFlag(pb.CreateFlagRequest(flag=needing("x", *["top"] * 21), **only), timeout=10)
        assert list(await fields_refused(many)) == ["flag.prerequisites"]
        code, reason, text = await refused(
            client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="top", **only), timeout=10)
        )
        assert (code, reason) == (FAILED, "FLAG_IN_USE")
        assert 'prerequisite of "child"' in text
        rule = types.Flag(key="x", targeting=USES_PRO)
        [field] = await fields_refused(client.stub.CreateFlag(pb.CreateFlagRequest(flag=rule, **only), timeout=10))
        assert field == "flag.targeting"
    await Segments(client).create("pro")
    checked_flag = (await client.stub.CreateFlag(pb.CreateFlagRequest(flag=rule, validate_only=True), timeout=10)).flag
    assert dict(checked_flag.evaluators) == {"segment:pro": PRO}, "as it would be stored"
    assert list(checked_flag.prerequisites) == []
    stored = (await client.stub.GetFlag(pb.GetFlagRequest(flag_key="child"), timeout=10)).flag
    assert [(each.flag_key, list(each.variants)) for each in stored.prerequisites] == [("top", ["on"])]


async def test_a_chain_of_eleven_is_refused(client: Client) -> None:
    await client.create("f0")
    for number in range(1, 11):
        flag = needing(f"f{number}", f"f{number - 1}")
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), timeout=10)
    call = client.stub.CreateFlag(pb.CreateFlagRequest(flag=needing("f11", "f10"), validate_only=True), timeout=10)
    [text] = (await fields_refused(call)).values()
    assert text.endswith("it must be a chain of at most 10")


async def test_eight_writers_cannot_make_a_cycle(client: Client) -> None:
    keys = [f"f{number}" for number in range(8)]
    for key in keys:
        await client.create(key)
    ring = list(zip(keys, [*keys[1:], keys[0]], strict=True))
    outcomes = await asyncio.gather(*(link(client, *pair) for pair in ring), return_exceptions=True)
    failed = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert (len(failed), len(outcomes) - len(failed)) == (1, 7)
    assert "depend on themselves" in (failed[0].details() or "") or "->" in (failed[0].details() or "")


async def roll_back(client: Client, revision: int, **fields: Any) -> pb.RollbackFlagSetResponse:
    return await client.stub.RollbackFlagSet(pb.RollbackFlagSetRequest(revision=revision, **fields), timeout=10)


async def test_a_rollback_of_a_set_restores_its_segments(client: Client) -> None:
    calls = Segments(client)
    await calls.create("pro")
    await calls.create("gone", '{"$ref":"segment:pro"}')
    await client.create("a", status=ON, targeting=USES_PRO)  # revision 1
    await client.create("other")  # revision 2
    await calls.update("pro", STAFF)  # revision 3: a
    await calls.delete("gone")
    await calls.create("new")
    await client.create("b", status=ON, targeting='{"if":[{"$ref":"segment:new"},"on","off"]}')  # revision 4
    planned = await roll_back(client, 2, validate_only=True)
    wanted = [("gone", "CREATED"), ("new", "DELETED"), ("pro", "UPDATED")]
    assert [(each.name, each.action) for each in planned.segments] == wanted
    assert (await calls.get("pro")).segment.rule == STAFF
    done = await roll_back(client, 2)
    assert [(each.name, each.action) for each in done.segments] == wanted
    assert [(each.flag_key, each.action, each.revision) for each in done.flags] == [
        ("a", "UPDATED", 5),
        ("b", "DELETED", 6),
    ]
    pro = (await calls.get("pro")).segment
    assert (pro.rule, pro.revision) == (PRO, 6)
    stored = (await client.stub.GetFlag(pb.GetFlagRequest(flag_key="a"), timeout=10)).flag
    assert (dict(stored.evaluators), stored.revision) == ({"segment:pro": PRO}, 5)
    assert (await calls.names())[0] == ["gone", "pro"]
    there_and_back = await roll_back(client, 4)
    wanted = [("gone", "DELETED"), ("new", "CREATED"), ("pro", "UPDATED")]
    assert [(each.name, each.action) for each in there_and_back.segments] == wanted
    stored = (await client.stub.GetFlag(pb.GetFlagRequest(flag_key="b"), timeout=10)).flag
    assert dict(stored.evaluators) == {"segment:new": PRO}
    assert (await roll_back(client, 4)).segments == (await roll_back(client, 4)).flags == []


async def test_a_rollback_that_changes_only_segments_takes_no_revision(client: Client) -> None:
    calls = Segments(client)
    await client.create("a")
    await client.create("b")
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="b"), timeout=10)  # revision 3
    await calls.create("pro")
    done = await roll_back(client, 1)
    assert ([each.name for each in done.segments], list(done.flags)) == (["pro"], [])
    assert (await calls.names())[0] == []
    assert (await client.create("c")).revision == 4


async def test_a_rollback_of_one_flag_checks_its_links(client: Client) -> None:
    await client.create("top")  # 1
    await client.stub.CreateFlag(pb.CreateFlagRequest(flag=needing("child", "top")), timeout=10)  # 2
    await link(client, "child")
    await link(client, "top", "child")
    call = client.stub.RollbackFlag(pb.RollbackFlagRequest(flag_key="child", revision=2), timeout=10)
    [text] = (await fields_refused(call)).values()
    assert "child -> top -> child" in text


@pytest.mark.mongod
async def test_a_change_of_a_segment_reaches_every_replica(mongo_database_url: str, redis_clean_url: str) -> None:
    shared = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with replica(**shared) as (here, _), replica(**shared) as (there, _):
        await until_serving(here)
        await until_serving(there)
        calls = Segments(here)
        await calls.create("pro")
        for number in range(3):
            await here.create(f"f{number}", status=ON, targeting=USES_PRO)
        done = await calls.update("pro", STAFF, wait_for=pb.WRITE_LEVEL_APPLIED)
        assert (done.spread.reached, len(done.spread.applied_by)) == (pb.WRITE_LEVEL_APPLIED, 2)
        context = types.EvaluationContext(attributes={"staff": to_value(True)})
        for number, changed in enumerate(done.flags):
            found = await there.evaluate(f"f{number}", context=context)
            assert (found.variant, found.revision, found.source) == (
                "on",
                changed.revision,
                types.DEFINITION_SOURCE_NEAR_CACHE,
            )


async def test_a_store_of_files_keeps_no_segments(tmp_path: Any) -> None:
    path = tmp_path / "flags.json"
    path.write_text('{"flags": {}}')
    async with replica(store_url=f"file:{path}") as (client, _):
        await until_serving(client)
        calls = Segments(client)
        for call in (calls.get("a"), calls.names(), calls.create("a"), calls.update("a", PRO), calls.delete("a")):
            code, reason, text = await refused(call)
            assert (code, reason) == (FAILED, "SEGMENTS_UNSUPPORTED")
            assert text.endswith("write rules that flags share as $evaluators of the file")


async def test_a_database_that_is_read_only_refuses_with_words(tmp_path: Any) -> None:
    path = tmp_path / "flags.db"
    async with replica(store_url=f"sqlite:///{path}") as (client, server):
        await until_serving(client)
        await server.replica.store._run(lambda db: db.execute("PRAGMA query_only = ON"))
        code, reason, text = await refused(Segments(client).create("a"))
        assert (code, reason, "read-only" in text) == (FAILED, "STORE_REFUSES_CHANGE", True)
