"""Client interceptors: a call that would be refused is not sent, and fails as if it had been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from flagsvc_client import AsyncFlagClient
from flagsvc_client import FlagClient as SyncClient
from flagsvc_client.guards.calling import CallGuard, call_guards

from tests.client.guarded_flags import ALL, Flags, flag_server
from tests.client.guarded_services import EXPECTED, KINDS, SERVICE, call, call_sync, serving
from tests.replicas import info_of
from tests.servers import free_port


@pytest.fixture(scope="module")
async def flags(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flags]:
    async with flag_server(tmp_path_factory.mktemp("calling")) as running:
        yield running


def assert_refused(error: Any) -> None:
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, 'Feature "off" is not enabled')
    assert info_of(error).reason == "FEATURE_DISABLED"
    assert dict(info_of(error).metadata) == {"feature": "off", "status": "DISABLED"}


async def test_asyncio_calls_are_refused_before_they_are_sent(flags: Flags) -> None:
    async with AsyncFlagClient(flags.target) as client, serving("asyncio") as (address, seen):
        async with grpc.aio.insecure_channel(address, interceptors=call_guards(client, {ALL: "on"})) as channel:
            for kind in KINDS:
                assert await call(channel, kind) == EXPECTED[kind]
        seen.calls.clear()
        async with grpc.aio.insecure_channel(address, interceptors=call_guards(client, {ALL: "off"})) as channel:
            for kind in KINDS:
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await call(channel, kind)
                assert_refused(failure.value)
            upload = channel.stream_unary(f"/{SERVICE}/stream_unary")()
            with pytest.raises(asyncio.InvalidStateError):
                await upload.write(b"part")
            assert await upload.code() is grpc.StatusCode.PERMISSION_DENIED
            assert upload.done()
            channel.unary_unary(f"/{SERVICE}/unary_unary")(b"nobody waits for this one")
            await asyncio.sleep(0.05)
        assert seen.calls == []


async def test_synchronous_calls_are_refused_before_they_are_sent(flags: Flags) -> None:
    async with serving("sync") as (address, seen):
        await asyncio.to_thread(_calls_of_a_thread, flags.target, address, seen)


def _calls_of_a_thread(target: str, address: str, seen: Any) -> None:
    with SyncClient(target) as client, grpc.insecure_channel(address) as plain:
        channel = grpc.intercept_channel(plain, CallGuard(client, {ALL: "on"}))
        for kind in KINDS:
            assert call_sync(channel, kind) == EXPECTED[kind]
        seen.calls.clear()
        channel = grpc.intercept_channel(plain, CallGuard(client, {ALL: "off"}))
        for kind in KINDS:
            with pytest.raises(grpc.RpcError) as failure:
                call_sync(channel, kind)
            assert_refused(failure.value)
        future = channel.unary_unary(f"/{SERVICE}/unary_unary").future(b"hello")
        called: list[Any] = []
        future.add_done_callback(called.append)
        assert called == [future]
        assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
        assert_refused(future.exception())
        with pytest.raises(grpc.RpcError):
            future.result()
        assert seen.calls == []


async def test_the_context_is_made_from_the_metadata_that_would_be_sent(flags: Flags) -> None:
    async with AsyncFlagClient(flags.target) as client, serving("asyncio") as (address, _):  # noqa: SIM117
        async with grpc.aio.insecure_channel(address, interceptors=call_guards(client, {ALL: "paid"})) as channel:
            assert await call(channel, "unary_unary", metadata=[("flagsvc-context-plan", "paid")])
            with pytest.raises(grpc.aio.AioRpcError, match='Feature "paid" is not enabled'):
                await call(channel, "unary_unary")


async def test_methods_without_a_rule_are_sent(flags: Flags) -> None:
    async with AsyncFlagClient(f"127.0.0.1:{free_port()}") as client, serving("asyncio") as (address, _):
        rules = {f"/{SERVICE}/unary_stream": "on"}
        async with grpc.aio.insecure_channel(address, interceptors=call_guards(client, rules)) as channel:
            assert await call(channel, "unary_unary") == EXPECTED["unary_unary"]
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(channel, "unary_stream")
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            assert info_of(failure.value).reason == "FEATURE_CHECK_FAILED"
