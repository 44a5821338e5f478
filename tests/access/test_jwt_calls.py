"""Calls with JWTs, against a server: gRPC, streams and OFREP; and what their claims add to the context."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from flagsvc.api.common.gate import Check
from flagsvc.api.common.permissions import Rule
from flagsvc.core.access.roles import Role
from flagsvc.core.errors import Unauthenticated
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as flagd
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.issuers.token_text import MAX_BYTES
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, guarded
from tests.access.issuing import (
    AUDIENCE,
    GITLAB,
    KUBERNETES,
    certificate,
    ec_key,
    gitlab_claims,
    jwks,
    kubernetes_claims,
    signed,
    until,
)
from tests.replicas import Client

KEY = ec_key()
API = "spiffe://prod/ns/web/sa/api"
TARGETING = '{"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}'


def document(folder: Path) -> dict[str, Any]:
    def entry(issuer: str, claim: Any, test: str, wanted: str, grant: str, **fields: Any) -> dict[str, Any]:
        rules = [{"when": [{"claim": claim, test: wanted}], "grant": grant}]
        return {"issuer": issuer, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json", "rules": rules, **fields}

    context = {"plan": "plan", "targetingKey": "sub"}
    trusted = entry(GITLAB, "groups_direct", "contains", "acme/flag-admins", "admin@*")
    trusted["rules"][0]["context_headers"] = True
    return {
        "issuers": [
            entry(KUBERNETES, "sub", "prefix", "system:serviceaccount:", "evaluate@default", context=context),
            trusted,
        ],
        "certificates": [{"uri": API, "grant": "read@default"}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("issuers")


@pytest.fixture(scope="module")
async def served(folder: Path) -> AsyncIterator[tuple[Client, Server]]:
    (folder / "keys.json").write_bytes(jwks(k1=KEY))
    (folder / "issuers.json").write_text(json.dumps(document(folder)))
    async with guarded(
        f"sqlite:///{folder}/flags.db",
        ofrep_port=0,
        management_port=0,
        sync_port=0,
        jwt_issuers_file=str(folder / "issuers.json"),
        context_values="plan=basic",
        context_from_headers="x-plan=plan",
    ) as (client, server):
        flag = types.Flag(key="new-page", status=types.FLAG_STATUS_ENABLED, targeting=TARGETING)
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), timeout=5, metadata=job())
        yield client, server


def pod(**claims: Any) -> Headers:
    return bearer(signed(kubernetes_claims(**claims), KEY))


def job() -> Headers:
    return bearer(signed(gitlab_claims(), KEY))


async def evaluated(client: Client, headers: Headers, **fields: Any) -> str:
    request = pb.EvaluateFlagRequest(flag_key="new-page", **fields)
    return (await client.stub.EvaluateFlag(request, timeout=5, metadata=headers)).evaluation.variant


@contextmanager
def refused(code: grpc.StatusCode, words: str) -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        yield
    assert error.value.code() is code
    assert words in (error.value.details() or "")


async def test_a_token_gives_its_role_and_no_other(served: tuple[Client, Server]) -> None:
    client, _ = served
    headers = pod()
    assert await evaluated(client, headers) == "off"
    with refused(grpc.StatusCode.PERMISSION_DENIED, "needs the role toggle"):
        await client.stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="new-page"), timeout=5, metadata=headers)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "no right to flag set"):
        await evaluated(client, headers, flag_set="other")
    with refused(grpc.StatusCode.UNAUTHENTICATED, "signature"):
        await evaluated(client, bearer(signed(kubernetes_claims(), ec_key("evil"))))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "more than one credential"):
        await evaluated(client, (*headers, *headers))


async def test_what_claims_say_overrides_request_headers_and_settings(served: tuple[Client, Server]) -> None:
    client, server = served
    asked = types.EvaluationContext(targeting_key="x")
    asked.attributes["plan"].string_value = "pro"
    header = ("x-plan", "pro")
    assert await evaluated(client, (*pod(plan="pro"), ("x-plan", "basic"))) == "on"
    assert await evaluated(client, (*pod(plan="free"), header), context=asked) == "off"
    assert await evaluated(client, (*pod(), header), context=asked) == "off", (
        "the claim is missing, so nothing is proven"
    )
    assert await evaluated(client, (*job(), header), context=asked) == "on", "its issuer proves no fields"
    resolve = client.channel.unary_unary(
        "/flagd.evaluation.v1.Service/ResolveBoolean",
        flagd.ResolveBooleanRequest.SerializeToString,
        flagd.ResolveBooleanResponse.FromString,
    )
    answer = await resolve(flagd.ResolveBooleanRequest(flag_key="new-page"), timeout=5, metadata=pod(plan="pro"))
    assert answer.value is True
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}") as http:
        for plan, variant in ("pro", "on"), ("free", "off"):
            for path in "/new-page", "":
                headers = [*pod(plan=plan), header]
                reply = await http.post(f"/ofrep/v1/evaluate/flags{path}", json={"context": {}}, headers=headers)
                assert reply.status_code == 200
                found = reply.json() if path else reply.json()["flags"][0]
                assert found["variant"] == variant
        own = [*job(), header]
        reply = await http.post("/ofrep/v1/evaluate/flags/new-page", json={"context": {}}, headers=own)
        assert reply.json()["variant"] == "on", "nothing stays of the caller before on the same connection"


async def test_ofrep_and_connect_take_tokens_and_answer_401_to_a_wrong_one(served: tuple[Client, Server]) -> None:
    _, server = served
    for port, path in (
        (server.ofrep_port, "/ofrep/v1/evaluate/flags/new-page"),
        (server.port, "/flagd.evaluation.v1.Service/ResolveBoolean"),
    ):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            body = {"flagKey": "new-page"} if port == server.port else {}
            good = [await http.post(path, json=body, headers=[*pod()]) for _ in range(2)]
            assert [each.status_code for each in good] == [200, 200]
            ((_, token),) = pod()
            assert (
                await http.post(path, json=body, headers={"x-api-key": token.removeprefix("Bearer ")})
            ).status_code == 200
            assert (await http.post(path, json=body, headers=[*pod(aud="other")])).status_code == 401


async def test_a_token_of_the_largest_size_is_taken_with_other_headers_beside_it(served: tuple[Client, Server]) -> None:
    client, server = served
    empty, others = len(signed(gitlab_claims(padding=""), KEY)), (("baggage", "x" * 6_000),)
    token = signed(gitlab_claims(padding="x" * ((MAX_BYTES - empty) * 3 // 4)), KEY)
    assert MAX_BYTES - 8 < len(token) <= MAX_BYTES
    for target in (server.port, server.sync_port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{target}") as channel:
            call = channel.unary_unary("/flagsvc.v1.TokenService/GetCaller")
            for _ in range(20):  # gRPC's own limit is a matter of chance
                await call(b"", metadata=(*bearer(token), *others), timeout=5)
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "metadata size exceeds"):
                await call(b"", metadata=(*bearer(token), *others, *others), timeout=5)
    assert await evaluated(client, pod())


async def test_metrics_are_not_for_whoever_sends_a_token_that_is_not_verified_yet(
    served: tuple[Client, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flagsvc.management.is_loopback", lambda _: False)
    forged = bearer(signed(gitlab_claims(), ec_key("evil")))
    operator = bearer(signed(gitlab_claims(jti="not seen before"), KEY))
    callers = (bearer("nonsense"), bearer("fsv_x"), forged, pod(), operator, operator)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served[1].management_port}", timeout=5) as http:
        found = [(await http.get("/metrics", headers=dict(each))).status_code for each in callers]
    assert found == [401, 401, 401, 403, 200, 200]


async def test_a_stream_ends_when_its_token_expires(served: tuple[Client, Server]) -> None:
    client, _ = served
    events = client.channel.unary_stream("/flagd.evaluation.v1.Service/EventStream")
    ends_at = time.time() + 2.5
    stream = events(b"", metadata=pod(exp=ends_at - 60), timeout=10)
    assert await stream.read()
    with refused(grpc.StatusCode.UNAUTHENTICATED, "expired"):
        while True:
            await stream.read()
    assert time.time() >= ends_at


async def test_a_known_token_is_recognized_without_waiting(served: tuple[Client, Server]) -> None:
    client, server = served
    headers = pod()
    await evaluated(client, headers)
    check = Check(Rule(Role.EVALUATE), server.replica.access.authority, server.listeners["grpc"])  # type: ignore[union-attr]
    caller = check.admit(headers)
    assert caller is not None
    assert str(caller).startswith("jwt:")


async def test_a_file_that_is_rejected_is_a_problem_of_the_replica(served: tuple[Client, Server]) -> None:
    _, server = served
    assert server._issuers is not None
    server._issuers.file.rejected = "issuers[0].rules is 1"
    assert "issuers_file_rejected" in [each.name for each in server.replica.status().problems]
    server._issuers.file.rejected = ""
    assert "issuers_file_rejected" not in [each.name for each in server.replica.status().problems]


class Connection:
    """A call's connection with this client certificate."""

    def __init__(self, *pem: bytes) -> None:
        self._pem = pem

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        return {"x509_pem_cert": self._pem} if self._pem else {}


async def test_a_header_goes_before_a_certificate_and_a_wrong_one_ends_the_search(
    served: tuple[Client, Server],
) -> None:
    client, server = served
    headers = pod()
    await evaluated(client, headers)
    check = Check(Rule(Role.EVALUATE), server.replica.access.authority, server.listeners["grpc"])  # type: ignore[union-attr]
    good, bad = Connection(certificate(KEY, uris=(API,))), Connection(certificate(KEY, uris=("spiffe://x",)))
    assert str(check.admit((), good)) == f"certificate:uri:{API}"
    assert str(check.admit(headers, good)).startswith("jwt:")
    with pytest.raises(Unauthenticated, match="no rule names"):
        check.admit((), bad)
    with pytest.raises(Unauthenticated, match="needs a credential"):
        check.admit((), Connection())
    assert check.admit(pod(jti="2"), good) is None, "its token must be verified first"


async def test_streams_end_with_the_key_of_their_tokens_and_calls_are_refused(
    served: tuple[Client, Server], folder: Path
) -> None:
    client, server = served
    watch = client.stub.WatchFlags(pb.WatchFlagsRequest(), metadata=job(), timeout=20)
    assert await watch.read()
    headers = pod()
    assert await evaluated(client, headers) == "off"
    (folder / "keys.json").write_bytes(jwks(k1=ec_key("next")))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "credential was revoked"):
        while True:
            await watch.read()
    with refused(grpc.StatusCode.UNAUTHENTICATED, "signature"):
        await evaluated(client, headers)
    assert server.replica.access is not None
    await until(lambda: len(server.replica.access.authority.sessions) == 0)  # type: ignore[union-attr]
