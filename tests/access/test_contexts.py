"""Who may set context fields by headers where callers are authenticated, and what claims set for local clients too."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from flagsvc_client import AsyncFlagClient, EvaluationContext

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as flagd
from flagsvc.generated.flagd.sync.v1 import sync_pb2
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.issuers.certificates import CertificateCallers
from flagsvc.issuers.configuration import configuration
from flagsvc.server import Server
from flagsvc.serving.writer import WaitFor
from tests.access.callers import Headers, bearer, guarded, made, stored
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
)
from tests.ofrep.asking import FLAGS_PATH
from tests.replicas import Client

KEY = ec_key()
CONDITIONS = {
    "pro": {"==": [{"var": "plan"}, "pro"]},
    "no-plan": {"==": [{"var": "plan"}, None]},
    "team": {"in": ["a", {"var": "teams"}]},
    "somebody": {"==": [{"var": "targetingKey"}, "somebody"]},
    "north": {"==": [{"var": "region"}, "north"]},
}
"""Flags that are on where this holds."""
PRO = ("x-plan", "pro")


def issuers(folder: Path) -> dict[str, Any]:
    def entry(issuer: str, claim: str, **rule: Any) -> dict[str, Any]:
        rules = [{"when": [{"claim": "sub", "prefix": claim}], "grant": "read@default", **rule}]
        return {"issuer": issuer, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json", "rules": rules}

    context = {"plan": "plan", "targetingKey": "sub", "teams": "teams"}
    return {
        "issuers": [
            {**entry(KUBERNETES, "system:"), "context": context},
            entry(GITLAB, "project_path:", context_headers=True),
        ]
    }


class Served:
    """A server that reads the field `plan` from a header, and callers who may set it, and who may not."""

    def __init__(self, client: Client, server: Server, http: httpx.AsyncClient) -> None:
        self.client, self.server, self.http = client, server, http
        self.gateway: Headers = ()
        self.plain: Headers = ()
        self.admin: Headers = ()

    async def answers(self, caller: Headers) -> set[bool]:
        """Return what a caller gets who says in a header that it is of the plan pro, over every protocol."""
        headers, body = [*caller, PRO], {"flagKey": "pro"}
        request = pb.EvaluateFlagRequest(flag_key="pro")
        batch = pb.BatchEvaluateFlagsRequest(flag_keys=["pro"])
        resolve = self.client.channel.unary_unary(
            "/flagd.evaluation.v1.Service/ResolveAll",
            flagd.ResolveAllRequest.SerializeToString,
            flagd.ResolveAllResponse.FromString,
        )
        found = {
            (await self.client.stub.EvaluateFlag(request, metadata=headers, timeout=5)).evaluation.enabled,
            (await self.client.stub.BatchEvaluateFlags(batch, metadata=headers, timeout=5)).evaluations[0].enabled,
            (await resolve(flagd.ResolveAllRequest(), metadata=headers, timeout=5)).flags["pro"].bool_value,
            (await self.http.post(f"{FLAGS_PATH}/pro", json={}, headers=headers)).json()["value"],
        }
        listed = (await self.http.post(FLAGS_PATH, json={}, headers=headers)).json()["flags"]
        found |= {each["value"] for each in listed if each["key"] == "pro"}
        path = "/flagd.evaluation.v1.Service/ResolveBoolean"
        return found | {(await self.http.post(path, json=body, headers=headers)).json().get("value", False)}


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("contexts")
    url = f"sqlite:///{folder}/flags.db"
    (folder / "keys.json").write_bytes(jwks(k1=KEY))
    (folder / "issuers.json").write_text(json.dumps(issuers(folder)))
    (gateway, gateway_text), (plain, text), (admin, admin_text) = made("evaluate"), made("evaluate"), made("admin")
    await stored(url, replace(gateway, context_headers=True), plain, admin)
    settings = {
        "jwt_issuers_file": str(folder / "issuers.json"),
        "context_values": "plan=basic,region=north",
        "context_from_headers": "x-plan=plan",
        "anonymous": "ofrep=evaluate@default;grpc=evaluate@default",
    }
    async with (
        guarded(url, **settings, ofrep_port=0, sync_port=0) as (client, server),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http,
    ):
        found = Served(client, server, http)
        found.gateway, found.plain, found.admin = map(bearer, (gateway_text, text, admin_text))
        for key, condition in CONDITIONS.items():
            rule = json.dumps({"if": [condition, "on", "off"]})
            flag = types.Flag(key=key, status=types.FLAG_STATUS_ENABLED, targeting=rule)
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=found.admin, timeout=5)
        yield found


def job() -> Headers:
    return bearer(signed(gitlab_claims(), KEY))


def pod(**claims: Any) -> Headers:
    return bearer(signed(kubernetes_claims(**claims), KEY))


async def test_headers_count_only_of_callers_who_are_marked_so(served: Served) -> None:
    assert await served.answers(served.gateway) == await served.answers(job()) == {True}
    assert await served.answers(served.plain) == await served.answers(served.admin) == {False}
    assert await served.answers(()) == {False}, "nobody knows who that is"
    assert await served.answers(pod(plan="free")) == {False}


async def test_the_mark_is_a_field_of_a_token_that_holds_at_once(served: Served) -> None:
    access = served.server.replica.access
    assert access is not None
    plain = access.authority.identify(served.plain[0][1].removeprefix("Bearer "))
    root = access.authority.identify(served.admin[0][1].removeprefix("Bearer "))
    assert plain is not None
    assert root is not None
    for marked in (True, False):
        await access.writer.update(root, plain.id, {"context_headers": marked}, None, WaitFor())
        assert await served.answers(served.plain) == {marked}


@pytest.mark.parametrize("value", ["true", 1, None, []])
def test_a_rule_with_another_value_is_refused(value: Any, tmp_path: Path) -> None:
    document = issuers(tmp_path)
    document["issuers"][1]["rules"][0]["context_headers"] = value
    with pytest.raises(ValueError, match=r"rules\[0\].context_headers is .*; it must be true or false"):
        configuration("issuers.json", json.dumps(document).encode())


def test_a_certificate_can_be_marked_too() -> None:
    callers, api = CertificateCallers(), "spiffe://prod/gateway"
    for marked in (True, False):
        rule = {"uri": api, "grant": "evaluate@*", **({"context_headers": True} if marked else {})}
        callers.replace_rules(configuration("i.json", json.dumps({"certificates": [rule]}).encode()).certificates)
        assert callers.caller(certificate(KEY, uris=(api,))).sets_context_by_headers is marked


CLAIMS: list[dict[str, Any]] = [
    {"plan": "pro", "teams": ["a", "b"]},
    {"plan": "free"},
    {"plan": None, "teams": {"a": 1}},
    {"plan": True, "teams": "a"},
]


@pytest.mark.parametrize("claims", CLAIMS, ids=str)
async def test_a_local_client_knows_what_its_token_proves(served: Served, claims: dict[str, Any]) -> None:
    token = signed(kubernetes_claims(**claims), KEY)
    target = f"127.0.0.1:{served.server.port}"
    context = EvaluationContext("somebody", {"plan": "pro", "region": "south", "teams": ["a"]})
    async with (
        AsyncFlagClient(target, token=token) as remote,
        AsyncFlagClient(target, token=token, local=True) as local,
    ):
        assert await local.wait_ready()
        for given in (context, EvaluationContext()):
            there, here = await remote.batch(list(CONDITIONS), given), await local.batch(list(CONDITIONS), given)
            found = {key: here[key].value for key in CONDITIONS}
            assert found == {key: there[key].value for key in CONDITIONS}
            assert found == {
                "pro": claims.get("plan") == "pro",
                "no-plan": claims.get("plan") is None,
                "team": claims.get("teams") in (["a", "b"], "a"),
                "somebody": False,
                "north": True,
            }


async def test_a_client_that_does_not_know_of_it_is_not_let_answer_otherwise(served: Served) -> None:
    async def requires(headers: Headers) -> tuple[list[str], dict[str, str], list[str]]:
        call = served.client.stub.WatchFlags(pb.WatchFlagsRequest(), metadata=headers, timeout=5)
        first = await call.read()
        resumed = served.client.stub.WatchFlags(
            pb.WatchFlagsRequest(resume_revision=first.resume_revision), metadata=headers, timeout=5
        )
        again = await resumed.read()
        assert again.evaluation == first.evaluation
        for each in (call, resumed):
            each.cancel()
        sent = first.evaluation
        return list(sent.requires), dict(sent.context_values), sorted(sent.proven_context)

    values = {"plan": "basic", "region": "north"}
    assert await requires(pod(plan="pro")) == (
        ["rules-1", "proven-context"],
        values,
        ["plan", "targetingKey", "teams"],
    )
    assert await requires(job()) == (["rules-1"], values, [])


async def test_providers_in_process_get_it_as_their_context(served: Served) -> None:
    path = "/flagd.sync.v1.FlagSyncService/"
    stream = served.client.channel.unary_stream(
        f"{path}SyncFlags", response_deserializer=sync_pb2.SyncFlagsResponse.FromString
    )
    get = served.client.channel.unary_unary(
        f"{path}GetMetadata", response_deserializer=sync_pb2.GetMetadataResponse.FromString
    )
    for headers, plan in ((pod(plan="pro"), "pro"), (job(), "basic")):
        call = stream(b"", metadata=headers, timeout=5)
        message = await call.read()
        call.cancel()
        assert json.loads(message.flag_configuration)["flags"].keys() == CONDITIONS.keys()
        for context in (message.sync_context, (await get(b"", metadata=headers, timeout=5)).metadata):
            assert (context["plan"], context["region"]) == (plan, "north")
            assert ("targetingKey" in context) == (plan == "pro")
