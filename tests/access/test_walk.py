"""Every RPC and route with every kind of credential, over gRPC, Connect and OFREP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from flagsvc.api.common.permissions import METHODS, ROUTES
from flagsvc.server import Server
from tests.access.callers import (
    EXPIRED,
    FOREIGN,
    NONE,
    PASSED,
    REFUSALS,
    REVOKED,
    ROLES,
    UNKNOWN,
    Headers,
    credentials,
    guarded,
    outcome,
    wrong,
)
from tests.replicas import Client

EVALUATE = {"evaluate", "read", "toggle", "write", "operate", "admin"}
PUBLIC = EVALUATE | {"public"}
READ = EVALUATE - {"evaluate"}
TOGGLE = {"toggle", "write", "admin"}
WRITE = {"write", "admin"}
OPERATE = {"operate", "admin"}
OWN, SYNC = "/flagsvc.v1.FlagService/", "/flagd.sync.v1.FlagSyncService/"
TOKENS = "/flagsvc.v1.TokenService/"
AUDIT = "/flagsvc.v1.AuditService/"
ROLLOUTS = "/flagsvc.v1.RolloutService/"
PLANS = "/flagsvc.v1.ScheduleService/"
SEGMENTS = "/flagsvc.v1.SegmentService/"
FLAGD = ("/flagd.evaluation.v1.Service/", "/flagd.evaluation.v2.Service/", "/schema.v1.Service/")
TYPES = ("Boolean", "String", "Float", "Int", "Object")
ABOUT_A_SET = {
    **{OWN + name: EVALUATE for name in ("EvaluateFlag", "BatchEvaluateFlags")},
    **{OWN + name: READ for name in ("GetFlag", "ListFlags", "ListFlagHistory", "WatchFlags", "GetBucketing")},
    OWN + "ListFlagRevisions": READ,
    **{OWN + name: WRITE for name in ("CreateFlag", "UpdateFlag", "DeleteFlag", "SetBucketing")},
    **{OWN + name: WRITE for name in ("RollbackFlag", "RollbackFlagSet")},
    OWN + "ToggleFlag": TOGGLE,
    ROLLOUTS + "GetRollout": READ,
    **{ROLLOUTS + f"{verb}Rollout": WRITE for verb in ("Pause", "Resume", "Rollback")},
    **{f"{PLANS}{verb}Schedule": WRITE for verb in ("Create", "Update", "Execute")},
    **{PLANS + name: READ for name in ("GetSchedule", "ListSchedules")},
    PLANS + "CancelSchedule": TOGGLE,
    **{SEGMENTS + name: READ for name in ("GetSegment", "ListSegments")},
    **{f"{SEGMENTS}{verb}Segment": WRITE for verb in ("Create", "Update", "Delete")},
    **{f"{service}Resolve{kind}": EVALUATE for service in FLAGD for kind in TYPES},
    **{f"{service}ResolveAll": EVALUATE for service in (FLAGD[0], FLAGD[2])},
    **{f"{service}EventStream": EVALUATE for service in FLAGD},
    **{SYNC + name: READ for name in ("SyncFlags", "FetchAllFlags")},
}
ABOUT_NONE = {
    **{OWN + name: OPERATE for name in ("GetStatus", "VerifyCache", "Resync")},
    **{f"{TOKENS}{verb}Token": {"admin"} for verb in ("Create", "Get", "Update", "Rotate", "Revoke")},
    TOKENS + "ListTokens": {"admin"},
    **{TOKENS + name: {"admin"} for name in ("DenyIdentity", "AllowIdentity", "ListDeniedIdentities")},
    TOKENS + "GetCaller": EVALUATE,
    AUDIT + "ListAuditEntries": OPERATE,
    SYNC + "GetMetadata": READ,
    **{f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo": READ for v in ("v1", "v1alpha")},
}
OPEN = [f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")]
MANAGEMENT = {"GET /healthz", "GET /readyz", "GET /metrics"}
"""Routes that tests/access/test_gate.py tries: they are on a port of their own."""
DECIDED = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
"""Errors of streams over Connect that callers get who may make the call."""
STREAMS = ("EventStream", "WatchFlags", "SyncFlags", "Health/Watch")
OFREP = {
    "POST /ofrep/v1/evaluate/flags": "",
    "POST /ofrep/v1/evaluate/flags/": "",
    "POST /ofrep/v1/evaluate/flags/{key:path}": "any",
    "GET /ofrep/v1/sse": "",
}
"""Each route, with the key that it is asked for. Which flags a caller sees, tests/access/test_public.py holds."""
FEW = (NONE, UNKNOWN, "public", "evaluate", "evaluate of another set", "admin")
"""Callers who try what another port has shown for all: that the second port asks the same table."""
SOME = (*FEW, EXPIRED, REVOKED, "read", "write")
"""Callers of Connect, which the gate of gRPC checks."""


@pytest.fixture(scope="module")
async def walked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Client, Server, dict[str, Headers]]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('walk')}/flags.db"
    callers = await credentials(url)
    async with guarded(url, sync_port=0, ofrep_port=0) as (client, server):
        yield client, server, callers


def wanted(path: str, who: str) -> str:
    if path in OPEN:
        return PASSED
    role, _, rest = who.partition(" ")
    if role not in ROLES or (rest and who not in FOREIGN):
        return "UNAUTHENTICATED"
    allowed = PUBLIC if path in OFREP else ABOUT_A_SET.get(path) or ABOUT_NONE[path]
    is_foreign = bool(rest) and path not in ABOUT_NONE
    return PASSED if role in allowed and not is_foreign else "PERMISSION_DENIED"


def test_what_is_expected_is_written_down_for_every_rpc_and_route() -> None:
    assert (ABOUT_A_SET.keys() | ABOUT_NONE.keys() | set(OPEN)) ^ METHODS.keys() == set()
    assert (OFREP.keys() | MANAGEMENT) ^ ROUTES.keys() == set()


async def test_every_rpc_as_every_caller(walked: tuple[Client, Server, dict[str, Headers]]) -> None:
    client, server, callers = walked
    outcomes = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.sync_port}") as other:
        for channel, tried in ((client.channel, tuple(callers)), (other, FEW)):
            for path in METHODS:
                for who in tried:
                    found = await outcome(partial(_call, channel, path, callers[who]))
                    outcomes.append((path, who, found, wanted(path, who)))
    assert len(outcomes) == len(METHODS) * (len(callers) + len(FEW))
    assert not wrong(outcomes)


async def test_every_rpc_over_connect_as_every_caller(walked: tuple[Client, Server, dict[str, Headers]]) -> None:
    _, server, callers = walked
    outcomes = []
    ports = (
        (server.port, SOME, (*FLAGD, OWN, TOKENS, AUDIT, ROLLOUTS, PLANS, SEGMENTS)),
        (server.ofrep_port, FEW, FLAGD),
    )
    for port, tried, services in ports:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            for path in (each for each in METHODS if each.startswith(services)):
                for who in tried:
                    found = await _connect(http, path, callers[who])
                    outcomes.append((path, who, found, wanted(path, who)))
    assert len(outcomes) > 500
    assert not wrong(outcomes)


async def test_every_route_of_ofrep_as_every_caller(walked: tuple[Client, Server, dict[str, Headers]]) -> None:
    _, server, callers = walked
    outcomes = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http:
        for route, key in OFREP.items():
            method, path = route.replace("{key:path}", key).split()
            for who, headers in callers.items():
                async with http.stream(method, path, headers=headers) as answer:
                    found = _status(answer.status_code)
                    assert (answer.headers.get("www-authenticate") == "Bearer") == (answer.status_code == 401)
                outcomes.append((route, who, found, wanted(route, who)))
    assert len(outcomes) == len(OFREP) * len(callers)
    assert not wrong(outcomes)


async def test_a_ticket_opens_the_event_stream_and_no_other_route(
    walked: tuple[Client, Server, dict[str, Headers]],
) -> None:
    _, server, callers = walked
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http:
        for who in ("public", "evaluate", "admin"):
            answer = await http.post("/ofrep/v1/evaluate/flags", headers=callers[who], json={})
            query = answer.json()["eventStreams"][0]["endpoint"]["requestUri"].partition("?")[2]
            for route, key in OFREP.items():
                method, path = route.replace("{key:path}", key).split()
                async with http.stream(method, f"{path}?{query}") as found:
                    assert (found.status_code == 200) == (route == "GET /ofrep/v1/sse"), (who, route)
                    assert found.status_code in {200, 401}, (who, route)


def _call(channel: grpc.aio.Channel, path: str, headers: Headers) -> Any:
    if "reflection" in path:
        # As a single request: with a stream of them, to send may fail before the refusal is there.
        request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        return channel.unary_stream(path)(request, metadata=headers, timeout=10)
    if path.endswith(STREAMS):
        return channel.unary_stream(path)(b"", metadata=headers, timeout=10)
    return channel.unary_unary(path)(b"", metadata=headers, timeout=10)


async def _connect(http: httpx.AsyncClient, path: str, headers: Headers) -> str:
    if not path.endswith(STREAMS):
        answer = await http.post(path, content=b"{}", headers=[*headers, ("content-type", "application/json")])
        return _status(answer.status_code)
    framed = b"\0\0\0\0\2{}"
    content_type = ("content-type", "application/connect+json")
    async with http.stream("POST", path, content=framed, headers=[*headers, content_type]) as answer:
        first = await anext(answer.aiter_bytes())
    if first[:1] != b"\2":  # not the end of the stream
        return PASSED
    code = json.loads(first[5:])["error"]["code"].upper()
    return code if code in REFUSALS else PASSED if code in DECIDED else code


def _status(code: int) -> str:
    """Return what an HTTP status says of the caller's right; of 429 and 5xx the status itself, which says nothing."""
    found = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}.get(code, PASSED)
    return str(code) if code == 429 or code >= 500 else found
