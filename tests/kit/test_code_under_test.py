"""Code that uses flags, tested without a server: guards, two TestClients of FastAPI, OpenFeature, a fixture."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import grpc
import pytest
from flagsvc_client import AsyncFlagClient
from flagsvc_client.guards import FeatureDisabled, require_feature
from flagsvc_client.guards import aio as aio_guards
from flagsvc_client.guards import sync as sync_guards
from flagsvc_client.guards.asgi import ContextMiddleware, FeatureRefused, RequireFeature, feature_refused
from flagsvc_client.openfeature import FlagsvcProvider
from flagsvc_client.testing import AsyncInMemoryFlagClient, InMemoryFlagClient, StrictError, override, use_flags
from openfeature import api
from openfeature.event import ProviderEvent
from openfeature.exception import ErrorCode

from tests.client.guarded_flags import ALL, refused
from tests.client.guarded_services import EXPECTED, KINDS, call, serving
from tests.replicas import until
from tests.servers import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have a package that is not here
    from fastapi.testclient import TestClient


def test_guarded_functions() -> None:
    flags = InMemoryFlagClient({"on": True, "off": False})
    assert require_feature("on", client=flags)(lambda: "done")() == "done"
    guarded = require_feature("off", client=flags)(lambda: "done")
    with pytest.raises(FeatureDisabled):
        guarded()
    with flags.override("off", True):
        assert guarded() == "done"
    with override("off", True):
        assert guarded() == "done"


@pytest.mark.parametrize("form", ["asyncio", "sync"])
async def test_guarded_services_of_every_kind(form: str) -> None:
    kept: Any = InMemoryFlagClient({"on": True}) if form == "sync" else AsyncInMemoryFlagClient({"on": True})
    guard = (sync_guards if form == "sync" else aio_guards).FlagGuard(kept, {ALL: "on"}, end_streams=True)
    async with serving(form, (guard,)) as (address, _), grpc.aio.insecure_channel(address) as channel:
        for kind in KINDS:
            assert await call(channel, kind) == EXPECTED[kind]
        with kept.override("on", False):
            for kind in ("unary_unary", "unary_stream"):
                assert (await refused(channel, kind)).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_guards_let_strict_mode_through() -> None:
    strict = InMemoryFlagClient({"checkout-v2": True}, strict=True)
    with pytest.raises(StrictError, match="did you mean 'checkout-v2'"):
        require_feature("checkout-v3", client=strict)(lambda: "done")()

    async def guarded() -> str:
        return "done"

    aio_strict = AsyncInMemoryFlagClient({"checkout-v2": True}, strict=True)
    with pytest.raises(StrictError):
        await require_feature("checkout-v3", client=aio_strict)(guarded)()


flags = AsyncFlagClient(f"127.0.0.1:{free_port()}", local=True)


@asynccontextmanager
async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
    async with flags:
        yield


app = fastapi.FastAPI(lifespan=lifespan, exception_handlers={FeatureRefused: feature_refused})


@app.get("/checkout", dependencies=[fastapi.Depends(RequireFeature(flags, "checkout-v2"))])
async def checkout() -> str:
    return await flags.get_str("banner-text", default="Hello")


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_backend_whose_client_is_real_and_whose_server_is_not_there(time: str) -> None:
    with use_flags({"checkout-v2": True, "banner-text": time}), TestClient(app) as http:
        assert http.get("/checkout").json() == time
        with override("checkout-v2", False):
            response = http.get("/checkout")
        assert (response.status_code, response.json()["status"]) == (403, "ENABLED")


def test_the_context_of_a_request_reaches_guards_and_evaluations() -> None:
    rule = {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}
    pro = {"variants": {"on": True, "off": False}, "defaultVariant": "off", "state": "ENABLED", "targeting": rule}
    kept = AsyncInMemoryFlagClient({"pro": pro})
    shop = fastapi.FastAPI()
    shop.add_middleware(ContextMiddleware, context_of=lambda request: {"plan": request.headers.get("x-plan")})

    @shop.get("/asynchronous", dependencies=[fastapi.Depends(RequireFeature(kept, "pro"))])
    async def asynchronous() -> bool:
        return await kept.is_enabled("pro")

    with InMemoryFlagClient(kept.in_memory) as threaded:

        @shop.get("/synchronous")
        def synchronous() -> bool:
            return threaded.is_enabled("pro")

        with TestClient(shop) as http:
            answers = [http.get(path, headers={"x-plan": "pro"}).json() for path in ("/asynchronous", "/synchronous")]
            assert answers == [True, True]
            assert http.get("/asynchronous", headers={"x-plan": "free"}).status_code == 403
            assert http.get("/synchronous").json() is False


async def test_openfeature() -> None:
    kept = InMemoryFlagClient({"on": True, "text": "blue"})
    heard: list[Any] = []
    try:
        api.set_provider_and_wait(FlagsvcProvider(client=kept), "kit")
        client = api.get_client("kit")
        client.add_handler(
            ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, lambda event: heard.append(event.flags_changed)
        )
        assert client.get_boolean_value("on", False) is True
        assert await client.get_string_value_async("text", "") == "blue"
        with kept.override("text", "red"):
            assert client.get_string_value("text", "") == "red"
        with override("on", False):
            assert client.get_boolean_value("on", True) is False
        assert client.get_boolean_details("nope", True).error_code is ErrorCode.FLAG_NOT_FOUND
    finally:
        api.clear_providers()
    await until(lambda: heard == [["text"], ["text"]])
    assert kept.is_enabled("on"), "the provider does not close a client that it was given"


@pytest.mark.parametrize("arguments", [{}, {"target": "127.0.0.1:1", "client": InMemoryFlagClient()}])
def test_a_provider_has_a_target_or_a_client(arguments: Any) -> None:
    with pytest.raises(ValueError, match="a target or a client"):
        FlagsvcProvider(**arguments)


TESTS = """
from flagsvc_client import FlagClient

flags = FlagClient("127.0.0.1:1", timeout_s=0.2)

def test_the_file(flagsvc_flags):
    assert flags.is_enabled("checkout-v2") is True
    flagsvc_flags.set("checkout-v2", False)
    assert flags.is_enabled("checkout-v2") is False

def test_each_test_begins_with_the_file(flagsvc_flags):
    assert flags.is_enabled("checkout-v2") is True

def test_without_the_fixture_nothing_is_in_place():
    assert flags.is_enabled("checkout-v2") is False

def test_a_typing_error_fails(flagsvc_flags):
    try:
        flags.is_enabled("checkout-v3")
    except AssertionError:
        pass
"""


def test_the_fixture_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nflagsvc_flags = flags.json\nflagsvc_strict = true\n")
    variants = '{"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"}'
    (tmp_path / "flags.json").write_text(f'{{"flags": {{"checkout-v2": {variants}}}}}')
    command = [sys.executable, "-m", "pytest", "-p", "flagsvc_pytest", "-p", "no:cacheprovider"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    assert "4 passed, 1 error" in done.stdout, done.stdout
    assert "flag 'checkout-v3' cannot be evaluated: FLAG_NOT_FOUND" in done.stdout
    assert "did you mean 'checkout-v2'?" in done.stdout
