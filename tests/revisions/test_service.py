"""Revisions through a server: lists, rollbacks, answers as of another moment, remembered and checked writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as plans
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as plans_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, reason_of, replica, until, until_serving

ON, OFF = types.FLAG_STATUS_ENABLED, types.FLAG_STATUS_DISABLED
PRO = '{"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}'
LATER = '{"if": [{">=": [{"var": "$flagd.timestamp"}, 4102444800]}, "on", "off"]}'  # 2100-01-01
NOBODY = types.EvaluationContext()


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Client]:
    async with replica(store_url=store_url) as (found, server):
        await until_serving(found)
        await until(lambda: not server.replica.revision_sweep._is_first)
        yield found


def at(revision: int = 0, moment: datetime | None = None) -> pb.AsOf:
    if moment is None:
        return pb.AsOf(revision=revision)
    found = Timestamp()
    found.FromDatetime(moment)
    return pb.AsOf(time=found)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), reason_of(error.value), error.value.details() or ""


async def evaluated(client: Client, key: str, **fields: Any) -> pb.EvaluateFlagResponse:
    return await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key=key, **fields), timeout=5)


async def set_rule(client: Client, key: str, rule: str) -> None:
    flag = types.Flag(key=key, targeting=rule)
    await client.stub.UpdateFlag(pb.UpdateFlagRequest(flag=flag, update_mask={"paths": ["targeting"]}), timeout=5)


async def test_evaluations_as_of_a_revision_and_of_a_time(client: Client) -> None:
    await client.create("a", status=ON)
    await set_rule(client, "a", PRO)
    await client.toggle("a", False)
    revisions = (await client.stub.ListFlagRevisions(pb.ListFlagRevisionsRequest(flag_key="a"))).revisions
    assert [(each.revision, each.action) for each in revisions] == [(3, "DISABLED"), (2, "UPDATED"), (1, "CREATED")]
    answers = []
    for revision in (1, 2, 3):
        found = await evaluated(client, "a", as_of=at(revision), explain=revision == 2)
        assert found.as_of.revision == found.evaluation.revision == revision
        answers.append((found.evaluation.variant, found.evaluation.reason))
        if revision == 2:
            assert [step.operator for step in found.explanation.steps][:2] == ["if", "=="]
    assert answers == [
        ("on", types.REASON_STATIC),
        ("off", types.REASON_TARGETING_MATCH),
        ("", types.REASON_DISABLED),
    ]
    then = revisions[1].time.ToDatetime(tzinfo=UTC)
    found = await evaluated(client, "a", as_of=at(moment=then))
    assert (found.as_of.revision, found.evaluation.variant) == (2, "off")
    now = await evaluated(client, "a")
    assert not now.HasField("as_of")
    assert now.evaluation.reason == types.REASON_DISABLED


async def test_a_rule_reads_the_time_that_is_asked_about(client: Client) -> None:
    await client.create("later", status=ON, targeting=LATER)
    next_century = datetime(2100, 1, 1, tzinfo=UTC)
    found = await evaluated(client, "later", as_of=at(moment=next_century))
    assert (found.evaluation.variant, found.as_of.revision) == ("on", 1)
    assert (
        await evaluated(client, "later", as_of=at(moment=next_century - timedelta(seconds=1)))
    ).evaluation.variant == "off"
    assert (await evaluated(client, "later", as_of=at(1))).evaluation.variant == "off"


async def test_a_batch_is_of_one_moment_and_without_keys_of_the_set_as_it_was(client: Client) -> None:
    for key in "cab":
        await client.create(key, status=ON)
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a"), timeout=5)
    await client.toggle("b", False)
    batch = client.stub.BatchEvaluateFlags
    found = await batch(pb.BatchEvaluateFlagsRequest(as_of=at(3)), timeout=5)
    assert [(each.flag_key, each.enabled) for each in found.evaluations] == [("a", True), ("b", True), ("c", True)]
    assert found.as_of.revision == 3
    found = await batch(pb.BatchEvaluateFlagsRequest(flag_keys=["b", "a", "x", "b"], as_of=at(4)), timeout=5)
    assert [(each.flag_key, each.enabled, each.error_code) for each in found.evaluations] == [
        ("b", True, 0),
        ("a", False, types.ERROR_CODE_FLAG_NOT_FOUND),
        ("x", False, types.ERROR_CODE_FLAG_NOT_FOUND),
        ("b", True, 0),
    ]


async def test_moments_that_cannot_be_answered_are_refused_with_words(client: Client) -> None:
    await client.create("a")
    out, invalid = grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INVALID_ARGUMENT
    for asked, code, text in (
        (at(2), out, "revision 2 is not made yet: the newest is revision 1"),
        (
            at(moment=datetime(2020, 1, 1, tzinfo=UTC)),
            out,
            "is not kept any more: the oldest that is kept is revision 0",
        ),
        (at(-1), invalid, "as_of.revision is -1; it must be a revision of the flag set, from 1 on"),
        (pb.AsOf(), invalid, "as_of is 'empty'; it must be a revision or a time"),
        (pb.AsOf(time=Timestamp(seconds=2**62)), invalid, "as_of.time is 4611686018427387904"),
    ):
        for call in (
            evaluated(client, "a", as_of=asked),
            client.stub.GetFlag(pb.GetFlagRequest(flag_key="a", as_of=asked)),
            client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(as_of=asked)),
        ):
            found = await refused(call)
            assert found[0] is code, found
            assert text in found[2]
    found = await refused(evaluated(client, "a", as_of=at(1), min_revision=1))
    assert "min_revision is 1; it must be 0 where as_of is set" in found[2]
    missing = pb.GetFlagRequest(flag_key="b", as_of=at(1))
    assert (await refused(client.stub.GetFlag(missing)))[:2] == (grpc.StatusCode.NOT_FOUND, "FLAG_NOT_FOUND")


async def test_a_rollback_is_a_new_revision_that_says_what_it_restored(client: Client) -> None:
    await client.create("a", status=ON, targeting=PRO)
    await set_rule(client, "a", '{"if": [true, "on", "off"]}')
    call = client.stub.RollbackFlag
    checked = await call(pb.RollbackFlagRequest(flag_key="a", revision=1, validate_only=True), timeout=5)
    assert (checked.flag.revision, checked.HasField("spread")) == (2, False)
    assert (await evaluated(client, "a")).evaluation.variant == "on"
    done = await call(pb.RollbackFlagRequest(flag_key="a", revision=1, etag='"2"', reason="rates"), timeout=5)
    assert (done.flag.revision, done.spread.revision, done.flag.targeting) == (3, 3, checked.flag.targeting)
    assert (await evaluated(client, "a")).evaluation.variant == "off", "served at once"
    [entry, *_] = (await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="a"))).entries
    assert (entry.restored_revision, entry.action, entry.reason) == (1, "UPDATED", "rates")
    [last, *_] = (await client.stub.ListFlagRevisions(pb.ListFlagRevisionsRequest(flag_key="a"))).revisions
    assert (last.restored_revision, last.revision) == (1, 3)
    conflict = await refused(call(pb.RollbackFlagRequest(flag_key="a", revision=1, etag='"2"'), timeout=5))
    assert conflict[0] is grpc.StatusCode.ABORTED
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a"), timeout=5)
    assert (await call(pb.RollbackFlagRequest(flag_key="a", revision=3), timeout=5)).flag.revision == 5
    assert (await refused(call(pb.RollbackFlagRequest(flag_key="a", revision=4), timeout=5)))[1] == "FLAG_NOT_FOUND"
    assert "revision is 0" in (await refused(call(pb.RollbackFlagRequest(flag_key="a"), timeout=5)))[2]


async def test_pages_of_revisions(client: Client) -> None:
    await client.create("a")
    for enabled in (True, False, True):
        await client.toggle("a", enabled)
    request, found = pb.ListFlagRevisionsRequest(flag_key="a", page_size=3), []
    while True:
        page = await client.stub.ListFlagRevisions(request, timeout=5)
        found.append([each.revision for each in page.revisions])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == [[4, 3, 2], [1]]
    request.flag_key = "b"
    assert (await refused(client.stub.ListFlagRevisions(request)))[1] == "INVALID_PAGE_TOKEN"


async def test_a_set_returns_on_every_replica(store_url: str, redis_clean_url: str) -> None:
    settings: dict[str, Any] = {"store_url": store_url, "cache_url": redis_clean_url}
    async with replica(**settings) as (one, first), replica(**settings) as (two, second):
        await until_serving(one)
        await until_serving(two)
        await until(lambda: second.replica.follower.channels.subscription_up)
        await until(lambda: not first.replica.revision_sweep._is_first)
        for number in range(40):
            await one.create(f"f{number}", status=ON)
        for number in range(0, 40, 2):
            await one.toggle(f"f{number}", False)
        await one.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="f1"), timeout=5)
        await one.create("new", status=ON)
        call = one.stub.RollbackFlagSet
        planned = await call(pb.RollbackFlagSetRequest(revision=40, validate_only=True), timeout=10)
        assert (len(planned.flags), planned.HasField("spread")) == (22, False)
        assert {each.action for each in planned.flags} == {"UPDATED", "CREATED", "DELETED"}
        assert not any(each.revision for each in planned.flags)
        done = await call(pb.RollbackFlagSetRequest(revision=40, wait_for=pb.WRITE_LEVEL_APPLIED), timeout=10)
        assert [(each.flag_key, each.action) for each in done.flags] == [(e.flag_key, e.action) for e in planned.flags]
        assert done.spread.revision == done.flags[-1].revision == 62 + 22
        for client in (one, two):
            batch = pb.BatchEvaluateFlagsRequest(min_revision=done.spread.revision)
            found = (await client.stub.BatchEvaluateFlags(batch, timeout=5)).evaluations
            assert len(found) == 40
            assert all(each.enabled for each in found), "no stale answer after the rollback"


async def test_a_write_that_is_sent_twice_is_made_once(client: Client) -> None:
    create = pb.CreateFlagRequest(flag=types.Flag(key="a"), request_id="c-1")
    made = [await client.stub.CreateFlag(create, timeout=5) for _ in range(2)]
    assert [each.flag.revision for each in made] == [1, 1]
    toggle = pb.ToggleFlagRequest(flag_key="a", enabled=True, request_id="t-1")
    first = await client.stub.ToggleFlag(toggle, timeout=5)
    await client.toggle("a", False)
    toggle.wait_for = pb.WRITE_LEVEL_STORED
    again = await client.stub.ToggleFlag(toggle, timeout=5)
    assert (again.flag, again.previous_status) == (first.flag, OFF)
    assert (await evaluated(client, "a")).evaluation.revision == 3, "the answer of before is not served"
    other = pb.ToggleFlagRequest(flag_key="a", enabled=False, request_id="t-1")
    assert (await refused(client.stub.ToggleFlag(other, timeout=5)))[1] == "REQUEST_ID_REUSED"
    reused = pb.DeleteFlagRequest(flag_key="a", request_id="c-1")
    assert (await refused(client.stub.DeleteFlag(reused, timeout=5)))[1] == "REQUEST_ID_REUSED"
    delete = pb.DeleteFlagRequest(flag_key="a", request_id="d-1")
    calls = (client.stub.DeleteFlag(delete, timeout=5) for _ in range(4))
    assert {each.revision for each in await asyncio.gather(*calls)} == {4}
    rollback = pb.RollbackFlagRequest(flag_key="a", revision=2, request_id="r-1")
    assert [(await client.stub.RollbackFlag(rollback, timeout=5)).flag.revision for _ in range(2)] == [5, 5]
    long = pb.DeleteFlagRequest(flag_key="a", request_id="x" * 65)
    assert "request_id" in (await refused(client.stub.DeleteFlag(long, timeout=5)))[2]


async def test_a_rollback_of_a_set_that_is_sent_twice_is_made_once(client: Client) -> None:
    for key in ("a", "b"):
        await client.create(key, status=ON)
    for key in ("a", "b"):
        await client.toggle(key, False)
    request = pb.RollbackFlagSetRequest(revision=2, request_id="r-1")
    first = await client.stub.RollbackFlagSet(request, timeout=5)
    assert [(each.flag_key, each.revision, list(each.fields)[-1:]) for each in first.flags] == [
        ("a", 5, ["status"]),
        ("b", 6, ["status"]),
    ]
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a"), timeout=5)
    again = await client.stub.RollbackFlagSet(request, timeout=5)
    assert (again.flags, again.spread.revision) == (first.flags, 7), "it has spread with what came after it"
    assert not (await evaluated(client, "a")).evaluation.enabled
    request.revision = 1
    assert (await refused(client.stub.RollbackFlagSet(request, timeout=5)))[1] == "REQUEST_ID_REUSED"
    request.validate_only = True
    assert "request_id" in (await refused(client.stub.RollbackFlagSet(request, timeout=5)))[2]


async def test_a_write_can_be_checked_without_being_made(client: Client) -> None:
    stub = client.stub
    created = await stub.CreateFlag(pb.CreateFlagRequest(flag=types.Flag(key="a"), validate_only=True), timeout=5)
    assert (created.flag.name, created.flag.revision, created.HasField("spread")) == ("a", 0, False)
    await client.create("a", status=ON)
    again = pb.CreateFlagRequest(flag=types.Flag(key="a"), validate_only=True)
    assert (await refused(stub.CreateFlag(again, timeout=5)))[0] is grpc.StatusCode.ALREADY_EXISTS
    update = pb.UpdateFlagRequest(
        flag=types.Flag(key="a", name="B"), update_mask={"paths": ["name"]}, validate_only=True
    )
    assert (await stub.UpdateFlag(update, timeout=5)).flag.name == "B"
    update.flag.targeting, update.update_mask.paths[:] = "{", ["targeting"]
    assert (await refused(stub.UpdateFlag(update, timeout=5)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    toggled = await stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="a", enabled=False, validate_only=True), timeout=5)
    assert (toggled.flag.status, toggled.previous_status, toggled.HasField("spread")) == (OFF, ON, False)
    deleted = await stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="a", validate_only=True), timeout=5)
    assert (deleted.revision, deleted.HasField("spread")) == (0, False)
    missing = pb.DeleteFlagRequest(flag_key="b", validate_only=True)
    assert (await refused(stub.DeleteFlag(missing, timeout=5)))[0] is grpc.StatusCode.NOT_FOUND
    both = pb.DeleteFlagRequest(flag_key="a", validate_only=True, request_id="x")
    assert (
        "request_id is 'x'; it must be empty where validate_only is set"
        in ((await refused(stub.DeleteFlag(both, timeout=5)))[2])
    )
    assert (await stub.GetFlag(pb.GetFlagRequest(flag_key="a"), timeout=5)).flag.revision == 1, "nothing was written"


async def test_files_keep_no_revisions(tmp_path: Any) -> None:
    path = tmp_path / "flags.json"
    path.write_text('{"flags": {"a": {"state": "ENABLED", "variants": {"on": true}, "defaultVariant": "on"}}}')
    async with replica(store_url=f"file:{path}") as (client, _):
        await until_serving(client)
        stub = client.stub
        for call in (
            evaluated(client, "a", as_of=at(1)),
            stub.ListFlagRevisions(pb.ListFlagRevisionsRequest(flag_key="a")),
            stub.RollbackFlag(pb.RollbackFlagRequest(flag_key="a", revision=1)),
        ):
            assert (await refused(call))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "REVISIONS_UNSUPPORTED")
        for call in (
            stub.RollbackFlagSet(pb.RollbackFlagSetRequest(revision=1)),
            stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="a", validate_only=True)),
        ):
            assert (await refused(call))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "WRITES_UNSUPPORTED")


async def test_a_moment_to_come_has_what_is_planned_until_then(client: Client) -> None:
    await client.create("a")
    await client.create("b", status=ON)
    stub, now = plans_grpc.ScheduleServiceStub(client.channel), datetime.now(UTC)
    for hours, status in ((1, ON), (3, OFF)):
        schedule = plans.Schedule(flag_key="a", patch=types.Flag(status=status), update_mask={"paths": ["status"]})
        schedule.execute_time.FromDatetime(now + timedelta(hours=hours))
        await stub.CreateSchedule(plans.CreateScheduleRequest(schedule=schedule), timeout=5)
    answers = []
    for hours in (0.5, 2, 4):
        then = at(moment=now + timedelta(hours=hours))
        answers.append((await evaluated(client, "a", as_of=then)).evaluation.enabled)
        batch = await client.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(as_of=then), timeout=5)
        assert [each.enabled for each in batch.evaluations] == [answers[-1], True]
    assert answers == [False, True, False]
    assert (await client.evaluate("a")).revision == 1, "nothing is changed by looking"
