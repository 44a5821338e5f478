"""Calls that are interrupted, answers that cannot be read, and writes whose answer is lost: both forms."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flagsvc_client import ErrorCode, FlagServiceError, Status
from flagsvc_client.failure_log import REPEAT_AFTER_S, FailureLog
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb

from flagsvc.core.evaluation import RULES
from tests.client.forms import FORMS, asked
from tests.replicas import replica, until

SETTINGS = pb.EvaluationSettings(requires=[RULES])
SNAPSHOT = pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot(), resume_revision=7, evaluation=SETTINGS)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def test_closing_a_client_ends_calls_in_progress_with_the_default(form: str) -> None:
    async def never(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with answering(EvaluateFlag=never) as target, asked(form, target, timeout_s=20.0) as client:
        asking = asyncio.create_task(client.details("a", default=True))
        await asyncio.sleep(0.3)
        await client.close()
        found = await asyncio.wait_for(asking, 10)
        assert (found.value, found.error_code is None) == (True, False)


async def test_closing_a_client_ends_its_watch(form: str, tmp_path: Path) -> None:
    async with (
        replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (_, server),
        asked(form, f"127.0.0.1:{server.port}") as client,
    ):
        events = client.watched()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0.3)
        await client.close()
        assert await asyncio.wait_for(waiting, 10) is None


async def test_a_cancelled_caller_stays_cancelled() -> None:
    async def never(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with answering(EvaluateFlag=never) as target, asked("aio", target, timeout_s=20.0) as client:
        asking = asyncio.create_task(client.details("a", default=True))
        await asyncio.sleep(0.3)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("local", [False, True], ids=["watch", "local"])
async def test_a_silent_stream_is_opened_again(form: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"flagsvc_client.transport.{form}.IDLE_TIMEOUT_S", 0.3)
    snapshot = pb.WatchFlagsResponse(
        snapshot=pb.FlagSnapshot(), resume_revision=7, evaluation=SETTINGS
    ).SerializeToString()
    requests: list[pb.WatchFlagsRequest] = []

    async def silent(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        requests.append(pb.WatchFlagsRequest.FromString(request))
        yield snapshot
        await asyncio.sleep(30)

    async with answering(WatchFlags=silent) as target, asked(form, target, local=local) as client:
        if local:
            assert await client.wait_ready()
            await until(lambda: len(requests) > 2)
        else:
            events = client.watched()
            for _ in range(3):
                await asyncio.wait_for(anext(events), 10)
            await events.aclose()
        assert [request.resume_revision for request in requests[:3]] == [0, 7, 7]


async def test_a_client_closes_while_messages_arrive(form: str) -> None:
    message = pb.WatchFlagsResponse(
        snapshot=pb.FlagSnapshot(), resume_revision=7, evaluation=SETTINGS
    ).SerializeToString()

    async def flood(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield message

    async with answering(WatchFlags=flood) as target:
        for _ in range(30):
            async with asked(form, target, local=True) as client:
                assert await client.wait_ready()
                await asyncio.wait_for(client.close(), 10)


async def test_details_of_a_failure_that_cannot_be_read_are_left_out(form: str) -> None:
    info = b"\x0a\x28type.googleapis.com/google.rpc.ErrorInfo\x12\x02\xff\xff"
    trailer = (("grpc-status-details-bin", b"\x08\x0d\x1a" + bytes([len(info)]) + info),)

    async def fail(_request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "no", trailer)

    async with answering(EvaluateFlag=fail) as target, asked(form, target, timeout_s=5.0) as client:
        found = await client.details("a", default=True)
        assert (found.value, found.error_code, found.error_message) == (True, ErrorCode.GENERAL, "no")


async def test_a_value_that_no_request_can_hold_is_an_error_with_the_default(form: str) -> None:
    async with asked(form, "127.0.0.1:1") as client:
        for named in ({"key": "\ud800"}, {"key": "a", "min_revision": 2**70}):
            found = await client.details(default=True, **named)
            assert (found.value, found.error_code) == (True, ErrorCode.GENERAL)
        assert await client.batch(["\ud800"]) != {}


@pytest.mark.parametrize("with_etag", [False, True])
async def test_a_toggle_whose_answer_is_lost_is_not_sent_again(form: str, tmp_path: Path, with_etag: bool) -> None:
    """A second toggle would switch on what somebody switched off meanwhile."""
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (direct, server):
        created = await direct.create("a")
        toggle = direct.channel.unary_unary("/flagsvc.v1.FlagService/ToggleFlag")

        async def lost(request: bytes, context: Any) -> None:
            await toggle(request)
            await direct.toggle("a", False)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")

        async with answering(ToggleFlag=lost) as target, asked(form, target) as client:
            with pytest.raises(FlagServiceError) as failed:
                await client.toggle("a", True, etag=created.etag if with_etag else "")
            assert failed.value.code is grpc.StatusCode.UNAVAILABLE
        async with asked(form, f"127.0.0.1:{server.port}") as client:
            assert (await client.flag("a")).status is Status.DISABLED
            assert [entry.action for entry in await client.history("a")] == ["DISABLED", "ENABLED", "CREATED"]


def test_many_unknown_keys_do_not_fill_the_log_nor_hide_other_problems(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog()
    with caplog.at_level(logging.WARNING, "flagsvc_client"):
        for number in range(2_000):
            failures.warn("evaluation_failed", f"FLAG_NOT_FOUND {number}", "flag", "no")
        assert len(caplog.records) < 200
        failures.warn("evaluation_failed", "UNAVAILABLE", "flag", "down")
        assert "UNAVAILABLE" in caplog.records[-1].getMessage()
        assert {record.event for record in caplog.records} == {"evaluation_failed"}
    assert REPEAT_AFTER_S > 1


@contextlib.asynccontextmanager
async def answering(**handlers: Any) -> AsyncIterator[str]:
    """A server with handlers of bytes by method name; yields its target."""
    server = grpc.aio.server()
    made = {
        name: grpc.unary_stream_rpc_method_handler(handler)
        if inspect.isasyncgenfunction(handler)
        else grpc.unary_unary_rpc_method_handler(handler)
        for name, handler in handlers.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("flagsvc.v1.FlagService", made),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
