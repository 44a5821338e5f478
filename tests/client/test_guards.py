"""Server interceptors: every kind of method, in every form of handler, on asyncio and synchronous servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from flagsvc_client import AsyncFlagClient
from flagsvc_client.guards import Rule
from flagsvc_client.guards.aio import FlagGuard

from tests.client.guarded_flags import ALL, Flags, flag_server, guarded, refused
from tests.client.guarded_services import EXPECTED, FORMS, KINDS, SERVICE, call, serving
from tests.replicas import info_of
from tests.servers import free_port


@pytest.fixture(scope="module")
async def flags(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flags]:
    async with flag_server(tmp_path_factory.mktemp("guards")) as running:
        yield running


@pytest.mark.parametrize("form", FORMS)
async def test_a_call_passes_while_its_flag_is_on_and_is_refused_while_it_is_off(form: str, flags: Flags) -> None:
    for end_streams in (False, True):
        async with guarded(form, flags.target, {ALL: "on"}, end_streams=end_streams) as (channel, seen):
            for kind in KINDS:
                assert await call(channel, kind) == EXPECTED[kind]
        async with guarded(form, flags.target, {ALL: "off"}, end_streams=end_streams) as (channel, seen):
            for kind in KINDS:
                error = await refused(channel, kind)
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                assert error.details() == 'Feature "off" is not enabled'
                assert info_of(error).reason == "FEATURE_DISABLED"
                assert info_of(error).domain == "flagsvc"
                assert dict(info_of(error).metadata) == {"feature": "off", "status": "DISABLED"}
            assert seen.calls == []


@pytest.mark.parametrize("form", FORMS)
async def test_what_cannot_be_evaluated_is_refused_unless_the_method_allows_it(form: str, flags: Flags) -> None:
    rules = {ALL: "on", f"/{SERVICE}/unary_unary": Rule("on", on_trouble="open")}
    async with guarded(form, f"127.0.0.1:{free_port()}", rules) as (channel, seen):
        error = await refused(channel, "unary_stream")
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == 'Unable to verify feature "on"'
        assert info_of(error).reason == "FEATURE_CHECK_FAILED"
        assert dict(info_of(error).metadata) == {"feature": "on"}
        assert seen.calls == []
        assert await call(channel, "unary_unary") == EXPECTED["unary_unary"]


@pytest.mark.parametrize("form", ["asyncio", "sync"])
async def test_statuses_and_keys_that_are_not_on(form: str, flags: Flags) -> None:
    rules = {f"/{SERVICE}/unary_unary": "beta", f"/{SERVICE}/unary_stream": "no-such-flag", ALL: "text"}
    async with guarded(form, flags.target, rules) as (channel, _):
        assert dict(info_of(await refused(channel, "unary_unary")).metadata) == {"feature": "beta", "status": "BETA"}
        unknown = await refused(channel, "unary_stream")
        assert unknown.code() is grpc.StatusCode.PERMISSION_DENIED
        assert dict(info_of(unknown).metadata) == {"feature": "no-such-flag", "status": "NOT_FOUND"}
        assert info_of(await refused(channel, "stream_unary")).reason == "FEATURE_CHECK_FAILED"


@pytest.mark.parametrize("form", ["asyncio", "sync"])
async def test_methods_without_a_rule_pass(form: str, flags: Flags) -> None:
    async with guarded(form, flags.target, {ALL: "off", f"/{SERVICE}/unary_unary": None}) as (channel, _):
        assert await call(channel, "unary_unary") == EXPECTED["unary_unary"]
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary("/guarded.Service/nothing")(b"")
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("form", ["asyncio", "sync"])
async def test_the_context_comes_from_headers_or_from_a_callable(form: str, flags: Flags) -> None:
    paid = [("flagsvc-context-plan", "paid")]
    async with guarded(form, flags.target, {ALL: "paid"}) as (channel, _):
        assert await call(channel, "unary_unary", metadata=paid) == EXPECTED["unary_unary"]
        assert (await refused(channel, "unary_unary")).details() == 'Feature "paid" is not enabled'

    def by_token(metadata: Mapping[str, str | bytes], method: str) -> dict[str, Any]:
        return {"plan": "paid" if metadata.get("authorization") == "Bearer ada" else "free", "method": method}

    async with guarded(form, flags.target, {ALL: "paid"}, context_of=by_token) as (channel, _):
        assert await call(channel, "unary_unary", metadata=[("authorization", "Bearer ada")])
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, "unary_unary", metadata=paid)


@pytest.mark.parametrize("form", ["asyncio", "sync"])
async def test_a_callable_that_fails_refuses_and_reveals_nothing(form: str, flags: Flags) -> None:
    def failing(metadata: Any, method: str) -> dict[str, Any]:
        raise ValueError("password=secret")

    async with guarded(form, flags.target, {ALL: "on"}, context_of=failing) as (channel, seen):
        error = await refused(channel, "unary_unary")
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, 'Unable to verify feature "on"')
        assert seen.calls == []


@pytest.mark.parametrize("end_streams", [False, True])
async def test_an_error_of_the_handler_itself_passes_the_guard(end_streams: bool, flags: Flags) -> None:
    async def refuse(request: Any, context: Any) -> None:
        context.set_trailing_metadata((("own", "trailer"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")

    async def refuse_later(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")

    functions = {"unary_unary": refuse, "unary_stream": refuse_later, "stream_unary": refuse, "stream_stream": refuse}
    async with AsyncFlagClient(flags.target) as client:
        guard = FlagGuard(client, {ALL: "on"}, end_streams=end_streams)
        async with serving("asyncio", (guard,), functions) as (address, _):  # noqa: SIM117
            async with grpc.aio.insecure_channel(address) as channel:
                for kind in KINDS:
                    error = await refused(channel, kind)
                    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such order")


async def test_a_server_that_stops_ends_guarded_streams(flags: Flags) -> None:
    async with guarded("asyncio", flags.target, {ALL: "on"}, end_streams=True) as (channel, seen):
        stream = channel.unary_stream(f"/{SERVICE}/unary_stream")(b"silent", timeout=20)
        assert await stream.read() == b"silent"
    assert seen.ends == ["cancelled", "finally"]
    assert await stream.code() is not grpc.StatusCode.OK
