"""What is recorded of calls, and what is not; and how it is listed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from flagsvc.api.flag_service.paging import to_page_token
from flagsvc.core.errors import StoreUnavailable
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import audit_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as flags
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.limits.attempts import RECORDED_BURST
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, made, stored
from tests.command_line import run_here
from tests.replicas import Client, replica, until_serving


@dataclass
class Audited:
    client: Client
    server: Server
    headers: dict[str, Headers]
    ids: dict[str, str]

    async def entries(self, caller: str = "operate", **filters: object) -> list[pb.AuditEntry]:
        recorder = self.server._audit.recorder
        assert recorder is not None
        await recorder.write_waiting()
        request = pb.ListAuditEntriesRequest(**filters)  # type: ignore[arg-type]
        stub = pb_grpc.AuditServiceStub(self.client.channel)
        return list((await stub.ListAuditEntries(request, metadata=self.headers[caller], timeout=5)).entries)

    async def code(self, call: object) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call  # type: ignore[misc]
        return refused.value.code()


@pytest.fixture
async def audited(tmp_path: Path) -> AsyncIterator[Audited]:
    store_url = f"sqlite:///{tmp_path}/flags.db"
    there = {role: made(role) for role in ("evaluate", "toggle", "write", "operate", "admin")}
    there["foreign"] = made("write", "other")
    await stored(store_url, *(token for token, _ in there.values()))
    headers = {name: bearer(text) for name, (_, text) in there.items()}
    async with replica(store_url=store_url, auth="required") as (client, server):
        await until_serving(client)
        yield Audited(client, server, headers, {name: token.id for name, (token, _) in there.items()})


async def test_changes_of_tokens_and_repairs_name_the_caller(audited: Audited) -> None:
    stub, admin = tokens_grpc.TokenServiceStub(audited.client.channel), audited.headers["admin"]
    token = tokens.Token(name="ci", role=tokens.ROLE_READ, flag_sets=["*"])
    made_id = (await stub.CreateToken(tokens.CreateTokenRequest(token=token), metadata=admin)).token.id
    await stub.RevokeToken(tokens.RevokeTokenRequest(id=made_id), metadata=admin)
    await audited.client.stub.Resync(flags.ResyncRequest(confirm=True), metadata=audited.headers["operate"])
    await audited.client.stub.Resync(flags.ResyncRequest(), metadata=audited.headers["operate"])  # changes nothing
    by_admin, by_operator = f"token:{audited.ids['admin']}", f"token:{audited.ids['operate']}"
    found = [(entry.actor, entry.action, entry.subject, entry.outcome) for entry in await audited.entries()]
    done = pb.AUDIT_OUTCOME_DONE
    assert found == [
        (by_operator, "Resync", "", done),
        (by_admin, "RevokeToken", made_id, done),
        (by_admin, "CreateToken", made_id, done),
    ]


async def test_refused_writes_are_recorded_and_refused_evaluations_are_not(audited: Audited) -> None:
    toggle = flags.ToggleFlagRequest(flag_key="a", enabled=True)
    stub, denied = audited.client.stub, grpc.StatusCode.PERMISSION_DENIED
    assert await audited.code(stub.ToggleFlag(toggle, metadata=audited.headers["evaluate"])) is denied
    create = flags.CreateFlagRequest()
    create.flag.key, create.flag.flag_set = "b", "default"
    assert await audited.code(stub.CreateFlag(create, metadata=audited.headers["foreign"])) is denied
    named = flags.ToggleFlagRequest(flag_key="c", enabled=True, actor="ann")
    assert await audited.code(stub.ToggleFlag(named, metadata=audited.headers["toggle"])) is denied
    assert await audited.code(stub.ToggleFlag(toggle)) is grpc.StatusCode.UNAUTHENTICATED
    watch = stub.WatchFlags(flags.WatchFlagsRequest(), metadata=audited.headers["evaluate"])
    assert await audited.code(watch.read()) is denied
    foreign = flags.EvaluateFlagRequest(flag_key="a")
    assert await audited.code(stub.EvaluateFlag(foreign, metadata=audited.headers["foreign"])) is denied
    assert await audited.code(stub.EvaluateFlag(foreign)) is grpc.StatusCode.UNAUTHENTICATED
    refused = await audited.entries(outcome=pb.AUDIT_OUTCOME_REFUSED)
    found = [(entry.actor, entry.action, entry.flag_set, entry.subject) for entry in refused]
    assert found[::-1] == [
        (f"token:{audited.ids['evaluate']}", "ToggleFlag", "", ""),  # refused before its message was read
        (f"token:{audited.ids['foreign']}", "CreateFlag", "default", "b"),
        (f"token:{audited.ids['toggle']}", "ToggleFlag", "", "c"),
        ("ipv4:127.0.0.1", "ToggleFlag", "", ""),
        (f"token:{audited.ids['evaluate']}", "WatchFlags", "", ""),
    ]


async def test_a_flood_of_failures_leaves_a_few_entries_and_a_right_credential_passes(audited: Audited) -> None:
    list_flags, request = audited.client.stub.ListFlags, flags.ListFlagsRequest()
    for _ in range(40):
        assert await audited.code(list_flags(request, metadata=bearer("wrong"))) is grpc.StatusCode.UNAUTHENTICATED
    await list_flags(request, metadata=audited.headers["write"])
    assert len(await audited.entries()) == RECORDED_BURST
    samples = {sample.name: sample.value for sample in audited.server._audit.samples()}
    assert samples["flagsvc_access_refused_total"] == 40
    assert samples["flagsvc_access_refused_unrecorded_total"] == 40 - RECORDED_BURST


async def test_listing_needs_operate_and_has_pages(audited: Audited) -> None:
    for name in ("evaluate", "write", "foreign"):
        assert await audited.code(audited.entries(name)) is grpc.StatusCode.PERMISSION_DENIED
    for key in "abc":
        create = flags.CreateFlagRequest()
        create.flag.key = key
        await audited.client.stub.CreateFlag(create, metadata=audited.headers["write"])
    stub, operator = pb_grpc.AuditServiceStub(audited.client.channel), audited.headers["operate"]
    request, keys = pb.ListAuditEntriesRequest(page_size=2, action="CREATED"), []
    while True:
        page = await stub.ListAuditEntries(request, metadata=operator)
        keys += [entry.subject for entry in page.entries]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert keys == ["c", "b", "a"]
    request = pb.ListAuditEntriesRequest(page_token=request.page_token, action="DELETED")
    call = stub.ListAuditEntries(request, metadata=operator)
    assert await audited.code(call) is grpc.StatusCode.INVALID_ARGUMENT, "a token of another listing"
    listing = json.dumps(["", "", "", "", "None", "None", 0])
    for position in ((2**62, '[1, "a"]'), (-1, '[1, "a"]'), (0, "x"), (0, "[1]"), (0, '["a", "b"]'), (0, '[1, "$ne"]')):
        call = stub.ListAuditEntries(
            pb.ListAuditEntriesRequest(page_token=to_page_token(listing, position)), metadata=operator
        )
        assert await audited.code(call) is grpc.StatusCode.INVALID_ARGUMENT, position
    of_another_store = pb.ListAuditEntriesRequest(page_token=to_page_token(listing, (1, '[0, "65f0a1b2c3d4e5f60123"]')))
    assert not (await stub.ListAuditEntries(of_another_store, metadata=operator)).entries
    request = pb.ListAuditEntriesRequest()
    request.until.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC))
    assert not (await stub.ListAuditEntries(request, metadata=operator)).entries


async def test_an_entry_that_the_store_does_not_take_is_counted_and_logged(audited: Audited) -> None:
    recorder = audited.server._audit.recorder
    assert recorder is not None

    class Gone:
        async def append(self, _entries: object) -> None:
            raise StoreUnavailable

    recorder._store = Gone()  # type: ignore[assignment]
    with capture_logs() as logs:
        await audited.client.stub.Resync(flags.ResyncRequest(confirm=True), metadata=audited.headers["operate"])
    [line] = [line for line in logs if line["event"] == "audit_entries_lost"]
    assert (line["entries"], line["actions"], recorder.failed) == (1, ["Resync"], 1)


@pytest.fixture
def served_file(tmp_path: Path) -> str:
    (tmp_path / "flags.json").write_text('{"flags": {}}')
    return f"file:{tmp_path}/flags.json"


async def test_a_served_file_has_no_audit(served_file: str) -> None:
    async with replica(store_url=served_file) as (client, server):
        await until_serving(client)
        audited = Audited(client, server, {"operate": ()}, {})
        stub = pb_grpc.AuditServiceStub(client.channel)
        call = stub.ListAuditEntries(pb.ListAuditEntriesRequest())
        assert await audited.code(call) is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_command_line_lists_them(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        await until_serving(client)
        await client.create("a")
        await client.stub.Resync(flags.ResyncRequest(confirm=True), timeout=20)
        address = f"127.0.0.1:{server.port}"

        async def run(*words: str) -> str:
            done = await asyncio.to_thread(run_here, "history", *words, "--address", address)
            return done.stdout + done.stderr

        text = await run("--since", "1h")
        assert "Resync" in text
        assert "CREATED" in text
        assert "CREATED" not in await run("--action", "Resync")
        assert "CREATED" in await run("a")
        assert "CREATED" in await run()
