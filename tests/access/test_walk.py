"""Every RPC and route with every kind of credential, over gRPC, Connect and OFREP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from flagsvc.api.common.permissions import METHODS
from flagsvc.server import Server
from tests.access.callers import FOREIGN, PASSED, ROLES, Headers, credentials, guarded, outcome, wrong
from tests.replicas import Client

EVALUATE = {"evaluate", "read", "toggle", "write", "operate", "admin"}
READ = EVALUATE - {"evaluate"}
TOGGLE = {"toggle", "write", "admin"}
WRITE = {"write", "admin"}
OPERATE = {"operate", "admin"}
OWN, SYNC = "/flagsvc.v1.FlagService/", "/flagd.sync.v1.FlagSyncService/"
TOKENS = "/flagsvc.v1.TokenService/"
AUDIT = "/flagsvc.v1.AuditService/"
FLAGD = ("/flagd.evaluation.v1.Service/", "/flagd.evaluation.v2.Service/", "/schema.v1.Service/")
TYPES = ("Boolean", "String", "Float", "Int", "Object")
ABOUT_A_SET = {
    **{OWN + name: EVALUATE for name in ("EvaluateFlag", "BatchEvaluateFlags")},
    **{OWN + name: READ for name in ("GetFlag", "ListFlags", "ListFlagHistory", "WatchFlags", "GetBucketing")},
    **{OWN + name: WRITE for name in ("CreateFlag", "UpdateFlag", "DeleteFlag", "SetBucketing")},
    OWN + "ToggleFlag": TOGGLE,
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
STREAMS = ("EventStream", "WatchFlags", "SyncFlags", "Health/Watch")
OFREP = ("/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/", "/ofrep/v1/evaluate/flags/any", "/ofrep/v1/sse")


@pytest.fixture
async def walked(tmp_path: Path) -> AsyncIterator[tuple[Client, Server, dict[str, Headers]]]:
    url = f"sqlite:///{tmp_path}/flags.db"
    callers = await credentials(url)
    async with guarded(url, sync_port=0, ofrep_port=0) as (client, server):
        yield client, server, callers


def wanted(path: str, who: str) -> str:
    if path in OPEN:
        return PASSED
    role, _, rest = who.partition(" ")
    if role not in ROLES or (rest and who not in FOREIGN):
        return "UNAUTHENTICATED"
    allowed = ABOUT_A_SET.get(path) or ABOUT_NONE[path]
    is_foreign = bool(rest) and path in ABOUT_A_SET
    return PASSED if role in allowed and not is_foreign else "PERMISSION_DENIED"


def test_what_is_expected_is_written_down_for_every_rpc() -> None:
    assert ABOUT_A_SET.keys() | ABOUT_NONE.keys() | set(OPEN) == METHODS.keys()


async def test_every_rpc_as_every_caller(walked: tuple[Client, Server, dict[str, Headers]]) -> None:
    client, server, callers = walked
    outcomes = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.sync_port}") as other:
        for channel in (client.channel, other):
            for path in METHODS:
                for who, headers in callers.items():
                    found = await outcome(_call(channel, path, headers))
                    outcomes.append((path, who, found, wanted(path, who)))
    assert len(outcomes) == 2 * len(METHODS) * len(callers)
    assert not wrong(outcomes)


async def test_every_rpc_over_connect_as_every_caller(walked: tuple[Client, Server, dict[str, Headers]]) -> None:
    _, server, callers = walked
    outcomes = []
    for port in (server.port, server.ofrep_port):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            for path in METHODS:
                if path.startswith(FLAGD) or (port == server.port and path.startswith((OWN, TOKENS))):
                    for who, headers in callers.items():
                        outcomes.append((path, who, await _connect(http, path, headers), wanted(path, who)))
    assert len(outcomes) > 800
    assert not wrong(outcomes)


async def test_every_route_of_ofrep_as_every_caller(walked: tuple[Client, Server, dict[str, Headers]]) -> None:
    _, server, callers = walked
    outcomes = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http:
        for path in OFREP:
            for who, headers in callers.items():
                method = "GET" if path.endswith("sse") else "POST"
                async with http.stream(method, path, headers=headers) as answer:
                    found = _status(answer.status_code)
                    assert (answer.headers.get("www-authenticate") == "Bearer") == (answer.status_code == 401)
                outcomes.append((path, who, found, wanted(OWN + "EvaluateFlag", who)))
    assert not wrong(outcomes)


def _call(channel: grpc.aio.Channel, path: str, headers: Headers) -> Any:
    if "reflection" in path:
        request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        return channel.stream_stream(path)(iter([request]), metadata=headers, timeout=5)
    if path.endswith(STREAMS):
        return channel.unary_stream(path)(b"", metadata=headers, timeout=5)
    return channel.unary_unary(path)(b"", metadata=headers, timeout=5)


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
    return code if code in {"UNAUTHENTICATED", "PERMISSION_DENIED"} else PASSED


def _status(code: int) -> str:
    return {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}.get(code, PASSED)
