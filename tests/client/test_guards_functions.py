"""`require_feature` on handlers and on any function; the dependency for web backends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import fastapi
import grpc
import httpx
import pytest
from flagsvc_client import AsyncFlagClient
from flagsvc_client import FlagClient as SyncClient
from flagsvc_client.guards import FeatureCheckFailed, FeatureDisabled, require_feature
from flagsvc_client.guards import aio as aio_guards
from flagsvc_client.guards import sync as sync_guards
from flagsvc_client.guards.asgi import FeatureRefused, RequireFeature, feature_refused
from flagsvc_client.guards.calling import CallGuard, call_guards
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.client.guarded_flags import Flags, flag_server
from tests.client.guarded_services import EXPECTED, HANDLERS, KINDS, Seen, call, serving
from tests.replicas import info_of
from tests.servers import free_port

OFF = 'Feature "off" is not enabled'


@pytest.fixture(scope="module")
async def flags(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flags]:
    async with flag_server(tmp_path_factory.mktemp("functions")) as running:
        yield running


@pytest.fixture
async def client(flags: Flags) -> AsyncIterator[AsyncFlagClient]:
    async with AsyncFlagClient(flags.target) as client:
        yield client


@pytest.fixture
def sync_client(flags: Flags) -> Iterator[SyncClient]:
    with SyncClient(flags.target) as client:
        yield client


@pytest.mark.parametrize("form", ["asyncio", "asyncio writers", "sync"])
async def test_a_decorated_handler_ends_its_call(form: str, client: AsyncFlagClient, sync_client: SyncClient) -> None:
    seen = Seen()
    for flag in ("on", "off"):
        decorate = require_feature(flag, client=sync_client if form == "sync" else lambda: client)
        functions = {kind: decorate(function) for kind, function in HANDLERS[form](seen).items()}
        async with serving(form, functions=functions) as (address, _), grpc.aio.insecure_channel(address) as channel:
            for kind in KINDS:
                if flag == "on":
                    assert await call(channel, kind) == EXPECTED[kind]
                    continue
                seen.calls.clear()
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await call(channel, kind)
                assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, OFF)
                assert dict(info_of(failure.value).metadata) == {"feature": "off", "status": "DISABLED"}
                assert seen.calls == []


async def test_a_decorated_method_reads_its_callers_headers(client: AsyncFlagClient) -> None:
    class Servicer:
        @require_feature("paid", client=client)
        async def unary_unary(self, request: bytes, _: Any) -> bytes:
            return b"answer to " + request

    functions = {"unary_unary": Servicer().unary_unary}
    async with serving("asyncio", functions=functions) as (address, _):  # noqa: SIM117
        async with grpc.aio.insecure_channel(address) as channel:
            assert await call(channel, "unary_unary", metadata=[("flagsvc-context-plan", "paid")])
            with pytest.raises(grpc.aio.AioRpcError, match='Feature "paid" is not enabled'):
                await call(channel, "unary_unary")


async def test_any_asyncio_function_raises(client: AsyncFlagClient) -> None:
    def guarded(flag: str, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        @require_feature(flag, client=client, **options)
        async def one(plan: str) -> str:
            return plan

        @require_feature(flag, client=client, **options)
        async def many(plan: str) -> AsyncIterator[str]:
            yield plan

        return one, many

    one, many = guarded("on")
    assert await one("x") == "x"
    assert [plan async for plan in many("x")] == ["x"]
    one, many = guarded("off")
    with pytest.raises(FeatureDisabled, match=OFF) as failure:
        await one("x")
    assert (failure.value.feature, failure.value.status) == ("off", "DISABLED")
    with pytest.raises(FeatureDisabled, match=OFF):
        await anext(many("x"))
    one, _ = guarded("paid", context=lambda plan: {"plan": plan})
    assert await one("paid") == "paid"
    with pytest.raises(PermissionError):
        await one(plan="free")


async def test_any_other_function_raises(sync_client: SyncClient) -> None:
    await asyncio.to_thread(_call_functions, sync_client)


def _call_functions(sync_client: SyncClient) -> None:
    @require_feature("off", client=sync_client)
    def one() -> None:
        raise AssertionError

    @require_feature("off", client=sync_client)
    def many() -> Iterator[int]:
        yield 1

    with pytest.raises(FeatureDisabled, match=OFF):
        one()
    with pytest.raises(FeatureDisabled, match=OFF):
        next(many())

    @require_feature("on", client=sync_client)
    def named(value: int) -> int:
        """Doc."""
        return value

    assert named(1) == 1
    assert (named.__name__, named.__doc__) == ("named", "Doc.")


async def test_what_cannot_be_evaluated_raises_unless_it_may_pass() -> None:
    async with AsyncFlagClient(f"127.0.0.1:{free_port()}") as client:

        async def work() -> str:
            return "done"

        with pytest.raises(FeatureCheckFailed, match='Unable to verify feature "on"'):
            await require_feature("on", client=client)(work)()
        assert await require_feature("on", client=client, on_trouble="open")(work)() == "done"


async def test_a_client_of_the_other_form_is_reported(client: AsyncFlagClient, sync_client: SyncClient) -> None:
    @require_feature("on", client=sync_client)
    async def work() -> None:
        pass

    with pytest.raises(TypeError, match=r"needs a flagsvc_client\.AsyncFlagClient"):
        await work()

    @require_feature("on", client=lambda: client)
    def other() -> None:
        pass

    with pytest.raises(TypeError, match=r"needs a flagsvc_client\.FlagClient"):
        other()

    for make in (aio_guards.FlagGuard, call_guards):
        with pytest.raises(TypeError, match=r"needs a flagsvc_client\.AsyncFlagClient"):
            make(sync_client, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"needs a flagsvc_client\.AsyncFlagClient"):
        RequireFeature(sync_client, "on")  # type: ignore[arg-type]
    for make_sync in (sync_guards.FlagGuard, CallGuard):
        with pytest.raises(TypeError, match=r"needs a flagsvc_client\.FlagClient"):
            make_sync(client, {})  # type: ignore[arg-type]


def by_header(connection: HTTPConnection) -> dict[str, str]:
    return {"plan": connection.headers.get("x-plan", "free")}


async def fetch(app: Any, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as http:
        return await http.get(path, headers=headers)


def fastapi_app(client: AsyncFlagClient) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    for flag in ("on", "off", "paid", "unknown"):

        @app.get(f"/{flag}", dependencies=[fastapi.Depends(RequireFeature(client, flag, context_of=by_header))])
        async def route() -> str:
            return "served"

    return app


async def test_fastapi_routes_are_guarded(client: AsyncFlagClient) -> None:
    app = fastapi_app(client)
    assert (await fetch(app, "/on")).json() == "served"
    assert (await fetch(app, "/paid", **{"x-plan": "paid"})).json() == "served"
    assert (await fetch(app, "/paid")).status_code == 403
    bare = await fetch(app, "/off")
    assert (bare.status_code, bare.json()) == (403, {"detail": OFF})
    app = fastapi_app(client)
    app.add_exception_handler(FeatureRefused, feature_refused)
    full = await fetch(app, "/off")
    expected = {"detail": OFF, "code": "FEATURE_DISABLED", "feature": "off", "status": "DISABLED"}
    assert (full.status_code, full.json()) == (403, expected)
    assert (await fetch(app, "/unknown")).json()["status"] == "NOT_FOUND"


async def test_a_backend_reports_when_it_could_not_evaluate() -> None:
    async with AsyncFlagClient(f"127.0.0.1:{free_port()}") as client:
        app = fastapi_app(client)
        app.add_exception_handler(FeatureRefused, feature_refused)
        answer = await fetch(app, "/on")
        expected = {"detail": 'Unable to verify feature "on"', "code": "FEATURE_CHECK_FAILED", "feature": "on"}
        assert (answer.status_code, answer.json()) == (503, expected)
        assert answer.headers["retry-after"] == "1"


async def test_starlette_endpoints_are_guarded(client: AsyncFlagClient) -> None:
    require = RequireFeature(client, "off")

    async def endpoint(request: Request) -> PlainTextResponse:
        await require(request)
        return PlainTextResponse("served")

    app = Starlette(routes=[Route("/", endpoint)], exception_handlers={FeatureRefused: feature_refused})
    answer = await fetch(app, "/")
    assert (answer.status_code, answer.json()["code"]) == (403, "FEATURE_DISABLED")
