"""A context for a whole request, and hooks that see every evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from flagsvc_client import (
    AsyncFlagClient,
    ErrorCode,
    Evaluated,
    EvaluationContext,
    FlagClient,
    InvalidArgument,
    Reason,
    context_scope,
)
from flagsvc_client.wire_contexts import LIMITS, fields_of

from tests.client.forms import FORMS, asked
from tests.client.guarded_flags import Flags, flag_server
from tests.servers import free_port

local_or_not = pytest.mark.parametrize("local", [False, True], ids=["network", "local"])
PAID, FREE = {"plan": "paid"}, {"plan": "free"}


@pytest.fixture(scope="module")
async def flags(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flags]:
    async with flag_server(tmp_path_factory.mktemp("scopes")) as running:
        yield running


@local_or_not
async def test_a_scope_is_the_context_of_all_evaluations_inside(flags: Flags, local: bool) -> None:
    async with AsyncFlagClient(flags.target, local=local, timeout_s=5.0, wait_ready_s=5.0) as client:
        with context_scope(PAID):
            assert await client.is_enabled("paid") is True
            assert await client.is_enabled("paid", {"targetingKey": "anna"}) is True
            assert await client.is_enabled("paid", FREE) is False, "the caller's own takes precedence"
            assert (await client.batch(["paid"]))["paid"].value is True
            with context_scope(EvaluationContext("ben", FREE)):
                assert await client.is_enabled("paid") is False
            assert await client.is_enabled("paid") is True
        assert await client.is_enabled("paid") is False


def test_what_a_scope_starts_inherits_it() -> None:
    with context_scope(PAID):
        assert fields_of(None) == PAID
        assert asyncio.run(_fields()) == PAID


async def _fields() -> Any:
    return fields_of(None)


async def test_tasks_do_not_see_each_others_scopes() -> None:
    async def request(plan: str) -> Any:
        with context_scope({"plan": plan}):
            await asyncio.sleep(0)
            return fields_of({"targetingKey": plan})

    found = await asyncio.gather(request("paid"), request("free"))
    assert found == [{"plan": "paid", "targetingKey": "paid"}, {"plan": "free", "targetingKey": "free"}]


def test_what_is_no_context_is_reported_at_once_and_a_bad_field_by_evaluations() -> None:
    with pytest.raises(TypeError, match="context is a str"), context_scope("anna"):  # type: ignore[arg-type]
        pass
    with FlagClient(f"127.0.0.1:{free_port()}") as client, context_scope({"a": object()}):
        assert client.details("x", default=True).error_code is ErrorCode.INVALID_CONTEXT
        with pytest.raises(InvalidArgument, match=r"context\[a\]"):
            fields_of({"b": 1})
    half = {"a": [0] * (LIMITS.values // 2)}
    assert len(fields_of(half)["a"]) == LIMITS.values // 2
    with context_scope({"b": half["a"]}), pytest.raises(InvalidArgument, match="more fields"):
        fields_of(half)


@pytest.mark.parametrize("form", FORMS)
@local_or_not
async def test_hooks_see_every_evaluation(form: str, local: bool, flags: Flags) -> None:
    seen: list[Evaluated] = []
    async with asked(form, flags.target, local=local, timeout_s=5.0, wait_ready_s=5.0, hooks=[seen.append]) as client:
        await client.is_enabled("paid", PAID)
        await client.get_str("text", default="x")
        await client.batch(["on", "nope"])
        await client.get_bool("on", {"a": object()}, default=True)
        assert await client.batch((), {"a": object()}) == {}
    found = [(each.details.flag_key, each.details.reason, each.details.error_code) for each in seen]
    assert found == [
        ("paid", Reason.TARGETING_MATCH, None),
        ("text", Reason.STATIC, None),
        ("on", Reason.STATIC, None),
        ("nope", Reason.ERROR, ErrorCode.FLAG_NOT_FOUND),
        ("on", Reason.ERROR, ErrorCode.INVALID_CONTEXT),
    ]
    assert (seen[0].context, seen[0].flag_set, seen[1].details.value) == (PAID, "default", "a")


async def test_a_hook_that_fails_is_logged_and_changes_nothing(flags: Flags, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Evaluated) -> None:
        raise ValueError("no connection to the metrics")

    async with AsyncFlagClient(flags.target, timeout_s=5.0, hooks=[broken]) as client:
        for _ in range(3):
            assert await client.is_enabled("on") is True
    assert [record.event for record in caplog.records if hasattr(record, "event")] == ["hook_failed"]
