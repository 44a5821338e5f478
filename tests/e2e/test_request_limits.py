"""What a request may weigh: refused by its bytes, before they are parsed, and by the number of its values."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf import struct_pb2
from grpc_health.v1 import health_pb2

from flagsvc.api.common.request_limits import MAX_EVALUATION_BYTES, MAX_REQUEST_BYTES, parse_within_limits
from flagsvc.api.common.values import to_value
from flagsvc.core.validation import MAX_CONTEXT_VALUES
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as flagd
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, info_of, replica, until_serving

OWN = "/flagsvc.v1.FlagService/"
RESOLVE = "/flagd.evaluation.v1.Service/ResolveBoolean"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[tuple[Client, str]]:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", ofrep_port=0) as (client, server):
        await until_serving(client)
        await client.create("a", status=types.FLAG_STATUS_ENABLED)
        yield client, f"http://127.0.0.1:{server.ofrep_port}/ofrep/v1/evaluate/flags/a"


async def refused(client: Client, method: str, request: bytes) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.channel.unary_unary(method)(request, timeout=10)
    return caught.value


def test_nothing_over_its_methods_limit_is_parsed() -> None:
    parsed: list[int] = []
    for method, limit in (
        (f"{OWN}EvaluateFlag", MAX_EVALUATION_BYTES),
        (f"{OWN}BatchEvaluateFlags", MAX_EVALUATION_BYTES),
        (f"{OWN}ToggleFlag", MAX_EVALUATION_BYTES),
        (RESOLVE, MAX_EVALUATION_BYTES),
        (f"{OWN}CreateFlag", MAX_REQUEST_BYTES),
        (f"{OWN}UpdateFlag", MAX_REQUEST_BYTES),
    ):
        parse = parse_within_limits(method, lambda data: parsed.append(len(data)))
        assert parse is not None
        parse(b"x" * (limit + 1))
        assert parsed == []
        parse(b"x" * limit)
        assert parsed.pop() == limit


async def test_each_protocol_says_that_a_request_is_too_large(client: tuple[Client, str]) -> None:
    grpc_client, url = client
    error = await refused(grpc_client, f"{OWN}EvaluateFlag", b"x" * (MAX_EVALUATION_BYTES + 1))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "request is '131073 bytes'; it must be at most 131072 bytes"
    assert info_of(error).reason == "REQUEST_TOO_LARGE"
    error = await refused(grpc_client, RESOLVE, b"x" * (MAX_EVALUATION_BYTES + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (error.details() or "").startswith("The context is over 65536 bytes")
    error = await refused(
        grpc_client, "/flagd.sync.v1.FlagSyncService/FetchAllFlags", b"x" * (MAX_EVALUATION_BYTES + 1)
    )
    assert info_of(error).reason == "REQUEST_TOO_LARGE", "there is no context in it"
    error = await refused(grpc_client, f"{OWN}CreateFlag", b"x" * (MAX_REQUEST_BYTES + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with httpx.AsyncClient() as http:
        assert (await http.post(url, content=b" " * (MAX_EVALUATION_BYTES + 1))).status_code == 413


async def test_a_write_of_very_many_fields_is_refused_before_it_is_parsed(client: tuple[Client, str]) -> None:
    config = to_value({f"{number:x}": True for number in range(60_000)})
    request = pb.CreateFlagRequest(flag=types.Flag(key="many", config=config)).SerializeToString()
    assert MAX_EVALUATION_BYTES < len(request) < MAX_REQUEST_BYTES
    error = await refused(client[0], f"{OWN}CreateFlag", request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 20000 fields and list elements" in (error.details() or "")


@pytest.mark.parametrize("shape", ["list", "fields", "nested"])
async def test_every_protocol_refuses_a_context_of_too_many_values(client: tuple[Client, str], shape: str) -> None:
    def context(count: int) -> dict[str, object]:
        shapes: dict[str, dict[str, object]] = {
            "list": {"l": [0] * (count - 1)},
            "fields": {f"{number:x}": True for number in range(count)},
            "nested": {"l": [{"a": [0]}] * ((count - 1) // 3)},
        }
        return shapes[shape]

    grpc_client, url = client
    for count, is_refused in ((MAX_CONTEXT_VALUES, False), (MAX_CONTEXT_VALUES + 4, True)):
        fields = context(count)
        struct = struct_pb2.Struct()
        struct.update(fields)
        own = types.EvaluationContext(attributes={name: to_value(value) for name, value in fields.items()})
        requests = {
            f"{OWN}EvaluateFlag": pb.EvaluateFlagRequest(flag_key="a", context=own),
            RESOLVE: flagd.ResolveBooleanRequest(flag_key="a", context=struct),
        }
        for method, request in requests.items():
            data = request.SerializeToString()
            assert len(data) < MAX_EVALUATION_BYTES
            if is_refused:
                error = await refused(grpc_client, method, data)
                assert info_of(error).reason == "INVALID_CONTEXT"
            else:
                assert await grpc_client.channel.unary_unary(method)(data, timeout=10)
        async with httpx.AsyncClient() as http:
            answer = await http.post(url, content=json.dumps({"context": fields}, separators=(",", ":")))
        assert answer.status_code == (400 if is_refused else 200)
        if is_refused:
            assert answer.json()["errorDetails"] == "The context has more than 5000 fields and list elements"


async def test_a_message_of_reflection_that_cannot_be_parsed_is_refused(client: tuple[Client, str]) -> None:
    stream = client[0].channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
    await stream.write(b"\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith("request is 'bytes that cannot be parsed'")
    assert info_of(caught.value).reason == "INVALID_REQUEST"


async def test_health_lists_every_service(client: tuple[Client, str]) -> None:
    statuses = (await client[0].health.List(health_pb2.HealthListRequest(), timeout=5)).statuses
    assert {"", "liveness", "flagsvc.v1.FlagService", "flagd.sync.v1.FlagSyncService", "store"} <= statuses.keys()
    assert statuses["flagsvc.v1.FlagService"].status == health_pb2.HealthCheckResponse.SERVING
