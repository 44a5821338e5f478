"""ScheduleService on servers: planned over gRPC, executed by the server itself, permissions looked at twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as plans
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as plans_grpc
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.replicas import Client, reason_of, replica, until_serving
from tests.schedules.plans import due_now
from tests.servers import Mongod

KEY = ec_key()
ON, OFF = types.FLAG_STATUS_ENABLED, types.FLAG_STATUS_DISABLED
POD = f"jwt:{KUBERNETES}|system:serviceaccount:team-a:web"


class Planner:
    """Calls of one caller."""

    def __init__(self, client: Client, headers: Headers = ()) -> None:
        self.client, self.headers = client, headers
        self.stub: Any = plans_grpc.ScheduleServiceStub(client.channel)

    async def plan(self, key: str, seconds: float = 3_600, mask: str = "status", **fields: Any) -> plans.Schedule:
        schedule = plans.Schedule(flag_key=key, **{"patch": types.Flag(status=ON), **fields})
        schedule.update_mask.paths.extend(mask.split(","))
        if not schedule.local_time:
            schedule.execute_time.FromNanoseconds(time.time_ns() + int(seconds * 1e9))
        request = plans.CreateScheduleRequest(schedule=schedule, reason="launch")
        return (await self._call("CreateSchedule", request)).schedule  # type: ignore[no-any-return]

    async def get(self, schedule_id: str, flag_set: str = "") -> plans.Schedule:
        request = plans.GetScheduleRequest(flag_set=flag_set, id=schedule_id)
        return (await self._call("GetSchedule", request)).schedule  # type: ignore[no-any-return]

    async def due(self, server: Server, *schedules: plans.Schedule) -> None:
        """Make schedules due that are planned for in an hour, and let the server look."""
        store = server.replica.store
        assert store.schedules is not None
        await due_now(store, *[await store.schedules.get("default", each.id) for each in schedules])
        assert server.replica.executor is not None
        server.replica.executor.wake()

    async def ended(self, schedule_id: str, seconds: float = 20) -> plans.Schedule:
        """Wait until it is neither pending nor taken."""
        async with asyncio.timeout(seconds):
            while (found := await self.get(schedule_id)).state == plans.SCHEDULE_STATE_PENDING:  # noqa: ASYNC110  the server does it
                await asyncio.sleep(0.01)
        return found

    async def listed(self, **fields: Any) -> list[str]:
        return [each.id for each in (await self._call("ListSchedules", plans.ListSchedulesRequest(**fields))).schedules]

    async def cancel(self, schedule_id: str, **fields: Any) -> plans.Schedule:
        request = plans.CancelScheduleRequest(id=schedule_id, **fields)
        return (await self._call("CancelSchedule", request)).schedule  # type: ignore[no-any-return]

    async def execute(self, schedule_id: str, **fields: Any) -> plans.ExecuteScheduleResponse:
        return await self._call("ExecuteSchedule", plans.ExecuteScheduleRequest(id=schedule_id, **fields))  # type: ignore[no-any-return]

    async def update(self, mask: str, **fields: Any) -> plans.Schedule:
        request = plans.UpdateScheduleRequest(schedule=plans.Schedule(**fields))
        request.update_mask.paths.extend(mask.split(","))
        return (await self._call("UpdateSchedule", request)).schedule  # type: ignore[no-any-return]

    async def _call(self, method: str, request: Any) -> Any:
        return await getattr(self.stub, method)(request, metadata=self.headers, timeout=10)


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Client, Server]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('schedules')}/flags.db"
    async with replica(store_url=url) as (client, server):
        await until_serving(client)
        yield client, server


@pytest.fixture
def planner(served: tuple[Client, Server]) -> Planner:
    return Planner(served[0])


async def test_a_planned_change_is_made_at_its_time_and_evaluated(
    served: tuple[Client, Server], planner: Planner
) -> None:
    await planner.client.create("launch")
    schedule = await planner.plan("launch", time_zone="Europe/Berlin")
    assert (schedule.state, schedule.etag, schedule.base_revision) == (plans.SCHEDULE_STATE_PENDING, '"1"', 1)
    assert schedule.local_time.endswith(("+01:00", "+02:00"))
    assert not (await planner.client.evaluate("launch")).enabled
    await planner.due(served[1], schedule)
    done = await planner.ended(schedule.id)
    assert done.state == plans.SCHEDULE_STATE_EXECUTED
    assert done.late_by.ToTimedelta() >= timedelta(seconds=5)
    found = await planner.client.evaluate("launch", min_revision=done.executed_revision)
    assert (found.enabled, found.revision) == (True, done.executed_revision)
    request = pb.ListFlagHistoryRequest(flag_key="launch")
    newest = (await planner.client.stub.ListFlagHistory(request)).entries[0]
    assert (newest.via, newest.reason, newest.action) == (f"schedule/{schedule.id}", "launch", "ENABLED")
    executor = served[1].replica.executor
    assert executor is not None
    counts = {name: value for name, _, value in executor.samples()}
    assert counts["flagsvc_schedules_executed_total"] >= 1
    assert counts["flagsvc_schedules_lateness_max_seconds"] < 60
    assert counts["flagsvc_schedules_due"] == 0


async def test_local_time_and_fields_are_read_as_update_flag_reads_them(planner: Planner) -> None:
    await planner.client.create("local")
    patch = types.Flag(owner="payments", name="not in the mask")
    schedule = await planner.plan(
        "local", mask="owner", patch=patch, local_time="2030-12-01T09:00", time_zone="Europe/Berlin"
    )
    assert schedule.execute_time.ToDatetime(UTC) == datetime(2030, 12, 1, 8, tzinfo=UTC)
    assert schedule.local_time == "2030-12-01T09:00:00+01:00"
    assert (schedule.patch, schedule.update_mask.paths) == (types.Flag(owner="payments"), ["owner"])
    assert schedule.max_lateness.seconds == 3600
    assert await planner.listed(flag_key="local") == [schedule.id]
    moved = await planner.update("local_time", id=schedule.id, local_time="2030-12-01T10:00", etag='"1"')
    assert (moved.execute_time.ToDatetime(UTC).hour, moved.time_zone, moved.etag) == (9, "Europe/Berlin", '"2"')
    gone = await planner.cancel(schedule.id, reason="not needed")
    assert (gone.state, gone.detail) == (plans.SCHEDULE_STATE_CANCELLED, "by anonymous: not needed")
    assert await planner.cancel(schedule.id) == gone
    assert await planner.listed(flag_key="local") == []
    assert await planner.listed(flag_key="local", states=[plans.SCHEDULE_STATE_CANCELLED]) == [schedule.id]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"seconds": -5}, "schedule.execute_time"),
        ({"local_time": "soon"}, "schedule.local_time"),
        ({"time_zone": "Moon"}, "schedule.time_zone"),
        ({"mask": "revision"}, "schedule.update_mask"),
        ({"mask": "default_variant", "patch": types.Flag(default_variant="c")}, "flag.default_variant"),
        ({"on_conflict": 9}, "schedule.on_conflict"),
        ({"patch": types.Flag(status=9)}, "flag.status"),
        ({"flag_set": "team"}, "schedule.flag_set"),
        ({"patch": types.Flag(status=ON, flag_set="team")}, "schedule.patch.flag_set"),
        ({"patch": types.Flag(status=ON, key="other")}, "schedule.patch.key"),
    ],
)
async def test_what_cannot_be_planned_is_refused_by_its_field(
    planner: Planner, fields: dict[str, Any], field: str
) -> None:
    if (await planner.client.evaluate("refused")).error_code:
        await planner.client.create("refused")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await planner.plan("refused", **fields)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(error.value.details())
    assert await planner.listed(flag_key="refused") == []


async def test_one_of_another_set_or_of_no_flag_is_not_found(planner: Planner) -> None:
    await planner.client.create("here")
    schedule = await planner.plan("here", 3_600)
    for call in (planner.get(schedule.id, "team"), planner.get("nobody"), planner.plan("no-such-flag")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await planner.cancel(schedule.id, etag='"9"')
    assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.ABORTED, "SCHEDULE_VERSION_CONFLICT")
    await planner.cancel(schedule.id)


async def test_a_write_that_touches_a_planned_field_says_so_and_holds_it(
    served: tuple[Client, Server], planner: Planner
) -> None:
    await planner.client.create("touched", status=ON)
    schedule = await planner.plan("touched", patch=types.Flag(status=OFF))
    stub = planner.client.stub
    other = pb.UpdateFlagRequest(flag=types.Flag(key="touched", owner="a"))
    other.update_mask.paths.append("owner")
    assert list((await stub.UpdateFlag(other)).schedule_notes) == []
    answer = await stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="touched", enabled=False))
    answer = await stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="touched", enabled=True))
    assert answer.previous_status == OFF
    (note,) = answer.schedule_notes
    assert note.startswith(f"schedule {schedule.id} changes status at 20")
    await planner.due(served[1], schedule)
    assert (await planner.ended(schedule.id)).state == plans.SCHEDULE_STATE_EXECUTED, "its status is as it was planned"
    held = await planner.plan("touched")
    await stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="touched", enabled=False))
    await planner.due(served[1], held)
    found = await planner.ended(held.id)
    assert found.state == plans.SCHEDULE_STATE_HELD
    assert [each.kind for each in found.conflicts] == [plans.CONFLICT_KIND_SWITCHED_OFF]
    assert not (await planner.client.evaluate("touched")).enabled
    assert await planner.listed(flag_key="touched") == [held.id]
    answer = await planner.execute(held.id, wait_for=pb.WRITE_LEVEL_APPLIED)
    assert (answer.schedule.state, answer.spread.reached) == (plans.SCHEDULE_STATE_EXECUTED, pb.WRITE_LEVEL_APPLIED)
    assert (await planner.client.evaluate("touched")).enabled
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await planner.execute(held.id)
    assert reason_of(error.value) == "SCHEDULE_ENDED"


async def test_an_execution_can_be_checked_and_sent_twice(served: tuple[Client, Server], planner: Planner) -> None:
    client = served[0]
    before = (await client.create("twice")).revision
    schedule = await planner.plan("twice")
    checked = await planner.execute(schedule.id, validate_only=True)
    assert (checked.schedule.state, checked.schedule.executed_revision) == (plans.SCHEDULE_STATE_EXECUTED, 0)
    assert not checked.HasField("spread")
    assert await planner.get(schedule.id) == schedule
    assert not (await client.evaluate("twice")).enabled
    done = await planner.execute(schedule.id, request_id="twice")
    await client.toggle("twice", False)
    again = await planner.execute(schedule.id, request_id="twice")
    assert (again.schedule, again.spread.revision) == (done.schedule, before + 2)
    assert done.schedule == await planner.get(schedule.id)
    assert (schedule.etag, done.schedule.etag) == ('"1"', '"2"')
    assert not (await client.evaluate("twice")).enabled, "a later change stays"
    for fields, reason in (({"request_id": "twice", "reason": "x"}, "REQUEST_ID_REUSED"), ({}, "SCHEDULE_ENDED")):
        for only in (True, False) if not fields else (False,):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await planner.execute(schedule.id, validate_only=only, **fields)
            assert reason_of(error.value) == reason
    gone = await planner.plan("twice")
    for _ in range(2):
        assert (await planner.cancel(gone.id, request_id="cancel")).state == plans.SCHEDULE_STATE_CANCELLED


async def test_a_deletion_names_the_schedules_that_fail_then(served: tuple[Client, Server], planner: Planner) -> None:
    await planner.client.create("deleted")
    schedule = await planner.plan("deleted")
    answer = await planner.client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="deleted"))
    assert [note.partition(": ")[2] for note in answer.schedule_notes] == [
        "it will fail then, because the flag is deleted"
    ]
    await planner.due(served[1], schedule)
    found = await planner.ended(schedule.id)
    assert (found.state, found.conflicts[0].kind) == (plans.SCHEDULE_STATE_FAILED, plans.CONFLICT_KIND_FLAG_GONE)


async def test_files_refuse_with_words(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text('{"flags": {}}')
    async with replica(store_url=f"file:{tmp_path}/flags.json") as (client, _):
        await until_serving(client)
        planner = Planner(client)
        for call in (planner.plan("a"), planner.listed(), planner.cancel("a"), planner.execute("a")):
            with pytest.raises(grpc.aio.AioRpcError, match="flags are served from files") as error:
                await call
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("lost", ["revoked", "denied"])
async def test_who_has_lost_the_right_changes_nothing(store_url: str, tmp_path: Path, lost: str) -> None:
    (root, root_text), (token, text) = made("admin"), made("write", "default")
    await stored(store_url, root, token)
    (tmp_path / "keys.json").write_bytes(jwks(k1=KEY))
    rule = {"when": [{"claim": "sub", "prefix": "system:serviceaccount:"}], "grant": "write@default"}
    issuer = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{tmp_path}/keys.json", "rules": [rule]}
    (tmp_path / "issuers.json").write_text(json.dumps({"issuers": [issuer]}))
    headers = bearer(text) if lost != "denied" else bearer(signed(kubernetes_claims(account="web"), KEY))
    async with guarded(store_url, jwt_issuers_file=str(tmp_path / "issuers.json")) as (client, server):
        admin = tokens_grpc.TokenServiceStub(client.channel)
        flag = pb.CreateFlagRequest(flag=types.Flag(key="a"))
        await client.stub.CreateFlag(flag, metadata=headers, timeout=10)
        planner = Planner(client, headers)
        early, late = await planner.plan("a"), await planner.plan("a", 3_601, patch=types.Flag(status=OFF))
        planner.headers = bearer(root_text)
        await planner.due(server, early)
        assert (await planner.ended(early.id)).state == plans.SCHEDULE_STATE_EXECUTED
        if lost == "revoked":
            await admin.RevokeToken(tokens.RevokeTokenRequest(id=token.id), metadata=planner.headers)
        else:
            await admin.DenyIdentity(tokens.DenyIdentityRequest(identity=POD), metadata=planner.headers)
        await planner.due(server, late)
        found = await planner.ended(late.id)
        assert found.state == plans.SCHEDULE_STATE_FAILED
        assert [each.kind for each in found.conflicts] == [plans.CONFLICT_KIND_PERMISSION_LOST]
        assert f"is {lost}" in found.detail
        assert found.created_by in {f"token:{token.id}", POD}
        read = await client.stub.GetFlag(pb.GetFlagRequest(flag_key="a"), metadata=planner.headers)
        assert read.flag.status == ON


async def test_with_mongodb_away_over_the_due_time_it_is_late_or_missed_and_never_silent(mongod: Mongod) -> None:
    async with replica(store_url=mongod.database_url("away"), store_timeout_s=0.5) as (client, server):
        await until_serving(client)
        planner = Planner(client)
        for key in ("late", "missed"):
            await client.create(key)
        strict = plans.Schedule()
        strict.max_lateness.FromSeconds(1)
        late = await planner.plan("late")
        missed = await planner.plan("missed", max_lateness=strict.max_lateness)
        executor = server.replica.executor
        assert executor is not None
        await executor.close()  # nothing is executed before MongoDB is away
        due = datetime.now(UTC) + timedelta(seconds=1)
        with pymongo.MongoClient[dict[str, Any]](mongod.url) as direct:
            direct["away"]["flagsvc_schedules"].update_many(
                {"flagKey": {"$exists": True}}, {"$set": {"executeAt": due}}
            )
        await asyncio.to_thread(mongod.kill)
        executor.start()
        await asyncio.sleep((due + timedelta(seconds=1.2) - datetime.now(UTC)).total_seconds())
        await asyncio.to_thread(mongod.start)
        await until_serving(client)
        found = [await ended_later(planner, each.id) for each in (late, missed)]
        assert [each.state for each in found] == [plans.SCHEDULE_STATE_EXECUTED, plans.SCHEDULE_STATE_MISSED]
        assert found[0].late_by.ToTimedelta() > timedelta(seconds=1.2)
        assert "1 s late is too late" in found[1].detail
        counts = {name: value for name, _, value in executor.samples()}
        assert (counts["flagsvc_schedules_executed_total"], counts["flagsvc_schedules_missed_total"]) == (1, 1)
        assert counts["flagsvc_schedules_lateness_max_seconds"] > 1.2
    with pymongo.MongoClient(mongod.url) as direct:
        actions = [row["action"] for row in direct["away"]["flagsvc_audit"].find()]
    assert actions.count("ScheduleMissed") == 1


async def ended_later(planner: Planner, schedule_id: str) -> plans.Schedule:
    """Wait for the end of a schedule of a store that may not answer yet."""
    while True:
        try:
            return await planner.ended(schedule_id)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise
            await asyncio.sleep(0.05)
