"""One flag over OFREP: statuses, bodies, contexts, selectors, tokens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ofrep.asking import FLAGS_PATH, Asked, asking
from tests.ofrep.conftest import MAP_LIST
from tests.providers.cases import COLORS, DISABLED, ENABLED, SELECTED_CASES, flag
from tests.replicas import replica

CH = {"country": "CH"}

ANSWERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a switch": ("switch", {}, '{"key":"switch","reason":"STATIC","variant":"on","value":true}'),
    "false": ("boolean-false", {}, '{"key":"boolean-false","reason":"STATIC","variant":"off","value":false}'),
    "no text": ("string-empty", {}, '{"key":"string-empty","reason":"STATIC","variant":"none","value":""}'),
    "an integer": ("integer", {}, '{"key":"integer","reason":"STATIC","variant":"many","value":9000000}'),
    "a float": ("float", {}, '{"key":"float","reason":"STATIC","variant":"high","value":0.75}'),
    "a whole float": ("whole-float", {}, '{"key":"whole-float","reason":"STATIC","variant":"ten","value":10}'),
    "a whole number of a flag with fractions": (
        *("float-or-whole", {}),
        '{"key":"float-or-whole","reason":"STATIC","variant":"high","value":2}',
    ),
    "a match": (
        *("by-country", CH),
        '{"key":"by-country","reason":"TARGETING_MATCH","variant":"blue","value":"#00f"}',
    ),
    "no match": ("by-country", {}, '{"key":"by-country","reason":"DEFAULT","variant":"red","value":"#f00"}'),
    "no default": ("no-default", {}, '{"key":"no-default","reason":"DEFAULT","variant":null}'),
    "disabled": ("disabled", {}, '{"key":"disabled","reason":"DISABLED","variant":null}'),
    "deprecated": ("deprecated", {}, '{"key":"deprecated","reason":"DISABLED","variant":null}'),
    "beta, not matched": ("beta", {}, '{"key":"beta","reason":"DISABLED","variant":null}'),
    "beta without rule": ("beta-no-rule", {}, '{"key":"beta-no-rule","reason":"DISABLED","variant":null}'),
}


@pytest.mark.parametrize("row", ANSWERS)
async def test_an_answer_is_exactly_this(asked: Asked, row: str) -> None:
    key, context, body = ANSWERS[row]
    found = await asked.one(key, context)
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    assert found.text == body[:-1] + ',"metadata":{}}'


async def test_an_object_and_metadata_are_returned_as_they_are(asked: Asked) -> None:
    assert (await asked.one("map")).json()["value"] == MAP_LIST
    assert (await asked.one("boolean")).json()["metadata"] == {"team": "web", "rank": 3, "live": True}


async def test_whole_numbers_are_written_as_flagd_writes_them(asked: Asked) -> None:
    """What Rust's and Java's clients take for an integer is decided by how it is written."""
    value = '{"a":10,"b":[1,0.5,{"c":2}],"large":100000000000000000000,"larger":1e+21,"text":"1.0"}'
    answer = f'"reason":"STATIC","variant":"only","value":{value},"metadata":{{"rank":7}}}}'
    assert (await asked.one("whole-floats")).text == f'{{"key":"whole-floats",{answer}'
    assert f'{{"key":"whole-floats",{answer}' in (await asked.all()).text


async def test_an_unknown_flag_is_404(asked: Asked) -> None:
    for key in ("nowhere", "x" * 300, "%01"):
        found = await asked.one(key)
        assert found.status_code == 404
        assert found.json()["errorCode"] == "FLAG_NOT_FOUND"
    details = (await asked.one("nowhere")).json()
    assert details == {
        "key": "nowhere",
        "errorCode": "FLAG_NOT_FOUND",
        "errorDetails": "flag `nowhere` does not exist",
        "metadata": {},
    }


async def test_a_key_with_any_characters_is_found(asked: Asked) -> None:
    assert (await asked.one("a%2Fb%20c%3F%C3%BC")).json()["key"] == "a/b c?ü"


async def test_a_rule_without_result_is_general_and_says_why(asked: Asked) -> None:
    found = await asked.one("chosen", {"choice": "green"})
    assert found.status_code == 400
    cause = "The targeting rule chose 'green', which is not one of the flag's variants"
    details = f"error processing the flag for evaluation: {cause}"
    assert found.json() == {"key": "chosen", "errorCode": "GENERAL", "errorDetails": details, "metadata": {}}


BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 200, "red"),
    "spaces": (b" \n", 200, "red"),
    "null": (b"null", 200, "red"),
    "no context": (b"{}", 200, "red"),
    "context null": (b'{"context": null}', 200, "red"),
    "context a list": (b'{"context": ["CH"]}', 400, "context is of type list; it must be an object"),
    "context a text": (b'{"context": "gold"}', 400, "context is of type string; it must be an object"),
    "more fields": (b'{"context": {"country": "CH"}, "other": 1}', 200, "blue"),
    "no JSON": (b'{"context": {', 400, ""),
    "a list": (b"[]", 400, "the body is of type list; it must be an object"),
    "a text": (b'"context"', 400, "the body is of type string; it must be an object"),
    "not a number": (b'{"context": {"country": NaN}}', 400, ""),
    "a field twice": (b'{"context": {"country": "CH", "country": "FR"}}', 400, ""),
    "no UTF-8": (b'{"context": {"country": "\xff"}}', 400, ""),
    "half a surrogate pair": (b'{"context": {"country": "\\ud800"}}', 400, ""),
    "nested without end": (b'{"context": ' + b'{"a":' * 25_000, 400, ""),
    "nested deep": (b'{"context": ' + b'{"a":' * 40 + b"1" + b"}" * 41, 400, ""),
    "a number of a thousand digits": (b'{"context": {"n": ' + b"9" * 1_000 + b"}}", 400, ""),
}


@pytest.mark.parametrize("row", BODIES)
async def test_a_body_is_read_or_refused(asked: Asked, row: str) -> None:
    body, status, expected = BODIES[row]
    found = await asked.http.post(f"{FLAGS_PATH}/by-country", content=body)
    assert found.status_code == status
    if status == 200:
        assert found.json()["variant"] == expected
    else:
        answer = found.json()
        assert (answer["key"], answer["errorCode"]) == ("by-country", "INVALID_CONTEXT")
        assert answer["errorDetails"].startswith("Provider context is not valid: ")
        assert expected in answer["errorDetails"]


async def test_a_context_of_the_largest_size_counts_and_one_over_it_is_refused(asked: Asked) -> None:
    room = 65_536 - len(json.dumps({"country": "CH", "more": ""}, separators=(",", ":")))
    assert (await asked.one("by-country", {**CH, "more": "x" * room})).json()["variant"] == "blue"
    found = await asked.one("by-country", {**CH, "more": "x" * (room + 1)})
    assert found.status_code == 400
    assert found.json()["errorCode"] == "INVALID_CONTEXT"
    assert "65536" in found.json()["errorDetails"]


async def chunks(size: int) -> AsyncIterator[bytes]:
    """A body without a Content-Length."""
    for _ in range(0, size, 50_000):
        yield b" " * 50_000


async def test_a_body_over_the_limit_is_413_and_the_connection_stays(asked: Asked) -> None:
    for content in (b" " * 131_073, chunks(3_000_000)):
        found = await asked.http.post(f"{FLAGS_PATH}/switch", content=content)
        assert (found.status_code, found.json()) == (413, {"errorDetails": "request body too large"})
        assert "connection" not in found.headers
    assert (await asked.http.post(f"{FLAGS_PATH}/switch", content=chunks(100_000))).status_code == 200


async def test_a_body_without_end_is_not_read_for_ever(asked: Asked) -> None:
    sent = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal sent
        async for chunk in chunks(400_000_000):
            sent += len(chunk)
            yield chunk

    with contextlib.suppress(httpx.TransportError):  # closed in the middle of it, the answer may get lost
        assert (await asked.http.post(f"{FLAGS_PATH}/switch", content=counted())).status_code == 413
    assert sent < 100_000_000


async def test_headers_take_precedence_over_configured_values_and_those_over_the_request(asked: Asked) -> None:
    sent = {"tier": "gold", "user": "ann"}
    assert (await asked.one("tier", sent)).json()["variant"] == "off"
    assert (await asked.one("tier", sent, X_Tier="gold")).json()["variant"] == "on"
    assert (await asked.one("user", sent)).json()["variant"] == "on"
    assert (await asked.one("user", sent, x_user="bob")).json()["variant"] == "off"
    assert (await asked.one("user", sent, x_user="")).json()["variant"] == "on"


@pytest.mark.parametrize("selector", ["flagSetId=tenant-a", "source=tenant-a", "tenant-a"])
async def test_a_selector_chooses_the_set_and_metadata_says_so(asked: Asked, selector: str) -> None:
    for case in SELECTED_CASES:
        found = (await asked.one(case.key, Flagd_Selector=selector)).json()
        assert found.get("value", case.default) == case.value
        assert found.get("errorCode") == case.error
    name = selector.partition("=")[0] if "=" in selector else "source"
    found = (await asked.one("only-a", Flagd_Selector=selector)).json()
    assert found["metadata"] == {"tier": "gold", name: "tenant-a"}


async def test_a_selector_by_another_key_is_refused_with_flagds_text(asked: Asked) -> None:
    found = await asked.one("boolean", Flagd_Selector="team=a")
    assert found.status_code == 400
    text = 'invalid selector: invalid selector key "team", valid keys: "flagSetId", "source"'
    error = {"errorCode": "GENERAL", "errorDetails": text, "metadata": {}}
    assert found.json() == {"key": "boolean", **error}
    assert (await asked.all(Flagd_Selector="team=a")).json() == error
    assert (await asked.http.get("/ofrep/v1/sse", params={"selector": "team=a"})).status_code == 400


async def test_a_token_is_honoured(few: Asked) -> None:
    revision = await few.set_default("color", "red")
    assert (await few.one("color", flagsvc_min_revision=str(revision))).json()["variant"] == "red"
    for answer in (
        await few.one("color", flagsvc_min_revision=str(revision + 1)),
        await few.all(flagsvc_min_revision=str(revision + 1)),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "revision" in answer.json()["errorDetails"]
    wrong = await few.one("color", flagsvc_min_revision="soon")
    assert (wrong.status_code, wrong.json()["errorCode"]) == (400, "GENERAL")


async def test_other_methods_and_paths_are_refused(asked: Asked) -> None:
    for path in (FLAGS_PATH, f"{FLAGS_PATH}/", f"{FLAGS_PATH}/switch"):
        found = await asked.http.get(path)
        assert (found.status_code, found.headers["allow"]) == (405, "POST")
    assert (await asked.http.post("/ofrep/v1/configuration")).status_code == 404
    assert "errorDetails" in (await asked.http.get("/")).json()


async def test_before_the_first_load_a_caller_is_asked_to_retry(tmp_path: Path) -> None:
    refused = "mongodb://127.0.0.1:9/flags?serverSelectionTimeoutMS=100"
    async with (
        replica(store_url=refused, store_timeout_s=0.2, ofrep_port=0) as (_, server),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http,
    ):
        found = await http.post(f"{FLAGS_PATH}/switch")
        assert (found.status_code, found.headers["retry-after"]) == (503, "1")
        assert found.json()["errorCode"] == "PROVIDER_NOT_READY"
        whole = await http.post(FLAGS_PATH)
        assert (whole.status_code, whole.headers["retry-after"]) == (503, "1")
        assert "127.0.0.1" not in found.text + whole.text


async def test_each_toggle_is_seen_by_the_next_call(tmp_path: Path) -> None:
    async with asking(tmp_path / "flags.db", [flag("color", COLORS, "blue", status=DISABLED)]) as asked:
        for enabled in (True, False) * 10:
            status = (await asked.grpc.toggle("color", enabled)).status
            assert status == (ENABLED if enabled else DISABLED)
            assert ("value" in (await asked.one("color")).json()) is enabled
