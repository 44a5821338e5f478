"""What the gate does beside the table: when it looks, what it reads, and who needs no credential."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from flagsvc.access.authority import Authority
from flagsvc.access.token_view import TokenView
from flagsvc.api.common.callers import credential_in
from flagsvc.api.common.gate import Check
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.permissions import METHODS
from flagsvc.api.common.selectors import Selectors
from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import EVERY_SET
from flagsvc.core.errors import Unauthenticated
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.sync.v1 import sync_pb2
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from flagsvc.serving.writer import WaitFor
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.replicas import Client

GET, EVALUATE = "/flagsvc.v1.FlagService/GetFlag", "/flagsvc.v1.FlagService/EvaluateFlag"
RESOLVE = "/flagd.evaluation.v1.Service/ResolveBoolean"
STREAM = "/flagd.evaluation.v1.Service/EventStream"
SSE = "/ofrep/v1/sse"


class Guarded:
    """A server, and callers for all sets, for `mine`, and one who may only evaluate `mine`."""

    def __init__(self, client: Client, server: Server) -> None:
        self.client, self.server = client, server
        self.root: Headers = ()
        self.mine: Headers = ()
        self.weak: Headers = ()
        self.weak_id = ""

    async def code(self, path: str, request: object, headers: Headers) -> grpc.StatusCode:
        call = self.client.channel.unary_unary(path, type(request).SerializeToString)  # type: ignore[attr-defined]
        try:
            await call(request, metadata=headers, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Guarded]:
    url = f"sqlite:///{tmp_path}/flags.db"
    texts = [made("admin"), made("write", "mine"), made("evaluate", "mine")]
    await stored(url, *(token for token, _ in texts))
    anonymous = "sync=evaluate@public,default;ofrep=evaluate@public"
    async with guarded(url, anonymous=anonymous, sync_port=0, ofrep_port=0, management_port=0) as (client, server):
        found = Guarded(client, server)
        found.root, found.mine, found.weak = (bearer(text) for _, text in texts)
        found.weak_id = texts[2][0].id
        yield found


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([("authorization", "Bearer x")], "x"),
        ([("authorization", "bearer  x ")], "x"),
        ([("x-api-key", "x")], "x"),
        ([("cookie", "x"), ("proxy-authorization", "Bearer x")], None),
        ([("x-api-key", "")], ""),
    ],
)
def test_a_credential_is_read_from_two_headers(headers: list[tuple[str, str]], found: str | None) -> None:
    assert credential_in(headers) == found


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "x")],
        [("authorization", "Basic x")],
        [("authorization", "")],
        [("authorization", "Bearerx")],
        [("authorization", "Bearer x"), ("authorization", "Bearer x")],
        [("x-api-key", "x"), ("x-api-key", "x")],
        [("authorization", "Bearer x"), ("x-api-key", "x")],
    ],
)
def test_another_scheme_or_two_credentials_are_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        credential_in(headers)
    assert "x" not in str(caught.value).split()


async def test_a_caller_is_refused_before_anything_of_the_body_is_read(served: Guarded) -> None:
    """flagd CVE-2026-31866 read whatever was sent; here nothing is sent at all, and the answer comes."""
    before = served.server.services.first_messages.begun
    for path in (GET, EVALUATE, "/flagsvc.v1.FlagService/CreateFlag"):
        call = served.client.channel.stream_unary(path)(metadata=(), timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert served.server.services.first_messages.begun == before

    for port, path in ((served.server.port, RESOLVE), (served.server.ofrep_port, "/ofrep/v1/evaluate/flags/a")):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nx-api-key: wrong\r\n"
        writer.write(f"{head}content-length: 100000\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), 30)).split()[1] == b"401"
        writer.close()


async def test_a_wrong_credential_is_never_taken_for_an_anonymous_caller(served: Guarded) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.server.ofrep_port}", timeout=5) as http:
        path, public = "/ofrep/v1/evaluate/flags/a", {"flagd-selector": "flagSetId=public"}
        assert (await http.post(path, headers=public)).status_code == 404
        assert (await http.post(path)).status_code == 403
        assert (await http.post(path, headers={**public, "authorization": "Bearer x"})).status_code == 401
        assert (
            await http.post(path, headers=[*served.mine, ("flagd-selector", "flagSetId=public")])
        ).status_code == 403


async def test_each_listener_has_its_own_anonymous_role_over_every_protocol(served: Guarded) -> None:
    server, public = served.server, (("flagd-selector", "flagSetId=public"),)
    request = v1.ResolveBooleanRequest(flag_key="a")
    assert await served.code(RESOLVE, request, public) is grpc.StatusCode.UNAUTHENTICATED
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.sync_port}") as channel:
        other = Guarded(Client(f"127.0.0.1:{server.sync_port}"), server)
        assert await other.code(RESOLVE, request, public) is grpc.StatusCode.NOT_FOUND
        assert await other.code(RESOLVE, request, ()) is grpc.StatusCode.NOT_FOUND
        assert await other.code(GET, pb.GetFlagRequest(flag_key="a"), ()) is grpc.StatusCode.PERMISSION_DENIED
        stream = channel.unary_stream(STREAM, response_deserializer=v1.EventStreamResponse.FromString)(b"")
        assert (await stream.read()).type == "provider_ready"
        await other.client.channel.close()
    for port, default_set in ((server.port, 401), (server.ofrep_port, 403)):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as http:
            answer = await http.post(RESOLVE, json={"flagKey": "a"})
            assert answer.status_code == default_set
            answer = await http.post(RESOLVE, json={"flagKey": "a"}, headers=dict(public))
            assert answer.status_code == (401 if port == server.port else 404)


@pytest.mark.parametrize(
    "path",
    [
        "/health/../ofrep/v1/evaluate/flags",
        "//ofrep/v1/evaluate/flags",
        "/ofrep/v1/evaluate/flags/..",
        "/%6ffrep/v1/sse",
    ],
)
async def test_no_form_of_a_path_goes_past_the_check(served: Guarded, path: str) -> None:
    """OpenFlagr CVE-2026-0650 compared prefixes of paths before they were normalized."""
    for port in (served.server.ofrep_port, served.server.port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\nflagd-selector: flagSetId=mine\r\ncontent-length: 0\r\n\r\n"
        writer.write(head.encode())
        status = int((await asyncio.wait_for(reader.readline(), 5)).split()[1])
        assert status in {401, 403, 404, 405}
        writer.close()


async def test_ids_of_another_set_are_checked_wherever_a_request_can_name_one(served: Guarded) -> None:
    """Unleash CVE-2026-77425 and -76910: ids of another project in the body went unchecked."""
    await served.client.stub.CreateFlag(
        pb.CreateFlagRequest(flag=types.Flag(key="a", flag_set="theirs")), metadata=served.root, timeout=5
    )
    for flag_set in ("theirs", "nowhere"):
        flag = types.Flag(key="a", flag_set=flag_set)
        for path, request in {
            GET: pb.GetFlagRequest(flag_key="a", flag_set=flag_set),
            "/flagsvc.v1.FlagService/CreateFlag": pb.CreateFlagRequest(flag=flag),
            "/flagsvc.v1.FlagService/UpdateFlag": pb.UpdateFlagRequest(flag=flag),
            "/flagsvc.v1.FlagService/DeleteFlag": pb.DeleteFlagRequest(flag_key="a", flag_set=flag_set),
            "/flagsvc.v1.FlagService/ListFlagHistory": pb.ListFlagHistoryRequest(flag_key="a", flag_set=flag_set),
        }.items():
            assert await served.code(path, request, served.mine) is grpc.StatusCode.PERMISSION_DENIED, path


async def test_a_field_that_needs_more_is_checked_too(served: Guarded) -> None:
    for explain, code in ((False, grpc.StatusCode.OK), (True, grpc.StatusCode.PERMISSION_DENIED)):
        request = pb.EvaluateFlagRequest(flag_key="a", flag_set="mine", explain=explain)
        assert await served.code(EVALUATE, request, served.weak) is code
        assert await served.code(EVALUATE, request, served.mine) is grpc.StatusCode.OK


@pytest.fixture
def no_row_of_get_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is started after it: it looks a method up once."""
    monkeypatch.delitem(METHODS, GET)  # type: ignore[arg-type]


async def test_a_method_without_a_row_is_refused_to_everybody(no_row_of_get_flag: None, served: Guarded) -> None:
    request = pb.GetFlagRequest(flag_key="a", flag_set="mine")
    assert await served.code(GET, request, ()) is grpc.StatusCode.UNAUTHENTICATED
    assert await served.code(GET, request, served.mine) is grpc.StatusCode.PERMISSION_DENIED
    assert await served.code(GET, request, served.root) is grpc.StatusCode.PERMISSION_DENIED


async def test_an_event_stream_of_ofrep_ends_with_its_caller(served: Guarded) -> None:
    access = served.server.replica.access
    assert access is not None
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.server.ofrep_port}", timeout=5) as http,
        http.stream("GET", f"{SSE}?selector=flagSetId%3Dmine", headers=dict(served.weak)) as answer,
    ):
        parts = answer.aiter_text()
        assert "retry:" in await anext(parts)
        await access.writer.revoke(UNCHECKED, served.weak_id, None, WaitFor())
        assert not [part async for part in parts if part.strip()]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.server.ofrep_port}", timeout=5) as http:
        assert (await http.get(f"{SSE}?selector=flagSetId%3Dmine", headers=dict(served.weak))).status_code == 401


async def test_a_stream_without_selector_never_follows_a_set_of_another_caller(served: Guarded) -> None:
    """Two callers behind a proxy share a connection, and so do these two."""
    streams = served.server.services.event_streams
    channel = served.client.channel
    call = channel.unary_stream(STREAM)(b"", metadata=(*served.weak, ("flagd-selector", "flagSetId=mine")))
    await call.read()
    [[stream]] = streams._by_peer.values()
    peer = next(iter(streams._by_peer))
    stream.selects = False
    streams.may_cache(peer, "theirs")
    streams.may_cache(peer, "mine")
    assert stream.sets == {"mine"}
    call.cancel()


def test_no_decision_is_kept_about_a_name_that_no_flag_set_can_have() -> None:
    view, anyone = TokenView(), Identity(Kind.ANONYMOUS, "sync", "", Role.READ, EVERY_SET)
    view.confirm(time.monotonic())
    rule = METHODS["/flagd.sync.v1.FlagSyncService/SyncFlags"]
    check = Check(rule, Authority(view, 5.0), Listener("sync", Selectors(), anyone))
    for number in range(10):
        request = sync_pb2.SyncFlagsRequest(selector=f"{number}{'x' * 100_000}")
        assert check.permit(anyone, request, ()) == (request.selector,)
    assert not check._allowed
    assert check.permit(anyone, sync_pb2.SyncFlagsRequest(selector="flagSetId=web"), ()) == ("web",)
    assert check._allowed == {(anyone, "web")}


async def test_metrics_are_for_this_machine_and_for_operators(served: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{served.server.management_port}"
    async with httpx.AsyncClient(base_url=url, timeout=5) as http:
        assert (await http.get("/metrics")).status_code == 200
        monkeypatch.setattr("flagsvc.management.is_loopback", lambda _: False)
        for path, statuses in (("/metrics", (401, 401, 403, 200)), ("/healthz", (200,) * 4), ("/readyz", (200,) * 4)):
            wrong = (("authorization", "Bearer x"),)
            callers = ((), wrong, served.mine, served.root)
            assert tuple([(await http.get(path, headers=dict(each))).status_code for each in callers]) == statuses


@pytest.mark.parametrize(
    "text", ["web=evaluate@a", "grpc=write@a", "grpc=evaluate", "grpc=evaluate@", "grpc", "grpc=read@a;grpc=read@b"]
)
def test_an_anonymous_role_that_cannot_be_stops_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match="FLAGSVC_ANONYMOUS"):
        Settings.from_env({"FLAGSVC_ANONYMOUS": text})


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "COOKIE"])
def test_no_context_is_read_from_a_header_that_holds_a_secret(header: str) -> None:
    with pytest.raises(SettingsError, match="no header that holds a secret"):
        Settings.from_env({"FLAGSVC_CONTEXT_FROM_HEADERS": f"{header}=user"})
