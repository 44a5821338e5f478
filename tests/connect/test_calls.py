"""Unary calls and streams in every form, on both ports: answers, errors, compression, time limits, metadata."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as v2
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.connect.asking import JSON, OWN, SCHEMA, V1, V2, Asked, framed, frames
from tests.providers.cases import THEME
from tests.replicas import until

BOOLEAN = f"{V1}/ResolveBoolean"
PROTO, STREAM_JSON = "application/proto", "application/connect+json"


@pytest.mark.parametrize("service", [V1, V2, SCHEMA])
@pytest.mark.parametrize(
    ("method", "key", "value"),
    [
        ("ResolveBoolean", "boolean-false", False),
        ("ResolveString", "string-empty", ""),
        ("ResolveInt", "integer", "9000000"),
        ("ResolveFloat", "integer-as-float", 10),
        ("ResolveObject", "object", THEME),
    ],
)
async def test_json_has_every_type_and_the_values_that_are_zero(
    asked: Asked, service: str, method: str, key: str, value: Any
) -> None:
    answer = await asked.post(f"{service}/{method}", {"flagKey": key, "context": {}})
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    assert {"value": value, "reason": "STATIC"}.items() <= answer.json().items()


async def test_parameters_of_the_content_type_and_unknown_fields_are_ignored(asked: Asked) -> None:
    body = {"flagKey": "boolean", "somethingNew": {"a": 1}}
    answer = await asked.post(BOOLEAN, body, f"{JSON}; charset=utf-8")
    assert answer.json()["metadata"] == {"team": "web", "rank": 3, "live": True}


async def test_binary_messages(asked: Asked) -> None:
    request = v2.ResolveStringRequest(flag_key="string").SerializeToString()
    answer = await asked.post(f"{V2}/ResolveString", request, PROTO)
    assert answer.headers["content-type"] == PROTO
    assert v2.ResolveStringResponse.FromString(answer.content).value == "#00f"


async def test_a_flag_without_a_value_has_none_in_v2(asked: Asked) -> None:
    await asked.grpc.toggle("switch", False)
    answer = (await asked.post(f"{V2}/ResolveBoolean", {"flagKey": "switch"})).json()
    assert answer["reason"] == "DISABLED"
    assert not {"value", "variant"} & answer.keys()


async def test_flag_service_speaks_it_too(asked: Asked) -> None:
    changed = (await asked.post(f"{OWN}/ToggleFlag", {"flagKey": "moving", "enabled": False})).json()
    assert changed["flag"]["status"] == "FLAG_STATUS_DISABLED"
    evaluation = (await asked.post(f"{OWN}/EvaluateFlag", {"flagKey": "moving"})).json()["evaluation"]
    assert (evaluation["reason"], evaluation["enabled"]) == ("REASON_DISABLED", False)


async def test_on_ofreps_port_flags_are_evaluated_and_never_changed(asked: Asked) -> None:
    url = f"http://127.0.0.1:{asked.server.ofrep_port}"
    assert (await asked.http.post(f"{url}/{BOOLEAN}", json={"flagKey": "boolean"})).json()["value"] is True
    assert (await asked.http.post(f"{url}/ofrep/v1/evaluate/flags/boolean", json={})).json()["value"] is True
    for method in ("ToggleFlag", "EvaluateFlag"):
        assert (await asked.http.post(f"{url}/{OWN}/{method}", json={"flagKey": "boolean"})).status_code == 404
    assert (await asked.post("ofrep/v1/evaluate/flags/boolean", {})).status_code == 404, "8013 serves no OFREP"


@pytest.mark.parametrize(
    ("key", "status", "code", "message"),
    [
        ("nowhere", 404, "not_found", "Flag not found"),
        ("string", 400, "invalid_argument", "Type mismatch error: The flag's value is of type string, not boolean"),
    ],
)
async def test_errors_have_connects_body(asked: Asked, key: str, status: int, code: str, message: str) -> None:
    for form, body in ((JSON, json.dumps({"flagKey": key}).encode()), (PROTO, _boolean(key))):
        answer = await asked.post(BOOLEAN, body, form)
        assert (answer.status_code, answer.headers["content-type"]) == (status, JSON)
        error = answer.json()
        assert error["code"] == code
        assert error["message"].startswith(message)
        assert error["details"][0]["type"] == "google.rpc.ErrorInfo"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"flagKey": 1}', b'{"flagKey": "\xff"}', b"[" * 50_000])
async def test_what_is_no_message_is_refused_with_its_reason(asked: Asked, body: bytes) -> None:
    answer = await asked.post(BOOLEAN, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert answer.json()["message"].startswith("request: ")


async def test_paths_methods_and_content_types_that_are_not_served(asked: Asked) -> None:
    assert (await asked.http.get(f"/{BOOLEAN}")).status_code == 405
    for path in (
        "",
        "nowhere",
        f"{V1}/Nothing",
        "grpc.health.v1.Health/Check",
        "flagd.sync.v1.FlagSyncService/SyncFlags",
    ):
        assert (await asked.post(path, {})).status_code == 404, path
    refused = ["text/plain", "", STREAM_JSON, "application/x-www-form-urlencoded", "application/grpc-web-text"]
    for content_type in refused:
        assert (await asked.post(BOOLEAN, {}, content_type)).status_code == 415, content_type
    assert (await asked.post(f"{V1}/EventStream", {})).status_code == 415, "a stream is no unary call"


async def test_requests_are_decompressed_within_the_limit_of_their_method(asked: Asked) -> None:
    body = json.dumps({"flagKey": "boolean"}).encode()
    assert (await asked.post(BOOLEAN, gzip.compress(body), content_encoding="gzip")).json()["value"] is True
    bomb = gzip.compress(json.dumps({"flagKey": "boolean", "context": {"x": " " * 5_000_000}}).encode())
    assert len(bomb) < 10_000
    answer = await asked.post(BOOLEAN, bomb, content_encoding="gzip")
    assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted")
    assert (await asked.post(BOOLEAN, body, content_encoding="gzip")).status_code == 400, "it is not gzip"
    unknown = await asked.post(BOOLEAN, body, content_encoding="br")
    assert (unknown.status_code, unknown.json()["code"]) == (501, "unimplemented")


async def test_time_limits(asked: Asked) -> None:
    body = {"flagKey": "boolean"}
    assert (await asked.post(BOOLEAN, body, connect_timeout_ms="10000")).status_code == 200
    assert (await asked.post(BOOLEAN, body, connect_timeout_ms="0")).json()["code"] == "deadline_exceeded"
    for wrong in ("soon", "-1", "1" * 11, ""):
        assert (await asked.post(BOOLEAN, body, connect_timeout_ms=wrong)).json()["code"] == "invalid_argument"
    assert (await asked.post(BOOLEAN, body, connect_protocol_version="2")).json()["code"] == "invalid_argument"
    stream = await asked.post(f"{OWN}/WatchFlags", framed(b"{}"), STREAM_JSON, connect_timeout_ms="200")
    flags, last = frames(stream.content)[-1]
    assert (flags, json.loads(last)["error"]["code"]) == (2, "deadline_exceeded")


async def test_headers_are_metadata(asked: Asked) -> None:
    tiered = await asked.post(BOOLEAN, {"flagKey": "by-tier", "context": {"tier": "none"}}, x_tier="gold")
    assert tiered.json()["value"] is True
    selected = await asked.post(f"{V1}/ResolveString", {"flagKey": "of-tenant"}, flagd_selector="flagSetId=tenant-a")
    assert selected.json()["metadata"] == {"flagSetId": "tenant-a"}
    late = await asked.post(BOOLEAN, {"flagKey": "boolean"}, flagsvc_min_revision="many")
    assert "flagsvc-min-revision" in late.json()["message"]


async def test_grpc_web_has_its_status_behind_the_message(asked: Asked) -> None:
    for suffix in ("", "+proto"):
        answer = await asked.post(BOOLEAN, framed(_boolean("boolean")), f"application/grpc-web{suffix}")
        (flags, message), (end_flags, end) = frames(answer.content)
        assert (flags, end_flags) == (0, 0x80)
        assert v1.ResolveBooleanResponse.FromString(message).value is True
        assert end.startswith(b"grpc-status: 0\r\n")
    answer = await asked.post(BOOLEAN, framed(b'{"flagKey": "boolean"}'), "application/grpc-web+json")
    assert json.loads(frames(answer.content)[0][1])["value"] is True


async def test_grpc_web_errors_are_200_with_a_status(asked: Asked) -> None:
    answer = await asked.post(BOOLEAN, framed(_boolean("nowhere")), "application/grpc-web+proto")
    assert answer.status_code == 200
    ((flags, end),) = frames(answer.content)
    assert flags == 0x80
    lines = dict(line.split(": ", 1) for line in end.decode().splitlines())
    assert (lines["grpc-status"], lines["grpc-message"]) == ("5", "Flag not found")
    assert "grpc-status-details-bin" in lines
    timed = await asked.post(BOOLEAN, framed(_boolean("boolean")), "application/grpc-web", grpc_timeout="x")
    assert b"grpc-status: 3\r\n" in timed.content


async def test_a_frame_that_is_not_whole_or_compressed_otherwise(asked: Asked) -> None:
    web = "application/grpc-web+proto"
    whole = framed(_boolean("boolean"))
    for body in (b"", whole[:-1], whole + whole, b"\x02" + whole[1:]):
        assert b"grpc-status: 3\r\n" in (await asked.post(BOOLEAN, body, web)).content
    packed = framed(gzip.compress(_boolean("boolean")), flags=1)
    assert b"grpc-status: 0\r\n" in (await asked.post(BOOLEAN, packed, web, grpc_encoding="gzip")).content


async def test_an_event_stream_announces_changes_until_its_client_leaves(asked: Asked) -> None:
    path = f"/{V1}/EventStream"
    async with asked.http.stream("POST", path, content=framed(b"{}"), headers={"content-type": STREAM_JSON}) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, STREAM_JSON)
        parts, received = answer.aiter_raw(), b""
        assert asked.server.services.event_streams.active == 1
        await asked.grpc.toggle("by-country", False)
        while b'"by-country"' not in received:
            received += await asyncio.wait_for(anext(parts), 10)
        assert json.loads(frames(received)[0][1]) == {"type": "provider_ready", "data": {}}
    await until(lambda: asked.server.services.event_streams.active == 0)
    assert asked.server._admission.in_progress == (0, 0)


async def test_a_stream_in_binary_form(asked: Asked) -> None:
    body = framed(pb.WatchFlagsRequest().SerializeToString())
    answer = await asked.post(f"{OWN}/WatchFlags", body, "application/connect+proto", connect_timeout_ms="200")
    first = pb.WatchFlagsResponse.FromString(frames(answer.content)[0][1])
    assert "boolean" in {flag.key for flag in first.snapshot.flags}


def _boolean(key: str) -> bytes:
    return v1.ResolveBooleanRequest(flag_key=key).SerializeToString()
