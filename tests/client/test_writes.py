"""Writes by field, for whom they are made, and the kinds of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flagsvc_client import (
    DeadlineExceeded,
    Flag,
    FlagConflict,
    FlagExists,
    FlagNotFound,
    FlagServiceError,
    InvalidArgument,
    PermissionDenied,
    RateLimited,
    Status,
    TypeMismatch,
    Unauthenticated,
    Unavailable,
)
from flagsvc_client.errors import failure

from tests.client.forms import FORMS, Asked, asked
from tests.replicas import replica


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder: Path = tmp_path_factory.mktemp("writes")
    async with replica(store_url=f"sqlite:///{folder}/flags.db") as (_, server):
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(params=FORMS)
async def client(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Asked]:
    async with asked(request.param, target, timeout_s=5.0, on_behalf_of="the console") as client:
        yield client


async def test_fields_are_set_without_a_whole_flag(client: Asked) -> None:
    key = f"fields-{client.form}"
    created = await client.create(Flag(key=key, name="Before", owner="search"))
    written = await client.set(key, status="beta", config={"a": 1}, owner=None, reason="try")
    flag = written.flag
    assert (flag.status, flag.config, flag.owner, flag.name) == (Status.BETA, {"a": 1}, None, "Before")
    rule = {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}
    assert (await client.set(key, status=Status.ENABLED, targeting=rule)).flag.status is Status.ENABLED
    assert await client.is_enabled(key, {"plan": "pro"}) is True
    assert await client.is_enabled(key, {"plan": "free"}) is False
    with pytest.raises(FlagConflict):
        await client.set(key, name="Late", etag=created.flag.etag)
    [_, entry, *_] = await client.history(key)
    assert entry.reason == "try"


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"status": "ON"}, ValueError, "status is 'ON'; it must be one of ENABLED, DISABLED, BETA, DEPRECATED"),
        ({"stats": "ENABLED"}, TypeError, "a flag has no field 'stats' that can be set; did you mean 'status'"),
        ({"revision": 4}, TypeError, "no field 'revision' that can be set; it must be one of name, description"),
        ({}, TypeError, "no field of flag 'x' is given; such as status='ENABLED'"),
        ({"config": {"a": object()}}, InvalidArgument, r"flag.config\[a\]"),
    ],
)
async def test_a_bad_field_is_named_with_what_is_right(
    client: Asked, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await client.set("x", **fields)


async def test_each_write_says_for_whom_it_is(client: Asked) -> None:
    key = f"whom-{client.form}"
    await client.create(Flag(key=key))
    await client.toggle(key, True, on_behalf_of="anna")
    await client.set(key, name="x", on_behalf_of="ben")
    await client.update(Flag(key=key, name="y"), ["name"], on_behalf_of="carl")
    await client.delete(key, on_behalf_of="dora")
    authors = [entry.actor for entry in await client.history(key)]
    assert authors == ["dora", "carl", "ben", "anna", "the console"]


async def test_errors_are_of_kinds(client: Asked) -> None:
    key = f"kinds-{client.form}"
    written = await client.create(Flag(key=key, status=Status.ENABLED))
    with pytest.raises(FlagExists):
        await client.create(Flag(key=key))
    with pytest.raises(FlagNotFound) as missing:
        await client.flag("nope")
    assert missing.value.metadata == {"flagKey": "nope"}
    with pytest.raises(FlagNotFound):
        await client.set("nope", status="ENABLED")
    await client.set(key, name="newer")
    with pytest.raises(FlagConflict):
        await client.toggle(key, False, etag=written.flag.etag)
    with pytest.raises(InvalidArgument) as bad:
        await client.create(Flag(key="x" * 300))
    assert [violation.field for violation in bad.value.violations] == ["flag.key"]
    async with asked(client.form, client.client._transport._target, raise_errors=True) as strict:
        with pytest.raises(TypeMismatch):
            await strict.details(key, default="text")
        with pytest.raises(FlagNotFound):
            await strict.get_bool("nope", default=True)
        with pytest.raises(InvalidArgument, match=r"context\[a\]"):
            await strict.get_bool(key, {"a": object()}, default=True)


def test_every_kind_has_its_code() -> None:
    kinds = {
        "PERMISSION_DENIED": PermissionDenied,
        "UNAUTHENTICATED": Unauthenticated,
        "UNAVAILABLE": Unavailable,
        "DEADLINE_EXCEEDED": DeadlineExceeded,
        "RESOURCE_EXHAUSTED": RateLimited,
        "INTERNAL": FlagServiceError,
    }
    assert {code: type(failure(grpc.StatusCode[code], "why")) for code in kinds} == kinds
    assert issubclass(DeadlineExceeded, Unavailable)
