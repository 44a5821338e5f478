"""The Python client against a real server, both forms."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flagsvc_client import (
    Change,
    ErrorCode,
    EvaluationContext,
    EvaluationDetails,
    Flag,
    FlagClient,
    FlagServiceError,
    Reason,
    Snapshot,
    Source,
    Status,
    WriteLevel,
)

from flagsvc.core.validation import MAX_CONTEXT_VALUES
from tests.client.forms import FORMS, Asked, asked
from tests.replicas import replica

PRO = '{"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}'
ON_FOR_ANNA = '{"if": [{"==": [{"var": "targetingKey"}, "anna"]}, "on", "off"]}'


@pytest.fixture(params=FORMS)
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Asked]:
    async with (
        replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (_, server),
        asked(request.param, f"127.0.0.1:{server.port}", on_behalf_of="anna", timeout_s=5.0) as client,
    ):
        await client.create(Flag(key="on", status=Status.ENABLED, metadata={"team": "search", "tier": 2}))
        await client.create(Flag(key="off"))
        await client.create(Flag(key="pro", status=Status.ENABLED, targeting=PRO))
        await client.create(Flag(key="anna", status=Status.ENABLED, targeting=ON_FOR_ANNA))
        for key, value in (("text", "blue"), ("limit", 52_428_800), ("ratio", 0.25), ("colours", {"a": [1, None]})):
            await client.create(Flag(key=key, status=Status.ENABLED, variants={"a": value}, default_variant="a"))
        yield client


async def test_values_of_all_types(client: Asked) -> None:
    assert await client.is_enabled("on") is True
    assert await client.is_enabled("off", default=True) is False
    assert await client.get_bool("on", default=False) is True
    assert await client.get_bool("off", default=True) is True
    assert await client.get_str("text", default="red") == "blue"
    assert await client.get_int("limit", default=1) == 52_428_800
    assert await client.get_float("ratio", default=1.5) == 0.25
    widened = await client.get_float("limit", default=1)
    assert (widened, type(widened)) == (52_428_800.0, float)
    assert await client.get_object("colours", default={}) == {"a": [1, None]}


async def test_details_explain_a_value(client: Asked) -> None:
    found = await client.details("on", default=False)
    assert found.flag_metadata == {"team": "search", "tier": 2}
    assert (found.value, found.variant, found.reason, found.error_code) == (True, "on", Reason.STATIC, None)
    assert (found.status, found.enabled, found.revision, found.source) == ("ENABLED", True, 1, Source.NEAR_CACHE)
    off = await client.details("off", default=True)
    assert (off.value, off.variant, off.reason, off.enabled) == (True, None, Reason.DISABLED, False)


@pytest.mark.parametrize(
    "context",
    [{"targetingKey": "anna", "plan": "pro"}, EvaluationContext("anna", {"plan": "pro"})],
    ids=["dict", "own"],
)
async def test_contexts(client: Asked, context: Any) -> None:
    found = await client.details("pro", context, default=False)
    assert (found.value, found.reason) == (True, Reason.TARGETING_MATCH)
    assert await client.is_enabled("anna", context) is True
    assert await client.is_enabled("pro", {"plan": "free"}) is False


async def test_an_unknown_flag_is_off_and_leaves_the_default(client: Asked, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        assert await client.is_enabled("nope", default=True) is False
    found = await client.details("nope", default="x")
    assert (found.value, found.reason, found.error_code) == ("x", Reason.ERROR, ErrorCode.FLAG_NOT_FOUND)
    logged = [r for r in caplog.records if r.name == "flagsvc_client"]
    assert len(logged) == 1, "a thousand lines with the same message"
    assert "'nope'" in logged[0].getMessage()


async def test_a_flag_of_another_type_leaves_the_default(client: Asked) -> None:
    found = await client.details("text", default=True)
    assert (found.value, found.error_code) == (True, ErrorCode.TYPE_MISMATCH)


@pytest.mark.parametrize(
    ("method", "default"),
    [("get_bool", 1), ("get_bool", None), ("get_str", b"x"), ("get_int", True), ("get_int", 1.0), ("get_float", "1"),
     ("get_object", [1]), ("details", None), ("details", [1]), ("details", object())],
)  # fmt: skip
async def test_a_default_of_the_wrong_type_is_reported_at_once(client: Asked, method: str, default: object) -> None:
    with pytest.raises(TypeError, match=r"default is .* must be"):
        await getattr(client, method)("on", default=default)


async def test_an_is_enabled_default_must_be_a_bool(client: Asked) -> None:
    with pytest.raises(TypeError, match="default is 'yes'"):
        await client.is_enabled("on", default="yes")


MANY_VALUES = {"list": [0] * MAX_CONTEXT_VALUES}


async def test_a_context_may_have_as_many_values_as_the_server_takes_and_the_refusal_has_its_words(
    client: Asked,
) -> None:
    allowed = await client.details("on", {"targetingKey": "anna", "list": MANY_VALUES["list"][1:]}, default=False)
    assert (allowed.value, allowed.error_code) == (True, None)
    refused = await client.details("on", MANY_VALUES, default=False)
    assert "context is 'more fields'; it must be at most 5000 fields and list elements" in refused.error_message


@pytest.mark.parametrize(
    "context",
    [{"a": object()}, {1: "x"}, {"a": 2**70}, {"a": float("nan")}, "anna", {"targetingKey": 5}, MANY_VALUES],
)
async def test_a_context_that_is_none_leaves_the_default(client: Asked, context: Any) -> None:
    found = await client.details("on", context, default=False)
    assert (found.value, found.error_code) == (False, ErrorCode.INVALID_CONTEXT)
    assert (await client.batch(["on"], context))["on"].error_code is ErrorCode.INVALID_CONTEXT


async def test_batch(client: Asked) -> None:
    found = await client.batch(["on", "off", "nope", "text"])
    assert {k: (d.value, d.reason) for k, d in found.items()} == {
        "on": (True, Reason.STATIC),
        "off": (None, Reason.DISABLED),
        "nope": (None, Reason.ERROR),
        "text": ("blue", Reason.STATIC),
    }
    assert len(await client.batch()) == 8


async def test_definitions_and_writes(client: Asked) -> None:
    written = await client.toggle("off", True, reason="launch", wait_for=WriteLevel.APPLIED, wait_timeout_s=0.5)
    assert written.flag.status is Status.ENABLED
    assert (written.reached, len(written.applied_by), written.lagging) == (WriteLevel.APPLIED, 1, ())
    flag = await client.flag("off")
    assert flag.revision == written.revision
    [entry, *_] = await client.history("off")
    assert (entry.action, entry.actor, entry.reason, entry.revision) == ("ENABLED", "anna", "launch", flag.revision)
    updated = await client.update(Flag(key="off", name="Launch", config={"a": 1}), ["name", "config"], etag=flag.etag)
    assert (updated.flag.name, updated.flag.config, updated.flag.status) == ("Launch", {"a": 1}, Status.ENABLED)
    with pytest.raises(FlagServiceError) as conflict:
        await client.toggle("off", False, etag=flag.etag)
    assert (conflict.value.code, conflict.value.reason) == (grpc.StatusCode.ABORTED, "FLAG_VERSION_CONFLICT")
    deleted = await client.delete("off")
    assert deleted.flag is None
    assert deleted.revision > updated.revision
    with pytest.raises(FlagServiceError) as missing:
        await client.flag("off")
    assert (missing.value.code, missing.value.metadata) == (grpc.StatusCode.NOT_FOUND, {"flagKey": "off"})


async def test_bad_input_names_the_field(client: Asked) -> None:
    with pytest.raises(FlagServiceError) as bad:
        await client.create(Flag(key="x" * 300))
    assert bad.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [v.field for v in bad.value.violations] == ["flag.key"]
    with pytest.raises(FlagServiceError, match=r"flag.config\[a\]"):
        await client.create(Flag(key="x", config={"a": object()}))


async def test_lists_are_read_completely(client: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"flagsvc_client.definitions.{client.form}.PAGE_SIZE", 3)
    assert len(await client.flags()) == 8


async def test_own_writes_are_required_by_evaluations(client: Asked) -> None:
    written = await client.toggle("on", False)
    assert client.client._session.evaluate_request("on", None, 0, 0).min_revision == written.revision
    assert await client.is_enabled("on") is False


async def test_watch(client: Asked) -> None:
    events = client.watched()
    first = await anext(events)
    assert isinstance(first, Snapshot)
    assert len(first.flags) == 8
    written = await client.toggle("on", False)
    assert await anext(events) == Change("on", written.flag, written.revision)
    await client.delete("on")
    gone = await anext(events)
    assert (gone.key, gone.flag) == ("on", None)
    await events.aclose()


async def test_errors_are_raised_where_requested(client: Asked) -> None:
    target = client.client._transport._target
    async with asked(client.form, target, raise_errors=True) as strict:
        assert await strict.is_enabled("on")
        with pytest.raises(FlagServiceError) as unknown:
            await strict.is_enabled("nope")
        assert unknown.value.reason == ErrorCode.FLAG_NOT_FOUND


@pytest.mark.parametrize(
    "target", ["", "localhost", "http://localhost:8013", "localhost:0", "localhost:99999", ":8013"]
)
def test_an_invalid_target_is_reported_at_once(target: str) -> None:
    with pytest.raises(ValueError, match=r"target is .* it must be HOST:PORT"):
        FlagClient(target)


@pytest.mark.parametrize(
    "order",
    ["flagsvc_client,flagsvc.server,openfeature.contrib.provider.flagd", "flagsvc.server,flagsvc_client.aio",
     "openfeature.contrib.provider.flagd,flagsvc_client,flagsvc.server"],
)  # fmt: skip
def test_one_process_holds_client_server_and_flagds_provider(order: str) -> None:
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1].split(',')]"
    subprocess.run([sys.executable, "-c", code, order], check=True)


def test_the_client_needs_neither_the_server_nor_the_packages_of_local_evaluation() -> None:
    code = "import sys, flagsvc_client, flagsvc_client.aio; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"flagsvc", "redis", "motor", "pymongo", "mmh3", "cbor2", "semver", "openfeature"} & set(names)


def test_types_follow_the_default() -> None:
    client = FlagClient("127.0.0.1:1")
    found: EvaluationDetails[str] = client.details("x", default="y", timeout_s=1)
    assert found.value == "y"
    client.close()
